"""The report's answer in sentences, all derived from the numbers.

They follow the reader's questions: how many labels are enough, what pre-training is worth, then the details. If models
trained for equally many updates show no difference, that comes before anything else about pre-training.
"""

import math
from collections.abc import Sequence

from mae_jax.report import label_efficiency, stats
from mae_jax.report.analysis import Cell, Study
from mae_jax.report.cautions import cautions
from mae_jax.report.comparisons import (
    COLLAPSED,
    NOTHING,
    TIMES,
    UNSURE,
    Difference,
    is_higher,
    is_lower,
    is_unsure,
    judged,
)
from mae_jax.report.label_efficiency import CLOSE, EQUAL_UPDATES, PRIMARY, Enough
from mae_jax.report.runs import BASELINE, Level
from mae_jax.report.tables import COUNTS, further, validation_labels

ARMS = {  # how a run was trained where not in the usual way, for readers, by words of the arm's name
    EQUAL_UPDATES: "trained for as many steps as with that many labels, so that fewer labels do not "
    "also mean less training",
}
METRICS = {"accuracy": "in accuracy", PRIMARY: "in macro F1"}
LITTLE = 0.02  # maximum gain at which more labels count as of little use


def answer(
    study: Study, rows: list[dict], paired: list[dict], worth: list[dict], target: float = 0.0, contrasts: bool = False
) -> dict:
    """The answer in words: headlines, and lines of detail.

    `target` is the macro F1 that is enough; 0 means within 2 points of the best with all labels. With `contrasts`,
    other headlines compare arms, so it is not said that a run from scratch is missing.
    """
    accuracy = [row for row in paired if row["metric"] == "accuracy"]
    compared = list(dict.fromkeys((row["init"], row["arm"]) for row in accuracy))
    inits = list(dict.fromkeys(init for init, _ in compared))
    heads = [equal_updates_line(paired, init) for init in inits]
    heads.append(how_many(study, rows, label_efficiency.enough(study, target)))
    lines, later = [], []
    for init, arm in compared:
        init_rows = [row for row in accuracy if (row["init"], row["arm"]) == (init, arm)]
        if arm == study.arms[0]:
            lines += [_difference_line(study, rows, row, paired, worth) for row in init_rows]
        else:
            outcomes = [f"at {Level.of_row(row).amount} {_outcome(row, paired)}" for row in init_rows]
            base = _join(list(dict.fromkeys(row["baseline"] for row in init_rows)))
            lines.append(f"{_sentence(arm)[:-1]}, {init} against {base}: {'; '.join(outcomes)}.")
        equal = label_efficiency.equal_updates(paired, init)
        if EQUAL_UPDATES in arm:
            if label_efficiency.shows_nothing_at_equal_updates(paired, init):
                continue  # already in the headline
            init_rows += [row for row in equal if row["arm"] != arm and not row["arm"]]
        elif equal and arm == study.arms[0]:
            # Where updates are equal, a gain for equal epochs may be one of training length.
            known = {each["fraction"] for each in equal}
            init_rows = [row for row in init_rows if row["fraction"] not in known]
            later += [gain(study, init_rows, paired, worth, arm)] if init_rows else []
            continue
        heads.append(gain(study, init_rows, paired, worth, arm))
    heads += later
    if not (accuracy or contrasts):
        heads.append(f"Nothing is compared: that takes a run from {BASELINE} and another at the same fraction.")
    return {
        "headlines": [head for head in heads if head],
        "lines": baseline_lines(study)
        + lines
        + arm_lines(study)
        + tuned_lines(rows)
        + choice_lines(rows)
        + plateau_lines(study),
        "warnings": cautions(study, rows),
        "calibration": calibration_lines(paired),
        "arms": [
            f"{_sentence(arm)[:-1]}: {what}." for arm in study.arms for start, what in ARMS.items() if start in arm
        ],
    }


# --- the headlines


