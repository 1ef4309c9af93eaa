"""Reading and writing predictions.csv: one row per image, from mae_jax or another system."""

import csv
import io
import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from mae_jax.rundir.contents import EXTERNAL, PREDICTIONS, VALIDATION
from mae_jax.runtime import csv_cells
from mae_jax.runtime.csv_cells import cell
from mae_jax.runtime.disk import disk_line, exists, is_file, naming, read_text
from mae_jax.runtime.errors import UserError
from mae_jax.runtime.files import replacing
from mae_jax.runtime.text import count

REQUIRED = ("image", "label", "prediction", "confidence")
MISTAKES = 12  # shown in a report for each run; the run keeps pictures of them
ONE_BY_ONE = "intervals resample single images, not groups"


@dataclass(frozen=True)
class Predictions:
    """One row per image, sorted by the image's name.

    `labels` and `predictions` are indices into the classes of the run. `confidence` is the probability of the
    predicted class, in [0, 1]. `groups` (slide, patient ...) and `probabilities` may be None.
    """

    images: tuple[str, ...]
    labels: Int[np.ndarray, " n"]
    predictions: Int[np.ndarray, " n"]
    confidence: Float[np.ndarray, " n"]
    groups: tuple[str, ...] | None
    probabilities: Float[np.ndarray, "n c"] | None

    @property
    def right(self) -> np.ndarray:
        """Whether each prediction is correct, shape (n,)."""
        return self.labels == self.predictions


def clean(name: object) -> str:
    """A name that is safe to show: without control, text-direction and other invisible characters."""
    text = str(name)
    if text.isprintable() and " " not in text:  # a fast path, because there may be millions of names
        return text
    if not text.isprintable():
        text = "".join(c for c in text if unicodedata.category(c)[0] != "C" or c.isspace())
    return " ".join(text.split())


def show(value: object) -> str:
    """`value` for a one-line message: without control characters, at most 120 characters."""
    text = clean(repr(value))
    return text if len(text) <= 120 else text[:117] + "..."


def regular(file: Path) -> Path:
    """Returns `file`. Raises OSError for a folder, a pipe or a device, because opening a pipe would block."""
    if exists(file) and not is_file(file):
        raise OSError("it is not a regular file")
    return file


def most_confident_mistakes(
    wrong: Bool[np.ndarray, " n"], confidence: Float[np.ndarray, " n"], names: Sequence[str]
) -> list[int]:
    """Indices of the wrong predictions, by decreasing confidence, then by name; at most MISTAKES."""
    return sorted(np.flatnonzero(wrong).tolist(), key=lambda i: (-confidence[i], names[i]))[:MISTAKES]


def read_predictions(file: Path, classes: Sequence[str]) -> tuple[Predictions, list[str]]:
    """Reads a CSV with the columns image, label, prediction, confidence, and optionally group and p_<Class>.

    Returns the rows sorted by image, and a note for each missing optional column. Raises UserError for a missing file
    or column, a broken row, a class that is not in `classes`, a confidence or probability outside [0, 1],
    probabilities that do not sum to 1, or an image that appears twice.
    """
    header, numbers, rows = read_rows(file)
    for column in REQUIRED:
        if column not in header:
            raise UserError(
                f"{file}: the column {column!r} is missing; it has {show(header)}, and needs at least"
                f" {', '.join(REQUIRED)}: add the column"
            )
    if not rows:
        raise UserError(f"{file}: no rows; it needs one per image: evaluate the run again")
    columns = dict(zip(header, zip(*rows, strict=True), strict=True))
    images = columns["image"]
    _refuse_double_images(file, numbers, images)
    index = {name: i for i, name in enumerate(classes)}
    labels, predictions = (
        _class_numbers(file, numbers, column, columns[column], index) for column in ("label", "prediction")
    )
    confidence = _probabilities(file, numbers, "confidence", columns["confidence"])
    probabilities, no_probabilities = _class_probabilities(file, numbers, columns, classes)
    by_name = sorted(range(len(images)), key=images.__getitem__)
    names = tuple(clean(images[i]) for i in by_name)
    groups, no_groups = _groups_of(names, [columns["group"][i] for i in by_name] if "group" in columns else None)
    predicted = Predictions(
        images=names,
        labels=labels[by_name],
        predictions=predictions[by_name],
        confidence=confidence[by_name],
        groups=groups,
        probabilities=None if probabilities is None else probabilities[by_name],
    )
    return predicted, [note for note in (no_probabilities, no_groups) if note]


def _refuse_double_images(file: Path, numbers: Sequence[int], images: Sequence[str]) -> None:
    if len(set(images)) == len(images):
        return
    seen: set[str] = set()
    i = next(i for i, image in enumerate(images) if image in seen or seen.add(image))
    raise UserError(
        f"{file} line {numbers[i]}: image {show(images[i])} appears twice; each image may have one"
        " row: give each image its own name, such as its path"
    )


