"""predictions.csv: one row per image, ours or another system's."""

import csv
import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from mae_jax.rundir.contents import EXTERNAL, PREDICTIONS, VALIDATION
from mae_jax.runtime import csv_cells
from mae_jax.runtime.csv_cells import cell
from mae_jax.runtime.errors import UserError
from mae_jax.runtime.files import replacing

REQUIRED = ("image", "label", "prediction", "confidence")
ONE_BY_ONE = "intervals redraw single images, not groups"


@dataclass(frozen=True)
class Predictions:
    """One row per image, sorted by the image's name.

    `labels` and `predictions` are indices into the run's classes, `confidence` is the probability
    of the predicted class in [0, 1]; `groups` (slide, patient ...) and `probabilities` may be None.
    """

    images: tuple[str, ...]
    labels: Int[np.ndarray, "n"]
    predictions: Int[np.ndarray, "n"]
    confidence: Float[np.ndarray, "n"]
    groups: tuple[str, ...] | None
    probabilities: Float[np.ndarray, "n c"] | None

    @property
    def right(self) -> np.ndarray:
        """True where the prediction is the label, shape (n,)."""
        return self.labels == self.predictions


def clean(name: object) -> str:
    """A name that is safe to show: control, direction and other invisible characters removed."""
    text = str(name)
    if not text.isprintable():
        text = "".join(c for c in text if unicodedata.category(c)[0] != "C" or c.isspace())
    return " ".join(text.split())


def show(value: object) -> str:
    """A value for a one-line message: no control characters, not too long."""
    text = clean(repr(value))
    return text if len(text) <= 120 else text[:117] + "..."


def regular(file: Path) -> Path:
    """`file`. Raises OSError where it is no file but a folder, or a pipe or device that would be waited for."""
    if file.exists() and not file.is_file():
        raise OSError("it is no regular file")
    return file


def read_predictions(file: Path, classes: Sequence[str]) -> tuple[Predictions, list[str]]:
    """Read a predictions CSV: image, label, prediction, confidence, maybe group and p_<Class>.

    Returns the rows sorted by image and the lines that name the optional columns it lacks. Raises
    UserError for a missing file or column, a broken row, a class that is not in `classes`, a
    confidence or probability that is not a number in [0, 1], probabilities that do not sum to 1,
    an image that comes twice.
    """
    header, rows = read_rows(file)
    for column in REQUIRED:
        if column not in header:
            raise UserError(
                f"{file}: the column {column!r} is missing; it has {show(header)}, at least"
                f" {', '.join(REQUIRED)} are needed: add the column"
            )
    if not rows:
        raise UserError(f"{file}: holds no rows; it needs one per image: evaluate the run again")
    at = {column: header.index(column) for column in header}
    index = {name: i for i, name in enumerate(classes)}
    notes = []

    wanted = [f"p_{name}" for name in classes]
    missing = [column for column in wanted if column not in at]
    probability_at = [] if missing else [at[column] for column in wanted]
    if missing:
        notes.append(
            f"predictions.csv has no column {show(missing[0])}: negative log-likelihood, Brier"
            " score and temperature are left out"
        )
    if "group" not in at:
        notes.append(f"predictions.csv has no column 'group': {ONE_BY_ONE}")

    order, labels, predictions, confidence, probabilities = {}, [], [], [], []
    for number, row in rows:
        image = row[at["image"]]
        if image in order:
            raise UserError(
                f"{file} line {number}: image {show(image)} comes twice; each image may have one"
                " row: give each image its own name, such as its path"
            )
        order[image] = len(order)
        for column, values in (("label", labels), ("prediction", predictions)):
            if row[at[column]] not in index:
                raise UserError(
                    f"{file} line {number}: {column} {show(row[at[column]])} is not a class of"
                    f" run.json; allowed are {show(list(classes))}: correct one of the two"
                )
            values.append(index[row[at[column]]])
        confidence.append(_probability(file, number, "confidence", row[at["confidence"]]))
        if probability_at:
            p = [_probability(file, number, header[i], row[i]) for i in probability_at]
            if abs(sum(p) - 1) > 0.01:
                raise UserError(
                    f"{file} line {number}: the p_ columns sum to {sum(p):.4g}; they must sum to"
                    " 1: write probabilities after the softmax"
                )
            probabilities.append(p)
    by_name = [order[image] for image in sorted(order)]
    groups = None
    if "group" in at:
        groups = tuple(clean(rows[i][1][at["group"]]) for i in by_name)
        if not any(groups):
            groups = None
            notes.append(f"groups are not known, the same patient may be on both sides: {ONE_BY_ONE}")
        elif not all(groups):  # an image without a group is a group of its own
            groups = tuple(g or f"image {image}" for g, image in zip(groups, map(clean, sorted(order)), strict=True))
    return Predictions(
        images=tuple(clean(image) for image in sorted(order)),
        labels=np.array(labels)[by_name],
        predictions=np.array(predictions)[by_name],
        confidence=np.array(confidence, dtype=np.float64)[by_name],
        groups=groups,
        probabilities=np.array(probabilities)[by_name] if probabilities else None,
    ), notes