def equal_updates_line(paired: Sequence[dict], init: str) -> str:
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
    parts = [f"{words} {_join([_gap(row) for row in rows[m]])}" for m, words in METRICS.items() if rows[m]]
    return f"Trained for equally many updates, {_models(init)}{each} {relation} from {BASELINE}: {'; '.join(parts)}."


def _gap(row: dict) -> str:
    """A difference with its interval and fraction, and what makes it doubtful."""
    doubts = [UNSURE] if is_unsure(row) else []
    if row["collapsed"]:
        doubts.append(f"{row['collapsed']} of {2 * row['seeds']} models collapsed, so the interval means little")
    return f"{points(row)} at {Level.of_row(row).amount}" + (f" ({'; '.join(doubts)})" if doubts else "")


def how_many(study: Study, rows: Sequence[dict], enough: Enough | None) -> str:
    """The fewest labels that reach the target, for each initialization, or that no number of labels does.

    With one or two seeds, the sentence is about these models. It claims without "but" that others need more labels
    only where their macro F1 with as many labels is shown to be lower.
    """
    unknown = "How many labels are enough cannot be determined"
    if enough is None:
        largest = max(level.fraction for level in study.levels)
        at_all = [cell for cell in study.cells if cell[0].fraction == largest]
        if all(study.collapsed_cell(*cell) for cell in at_all):
            return f"{unknown}: the models with all labels collapsed."
        seeds = max(len(study.of(*cell)) for cell in at_all if not study.collapsed_cell(*cell))
        return f"{unknown}: the models with all labels were trained {TIMES[seeds]}, and others more often."
    common = label_efficiency.of_the_most_common_class(study)
    if enough.target <= common:
        always = f"always predicting the most common class reaches {common:.2f}"
        if enough.given:
            return f"{unknown}: the target is macro F1 {enough.target:.2f}, and {always}."
        return f"{unknown}: the best macro F1 with all labels is {enough.target + CLOSE:.2f}, and {always}."
    cells = {(Level.of_row(row), row["init"]): row for row in rows}
    reached = {init: cell for init, cell in enough.reached.items() if cell is not None}
    order = sorted(reached, key=lambda init: (reached[init][0].fraction, init == BASELINE))
    goal = f"macro F1 {enough.target:.2f}"
    why = "the target" if enough.given else f"within {100 * CLOSE:.0f} points of the best with all labels"
    seeds = min(len(study.of(*cell)) for cell in enough.best.values())
    few = seeds < stats.SEEDS
    begin = f"of these models, each trained {TIMES[seeds]}: " if few else ""
    if not reached:
        init = max(enough.best, key=lambda init: study.mean(PRIMARY, study.of(*enough.best[init])))
        row = cells[enough.best[init]]
        return _sentence(
            f"{begin}no number of labels reached {goal}, {why}; the best is {_score(row)}, "
            f"{_start(study, init, enough.best[init])}, with {amount(row)}"
        )
    first = order[0]
    fraction, row = reached[first][0].fraction, cells[reached[first]]
    reach = "reached" if few else "reach"
    parts = [f"{begin}{_start(study, first, reached[first])}, {amount(row)} {reach} macro F1 {_score(row)}"]
    compared = label_efficiency.against(study, first, fraction)
    for init in sorted(enough.best.keys() - {first}, key=[*order, *enough.best].index):
        cell = enough.reached[init]
        if cell is None:
            best = cells[enough.best[init]]
            start = _start(study, init, enough.best[init])
            does = "did" if few else "does"
            text = f"{start}, no number that was tried {does} (best: {best[PRIMARY]:.2f} with {_labels(best)})"
        elif cell[0].fraction == fraction:
            text = f"{_start(study, init, cell)}, as many {'did' if few else 'do'}"
        else:
            start, count = _start(study, init, cell), amount(cells[cell], "")
            text = f"{start}, it {'took' if few else 'takes'} {count}"
        parts.append(text + _not_behind(compared.get(init)) if cell is None or cell[0].fraction > fraction else text)
    smallest = fraction == min(level.fraction for level in study.levels)
    fewer = " Fewer were not tried." if smallest else ""
    return f"{_sentence('; '.join(parts))} Enough is {goal}, {why}.{fewer}"