def _class_probabilities(
    file: Path, numbers: Sequence[int], columns: dict[str, tuple[str, ...]], classes: Sequence[str]
) -> tuple[Float[np.ndarray, "n classes"] | None, str]:
    """The columns p_<Class>, and "". If one is missing: None, and a note that names it."""
    wanted = [f"p_{name}" for name in classes]
    missing = [column for column in wanted if column not in columns]
    if missing:
        return None, (
            f"predictions.csv has no column {show(missing[0])}: negative log-likelihood, Brier"
            " score and temperature are left out"
        )
    probabilities = np.stack([_probabilities(file, numbers, column, columns[column]) for column in wanted], axis=1)
    sums = probabilities.sum(1)
    wrong = np.flatnonzero(np.abs(sums - 1) > 0.01)
    if wrong.size:
        raise UserError(
            f"{file} line {numbers[wrong[0]]}: the p_ columns sum to {sums[wrong[0]]:.4g}; they must sum to"
            " 1: write probabilities after the softmax"
        )
    return probabilities, ""


def _groups_of(images: Sequence[str], column: Sequence[str] | None) -> tuple[tuple[str, ...] | None, str]:
    """The group of each image, and "". If none is known: None, and a note. An image without one is its own group."""
    if column is None:
        return None, f"predictions.csv has no column 'group': {ONE_BY_ONE}"
    groups = [clean(group) for group in column]
    if not any(groups):
        return None, f"groups are not known, so the same patient may be on both sides; {ONE_BY_ONE}"
    return tuple(group or f"image {image}" for group, image in zip(groups, images, strict=True)), ""


def _class_numbers(
    file: Path, numbers: Sequence[int], column: str, values: Sequence[str], index: dict[str, int]
) -> Int[np.ndarray, " n"]:
    """The class index of each value in a column. `numbers` are the line numbers of the rows."""
    for i, value in enumerate(values):
        if value not in index:
            raise UserError(
                f"{file} line {numbers[i]}: {column} {show(value)} is not a class of"
                f" run.json; allowed are {show(list(index))}: correct one of the two"
            )
    return np.array([index[value] for value in values])


def read_rows(file: Path) -> tuple[list[str], Sequence[int], list[list[str]]]:
    """The header, the line number of each row, and the rows, each as long as the header. Raises UserError."""
    try:
        with naming(file), regular(file).open(encoding="utf-8-sig", newline="") as stream:
            text = stream.read()
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        header = next(reader, [])
        rows = list(reader)
        numbers: Sequence[int] = range(2, len(rows) + 2)
        if reader.line_num != len(rows) + 1 or not all(rows):  # there are multi-line cells or empty lines
            reader = csv.reader(io.StringIO(text, newline=""), strict=True)
            numbered = [(reader.line_num, row) for row in reader if row][1:]
            numbers, rows = [number for number, _ in numbered], [row for _, row in numbered]
    except FileNotFoundError:
        raise UserError(f"{file}: not found; the report needs it: evaluate the run first") from None
    except UnicodeDecodeError:
        raise UserError(f"{file}: not UTF-8; save it as CSV in UTF-8") from None
    except OSError as error:
        line = f"{file}: cannot be read ({error}); put a regular file in its place"
        raise UserError(disk_line(error) if error.errno else line) from None
    except (ValueError, csv.Error) as error:
        raise UserError(f"{file}: cannot be read as CSV ({show(error)}); write it again") from None
    if len(set(header)) < len(header):
        raise UserError(f"{file}: a column name appears twice in {show(header)}; each may appear once")
    if "'" in text:
        rows = [list(map(csv_cells.text, row)) for row in rows]
    for number, row in zip(numbers, rows, strict=True):
        if len(row) != len(header):
            raise UserError(
                f"{file} line {number}: {count(len(row), 'cell')}; the header has {len(header)}: fix or remove the row"
            )
    return header, numbers, rows


def _probabilities(file: Path, numbers: Sequence[int], column: str, values: Sequence[str]) -> Float[np.ndarray, " n"]:
    """A column of numbers from 0 to 1. `numbers` are the line numbers of the rows."""
    try:
        values_read = np.array(list(map(float, values)))
    except ValueError:
        values_read = np.array([_number(value) for value in values])
    wrong = np.flatnonzero(~((values_read >= -1e-6) & (values_read <= 1 + 1e-6)))
    if wrong.size:
        i = wrong[0]
        raise UserError(
            f"{file} line {numbers[i]}: {show(column)} is {show(values[i])}; it must be a number from 0 to"
            " 1: if the run diverged (nan), train it again"
        )
    return np.clip(values_read, 0.0, 1.0)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def write_predictions(
    path: Path,
    images: Sequence[str],
    groups: Sequence[str],
    labels: Int[np.ndarray, " n"],
    probabilities: Float[np.ndarray, "n classes"],
    classes: Sequence[str],
) -> None:
    """Writes one row per image: label, prediction, confidence, probability of each class. Raises OSError.

    `csv_cells` escapes names that a spreadsheet would run as formulas.
    """
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
    """Says which file of predictions is missing or has fewer rows than `results` counts; "" if none."""
    external = results.get("external")
    files = {PREDICTIONS: results.get("n"), VALIDATION: results.get("n_validation")}  # a pre-training has neither
    if isinstance(external, dict):
        files |= {f"{EXTERNAL}/{k}/{PREDICTIONS}": v.get("n") for k, v in external.items() if isinstance(v, dict)}
    for name, wanted in files.items():
        path = workdir / name
        if not wanted:
            continue
        if not is_file(path):
            return f"{path} is missing"
        lines = read_text(path, errors="replace").split("\n")[:-1]  # names have no line breaks
        complete = [line for line in lines if line.count(",") >= 5]
        if len(complete) - 1 != wanted:
            return f"{path} has {max(0, len(complete) - 1)} of {wanted} rows"
    return ""
