"""The report's headlines: how many labels are enough, and what pre-training is worth.

If models trained for equally many updates show no difference, that comes before anything else about pre-training.
"""

from collections.abc import Sequence

from mae_jax.report import label_efficiency, phrases, stats
from mae_jax.report.analysis import Study
from mae_jax.report.comparisons import (
    COLLAPSED,
    NOTHING,
    TIMES,
    UNSURE,
    Difference,
    is_higher,
    is_lower,
    is_unsure,
)
from mae_jax.report.label_efficiency import CLOSE, EQUAL_UPDATES, PRIMARY, Enough
from mae_jax.report.runs import BASELINE, Level
from mae_jax.report.starts import Start, start_of
from mae_jax.runtime.text import joined

METRICS = {"accuracy": "in accuracy", PRIMARY: "in macro F1"}


def equal_updates_line(study: Study, paired: Sequence[dict], init: str) -> str:
    """Says that models trained for equally many updates show no gain; "" if they do, or were not compared."""
    if not label_efficiency.shows_nothing_at_equal_updates(paired, init):
        return ""
    rows = {metric: label_efficiency.equal_updates(paired, init, metric) for metric in ("accuracy", PRIMARY)}
    both = [row for each in rows.values() for row in each]
    seeds = min(row["seeds"] for row in both)
    each = f", each trained {TIMES[seeds]}," if seeds < stats.SEEDS else ""
    if any(is_lower(row) for row in both):
        relation = "are not better than those"
    elif any(is_unsure(row) for row in both):
        relation = "are not shown to be better than those"
    else:
        relation = "show no difference from those"
    gaps = "; ".join(f"{words} {_gaps(rows[m])}" for m, words in METRICS.items() if rows[m])
    models = start_of(study, init).models()
    return f"Trained for equally many updates, {models}{each} {relation} from {BASELINE}: {gaps}."


def _gaps(rows: Sequence[dict]) -> str:
    """The differences of one metric. Of two or more in which nothing is shown, only the ranges."""
    nothing = [row for row in rows if row["verdict"] == NOTHING and not row["collapsed"]]
    if len(nothing) < 2:
        return joined([_gap(row) for row in rows])
    differences = [row["difference"] for row in nothing]
    least, most, low, high = (
        phrases.signed(100 * end)
        for end in (
            min(differences),
            max(differences),
            min(row["low"] for row in nothing),
            max(row["high"] for row in nothing),
        )
    )
    span = least if least == most else f"{least} to {most}"
    at = phrases.amounts([Level.of_row(row).amount for row in nothing])
    together = f"{span} points at {at} (95 % intervals within {low} to {high})"
    return joined([together, *(_gap(row) for row in rows if row not in nothing)])


def _gap(row: dict) -> str:
    """A difference with its interval and fraction, and what makes it doubtful."""
    doubts = [UNSURE] if is_unsure(row) else []
    if row["collapsed"]:
        doubts.append(f"{row['collapsed']} of {2 * row['seeds']} models collapsed, so the interval means little")
    return f"{phrases.points(row)} at {Level.of_row(row).amount}" + (f" ({'; '.join(doubts)})" if doubts else "")