def _not_behind(compared: tuple[Difference, dict] | None) -> str:
    """What a claim that others need more labels lacks, if their macro F1 with as many is not shown to be lower."""
    if compared is None:
        return ""
    difference, entry = compared
    row = {"difference": difference.value, **difference._asdict(), **entry}
    if is_higher(row):
        return ""
    doubt = UNSURE if is_unsure(row) else NOTHING
    return f", but with as many labels the difference is {points(row)}: {doubt}"


def gain(study: Study, init_rows: Sequence[dict], paired: Sequence[dict], worth: Sequence[dict], arm: str) -> str:
    """The gain of an initialization over scratch in one arm, over the fractions. `init_rows` are rows of paired.csv.

    Statements about pre-training, from three or more seeds, and about single models are separate sentences.
    """
    begin = f"with {arm}, " if arm else ""
    if not arm and any(EQUAL_UPDATES in other for other in study.arms):
        begin = "trained for equally many epochs, "
    method = [row for row in init_rows if row["seeds"] >= stats.SEEDS]
    models = [row for row in init_rows if row["seeds"] < stats.SEEDS]
    parts = [_sentence(begin + _gain(method, worth) + _in_f1(method, paired))] if method else []
    parts += [_sentence(begin + _models_gain(models) + _in_f1(models, paired))] if models else []
    return " ".join(parts)


def _in_f1(rows: Sequence[dict], paired: Sequence[dict]) -> str:
    """Where macro F1 is shown to be higher or lower and accuracy is not."""
    parts = []
    for row in rows:
        f1 = _f1_of(row, paired)
        if f1 is not None and not (is_higher(row) or is_lower(row)) and (is_higher(f1) or is_lower(f1)):
            parts.append(f"{points(f1)} at {Level.of_row(row).amount}")
    return f"; macro F1 differs by {_join(parts)}" if parts else ""


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
            kinds["nothing"].append((row, at))
        else:
            kind = "unsure" if is_unsure(row) else "better" if is_higher(row) else "worse"
            kinds[kind].append((row, at + doubt))
    return kinds


def _by_points(rows: Sequence[tuple[dict, str]]) -> str:
    return _join([f"{abs(100 * row['difference']):.1f} points of accuracy at {at}" for row, at in rows])


def _rest(kinds: dict[str, list[tuple[dict, str]]]) -> list[str]:
    """What is unsure, not shown, or cannot be compared, after a first statement."""
    parts = []
    if unsure := [f"{signed(100 * row['difference'])} points of accuracy at {at}" for row, at in kinds["unsure"]]:
        parts.append(f"a difference of {_join(unsure)} is {UNSURE}")
    if kinds["nothing"]:
        parts.append(f"no difference in accuracy is shown at {_amounts([at for _, at in kinds['nothing']])}")
    if kinds["collapsed"]:
        where = _amounts([at for _, at in kinds["collapsed"]])
        parts.append(f"there is nothing to compare at {where}, where models collapsed")
    return parts


