"""Learning speed: how soon a model approaches its final validation accuracy, and how high its curve is.

Pre-training is often credited with a faster start. Two numbers measure this: the epochs until 90 % of the final score,
and the area under the curve, which is the mean validation accuracy during training.
"""

from collections.abc import Sequence

import numpy as np

from mae_jax.report import stats
from mae_jax.report.analysis import Cell, Study
from mae_jax.report.comparisons import Difference, judged, untested
from mae_jax.report.runs import Level, Run, series

SHARE = 0.9  # of the final score
AGREE = "seeds agree: not tested"
FEWEST = 3  # minimum number of seeds for an interval over seeds, and of points for a curve
COLUMNS = (  # of learning_speed.csv
    *("fraction", "arm", "label_count", "init", "seeds", "axis", "final", "reached", "reached_low", "reached_high"),
    *("at_first", "area", "area_low", "area_high", "baseline", "difference", "difference_low", "difference_high"),
    *("p", "holm_p", "verdict"),
)


def analyze(study: Study) -> list[dict]:
    """A row for each cell whose runs all have a curve of validation accuracy and did not collapse.

    `final` is the accuracy at the last evaluation, `reached` the epoch (or step, see `axis`) at which 90 % of it is
    reached, and `area` the mean accuracy during training. `at_first` counts the seeds that have reached it at their
    first evaluation, and perhaps before: `reached` may then be too large and has no interval. Intervals are Student's
    over three or more seeds, otherwise None, also where all seeds agree, which says nothing about others. `difference`
    is the area minus that of the strongest training from scratch, paired by seed. Its p value is Student's, and Holm's
    correction is for all rows.
    """
    rows, areas = [], {}
    for level, init in study.cells:
        runs = [study.runs[i] for i in study.of(level, init)]
        curves = [_curve(run) for run in runs]
        if not all(len(curve) >= FEWEST for _, curve in curves) or study.collapsed(study.of(level, init)):
            continue
        axes = {axis for axis, _ in curves}
        if len(axes) > 1:
            continue
        measures = np.array([_measure(curve) for _, curve in curves])
        areas[level, init] = {run.seed: area for run, area in zip(runs, measures[:, 2].tolist(), strict=True)}
        row = {**level.columns, "init": init, "seeds": len(runs), "axis": axes.pop()}
        row |= {"final": float(measures[:, 0].mean())}
        for column, name in ((1, "reached"), (2, "area")):
            low, high = _interval(measures[:, column])
            row |= {name: float(measures[:, column].mean())}
            row |= {f"{name}_low": None if low is None else max(low, 0.0)}
            row |= {f"{name}_high": high if high is None or name == "reached" else min(high, 1.0)}
            if name == "reached":
                row |= {"at_first": int(measures[:, 3].sum())}
                row |= {"reached_low": None, "reached_high": None} if row["at_first"] else {}
        rows.append(row | dict.fromkeys(COLUMNS[-7:]))
    family = []
    for row in rows:
        level, init = Level.of_row(row), row["init"]
        if init in study.compared and (base := study.baseline(level)):
            gain = _difference(areas, (level, init), (level, base))
            row |= {"baseline": base} | ({} if gain is None else {"difference": gain[0]})
            family += [(row, gain[1])] if gain and gain[1] else []
    for row, each, verdict in judged(family):
        _, low, high, p = each.numbers
        row |= {"difference_low": low, "difference_high": high, "p": p}
        row |= verdict if each.tested else verdict | {"verdict": AGREE}
    return rows


def _curve(run: Run) -> tuple[str, list[tuple[float, float]]]:
    axis = "epoch" if any("epoch" in line for line in run.log) else "step"
    return axis, series(run.log, axis, "val/accuracy")


def _measure(curve: Sequence[tuple[float, float]]) -> tuple[float, float, float, bool]:
    """The final score, where 90 % of it is first reached (linear between evaluations), and the mean score.

    Last, whether 90 % are reached at the first evaluation and this is not the start of the training.
    """
    x, y = np.array(curve, dtype=np.float64).T
    goal = SHARE * y[-1]
    i = int(np.argmax(y >= goal))
    at = x[i]
    if i:
        at = x[i - 1] + (goal - y[i - 1]) / (y[i] - y[i - 1]) * (x[i] - x[i - 1])
    area = float(np.trapezoid(y, x) / (x[-1] - x[0]))
    return float(y[-1]), float(at), area, bool(i == 0 and x[0] > 0)


def _interval(values: np.ndarray) -> tuple[float | None, float | None]:
    return stats.t_interval(values) if len(values) >= FEWEST and not _agree(values) else (None, None)


def _agree(values: np.ndarray) -> bool:
    """Whether all seeds have the same value, up to rounding. Few validation images allow few values."""
    return bool(np.ptp(values) <= 1e-9 * max(1.0, float(np.abs(values).max())))


def _difference(areas: dict[Cell, dict[int, float]], ours: Cell, base: Cell) -> tuple[float, Difference | None] | None:
    """The area of one cell minus that of another over the seeds of both, with an interval if these are enough."""
    our_areas, other = areas[ours], areas.get(base, {})
    shared = [seed for seed in our_areas if seed in other]
    if not shared:
        return None
    values = np.array([our_areas[seed] - other[seed] for seed in shared])
    value = float(values.mean())
    if len(values) < FEWEST:
        return value, None
    if _agree(values):
        return value, untested(value, len(values))
    low, high = stats.t_interval(values)
    return value, Difference(value, max(low, -1.0), min(high, 1.0), stats.t_test(values), len(values))
