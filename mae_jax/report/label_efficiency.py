"""How many labels are enough, how many labels an initialization is worth, and where more labels gain little."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mae_jax.report import stats
from mae_jax.report.analysis import Cell, Study
from mae_jax.report.comparisons import (
    NOTHING,
    UNSURE,
    Difference,
    is_higher,
    is_lower,
    is_sure,
    is_unsure,
    judge,
    judged,
)
from mae_jax.report.runs import BASELINE, Level

PRIMARY = "f1"  # the metric of the target, because it weights all classes equally
CLOSE = 0.02  # the default target is this much below the best score with the most labels
EQUAL_UPDATES = "as many updates as"  # part of the name of an arm whose models are trained for equally many updates

COLUMNS = (  # of efficiency.csv
    *("fraction", "init", "metric", "times", "low", "high", "least", "most"),
    *("arm", "label_count", "note"),
)
AT_EQUAL_UPDATES = "not given: trained for as many updates, no difference is shown"
UNSURE_AT_EQUAL_UPDATES = f"not given: trained for as many updates, the difference is {UNSURE}"
LOWER_AT_EQUAL_UPDATES = f"not given: trained for as many updates, it is lower than {BASELINE}"
WITHOUT_DIFFERENCE = "not given: with as many labels, no difference is shown"
UNSURE_DIFFERENCE = f"not given: with as many labels, the difference is {UNSURE}"
UNDETERMINED = "not determined: the interval covers all numbers of labels that were tried"
NO_BASELINE = f"not given: {BASELINE} collapsed"
LEARNED_LITTLE = "not given: lower than always predicting the most common class"


@dataclass(frozen=True)
class Enough:
    """The fewest labels with which each initialization reaches a macro F1.

    `reached[init]` is the first cell, in the best of its arms, whose mean over seeds is at least `target`, or None.
    `best[init]` is the cell with the highest mean. Collapsed cells are ignored; initializations whose cells all
    collapsed are missing. Where some cells have three or more seeds, those with fewer are ignored, too. All trainings
    from random weights count as one, "scratch".
    """

    target: float
    given: bool  # whether the user set the target; otherwise it is 2 points below the best with the most labels
    reached: dict[str, Cell | None]
    best: dict[str, Cell]


def enough(study: Study, target: float = 0.0) -> Enough | None:
    """The fewest labels that reach `target` (0: within 2 points of the best macro F1 at the largest fraction).

    None if all cells collapsed, or if those at the largest fraction did and no target is set.
    """
    curves = {init: study.strongest(inits) for init, inits in contestants(study).items()}
    scores = {
        init: {cell: study.mean(PRIMARY, study.of(*cell)) for cell in curve.values() if _counts(study, cell)}
        for init, curve in curves.items()
    }
    scores = {init: each for init, each in scores.items() if each}
    largest = max(level.fraction for level in study.levels)
    at_all = [score for each in scores.values() for (level, _), score in each.items() if level.fraction == largest]
    if not scores or not (target or at_all):
        return None
    wanted = target or max(at_all) - CLOSE
    return Enough(
        target=wanted,
        given=bool(target),
        reached={
            i: next((cell for cell, score in each.items() if score >= wanted), None) for i, each in scores.items()
        },
        best={init: max(each, key=lambda cell: each[cell]) for init, each in scores.items()},
    )


def contestants(study: Study) -> dict[str, list[str]]:
    """The initializations by name; all baselines are one, "scratch"."""
    alone = {init: [init] for init in study.compared}
    return ({BASELINE: study.baselines} if study.baselines else {}) | alone


def _counts(study: Study, cell: Cell) -> bool:
    """Whether a cell has enough seeds to take part in the answer: three, or as many as any cell of the study has."""
    most = max(len(study.of(*other)) for other in study.cells)
    return len(study.of(*cell)) >= min(stats.SEEDS, most)


def against(study: Study, init: str, fraction: float) -> dict[str, tuple[Difference, dict]]:
    """The macro F1 of `init` minus that of each other contestant with a share of the labels, and its `judge` entry.

    Each side is taken in the strongest of its arms. Holm's correction is for all fractions and contestants. One that
    collapsed, was not trained with these labels, or shares no seed is missing.
    """
    curves = {name: study.strongest(inits) for name, inits in contestants(study).items()}
    ours = curves.pop(init)
    family: list[tuple[tuple[str, float], Difference]] = []
    for name, curve in curves.items():
        for at in ours.keys() & curve.keys():
            pairs = study.shared_seeds(study.of(*ours[at]), study.of(*curve[at]))
            family += [((name, at), study.difference(PRIMARY, *pairs))] if pairs[0] else []
    return {name: (each, entry) for (name, at), each, entry in judged(family) if at == fraction}


def equal_updates(paired: Sequence[dict], init: str, metric: str = "accuracy") -> list[dict]:
    """The rows of paired.csv that compare an initialization with scratch at equal updates, if both learned.

    With the most labels, the usual training is one of equal updates, because the others are given as many as it has.
    """
    rows = [row for row in paired if (row["init"], row["metric"]) == (init, metric) and row["low"] is not None]
    equal = [row for row in rows if EQUAL_UPDATES in row["arm"]]
    most = max((row["fraction"] for row in paired), default=None)
    return equal + [row for row in rows if equal and not row["arm"] and row["fraction"] == most]


def shows_nothing_at_equal_updates(
    paired: Sequence[dict], init: str, metrics: Sequence[str] = ("accuracy", PRIMARY)
) -> bool:
    """Whether models were compared at equal updates and no gain in any metric remains after Holm's correction."""
    rows = [row for metric in metrics for row in equal_updates(paired, init, metric)]
    return bool(rows) and not any(is_higher(row) for row in rows)