def _gain(rows: Sequence[dict], worth: Sequence[dict]) -> str:
    """What pre-training is worth, from three or more seeds."""
    who, kinds = _who(rows[0]["init"]), _sorted_out(rows)
    parts, better = [], []
    for row, at in kinds["better"]:
        labels_row = saved(row, worth)
        sure = labels_row is not None and labels_row["low"] is not None and labels_row["low"] > 1
        better.append(f"{times(labels_row)} at {at}" if labels_row and sure else _by_points([(row, at)]))
    parts += [f"{who} is worth {_join(better)}"] if better else []
    parts += [f"{'it' if parts else who} costs {_by_points(kinds['worse'])}"] if kinds["worse"] else []
    if not parts and kinds["nothing"] and not kinds["unsure"]:
        at = _amounts([at for _, at in kinds["nothing"]])
        parts, kinds["nothing"] = [f"{who} shows no difference in accuracy at {at}"], []
    parts += _rest(kinds)
    if len(parts) == 1 and len(kinds["collapsed"]) == len(rows):
        return f"{who} cannot be judged at {_amounts([at for _, at in kinds['collapsed']])}, where models collapsed"
    return "; ".join(parts)


def _models_gain(rows: Sequence[dict]) -> str:
    """How these models differ, each trained once or twice. This claims nothing about pre-training."""
    init, seeds, kinds = rows[0]["init"], max(row["seeds"] for row in rows), _sorted_out(rows)
    single = seeds == 1
    ours = f"this {_model(init)}" if single else f"these {_models(init)}"
    theirs = f"{'that' if single else 'those'} from {BASELINE}, each trained {TIMES[seeds]}"
    parts = [
        f"{ours} {'is' if single else 'are'} {kind} than {theirs}, by {_by_points(kinds[kind])}"
        for kind in ("better", "worse")
        if kinds[kind]
    ]
    if len(parts) == 2:
        parts[1] = f"{'it is' if single else 'they are'} worse by {_by_points(kinds['worse'])}"
    if not parts and kinds["nothing"] and not kinds["unsure"]:
        at = _amounts([at for _, at in kinds["nothing"]])
        parts, kinds["nothing"] = [f"{ours} and {theirs}, show no difference in accuracy at {at}"], []
    parts += _rest(kinds)
    if len(parts) == 1 and len(kinds["collapsed"]) == len(rows):
        at = _amounts([at for _, at in kinds["collapsed"]])
        return f"{ours} cannot be compared with {theirs}, at {at}, where models collapsed"
    return "; ".join(parts)


def saved(row: dict, worth: Sequence[dict]) -> dict | None:
    """The row of `worth` for a row of paired.csv: how many times the labels a better accuracy is worth.

    None if there is no such value, or if the curve from scratch is so flat, or falls, that it reaches this accuracy
    without more labels.
    """
    matches = [w for w in worth if _same(w, row)]
    return matches[0] if matches and matches[0]["times"] is not None and matches[0]["times"] >= 1.05 else None


# --- the details


def _difference_line(study: Study, rows: Sequence[dict], row: dict, paired: list[dict], worth: list[dict]) -> str:
    """One fraction of one initialization: difference, interval, test, worth in labels, macro F1."""
    level = Level.of_row(row)
    (cell,) = [r for r in rows if (Level.of_row(r), r["init"]) == (level, row["init"])]
    more = f"{', ' if cell['folds'] else ' '}{text}" if (text := further(cell)) else ""
    n = f" ({cell['n_train']:,} images{more})" if cell["n_train"] and not level.label_count else more
    at = f"{level.labels_and_arm}{n}, {row['init']} against {row['baseline']}"
    if row["verdict"] == COLLAPSED:
        return f"{at}: {COLLAPSED}."
    text = f"{at}: {row['verdict'] if row['verdict'].startswith('no') else 'accuracy is ' + row['verdict']}"
    text += f", {points(row)}"
    if is_unsure(row):
        text += f" (p = {row['holm_p']:.2g})"
    if row["collapsed"]:
        text += f"; {row['collapsed']} of {2 * row['seeds']} models collapsed, so the interval means little"
    labels_row = saved(row, worth)
    if labels_row and is_higher(row):
        interval = f" (95 % interval {times_interval(labels_row)})" if labels_row["low"] is not None else ""
        text += f"; worth {times(labels_row)}{interval}"
    f1 = _f1_of(row, paired)
    if f1 and f1["verdict"] != row["verdict"]:
        text += f". Macro F1, which counts every class alike: {f1['verdict']}, {points(f1)}"
    return text + "."


