"""Cell types: which classes are confused, and how sensitivity and precision change with the number of labels.

The classes of the study are cell types, but any classes work.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from mae_jax.report.analysis import Study
from mae_jax.report.comparisons import Difference, judged
from mae_jax.report.ratios import Ratio, difference, ratio, share_interval
from mae_jax.report.runs import Level, rounded

NEAR = 0.1  # the share of labels at which a second confusion matrix is shown, unless another is chosen
MOST = 12  # maximum number of classes that the page shows separately; the tables have all
COLUMNS = (  # of classes.csv
    *("fraction", "arm", "label_count", "init", "class", "n", "n_train", "predicted"),
    *("sensitivity", "sensitivity_low", "sensitivity_high", "precision", "precision_low", "precision_high"),
    *("baseline", "difference", "difference_low", "difference_high", "p", "holm_p", "verdict"),
)
CONFUSION = ("fraction", "arm", "label_count", "init", "label", "prediction", "mean_count", "share")  # of confusion.csv


@dataclass(frozen=True)
class Matrix:
    """A confusion matrix: `counts[i, j]` images of class i are predicted as class j, as a mean over the seeds."""

    level: Level
    init: str
    seeds: int
    counts: Float[np.ndarray, "c c"]


@dataclass(frozen=True)
class CellTypes:
    """The rows of classes.csv, the confusion matrices, and the levels that the page shows.

    `names` are the classes that occur in the test set, `shown` those that the page shows separately, rarest first.
    """

    rows: list[dict]
    matrices: list[Matrix]
    largest: Level
    chosen: Level | None
    names: list[str]
    shown: list[str]

    def matrix(self, level: Level, init: str) -> Matrix | None:
        """The confusion matrix of one cell, if there is one."""
        return next((m for m in self.matrices if (m.level, m.init) == (level, init)), None)

    def of(self, level: Level, init: str) -> list[dict]:
        """The rows of one cell, in the order of the classes."""
        key = (level.fraction, level.arm, init)
        return [row for row in self.rows if (row["fraction"], row["arm"], row["init"]) == key]

    def confusion_rows(self, classes: Sequence[str]) -> list[dict]:
        """confusion.csv: one row for each pair of a label and a prediction that occurs."""
        rows = []
        for m in self.matrices:
            start = {**m.level.columns, "init": m.init}
            for i, j in np.argwhere(m.counts > 0).tolist():
                pair = {"label": classes[i], "prediction": classes[j], "mean_count": float(m.counts[i, j])}
                rows.append(start | pair | {"share": float(m.counts[i, j] / m.counts[i].sum())})
        return rows


def analyze(study: Study, chosen: float | None = None) -> CellTypes:
    """Sensitivity and precision of every class in every cell, and the confusion matrices.

    `chosen` is the share of labels for a second matrix; None: the share nearest to 10 %. Differences in sensitivity are
    from the strongest training from scratch, on the same images and seeds. Holm's correction is for all classes and
    cells.
    """
    first = study.runs[0]
    counts = np.bincount(first.test.labels, minlength=len(first.classes))
    present = np.flatnonzero(counts).tolist()
    rows, matrices = [], []
    family: list[tuple[dict, Difference | None]] = []
    for level, init in study.cells:
        labels, predictions = _answers(study, study.of(level, init))
        matrix = np.zeros((len(first.classes), len(first.classes)))
        for seed_predictions in predictions:
            np.add.at(matrix, (labels, seed_predictions), 1 / len(predictions))
        matrices.append(Matrix(level, init, len(predictions), matrix))
        trained = _trained_on(study, level, init)
        cell = [_row(study, level, init, label, labels, predictions, trained) for label in present]
        family += _differences(study, level, init, present, cell)
        rows += cell
    for row, each, verdict in judged(family):
        if each is not None:
            row |= dict(zip(("difference", "difference_low", "difference_high", "p"), each.numbers, strict=True))
        row |= verdict
    usual = [level for level in study.levels if level.arm == study.arms[0]]
    largest = max(usual, key=lambda level: level.fraction)
    others = [level for level in usual if level != largest]
    near = NEAR if chosen is None else chosen
    second = min(others, key=lambda level: abs(np.log(level.fraction / near))) if others else None
    rare = sorted(present, key=lambda label: counts[label])[:MOST]
    names = [first.classes[label] for label in present]
    return CellTypes(rows, matrices, largest, second, names, [first.classes[label] for label in rare])


def _answers(study: Study, index: Sequence[int]) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, "s n"]]:
    tests = [study.runs[i].test for i in index]
    return tests[0].labels, np.stack([test.predictions for test in tests])


def _sensitivity(study: Study, index: Sequence[int], label: int) -> Ratio | None:
    labels, predictions = _answers(study, index)
    of_class = np.broadcast_to(labels == label, predictions.shape)
    return ratio((of_class & (predictions == label)).astype(float), of_class.astype(float), study.unit_of)


def _row(study: Study, level: Level, init: str, label: int, labels, predictions, trained: dict[str, float]) -> dict:
    name = study.runs[0].classes[label]
    taken = predictions == label
    row = {**level.columns, "init": init, "class": name}
    row |= {"n": int((labels == label).sum()), "n_train": trained.get(name)}
    row |= {"predicted": float(taken.sum(1).mean())}
    precision = ratio((taken & (labels == label)).astype(float), taken.astype(float), study.unit_of)
    for metric, estimate in (
        ("sensitivity", _sensitivity(study, study.of(level, init), label)),
        ("precision", precision),
    ):
        low, high = share_interval(estimate) if estimate else (None, None)
        row |= {metric: estimate.estimate if estimate else None, f"{metric}_low": low, f"{metric}_high": high}
    return row | {"baseline": "", **dict.fromkeys(COLUMNS[-6:])}


def _differences(
    study: Study, level: Level, init: str, present: Sequence[int], rows: Sequence[dict]
) -> list[tuple[dict, Difference | None]]:
    """The rows of one cell with their differences from the baseline, None where models collapsed."""
    base = study.baseline(level) if init in study.compared else None
    if base is None:
        return []
    for row in rows:
        row["baseline"] = base
    sides = study.shared_seeds(study.of(level, init), study.of(level, base))
    if not sides[0]:
        return []
    if any(study.collapsed(side) == len(side) for side in sides):
        return [(row, None) for row in rows]
    family = []
    for label, row in zip(present, rows, strict=True):
        ours, theirs = (_sensitivity(study, side, label) for side in sides)
        if ours and theirs:
            family.append((row, difference(ours, theirs)))
    return family


def _trained_on(study: Study, level: Level, init: str) -> dict[str, float]:
    """How many labeled training images each class had, as a mean over the seeds; {} if a run does not record it."""
    index = study.of(level, init)
    known_counts = [counts for i in index if (counts := study.runs[i].train_counts)]
    if len(known_counts) < len(index):
        return {}
    return {name: float(np.mean([counts.get(name, 0) for counts in known_counts])) for name in study.runs[0].classes}


def shown_matrices(study: Study, types: CellTypes) -> list[Matrix]:
    """The matrices for the page: the usual arm at the largest share of labels, the strongest arm at the chosen one.

    Fewer labels also mean fewer updates in the usual arm, so that a model may learn only in another one. Where it
    collapsed in all of them, the matrix is that of the usual arm.
    """
    shown = [types.matrix(types.largest, init) for init in study.inits]
    if types.chosen:
        for init in study.inits:
            level, _ = study.strongest([init]).get(types.chosen.fraction, (types.chosen, init))
            shown.append(types.matrix(level, init))
    return [matrix for matrix in shown if matrix]


# --- in words


def best(study: Study, level: Level) -> str:
    """The initialization with the highest macro F1 at a level; one that did not collapse, if there is one."""
    inits = [init for at, init in study.cells if at == level]
    inits = [init for init in inits if not study.collapsed_cell(level, init)] or inits
    return max(inits, key=lambda init: study.mean("f1", study.of(level, init)))


def best_in_words(study: Study, level: Level) -> str:
    """Whose results the sentences of `lines` are, as in `the best model (mae)`."""
    init = best(study, level)
    return f"{init}, which collapsed," if study.collapsed_cell(level, init) else f"the best model ({init})"


def lines(study: Study, types: CellTypes) -> list[str]:
    """A sentence for each shown class at the largest share of labels, from the best model there; rarest first."""
    init = best(study, types.largest)
    matrix = types.matrix(types.largest, init)
    rows = {row["class"]: row for row in types.of(types.largest, init)}
    classes = study.runs[0].classes
    return [_sentence(name, classes.index(name), matrix, rows[name], classes) for name in types.shown if matrix]


def confusions(study: Study, types: CellTypes, most: int = 10) -> list[str]:
    """The most frequent confusions of the best model at the largest share of labels."""
    matrix = types.matrix(types.largest, best(study, types.largest))
    if matrix is None:
        return []
    wrong = matrix.counts - np.diag(np.diag(matrix.counts))
    order = np.argsort(-wrong, axis=None)[:most]
    pairs = [divmod(at, len(wrong)) for at in order.tolist()]
    names = study.runs[0].classes
    return [
        f"{_count(float(wrong[i, j]))} of {matrix.counts[i].sum():,.0f} {names[i]} are classified as {names[j]}."
        for i, j in pairs
        if wrong[i, j] > 0
    ]


def _sentence(name: str, i: int, matrix: Matrix, row: dict, classes: Sequence[str]) -> str:
    """`Monocyte: 75 of 95 right (79 %, 70 to 86 %), 18 classified as Lymphocyte.`"""
    counts = matrix.counts[i]
    share, low, high = (rounded(row[f"sensitivity{end}"], 0) for end in ("", "_low", "_high"))
    text = f"{name}: {_count(counts[i])} of {row['n']:,} right ({share} %, {low} to {high} %)"
    wrong = [(counts[j], classes[j]) for j in np.argsort(-counts).tolist() if j != i and counts[j] >= 0.5]
    if wrong:
        text += ", " + " and ".join(f"{_count(n)} classified as {other}" for n, other in wrong[:2])
    return text + "."


def _count(value: float) -> str:
    """A mean count over seeds, without decimals if it is a whole number."""
    return f"{value:,.0f}" if abs(value - round(value)) < 0.05 else f"{value:,.1f}"


def trained_on(study: Study, types: CellTypes) -> list[tuple[Level, list[float]]]:
    """The number of training images of each class, in the order of `names`, at each level whose runs record it.

    An arm with as many images of each class as another arm at the same fraction is left out.
    """
    counts: list[tuple[Level, list[float]]] = []
    for level in study.levels:
        rows = [row for row in types.rows if (row["fraction"], row["arm"]) == (level.fraction, level.arm)]
        known = {row["class"]: row["n_train"] for row in rows if row["n_train"] is not None}
        images = [known[name] for name in types.names if name in known]
        if len(images) == len(types.names) and not any(
            (at.fraction, other) == (level.fraction, images) for at, other in counts
        ):
            counts.append((level, images))
    return counts


def rarest(study: Study, types: CellTypes) -> str:
    """The rarest class with its numbers of test and training images."""
    first = study.runs[0]
    counts = np.bincount(first.test.labels, minlength=len(first.classes))
    name, total = types.shown[0], len(first.test.labels)
    n = int(counts[first.classes.index(name)])
    text = f"The rarest cell type is {name}: {n:,} of {total:,} test images ({rounded(n / total)} %)"
    rows = [row for row in types.rows if row["class"] == name and row["n_train"] is not None]
    trained = {Level.of_row(row): row["n_train"] for row in rows if row["arm"] == study.arms[0]}
    if trained:
        parts = [f"{_count(trained[level])} with {level.labels}" for level in sorted(trained)]
        text += f". Its training images: {', '.join(parts)}"
    absent = [c for c in first.classes if c not in types.names]
    return f"{text}." + (f" No test image shows {', '.join(absent)}." if absent else "")