def read_rows(file: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The header and the rows, each with its line number; every row as long as the header."""
    try:
        with regular(file).open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, strict=True)
            header = next(reader, [])
            rows = [(reader.line_num, list(map(csv_cells.text, row))) for row in reader if row]
    except FileNotFoundError:
        raise UserError(f"{file}: not found; the report needs it: evaluate the run first") from None
    except UnicodeDecodeError:
        raise UserError(f"{file}: not in UTF-8; save it as CSV in UTF-8") from None
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{file}: cannot be read as CSV ({show(error)}); write it anew") from None
    if len(set(header)) < len(header):
        raise UserError(f"{file}: a column name comes twice in {show(header)}; each may come once")
    for number, row in rows:
        if len(row) != len(header):
            raise UserError(
                f"{file} line {number}: {len(row)} cells; the header has {len(header)}: mend or remove the row"
            )
    return header, rows


def _probability(file: Path, number: int, column: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not -1e-6 <= value <= 1 + 1e-6:
        raise UserError(
            f"{file} line {number}: {show(column)} is {show(text)}; it must be a number from 0 to"
            " 1: if the run diverged (nan), train it again"
        )
    return min(max(value, 0.0), 1.0)


def write_predictions(
    path: Path,
    images: Sequence[str],
    groups: Sequence[str],
    labels: Int[np.ndarray, " n"],
    probabilities: Float[np.ndarray, "n classes"],
    classes: Sequence[str],
) -> None:
    """One row an image: names of label and prediction, confidence, each class's probability. See `spreadsheets`."""
    predictions = probabilities.argmax(1)
    with replacing(path) as file:
        rows = csv.writer(file)
        rows.writerow(["image", "group", "label", "prediction", "confidence", *(f"p_{c}" for c in classes)])
        for i, image in enumerate(images):
            p = [f"{v:.9g}" for v in probabilities[i]]
            best = predictions[i]
            texts = image, groups[i], classes[labels[i]], classes[best]
            rows.writerow([*map(cell, texts), p[best], *p])


def cut_predictions(workdir: Path, results: dict[str, Any]) -> str:
    """Which predictions do not have as many rows as the results tell of, in words; "" where all have."""
    external = results.get("external")
    files = {PREDICTIONS: results.get("n"), VALIDATION: results.get("n_validation")}  # a pre-training has none
    if isinstance(external, dict):
        files |= {f"{EXTERNAL}/{k}/{PREDICTIONS}": v.get("n") for k, v in external.items() if isinstance(v, dict)}
    for name, wanted in files.items():
        path = workdir / name
        if not wanted:
            continue
        if not path.is_file():
            return f"{path} is gone"
        with open(path, encoding="utf-8", errors="replace", newline="") as file:
            whole = [line for line in file.read().split("\n")[:-1] if line.count(",") >= 5]  # no name holds a line end
        if len(whole) - 1 != wanted:
            return f"{path} has {max(0, len(whole) - 1)} of {wanted} rows"
    return ""