def baseline_lines(study: Study) -> list[str]:
    """Which training from scratch the others are compared with, at each level, if there are several."""
    if len(study.baselines) < 2:
        return []
    levels = [level for level in study.levels if any(study.of(level, init) for init in study.compared)]
    names: dict[str, list[str]] = {}
    for level in levels:
        if name := study.baseline(level):
            names.setdefault(name, []).append(str(level))
    on_test = any(study.chosen_on_test([(at, i) for i in study.baselines if study.of(at, i)]) for at in levels)
    chosen = "; ".join(f"{name} at {_list(where)}" for name, where in names.items())
    images = "test images, since validation predictions are missing" if on_test else "validation images"
    return [
        f"{len(study.baselines)} kinds of training start from scratch ({_join(study.baselines)}). The strongest at "
        f"each number of labels is the baseline, by macro F1 on the {images}: {chosen}."
    ]


def arm_lines(study: Study) -> list[str]:
    """A line for each other arm: its difference in accuracy from the usual one, on the same images.

    Holm's correction is for all of these comparisons.
    """
    by_arm: dict[str, list[str]] = {arm: [] for arm in study.arms[1:]}
    family: list[tuple[tuple[str, str], Difference | None]] = []
    for level, init in study.cells:
        usual = level._replace(arm=study.arms[0])
        cells = study.of(level, init), study.of(usual, init)
        if level.arm not in by_arm or not all(cells):
            continue
        at = f"{init} at {level.amount}"
        pairs = study.shared_seeds(*cells)
        if not pairs[0]:
            by_arm[level.arm].append(f"{at}: not compared, since no seed has both")
        else:
            nothing = any(study.collapsed(side) == len(side) for side in pairs)
            family.append(((level.arm, at), None if nothing else study.difference("accuracy", *pairs)))
    for (arm, at), each, entry in judged(family):
        gap = "" if each is None else f", {points({'difference': each.value} | each._asdict())}"
        by_arm[arm].append(f"{at}: {entry['verdict']}{gap}")
    usual = study.arms[0] or "the usual training"
    return [f"{_sentence(arm)[:-1]}, against {usual}, {'; '.join(parts)}." for arm, parts in by_arm.items() if parts]


def tuned_lines(rows: Sequence[dict]) -> list[str]:
    """A sentence for each row whose hyperparameters the study has chosen."""
    return [f"Tuned: {row['init']} at {Level.of_row(row)} uses {row['tuned']}." for row in rows if row["tuned"]]


def choice_lines(rows: Sequence[dict]) -> list[str]:
    """Says that validation images are labeled, too, what they were used for, and how much choosing gained on them."""
    counts: dict[str, list[str]] = {}
    folded: dict[int, dict[str, None]] = {}  # what was trained on, by the number of folds
    for row in rows:
        if row["folds"]:
            folded.setdefault(row["folds"], {})[Level.of_row(row).labels] = None
        if row["chosen"] and (n := validation_labels(row)) not in (known := counts.setdefault(row["chosen"], [])):
            known.append(n)
    lines = [
        f"{k}-fold cross-validation on the training images chose with {_join(list(labels))}; it took no further labels."
        for k, labels in folded.items()
    ]
    if not counts:
        return lines
    numbers = [f"{_join(ns)} of them to set the {uses}" for uses, ns in counts.items()]
    each = "each other run" if lines else "each run"
    text = f"Validation images are labeled images, too. Besides its training images, {each} used {_join(numbers)}."
    gains = [row for row in rows if row["validation_accuracy_last"] is not None]
    if gains:
        most = max(row["validation_accuracy"] - row["validation_accuracy_last"] for row in gains)
        text += f" Their accuracy at the chosen epoch is at most {100 * most:.1f} points above that at the last one."
    return [*lines, text]