def how_many(study: Study, rows: Sequence[dict], enough: Enough | None) -> str:
    """The fewest labels that reach the target, for each initialization, or that no number of labels does.

    With one or two seeds, the sentence is about these models. It claims without "but" that others need more labels
    only where their macro F1 with as many labels is shown to be lower.
    """
    unknown, most = "How many labels are enough cannot be determined", _most_labels(study)
    if enough is None:
        largest = max(level.fraction for level in study.levels)
        at_all = [cell for cell in study.cells if cell[0].fraction == largest]
        if all(study.collapsed_cell(*cell) for cell in at_all):
            return f"{unknown}: the models with {most} collapsed."
        seeds = max(len(study.of(*cell)) for cell in at_all if not study.collapsed_cell(*cell))
        return f"{unknown}: the models with {most} were trained {TIMES[seeds]}, and others more often."
    common = label_efficiency.of_the_most_common_class(study)
    if enough.target <= common:
        always = f"always predicting the most common class reaches {common:.2f}"
        if enough.given:
            return f"{unknown}: the target is macro F1 {enough.target:.2f}, and {always}."
        return f"{unknown}: the best macro F1 with {most} is {enough.target + CLOSE:.2f}, and {always}."
    cells = {(Level.of_row(row), row["init"]): row for row in rows}
    reached = {init: cell for init, cell in enough.reached.items() if cell is not None}
    order = sorted(reached, key=lambda init: (reached[init][0].fraction, init == BASELINE))
    goal = f"macro F1 {enough.target:.2f}"
    why = "the target" if enough.given else f"within {100 * CLOSE:.0f} points of the best with {most}"
    seeds = min(len(study.of(*cell)) for cell in enough.best.values())
    few = seeds < stats.SEEDS
    begin = f"of these models, each trained {TIMES[seeds]}: " if few else ""
    if not reached:
        init = max(enough.best, key=lambda init: study.mean(PRIMARY, study.of(*enough.best[init])))
        row = cells[enough.best[init]]
        return phrases.sentence(
            f"{begin}no number of labels reached {goal}, {why}; the best is {phrases.score(row)}, "
            f"{phrases.start(study, enough.best[init])}, with {phrases.amount(row)}"
        )
    first = order[0]
    fraction, row = reached[first][0].fraction, cells[reached[first]]
    reach = "reached" if few else "reach"
    start = phrases.start(study, reached[first])
    parts = [f"{begin}{start}, {phrases.amount(row)} {reach} macro F1 {phrases.score(row)}"]
    compared = label_efficiency.against(study, first, fraction)
    for init in sorted(enough.best.keys() - {first}, key=[*order, *enough.best].index):
        cell = enough.reached[init]
        if cell is None:
            best = cells[enough.best[init]]
            start = phrases.start(study, enough.best[init])
            does = "did" if few else "does"
            text = f"{start}, no number that was tried {does} (best: {best[PRIMARY]:.2f} with {phrases.labels(best)})"
        elif cell[0].fraction == fraction:
            text = f"{phrases.start(study, cell)}, as many {'did' if few else 'do'}"
        else:
            start, count = phrases.start(study, cell), phrases.amount(cells[cell], "")
            text = f"{start}, it {'took' if few else 'takes'} {count}"
        if cell is None or cell[0].fraction > fraction:
            text += _not_behind(compared.get(init), first, init)
        parts.append(text)
    parts += [f"{start}, all models collapsed" for start in _collapsed_everywhere(study)]
    smallest = fraction == min(level.fraction for level in study.levels)
    fewer = " Fewer were not tried." if smallest else ""
    return f"{phrases.sentence('; '.join(parts))} Enough is {goal}, {why}.{fewer}"


def _most_labels(study: Study) -> str:
    """The largest number of labels in a study: `all labels`, or `10 % of the labels` if no model had all."""
    largest = max(study.levels, key=lambda level: level.fraction)
    return "all labels" if largest.fraction == 1 else largest.labels


def _collapsed_everywhere(study: Study) -> list[str]:
    """How those models began that collapsed with any number of labels, in all arms."""
    starts = []
    for contestant, inits in label_efficiency.contestants(study).items():
        if all(study.collapsed_cell(*cell) for cell in study.cells if cell[1] in inits):
            start = start_of(study, contestant)
            starts.append(start.phrase + (f" ({start.name})" if start.name else ""))
    return starts


def _not_behind(compared: tuple[Difference, dict] | None, first: str, other: str) -> str:
    """What a claim that others need more labels lacks, if their macro F1 with as many is not shown to be lower.

    `compared` is the `first` minus the `other`. As everywhere on the page, a difference is one from scratch.
    """
    if compared is None:
        return ""
    difference, entry = compared
    row = {"difference": difference.value, **difference._asdict(), **entry}
    if is_higher(row):
        return ""
    doubt = UNSURE if is_unsure(row) else NOTHING
    subject = "the difference from scratch" if BASELINE in (first, other) else "the first minus this"
    if first == BASELINE:
        row |= {"difference": -difference.value, "low": -difference.high, "high": -difference.low}
    return f", but with as many labels {subject} is {phrases.points(row)}: {doubt}"


def gain(study: Study, init_rows: Sequence[dict], paired: Sequence[dict], worth: Sequence[dict], arm: str) -> str:
    """The gain of an initialization over scratch in one arm, over the fractions. `init_rows` are rows of paired.csv.

    Statements about pre-training, from three or more seeds, and about single models are separate sentences.
    """
    begin = f"with {arm}, " if arm else ""
    if not arm and any(EQUAL_UPDATES in other for other in study.arms):
        begin = "trained for equally many epochs, "
    method = [row for row in init_rows if row["seeds"] >= stats.SEEDS]
    few = sorted({row["seeds"] for row in init_rows if row["seeds"] < stats.SEEDS}, reverse=True)
    start = start_of(study, init_rows[0]["init"])
    parts = [phrases.sentence(begin + _gain(start, method, worth) + _in_f1(method, paired))] if method else []
    for seeds in few:
        models = [row for row in init_rows if row["seeds"] == seeds]
        parts.append(phrases.sentence(begin + _models_gain(start, models, seeds) + _in_f1(models, paired)))
    return " ".join(parts)


def _in_f1(rows: Sequence[dict], paired: Sequence[dict]) -> str:
    """Where macro F1 is shown to be higher or lower and accuracy is not."""
    parts = []
    for row in rows:
        f1 = phrases.f1_of(row, paired)
        if f1 is not None and not (is_higher(row) or is_lower(row)) and (is_higher(f1) or is_lower(f1)):
            parts.append(f"{phrases.points(f1)} at {Level.of_row(row).amount}")
    return f"; macro F1 differs by {joined(parts)}" if parts else ""


