"""Confidence of correct and wrong predictions, and highly confident mistakes, with intervals and tests."""

from collections.abc import Callable, Sequence

import numpy as np

from mae_jax.report.analysis import Cell, Study
from mae_jax.report.comparisons import Difference, judged
from mae_jax.report.ratios import Ratio, deviation, difference, mean_interval, ratio, share_interval

SURE = 0.9  # confidence from which a model counts as sure
ALL = "all classes"
SPREAD = ("wrong_sd", "wrong_sd_low", "wrong_sd_high")
COMPARED = ("difference", "difference_low", "difference_high", "p", "holm_p", "verdict")
COLUMNS = (  # of certainty.csv
    *("fraction", "arm", "label_count", "init", "n_right", "right", "n_wrong", "wrong", "wrong_q1", "wrong_q3"),
    *("wrong_mean", "wrong_mean_low", "wrong_mean_high", *SPREAD, "sure_wrong", "sure_wrong_low", "sure_wrong_high"),
    *("baseline", *COMPARED, *(f"sd_{name}" for name in COMPARED)),
)
BY_CLASS = (  # of sure_and_wrong.csv
    *("fraction", "arm", "label_count", "init", "class", "n", "sure_wrong", "sure_wrong_low", "sure_wrong_high"),
    *("baseline", *COMPARED),
)


def analyze(study: Study) -> list[dict]:
    """A row for each cell.

    `right` and `wrong` are the median confidences of correct and wrong predictions of all seeds together. `wrong_q1`
    and `wrong_q3` are quartiles. `wrong_mean` is the mean confidence of a wrong prediction and `wrong_sd` its standard
    deviation. `difference` is the mean minus that of the strongest training from scratch, with Student's interval and
    p value over images and seeds, and Holm's correction for all rows; `sd_difference` is the same for the standard
    deviation. `sure_wrong` is the share of all test images that are wrong with a confidence of 0.9 or more.
    """
    rows = []
    for level, init in study.cells:
        index = study.of(level, init)
        row = {**level.columns, "init": init}
        tests = [study.runs[i].test for i in index]
        for outcome in ("right", "wrong"):
            values = np.concatenate([t.confidence[t.right == (outcome == "right")] for t in tests])
            row |= {f"n_{outcome}": len(values), outcome: float(np.median(values)) if len(values) else None}
            if outcome == "wrong":
                ends = np.quantile(values, [0.25, 0.75]).tolist() if len(values) else [None, None]
                row |= {"wrong_q1": ends[0], "wrong_q3": ends[1]}
        for name, estimate in (("wrong_mean", _when_wrong(study, index)), ("wrong_sd", _spread(study, index))):
            low, high = mean_interval(estimate) if estimate else (None, None)
            row |= {name: estimate.estimate if estimate else None}
            row |= {f"{name}_low": low, f"{name}_high": high}
        row |= _sure_and_wrong(study, index, None)
        rows.append(row | {"baseline": "", **dict.fromkeys(COLUMNS[-12:])})
    _compare(study, study.cells, rows, _when_wrong)
    _compare(study, study.cells, rows, _spread, "sd_")
    return rows


def by_class(study: Study) -> list[dict]:
    """The rows of sure_and_wrong.csv: the share of images that are wrong with a confidence of 0.9 or more.

    There is a row for the images of each class and one for all images. `difference` is as in certainty.csv; Holm's
    correction is for all rows.
    """
    first = study.runs[0]
    labels = [None, *np.unique(first.test.labels).tolist()]
    rows: dict[int | None, list[dict]] = {label: [] for label in labels}
    family = []
    for label in labels:
        for level, init in study.cells:
            n = len(first.test.labels) if label is None else int((first.test.labels == label).sum())
            row = {**level.columns, "init": init, "class": ALL if label is None else first.classes[label], "n": n}
            row |= _sure_and_wrong(study, study.of(level, init), label)
            rows[label].append(row | {"baseline": "", **dict.fromkeys(COMPARED)})
        family += _differences(study, study.cells, rows[label], lambda s, i, of=label: _share(s, i, of))
    _judge(family)
    return [rows[label][i] for i in range(len(study.cells)) for label in labels]


Measure = Callable[[Study, Sequence[int]], Ratio | None]


def _compare(study: Study, cells: Sequence[Cell], rows: Sequence[dict], measure: Measure, start: str = "") -> None:
    _judge(_differences(study, cells, rows, measure), start)


def _differences(
    study: Study, cells: Sequence[Cell], rows: Sequence[dict], measure: Measure
) -> list[tuple[dict, Difference | None]]:
    """The differences of each row's cell from its baseline, None where models collapsed; names the baseline."""
    family = []
    for (level, init), row in zip(cells, rows, strict=True):
        base = study.baseline(level) if init in study.compared else None
        if base is None:
            continue
        row["baseline"] = base
        sides = study.shared_seeds(study.of(level, init), study.of(level, base))
        if not sides[0]:
            continue
        if any(study.collapsed(side) == len(side) for side in sides):
            family.append((row, None))
            continue
        ours, theirs = (measure(study, side) for side in sides)
        if ours and theirs:
            family.append((row, difference(ours, theirs)))
    return family


def _judge(family: Sequence[tuple[dict, Difference | None]], start: str = "") -> None:
    """Adds the columns COMPARED to the rows of a family."""
    for row, each, verdict in judged(family):
        numbers = (None,) * 4 if each is None else each.numbers
        row |= {f"{start}{name}": value for name, value in zip(COMPARED[:4], numbers, strict=True)}
        row |= {f"{start}{name}": value for name, value in verdict.items()}


def _wrong(study: Study, index: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Confidence and whether it is of a wrong prediction, for each run and image."""
    tests = [study.runs[i].test for i in index]
    return np.stack([test.confidence for test in tests]), np.stack([(~test.right).astype(float) for test in tests])


def _when_wrong(study: Study, index: Sequence[int]) -> Ratio | None:
    """The mean confidence of a wrong prediction; None if a seed has no wrong prediction."""
    confidence, wrong = _wrong(study, index)
    return ratio(confidence * wrong, wrong, study.unit_of)


def _spread(study: Study, index: Sequence[int]) -> Ratio | None:
    """The standard deviation of the confidence of wrong predictions; None if a seed has fewer than two."""
    return deviation(*_wrong(study, index), study.unit_of)


def _share(study: Study, index: Sequence[int], label: int | None) -> Ratio | None:
    """The share of the images of a class, or of all, that are wrong with a confidence of at least SURE."""
    tests = [study.runs[i].test for i in index]
    used = np.ones(len(tests[0].labels)) if label is None else (tests[0].labels == label).astype(float)
    sure = np.stack([(~test.right & (test.confidence >= SURE)) * used for test in tests])
    return ratio(sure, np.broadcast_to(used, sure.shape), study.unit_of)


def _sure_and_wrong(study: Study, index: Sequence[int], label: int | None) -> dict:
    share = _share(study, index, label)
    low, high = share_interval(share) if share else (None, None)
    return {"sure_wrong": share.estimate if share else None, "sure_wrong_low": low, "sure_wrong_high": high}