def plateau_lines(study: Study) -> list[str]:
    """For each initialization, how little more labels can gain, if this is known."""
    lines = []
    for init in study.inits:
        levels = study.levels_of(init)
        learned = [level for level in levels if not study.collapsed_cell(level, init)]
        if levels and not learned:
            lines.append(f"{init}: collapsed with any number of labels, so the gain from more labels is not known.")
        if len(learned) < 2:
            continue
        end = label_efficiency.plateau(study, init)
        if end is None and label_efficiency.still_changes(study, init):
            seeds = min(len(study.of(level, init)) for level in learned[-2:])
            whose = "" if seeds >= stats.SEEDS else f", for these models ({COUNTS[seeds]})"
            lines.append(f"{init}: accuracy still changes up to {learned[-1].labels}{whose}.")
        elif end is None:
            continue
        elif end[1] <= LITTLE:
            seeds = min(len(study.of(level, init)) for level in learned)
            whose = "" if seeds >= stats.SEEDS else f", for these models ({COUNTS[seeds]})"
            lines.append(
                f"{init}: a gain of more than {100 * end[1]:.1f} points of accuracy by more labels than "
                f"{end[0].amount} is ruled out (95 % interval){whose}; none is shown."
            )
    return lines


def calibration_lines(paired: Sequence[dict]) -> list[str]:
    """How the calibration error differs from that of scratch: a line for each initialization and arm."""
    rows = [row for row in paired if row["metric"] == "ece"]
    lines = []
    for init, arm in dict.fromkeys((row["init"], row["arm"]) for row in rows):
        init_rows = [row for row in rows if (row["init"], row["arm"]) == (init, arm)]
        by_verdict: dict[str, list[str]] = {}
        for row in init_rows:
            gap = "" if row["verdict"] in (NOTHING, COLLAPSED) else f", {points(row)}"
            by_verdict.setdefault(row["verdict"], []).append(f"at {Level.of_row(row).amount}{gap}")
        parts = "; ".join(f"{verdict} {_join(where)}" for verdict, where in by_verdict.items())
        base = _join(list(dict.fromkeys(row["baseline"] for row in init_rows)))
        lines.append(f"Calibration error (ECE) of {init} against {base}{f', {arm}' if arm else ''}: {parts}.")
    return lines


def worth_lines(worth: Sequence[dict], paired: Sequence[dict]) -> list[dict]:
    """The rows of `worth` with the number of labels saved and its interval in words."""
    table = []
    for row in worth:
        comparisons = [p for p in paired if _same(p, row)]
        interval = times_interval(row) if row["low"] is not None else "–"
        if row["times"] is None:
            text = row["note"]
        elif any(is_higher(p) for p in comparisons) and saved(row, worth) is None:
            text = f"better, but the curve from {BASELINE} is flat or falls here"
        else:
            text = times(row)
        table.append(row | {"words": text, "interval": interval})
    return table


# --- parts of sentences


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."


