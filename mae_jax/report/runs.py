"""Read run directories: `run.json`, `predictions.csv` and what may lie beside them.

A run directory is a contract of files, so that another system's runs can be reported too. Every
mistake in a file raises `UserError` with the file, the value and what is allowed.
"""

import csv
import json
import math
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from mae_jax.errors import UserError

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


class Level(NamedTuple):
    """How much a model was given: the arm ("": trained in the usual way) and the share of the labels."""

    arm: str
    fraction: float

    def __str__(self) -> str:
        """`10 %`, or `10 %, as many updates as 100 %`."""
        return percent(self.fraction) + (f", {self.arm}" if self.arm else "")

    @property
    def slug(self) -> str:
        """For file names."""
        arm = "".join(c if c.isalnum() else "_" for c in self.arm)
        return f"{100 * self.fraction:g}".replace(".", "_") + (f"_{arm}" if arm else "")


@dataclass(frozen=True)
class Run:
    """One trained model: its cell of the grid, its predictions and what else its directory holds.

    `n_train` counts the labelled training images, `info` is run.json as read, `log` the lines of
    metrics.jsonl.
    """

    path: Path
    init: str
    arm: str
    fraction: float
    seed: int
    classes: tuple[str, ...]
    test: Predictions
    validation: Predictions | None
    n_train: int | None
    info: dict
    log: tuple[dict, ...]

    @property
    def level(self) -> Level:
        """Arm and fraction: only runs of one level are compared with one another."""
        return Level(self.arm, self.fraction)

    @property
    def name(self) -> str:
        """The cell in words, as in `mae, 10 %, seed 0`."""
        return f"{self.init}, {self.level}, seed {self.seed}"


def percent(fraction: float) -> str:
    """0.1 -> `10 %`; 0.005 -> `0.5 %`."""
    return f"{100 * fraction:.6g} %"


def clean(name: object) -> str:
    """A name that is safe to show: control, direction and other invisible characters removed."""
    text = str(name)
    if not text.isprintable():
        text = "".join(c for c in text if unicodedata.category(c)[0] != "C" or c.isspace())
    return " ".join(text.split())


def read_runs(run_dirs: Sequence[Path]) -> tuple[list[Run], list[str]]:
    """Read the run directories of one report.

    Returns the runs, sorted by arm, fraction, initialisation (scratch first, then mae) and seed, all
    with the classes in the same order; and the lines that say what is left out for want of columns.
    Raises UserError for an unreadable directory, a cell that comes twice, classes or test images
    that differ between the runs.
    """
    if not run_dirs:
        raise UserError("no run directory given: name at least one that holds run.json")
    cells = [_read_cell(Path(d)) for d in run_dirs]
    names = cells[0]["info"]["classes"]
    seen, runs, notes = {}, [], []
    for cell in cells:
        path, key = cell["path"], (cell["init"], Level(cell["arm"], cell["fraction"]), cell["seed"])
        if key in seen:
            raise UserError(
                f"{path}: the cell ({key[0]}, {key[1]}, seed {key[2]}) is also in"
                f" {seen[key]}; each init, fraction and seed may come once: leave one of the two out"
            )
        seen[key] = path
        if set(cell["info"]["classes"]) != set(names):
            raise UserError(
                f"{path / 'run.json'}: classes {show(cell['info']['classes'])} differ from"
                f" {show(names)} of {cells[0]['path']}; one report compares runs of the same classes"
            )
        run, found = _read_files(cell, names)
        _check_same_images(run, runs[0] if runs else run)
        runs.append(run)
        notes += found
    return sorted(runs, key=lambda r: (r.level, init_order(r.init), r.seed)), notes


def init_order(init: str) -> tuple[int, str]:
    """Sort key: scratch, mae, then the others by name."""
    return ({"scratch": 0, "mae": 1}.get(init, 2), init)


def _read_cell(path: Path) -> dict:
    """What run.json says, checked: the fields of a Run but for its files and classes."""
    file = path / "run.json"
    try:
        info = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{file}: not found; give a directory that holds run.json and predictions.csv") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file}: cannot be read as JSON ({show(error)}); write it anew") from None
    if not isinstance(info, dict):
        raise UserError(f"{file}: holds {show(info)}; it must be an object with init, fraction, seed, classes")

    def field(name: str, allowed: Callable[[object], bool], words: str):
        if name not in info:
            raise UserError(f"{file}: the field {name!r} is missing; it must be {words}: add it")
        if not allowed(info[name]):
            raise UserError(f"{file}: {name} is {show(info[name])}; it must be {words}: correct it")
        return info[name]

    def is_integer(value: object) -> bool:
        return isinstance(value, int) and is_number(value)

    def is_name(value: object) -> bool:
        return isinstance(value, str) and clean(value) != ""

    def is_class_list(value: object) -> bool:
        if not isinstance(value, list) or not all(map(is_name, value)):
            return False
        return len({clean(name) for name in value}) == len(value) > 1

    field("classes", is_class_list, "a list of 2 or more names")
    if info.get("n_train") is not None:
        field("n_train", lambda v: is_integer(v) and is_number(v, 1.0, 1e12), "a count above 0")
    fraction = field("fraction", lambda v: is_number(v, 1e-9, 1.0), "above 0 and at most 1")
    return {
        "path": path,
        "init": clean(field("init", is_name, "a name such as scratch or mae")),
        "arm": clean(field("arm", lambda v: isinstance(v, str), "a text")) if "arm" in info else "",
        "fraction": float(fraction),
        "seed": field("seed", is_integer, "an integer"),
        "n_train": info.get("n_train"),
        "info": info,
    }


