"""Lines of detail below the report's headlines, one for each difference, arm, choice, plateau or calibration."""

from collections.abc import Sequence

from mae_jax.report import label_efficiency, phrases, stats
from mae_jax.report.analysis import Study
from mae_jax.report.comparisons import (
    COLLAPSED,
    NOTHING,
    Difference,
    is_higher,
    is_unsure,
    judged,
)
from mae_jax.report.runs import BASELINE, Level
from mae_jax.report.tables import COUNTS, further, validation_labels
from mae_jax.runtime.text import joined

LITTLE = 0.02  # maximum gain at which more labels count as of little use


def difference_line(study: Study, rows: Sequence[dict], row: dict, paired: list[dict], worth: list[dict]) -> str:
    """One fraction of one initialization: difference, interval, test, worth in labels, macro F1."""
    level = Level.of_row(row)
    (cell,) = [r for r in rows if (Level.of_row(r), r["init"]) == (level, row["init"])]
    more = f"{', ' if cell['folds'] else ' '}{text}" if (text := further(cell)) else ""
    n = f" ({cell['n_train']:,} images{more})" if cell["n_train"] and not level.label_count else more
    at = f"{level.labels_and_arm}{n}, {row['init']} against {row['baseline']}"
    if row["verdict"] == COLLAPSED:
        return f"{at}: {COLLAPSED}."
    text = f"{at}: {row['verdict'] if row['verdict'].startswith('no') else 'accuracy is ' + row['verdict']}"
    text += f", {phrases.points(row)}"
    if is_unsure(row):
        text += f" (p = {row['holm_p']:.2g})"
    if row["collapsed"]:
        text += f"; {row['collapsed']} of {2 * row['seeds']} models collapsed, so the interval means little"
    labels_row = phrases.saved(row, worth)
    if labels_row and is_higher(row):
        interval = f" (95 % interval {phrases.times_interval(labels_row)})" if labels_row["low"] is not None else ""
        text += f"; worth {phrases.times(labels_row)}{interval}"
    f1 = phrases.f1_of(row, paired)
    if f1 and f1["verdict"] != row["verdict"]:
        text += f". Macro F1, which counts every class alike: {f1['verdict']}, {phrases.points(f1)}"
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
    chosen = "; ".join(f"{name} at {phrases.listed(where)}" for name, where in names.items())
    images = "test images, since validation predictions are missing" if on_test else "validation images"
    return [
        f"{len(study.baselines)} kinds of training start from scratch ({joined(study.baselines)}). The strongest "
        f"at each number of labels is the baseline, by macro F1 on the {images}: {chosen}."
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
        gap = "" if each is None else f", {phrases.points({'difference': each.value} | each._asdict())}"
        by_arm[arm].append(f"{at}: {entry['verdict']}{gap}")
    usual = study.arms[0] or "the usual training"
    return [
        f"{phrases.sentence(arm)[:-1]}, against {usual}, {'; '.join(parts)}." for arm, parts in by_arm.items() if parts
    ]


def tuned_lines(rows: Sequence[dict]) -> list[str]:
    """A sentence for each setting of the hyperparameters that the study has chosen, with the rows that use it."""
    cells: dict[str, list[str]] = {}
    for row in rows:
        if row["tuned"]:
            cells.setdefault(row["tuned"], []).append(f"{row['init']} at {Level.of_row(row)}")
    return [f"Tuned: {phrases.listed(where)} {'use' if where[1:] else 'uses'} {how}." for how, where in cells.items()]


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
        f"{k}-fold cross-validation on the training images chose with {joined(list(labels))}; it took no further "
        "labels."
        for k, labels in folded.items()
    ]
    if not counts:
        return lines
    numbers = joined([f"{joined(ns)} of them to set the {uses}" for uses, ns in counts.items()])
    each = "each other run" if lines else "each run"
    text = f"Validation images are labeled images, too. Besides its training images, {each} used {numbers}."
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
            gap = "" if row["verdict"] in (NOTHING, COLLAPSED) else f", {phrases.points(row)}"
            by_verdict.setdefault(row["verdict"], []).append(f"at {Level.of_row(row).amount}{gap}")
        parts = "; ".join(f"{verdict} {joined(where)}" for verdict, where in by_verdict.items())
        base = joined(list(dict.fromkeys(row["baseline"] for row in init_rows)))
        lines.append(f"Calibration error (ECE) of {init} against {base}{f', {arm}' if arm else ''}: {parts}.")
    return lines


def worth_lines(worth: Sequence[dict], paired: Sequence[dict]) -> list[dict]:
    """The rows of `worth` with the number of labels saved and its interval in words."""
    table = []
    for row in worth:
        comparisons = [p for p in paired if phrases.same(p, row)]
        interval = phrases.times_interval(row) if row["low"] is not None else "–"
        if row["times"] is None:
            text = row["note"]
        elif any(is_higher(p) for p in comparisons) and phrases.saved(row, worth) is None:
            text = f"better, but the curve from {BASELINE} is flat or falls here"
        else:
            text = phrases.times(row)
        table.append(row | {"words": text, "interval": interval})
    return table