def _join(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def _list(parts: Sequence[str]) -> str:
    """Parts in a row, separated by semicolons where one of them has a comma."""
    return "; ".join(parts) if any("," in part for part in parts) else _join(parts)


def _amounts(parts: Sequence[str]) -> str:
    """`1 %, 10 % and 50 %`; `20, 63 and 200 labels`."""
    if all(part.endswith(" labels") for part in parts):
        return _join([part.removesuffix(" labels") for part in parts]) + " labels"
    return _join(parts)


def _who(init: str) -> str:
    return "pre-training" if init == "mae" else f"starting from {init}"


def _model(init: str) -> str:
    return "pre-trained model" if init == "mae" else f"model from {init}"


def _models(init: str) -> str:
    return "pre-trained models" if init == "mae" else f"models from {init}"


def _start(study: Study, init: str, cell: Cell) -> str:
    """How a cell's models began, with its arm if it is not the usual one, and its name if it is one of several."""
    level, name = cell
    several = study.baselines if name in study.baselines else study.compared
    how = [name] if len(several) > 1 and (name in study.baselines or init == "mae") else []
    if level.arm != study.arms[0]:
        how.append(f"trained for {level.arm}" if EQUAL_UPDATES in level.arm else level.arm)
    start = "with pre-training" if init == "mae" else f"from {init}"
    return start + (f" ({', '.join(how)})" if how else "")


def _score(row: dict) -> str:
    """Macro F1 with its interval."""
    return f"{row['f1']:.2f} ({row['f1_low']:.2f} to {row['f1_high']:.2f})"


def _labels(row: dict) -> str:
    """The labels of a row of table.csv without those that chose, as a number where it is known."""
    return f"{row['n_train']:,}" if row["n_train"] else Level.of_row(row).labels


def amount(row: dict, what: str = " labeled images") -> str:
    """The labels of a row of table.csv, as in `200 labeled images (+ 223 for choosing)`, or their share."""
    if not row["n_train"]:
        return Level.of_row(row).labels
    return f"{row['n_train']:,}{what}" + (f" ({more})" if (more := further(row)) else "")


def _same(a: dict, b: dict) -> bool:
    return all(a[k] == b[k] for k in ("fraction", "init", "metric")) and Level.of_row(a) == Level.of_row(b)


def _f1_of(row: dict, paired: Sequence[dict]) -> dict | None:
    """The row of macro F1 that belongs to one of accuracy; None if there is none."""
    return next((r for r in paired if r["metric"] == PRIMARY and _same(r | {"metric": "accuracy"}, row)), None)


def _outcome(row: dict, paired: Sequence[dict]) -> str:
    """Verdict and difference in accuracy, and in macro F1 where its verdict is another."""
    if row["verdict"] == COLLAPSED:
        return COLLAPSED
    f1 = _f1_of(row, paired)
    more = f" (macro F1: {f1['verdict']}, {points(f1)})" if f1 and f1["verdict"] != row["verdict"] else ""
    return f"{row['verdict']}, {points(row)}{more}"


def points(row: dict) -> str:
    """The difference of a row, such as `+3.3 points (95 % interval +2.1 to +4.7)`."""
    low, high, difference = (signed(100 * row[k]) for k in ("low", "high", "difference"))
    return f"{difference} points (95 % interval {low} to {high})"


def signed(value: float) -> str:
    """A number with sign and one decimal, or two if one would round it to zero. Zero has no sign."""
    digits = 1 if abs(value) >= 0.05 or abs(value) < 0.005 else 2
    value = round(value, digits)
    return f"{value:+.{digits}f}".replace("-", "−") if value else "0.0"


def number(times: float) -> str:
    """A multiple with one decimal if it is at least 1, else with two."""
    return f"{times:.1f}" if times >= 0.995 else f"{times:.2f}"


def times(worth: dict) -> str:
    """`3.2 times the labels`, or a bound if the scratch curve ends before."""
    if worth["times"] == math.inf:
        if worth["most"] == 1:
            return (
                f"more than all the labels from {BASELINE}"
                if worth["fraction"] == 1
                else (f"more labels than {BASELINE} was ever given")
            )
        return f"more than {worth['most']:.3g} times the labels"
    if worth["times"] == 0:
        return f"less than {worth['least']:.3g} times the labels"
    return f"{number(worth['times'])} times the labels"


def times_interval(worth: dict) -> str:
    """The interval of `times`, limited to the range of the scratch curve."""
    ends = []
    for end in (worth["low"], worth["high"]):
        over, under = f"more than {worth['most']:.3g}", f"less than {worth['least']:.3g}"
        ends.append(over if end == math.inf else under if end == 0 else number(end))
    return ends[0] if ends[0] == ends[1] else f"{ends[0]} to {ends[1]}"