def label_counts(study: Study) -> dict[float, float]:
    """The number of labels at each fraction of runs from scratch, or the fraction if the number is not known."""
    cells = {level.fraction: (level, init) for level, init in study.cells if init in study.baselines}
    counts = {fraction: study.n_train(*cell) for fraction, cell in sorted(cells.items())}
    known = [float(count) for count in counts.values() if count]
    if len(known) < len(counts) or any(b <= a for a, b in itertools.pairwise(known)):
        return {fraction: fraction for fraction in counts}
    return dict(zip(counts, known, strict=True))


def worth(study: Study, paired: Sequence[dict], metric: str = "accuracy") -> list[dict]:
    """How many times the labels each initialization is worth, per fraction, with a 95 % interval.

    The interval covers test images and seeds, and is not narrower than that over images alone: seeds may agree by
    chance, see `stats.over_seeds`.

    `times` is the number of labels with which the strongest training from scratch reaches the same score, divided by
    the labels used. 0 and infinity mean beyond the scratch curve, which covers `least` to `most` times. At each
    fraction, both sides use the strongest of their arms (see `Study.choose`); `arm` is that of the initialization. The
    curve never falls: at each number of labels, it has the best score so far.

    There is no value, and `note` says why, if scratch collapsed at that fraction, if the score is below that of always
    predicting the most common class, if the rows of paired.csv (`paired`) show no difference for as many updates or as
    many labels, or if the interval covers the whole curve. `metric` is accuracy or f1. With fewer than three seeds
    there is no interval. The result is empty with fewer than two fractions at which scratch did not collapse.
    """
    curve = study.strongest(study.baselines)
    if len(curve) < 2:
        return []
    counts = label_counts(study)
    n = np.array([counts[fraction] for fraction in curve])
    cells = [study.of(*cell) for cell in curve.values()]
    scores = np.array([study.mean(metric, cell) for cell in cells])
    kinds_of_draws = (study.mean_draws, study.image_draws)
    redrawn = [np.stack([draws(metric, cell) for cell in cells], -1) for draws in kinds_of_draws]
    compared = {(row["init"], row["fraction"], row["arm"]): row for row in paired if row["metric"] == metric}
    rows = []
    for init in study.compared:
        at_equal = {row["fraction"]: row for row in equal_updates(paired, init, metric)}
        nothing = shows_nothing_at_equal_updates(paired, init, [metric])
        learned = study.strongest([init])
        usual = {level.fraction: level for level, i in reversed(study.cells) if i == init}
        for fraction in sorted(usual.keys() & counts.keys()):  # without runs from scratch there is nothing to compare
            level = learned[fraction][0] if fraction in learned else usual[fraction]
            used, ours = counts[fraction], study.of(level, init)
            row = {"fraction": fraction, "init": init, "metric": metric, "times": None, "low": None, "high": None}
            row |= {"least": float(n[0] / used), "most": float(n[-1] / used), "arm": level.arm}
            row |= {"label_count": level.label_count, "note": ""}
            shown = at_equal.get(fraction)
            if fraction not in learned:
                row["note"] = f"not given: {init} collapsed"
            elif fraction not in curve:
                row["note"] = NO_BASELINE
            elif nothing or (shown is not None and not is_higher(shown)):
                row["note"] = _at_equal_updates(shown)
            elif study.mean(metric, ours) < of_the_most_common_class(study, metric):
                row["note"] = LEARNED_LITTLE
            else:
                row["times"] = float(stats.labels_to_reach(n, scores, np.array(study.mean(metric, ours))) / used)
                if min(len(ours), *map(len, cells)) >= stats.SEEDS:
                    ends = [
                        stats.censored_interval(stats.labels_to_reach(n, curves, draws(metric, ours)) / used)
                        for draws, curves in zip(kinds_of_draws, redrawn, strict=True)
                    ]
                    row["low"], row["high"] = min(low for low, _ in ends), max(high for _, high in ends)
                    if row["low"] == 0 and math.isinf(row["high"]):  # below the smallest number and above the largest
                        row |= {"times": None, "low": None, "high": None, "note": UNDETERMINED}
                else:
                    row["note"] = "no interval: fewer than three seeds"
                here = compared.get((init, fraction, level.arm))
                if row["times"] is not None and here and not (is_higher(here) or is_lower(here)):
                    note = UNSURE_DIFFERENCE if is_unsure(here) else WITHOUT_DIFFERENCE
                    row |= {"times": None, "low": None, "high": None, "note": note}
            rows.append(row)
    return rows