def _sorted_out(rows: Sequence[dict]) -> dict[str, list[tuple[dict, str]]]:
    """The rows by what they show: better, worse, nothing, unsure or collapsed, each with its fraction in words."""
    kinds: dict[str, list[tuple[dict, str]]] = {
        kind: [] for kind in ("better", "worse", "nothing", "unsure", "collapsed")
    }
    for row in rows:
        at = Level.of_row(row).amount
        doubt = f" ({row['collapsed']} of {2 * row['seeds']} models collapsed)" if row["collapsed"] else ""
        if row["verdict"] == COLLAPSED:
            kinds["collapsed"].append((row, at))
        elif row["verdict"] == NOTHING:
            kinds["nothing"].append((row, at + doubt))
        else:
            kind = "unsure" if is_unsure(row) else "better" if is_higher(row) else "worse"
            kinds[kind].append((row, at + doubt))
    return kinds


def _by_points(rows: Sequence[tuple[dict, str]]) -> str:
    return joined([f"{abs(100 * row['difference']):.1f} points of accuracy at {at}" for row, at in rows])


def _rest(kinds: dict[str, list[tuple[dict, str]]]) -> list[str]:
    """What is unsure, not shown, or cannot be compared, after a first statement."""
    parts = []
    if kinds["unsure"]:
        gaps = [f"{phrases.signed(100 * row['difference'])} points of accuracy at {at}" for row, at in kinds["unsure"]]
        parts.append(f"a difference of {joined(gaps)} is {UNSURE}")
    if kinds["nothing"]:
        parts.append(f"no difference in accuracy is shown at {phrases.amounts([at for _, at in kinds['nothing']])}")
    if kinds["collapsed"]:
        where = phrases.amounts([at for _, at in kinds["collapsed"]])
        parts.append(f"there is nothing to compare at {where}, where models collapsed")
    return parts


def _gain(start: Start, rows: Sequence[dict], worth: Sequence[dict]) -> str:
    """What pre-training (or another `start`) is worth, from three or more seeds."""
    who, kinds = start.named_noun, _sorted_out(rows)
    parts, better = [], []
    for row, at in kinds["better"]:
        labels_row = phrases.saved(row, worth)
        sure = labels_row is not None and labels_row["low"] is not None and labels_row["low"] > 1
        better.append(f"{phrases.times(labels_row)} at {at}" if labels_row and sure else _by_points([(row, at)]))
    parts += [f"{who} is worth {joined(better)}"] if better else []
    parts += [f"{'it' if parts else who} costs {_by_points(kinds['worse'])}"] if kinds["worse"] else []
    if not parts and kinds["nothing"] and not kinds["unsure"]:
        at = phrases.amounts([at for _, at in kinds["nothing"]])
        parts, kinds["nothing"] = [f"{who} shows no difference in accuracy at {at}"], []
    rest = _rest(kinds)
    parts += rest if parts else [f"{who} is not shown to change accuracy: {rest[0]}", *rest[1:]]
    if len(parts) == 1 and len(kinds["collapsed"]) == len(rows):
        at = phrases.amounts([at for _, at in kinds["collapsed"]])
        return f"{who} cannot be judged at {at}, where models collapsed"
    return "; ".join(parts)


def _models_gain(start: Start, rows: Sequence[dict], seeds: int) -> str:
    """How these models differ, each trained once or twice. This claims nothing about pre-training."""
    kinds, single = _sorted_out(rows), seeds == 1
    ours = f"{'this' if single else 'these'} {start.models(several=not single)}"
    theirs = f"{'that' if single else 'those'} from {BASELINE}, each trained {TIMES[seeds]}"
    parts = [
        f"{ours} {'is' if single else 'are'} {kind} than {theirs}, by {_by_points(kinds[kind])}"
        for kind in ("better", "worse")
        if kinds[kind]
    ]
    if len(parts) == 2:
        parts[1] = f"{'it is' if single else 'they are'} worse by {_by_points(kinds['worse'])}"
    if not parts and kinds["nothing"] and not kinds["unsure"]:
        at = phrases.amounts([at for _, at in kinds["nothing"]])
        parts, kinds["nothing"] = [f"{ours} and {theirs}, show no difference in accuracy at {at}"], []
    rest, verb = _rest(kinds), "is" if single else "are"
    unknown = f"{ours} {verb} not shown to be more or less accurate than {theirs}"
    parts += rest if parts else [f"{unknown}: {rest[0]}", *rest[1:]]
    if len(parts) == 1 and len(kinds["collapsed"]) == len(rows):
        at = phrases.amounts([at for _, at in kinds["collapsed"]])
        return f"{ours} cannot be compared with {theirs}, at {at}, where models collapsed"
    return "; ".join(parts)
