"""Prediction sets: sets of classes that contain the true one with a chosen probability.

They are least ambiguous set-valued classifiers with class-specific coverage (Sadinle, Lei and Wasserman 2019, section
2). A class is in the set of an image if its probability reaches the threshold of the class. Split conformal prediction
sets this threshold on the validation images of the class. The guarantee holds for new images from the same source as
the validation images. On other images it may fail, and the tables show where.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from jaxtyping import Bool, Float

from mae_jax.report.analysis import Study
from mae_jax.report.ratios import mean_interval, ratio, share_interval
from mae_jax.report.runs import Level, Run
from mae_jax.rundir.predictions import Predictions

TARGET = 0.9  # target coverage of every class
FEWEST = 20  # minimum number of validation images of each class
ALL = "all classes"
COLUMNS = (  # of prediction_sets.csv
    *("test_set", "fraction", "arm", "label_count", "init", "class", "n", "target"),
    *("coverage", "coverage_low", "coverage_high"),
    *("size", "size_low", "size_high", "single", "single_low", "single_high", "empty", "broken"),
)


@dataclass(frozen=True)
class PredictionSets:
    """The rows of prediction_sets.csv, and lines about cells without prediction sets."""

    rows: list[dict]
    refused: list[str]

    def of(self, test_set: str, level: Level, init: str) -> list[dict]:
        """The rows of one cell on one test set, the one over all classes first."""
        key = (test_set, level.fraction, level.arm, init)
        return [r for r in self.rows if (r["test_set"], r["fraction"], r["arm"], r["init"]) == key]


def analyze(study: Study, others: Sequence[tuple[str, Study]] = ()) -> PredictionSets:
    """Prediction sets of every cell on the main test set (`test_set` is "") and on external test sets, by name.

    A cell is left out, with a line that says why, if a run has no validation probabilities, or fewer than 20 validation
    images of a class.
    """
    rows = []
    refused: dict[str, list[str]] = {}  # reasons, with the cells that they apply to
    thresholds: dict[tuple[Level, str, int], np.ndarray] = {}
    for run in study.runs:
        why = _lacks(run)
        if why:
            refused.setdefault(why, []).append(f"{run.init} at {run.level}")
        else:
            thresholds[run.level, run.init, run.seed] = _thresholds(run)
    for name, tested in [("", study), *others]:
        for level, init in tested.cells:
            runs = [tested.runs[i] for i in tested.of(level, init)]
            run_thresholds = [thresholds.get((level, init, run.seed)) for run in runs]
            sets = [
                run.test.probabilities >= t
                for run, t in zip(runs, run_thresholds, strict=True)
                if t is not None and run.test.probabilities is not None
            ]
            if len(sets) == len(runs):
                start = {"test_set": name, **level.columns, "init": init}
                rows += [start | row for row in _rows(tested, runs[0].test, np.stack(sets))]
    lines = []
    for why, where in refused.items():
        cells = f" for {'; '.join(dict.fromkeys(where))}" if len(where) < len(study.runs) else ""
        lines.append(f"prediction sets are not shown{cells}: {why}")
    return PredictionSets(rows, lines)


def _lacks(run: Run) -> str:
    """Why a run has no prediction sets; "" if it has."""
    validation = run.validation
    if validation is None or validation.probabilities is None or run.test.probabilities is None:
        return "they need class probabilities of test and validation images"
    if run.cross_validated:
        return "they need validation images, but the predictions of a cross-validation are those of other models"
    counts = np.bincount(validation.labels, minlength=len(run.classes))
    rare = int(counts.argmin())
    if counts[rare] < FEWEST:
        return (
            f"they need at least {FEWEST} validation images of every class, and {run.classes[rare]} has {counts[rare]}"
        )
    return ""


def _thresholds(run: Run) -> Float[np.ndarray, " c"]:
    """The threshold of each class: the smallest probability with which it is in a set."""
    validation = run.validation
    assert validation is not None and validation.probabilities is not None  # see _lacks
    thresholds = []
    for label in range(len(run.classes)):
        probabilities = np.sort(validation.probabilities[validation.labels == label, label])
        rank = math.ceil(
            (len(probabilities) + 1) * Fraction(str(TARGET))
        )  # rank among the largest; exact, because floats could round up
        thresholds.append(probabilities[len(probabilities) - rank] if rank <= len(probabilities) else 0.0)
    return np.array(thresholds)


def _rows(study: Study, test: Predictions, sets: Bool[np.ndarray, "s n c"]) -> list[dict]:
    """A row over all classes, then a row for each class in the test set."""
    labels, classes = test.labels, study.runs[0].classes
    holds = sets[:, np.arange(len(labels)), labels]
    sizes = sets.sum(2)
    rows = []
    for label in [None, *np.unique(labels).tolist()]:
        used = np.ones(len(labels), bool) if label is None else labels == label
        weight = np.broadcast_to(used.astype(float), holds.shape)
        row = {"class": ALL if label is None else classes[label], "n": int(used.sum()), "target": TARGET}
        for name, values in (("coverage", holds), ("size", sizes), ("single", sizes == 1)):
            estimate = ratio(values * weight, weight, study.unit_of)
            assert estimate is not None  # every such class occurs
            low, high = mean_interval(estimate, len(classes)) if name == "size" else share_interval(estimate)
            row |= {name: estimate.estimate, f"{name}_low": low, f"{name}_high": high}
        row |= {"empty": float((sizes == 0)[:, used].mean())}
        rows.append(row | {"broken": row["coverage_high"] < TARGET})
    return rows