def _at_equal_updates(shown: dict | None) -> str:
    """Why a number of labels is not given, by the row of paired.csv at equal updates with as many labels, if any."""
    if shown is not None and is_lower(shown):
        return LOWER_AT_EQUAL_UPDATES
    return UNSURE_AT_EQUAL_UPDATES if shown is not None and is_unsure(shown) else AT_EQUAL_UPDATES


def of_the_most_common_class(study: Study, metric: str = PRIMARY) -> float:
    """The accuracy or macro F1 of always predicting the most common class of the test images."""
    counts = np.bincount(study.runs[0].test.labels)
    share = counts.max() / counts.sum()
    return float(share) if metric == "accuracy" else float(2 * share / (1 + share) / (counts > 0).sum())


def plateau(study: Study, init: str, metric: str = "accuracy") -> tuple[Level, float] | None:
    """The smallest level above which scores do not differ measurably, and the largest gain that is not ruled out.

    Comparisons are paired on the same images. The 95 % interval of every difference between two levels from there
    on contains 0. The gain is the largest upper end of the intervals to the smallest level. None if there is no such
    level; the largest level alone does not count. Collapsed models are left out.
    """
    levels, changes = _changes(study, init, metric)
    for i, level in enumerate(levels[:-1]):
        later = {pair: each for pair, each in changes.items() if min(pair) >= i}
        if all(each.low <= 0 <= each.high for each in later.values()):
            return level, max(each.high for (less, _), each in later.items() if less == i)
    return None


def still_changes(study: Study, init: str, metric: str = "accuracy") -> bool:
    """Whether scores at the two largest levels are shown to differ; Holm's correction is for all pairs of levels."""
    levels, changes = _changes(study, init, metric)
    verdicts = dict(zip(changes, judge(list(changes.values())), strict=True))
    last = len(levels) - 2, len(levels) - 1
    return last in verdicts and is_sure(verdicts[last]) and verdicts[last]["verdict"] != NOTHING


def _changes(study: Study, init: str, metric: str) -> tuple[list[Level], dict[tuple[int, int], Difference]]:
    """The levels at which an initialization learned, and the change from one to another by their indices."""
    levels = [level for level in study.levels_of(init) if not study.collapsed_cell(level, init)]
    cells = [study.learned(level, init) for level in levels]
    changes = {}
    for i, j in itertools.combinations(range(len(cells)), 2):
        less, more = cells[i], cells[j]
        pairs = study.shared_seeds(more, less)
        if len(pairs[0]) == max(len(less), len(more)):
            changes[i, j] = study.difference(metric, *pairs)
        else:
            draws = study.mean_draws(metric, more) - study.mean_draws(metric, less)
            value = study.mean(metric, more) - study.mean(metric, less)
            low, high = stats.percentile_interval(draws)
            changes[i, j] = Difference(value, low, high, stats.p_value(draws), min(len(less), len(more)))
    return levels, changes