def _read_files(cell: dict, names: Sequence[str]) -> tuple[Run, list[str]]:
    """The run with its predictions, class indices by `names`, and the lines on what it lacks."""
    path = cell["path"]
    test, found = read_predictions(path / "predictions.csv", names)
    notes = [f"{clean(path)}: {note}" for note in found]
    validation, file = None, path / "predictions_val.csv"
    if file.is_file():
        validation, _ = read_predictions(file, names)
        shared = set(validation.images) & set(test.images)
        if shared:
            raise UserError(
                f"{file}: image {show(min(shared))} is also in predictions.csv; the temperature is"
                " fitted on validation images only: leave the test images out"
            )
    log, broken = _read_log(path / "metrics.jsonl")
    if broken:
        notes.append(f"{clean(path)}: passed over {broken} broken lines of metrics.jsonl")
    classes = tuple(clean(name) for name in names)
    run = Run(**cell, classes=classes, test=test, validation=validation, log=log)
    return run, notes


def read_predictions(file: Path, classes: Sequence[str]) -> tuple[Predictions, list[str]]:
    """Read a predictions CSV: image, label, prediction, confidence, maybe group and p_<Class>.

    Returns the rows sorted by image and the lines that name the optional columns it lacks. Raises
    UserError for a missing file or column, a broken row, a class that is not in `classes`, a
    confidence or probability that is not a number in [0, 1], probabilities that do not sum to 1,
    an image that comes twice.
    """
    header, rows = _read_rows(file)
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
        if not all(groups):
            groups = None
            notes.append(f"the column 'group' has empty cells: {ONE_BY_ONE}")
    return Predictions(
        images=tuple(clean(image) for image in sorted(order)),
        labels=np.array(labels)[by_name],
        predictions=np.array(predictions)[by_name],
        confidence=np.array(confidence, dtype=np.float64)[by_name],
        groups=groups,
        probabilities=np.array(probabilities)[by_name] if probabilities else None,
    ), notes


def _read_rows(file: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The header and the rows, each with its line number; every row as long as the header."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, strict=True)
            header = next(reader, [])
            rows = [(reader.line_num, row) for row in reader if row]
    except FileNotFoundError:
        raise UserError(f"{file}: not found; the report needs it: evaluate the run first") from None
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


def _read_log(file: Path) -> tuple[tuple[dict, ...], int]:
    """The lines of metrics.jsonl that are JSON objects, and the number of those that are not."""
    if not file.is_file():
        return (), 0
    lines, broken = [], 0
    for text in file.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            line = None
        if isinstance(line, dict):
            lines.append(line)
        elif text.strip():
            broken += 1
    return tuple(lines), broken


def _check_same_images(run: Run, first: Run) -> None:
    """Raise unless both runs were tested on the same images, with the same labels and groups."""
    file, mine, theirs = run.path / "predictions.csv", run.test, first.test
    rule = f"all runs need the test set of {first.path}: evaluate them on the same images"
    if mine.images != theirs.images:
        other = sorted(set(mine.images) ^ set(theirs.images))
        where = "only here" if other and other[0] in set(mine.images) else "missing here"
        raise UserError(
            f"{file}: {len(mine.images)} test images, not the same {len(theirs.images)}"
            f" ({show(other[0]) if other else 'names'} {where}); {rule}"
        )
    differ = np.flatnonzero(mine.labels != theirs.labels)
    if differ.size:
        image = mine.images[differ[0]]
        a, b = (run.classes[p.labels[differ[0]]] for p in (mine, theirs))
        raise UserError(f"{file}: image {show(image)} has label {show(a)}, not {show(b)}; {rule}")
    if mine.groups and theirs.groups and mine.groups != theirs.groups:
        raise UserError(f"{file}: the column 'group' is not that of {first.path}; {rule}")


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


def is_number(value: object, low: float = -1e300, high: float = 1e300) -> bool:
    """A finite number within the bounds; True and False are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


def show(value: object) -> str:
    """A value for a one-line message: no control characters, not too long."""
    text = clean(repr(value))
    return text if len(text) <= 120 else text[:117] + "..."
