"""Confidence of correct and wrong predictions, and highly confident mistakes, with intervals and tests."""

from collections.abc import Sequence

import numpy as np

from mae_jax.report import stats
from mae_jax.report.analysis import BASELINE, Study
from mae_jax.report.ratios import Ratio, difference, mean_interval, ratio, share_interval
from mae_jax.report.tables import COLLAPSED, verdict

SURE = 0.9  # confidence from which a model counts as sure
COLUMNS = (  # of certainty.csv
    *("fraction", "arm", "label_count", "init", "n_right", "right", "n_wrong", "wrong", "wrong_q1", "wrong_q3"),
    *("wrong_mean", "wrong_mean_low", "wrong_mean_high", "difference", "difference_low", "difference_high"),
    *("p", "holm_p", "verdict", "sure_wrong", "sure_wrong_low", "sure_wrong_high"),
)
BY_CLASS = ("fraction", "arm", "label_count", "init", "class", "n", "sure_wrong", "sure_wrong_low", "sure_wrong_high")


def analyze(study: Study) -> list[dict]:
    """A row for each cell.

    `right` and `wrong` are the median confidences of correct and wrong predictions of all seeds together. `wrong_q1`
    and `wrong_q3` are quartiles, and `wrong_mean` is the mean confidence of a wrong prediction. `difference` is that
    mean minus the one from scratch, with Student's interval and p-value over images and seeds, and Holm's correction
    over the fractions of an init and arm. `sure_wrong` is the share of all test images that are wrong with a confidence
    of 0.9 or more.
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
        found = _when_wrong(study, index)
        low, high = mean_interval(found) if found else (None, None)
        row |= {"wrong_mean": found.estimate if found else None, "wrong_mean_low": low, "wrong_mean_high": high}
        row |= dict.fromkeys(("difference", "difference_low", "difference_high", "p", "holm_p", "verdict"))
        shared = {study.runs[i].seed for i in index} & {study.runs[i].seed for i in study.of(level, BASELINE)}
        if init != BASELINE and shared:
            sides = [[i for i in study.of(level, name) if study.runs[i].seed in shared] for name in (init, BASELINE)]
            ours, base = (_when_wrong(study, side) for side in sides)
            if any(study.collapsed(side) == len(side) for side in sides):
                row["verdict"] = COLLAPSED
            elif ours and base:
                change, low, high, p = difference(ours, base)
                row |= {"difference": change, "difference_low": low, "difference_high": high, "p": p}
                row["verdict"] = verdict(low, high, len(shared))
        rows.append(row | _sure_and_wrong(study, index, None))
    for init, arm in dict.fromkeys((row["init"], row["arm"]) for row in rows):
        tested = [row for row in rows if (row["init"], row["arm"]) == (init, arm) and row["p"] is not None]
        for row, p in zip(tested, stats.holm([row["p"] for row in tested]), strict=True):
            row["holm_p"] = p
    return rows


def by_class(study: Study) -> list[dict]:
    """The rows of sure_and_wrong.csv: the share of each class's images that are wrong and have confidence >= 0.9."""
    first = study.runs[0]
    rows = []
    for level, init in study.cells:
        for label in np.unique(first.test.labels).tolist():
            start = {**level.columns, "init": init, "class": first.classes[label]}
            n = int((first.test.labels == label).sum())
            rows.append(start | {"n": n} | _sure_and_wrong(study, study.of(level, init), label))
    return rows


def _when_wrong(study: Study, index: Sequence[int]) -> Ratio | None:
    """The mean confidence of a wrong prediction; None if a seed has no wrong prediction."""
    tests = [study.runs[i].test for i in index]
    wrong = np.stack([(~test.right).astype(float) for test in tests])
    return ratio(np.stack([test.confidence for test in tests]) * wrong, wrong, study.unit_of)


def _sure_and_wrong(study: Study, index: Sequence[int], label: int | None) -> dict:
    tests = [study.runs[i].test for i in index]
    used = np.ones(len(tests[0].labels)) if label is None else (tests[0].labels == label).astype(float)
    sure = np.stack([(~test.right & (test.confidence >= SURE)) * used for test in tests])
    found = ratio(sure, np.broadcast_to(used, sure.shape), study.unit_of)
    if found is None:
        return dict.fromkeys(("sure_wrong", "sure_wrong_low", "sure_wrong_high"))
    low, high = share_interval(found)
    return {"sure_wrong": found.estimate, "sure_wrong_low": low, "sure_wrong_high": high}
