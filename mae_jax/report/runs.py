"""Reads run directories: `run.json`, `predictions.csv` and the optional files next to them.

The report needs only these files, so it also works with runs of other systems. Every mistake in a file raises
`UserError` with the file, the value and what is allowed.
"""

import re
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

import numpy as np

from mae_jax.rundir import metrics_rows
from mae_jax.rundir.contents import (
    CONFIG,
    METRICS,
    USUAL,
    chooses,
    is_pretraining,
    parse,
    peek,
    peek_object,
    unreadable_format,
)
from mae_jax.rundir.predictions import Predictions, clean, read_predictions, show
from mae_jax.runtime.disk import is_file
from mae_jax.runtime.errors import UserError
from mae_jax.runtime.places import shareable
from mae_jax.runtime.text import count

BASELINE = "scratch"  # random weights
LONGEST = 200  # maximum number of characters of a name in tables and figures


class Level(NamedTuple):
    """How much a model was given: the arm ("": trained in the usual way) and the share of the labels.

    `label_count` is the number of labels where the run asked for a number, else 0: a reader sees what was asked for.
    """

    arm: str
    fraction: float
    label_count: int = 0

    def __str__(self) -> str:
        """`10 %` or `200 labels`, or `10 %, as many updates as 100 %`."""
        return self.amount + self._in_arm

    @property
    def amount(self) -> str:
        """`10 %` or `200 labels`, for a table with a column of them."""
        return f"{self.label_count:,} labels" if self.label_count else percent(self.fraction)

    @property
    def labels(self) -> str:
        """`10 % of the labels` or `200 labels`, for a sentence."""
        return self.amount if self.label_count else f"{self.amount} of the labels"

    @property
    def labels_and_arm(self) -> str:
        """`10 % of the labels, as many updates as 100 %`."""
        return self.labels + self._in_arm

    @property
    def _in_arm(self) -> str:
        return f", {self.arm}" if self.arm else ""

    @property
    def columns(self) -> dict[str, float | str | int]:
        """The level as columns of a table; `of_row` reads them."""
        return {"fraction": self.fraction, "arm": self.arm, "label_count": self.label_count}

    @classmethod
    def of_row(cls, row: dict) -> "Level":
        """The level of a row of a table."""
        return cls(row.get("arm", ""), row["fraction"], row.get("label_count", 0))

    @property
    def slug(self) -> str:
        """For file names."""
        return f"{100 * self.fraction:g}".replace(".", "_") + slug(self.arm)


def slug(arm: str) -> str:
    """An arm as the end of a file name; "" for the usual one."""
    plain = "".join(c if c.isalnum() else "_" for c in arm)
    if len(plain.encode()) > 60:
        plain = f"{plain[:12]}_{zlib.crc32(arm.encode()):08x}"
    return f"_{plain}" if arm else ""


def distinct(names: Iterable[str]) -> list[str]:
    """File names for `names` that differ even without case: a repeated one gets a "_" at its end."""
    unique: list[str] = []
    for name in names:
        while name.casefold() in map(str.casefold, unique):
            name += "_"
        unique.append(name)
    return unique


@dataclass(frozen=True)
class Run:
    """One trained model: its cell of the grid, its predictions and what else its directory holds.

    `n_train` counts the labeled training images, and `train_counts` those of each class if subset.json has them.
    `info` is the content of run.json, and `log` has the lines of metrics.jsonl, thinned.
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
    evaluation: str = USUAL
    train_counts: dict[str, float] | None = None
    last_epoch: dict[str, float] | None = None  # test accuracy and macro F1 after the last update
    n_validation: int | None = None  # number of validation images by results.json
    label_count: int = 0  # labels asked for, where a number of them was and not a share

    @property
    def raw_classes(self) -> list[str]:
        """The classes as the files spell them, in the order of `classes`."""
        spelt = {clean(name): name for name in self.info["classes"]}
        return [spelt[name] for name in self.classes]

    @property
    def from_scratch(self) -> bool:
        """Whether training began with random weights, also if the study names this initialization otherwise."""
        config = self.info.get("config")
        return self.init == BASELINE or (isinstance(config, dict) and config.get("init") == BASELINE)

    @property
    def cross_validated(self) -> bool:
        """Whether `validation` has its training images, each predicted by a model that was trained without it."""
        return bool(self.info.get("folds")) and not chooses(self.evaluation)

    @property
    def level(self) -> Level:
        """Arm and fraction: only runs of one level are compared with one another."""
        return Level(self.arm, self.fraction, self.label_count)

    @property
    def name(self) -> str:
        """The cell in words, as in `mae, 10 %, seed 0`."""
        return f"{self.init}, {self.level}, seed {self.seed}"


def percent(fraction: float) -> str:
    """0.1 -> `10 %`; 0.005 -> `0.5 %`; 1/3 -> `33.33 %`."""
    return f"{100 * fraction:.4g} %"


def rounded(share: float, digits: int = 1) -> str:
    """A share in percent without the sign: 0.9012 -> `90.1`.

    Only 0 and 1 become 0 and 100: 341 of 342 are `99.7` also with `digits=0`, and 1 of 50,000 is `< 0.01`.
    """
    percent = 100 * share
    for more in range(digits, 3):
        text = f"{percent:.{more}f}"
        if float(text) not in (0, 100) or abs(percent - float(text)) < 1e-9:
            return text
    return "< 0.01" if percent < 50 else "> 99.99"


def read_runs(run_dirs: Sequence[Path]) -> tuple[list[Run], list[str]]:
    """Reads the run directories of one report.

    Returns the runs, and lines that name what is left out because a column is missing. All runs have the classes in the
    same order. They are sorted by arm (the usual one first), fraction, initialization (scratch first, then mae) and
    seed. Raises UserError for an unreadable directory, a repeated cell, or classes or test images that differ between
    the runs.
    """
    if not run_dirs:
        raise UserError("no run directory given: name at least one that holds run.json")
    cells: list[dict[str, Any]] = [_read_cell(Path(d)) for d in run_dirs]
    names = cells[0]["info"]["classes"]
    if not all(cell["label_count"] for cell in cells):  # shares are known of all, so that they compare
        cells = [cell | {"label_count": 0} for cell in cells]
    seen, runs, notes = {}, [], []
    for cell in cells:
        path, key = cell["path"], (cell["init"], Level(cell["arm"], cell["fraction"]), cell["seed"], cell["evaluation"])
        if key in seen:
            raise UserError(
                f"{path}: the cell ({key[0]}, {key[1]}, seed {key[2]}, {key[3]}) is also in"
                f" {seen[key]}; each init, fraction and seed may come once: leave one of the two out"
            )
        seen[key] = path
        if set(cell["info"]["classes"]) != set(names):
            raise UserError(
                f"{path / 'run.json'}: classes {show(cell['info']['classes'])} differ from"
                f" {show(names)} of {cells[0]['path']}; one report compares runs of the same classes"
            )
        run, lines = _read_files(cell, names)
        check_same_images(run, runs[0] if runs else run, cell["path"] / "predictions.csv")
        runs.append(run)
        notes += lines
    usual = usual_arm(runs)
    order = sorted(runs, key=lambda r: (r.arm != usual, _natural(r.arm), r.fraction, init_order(r.init), r.seed))
    return order, notes


def usual_arm(runs: Sequence[Run]) -> str:
    """The arm that the answer is about: "" if it exists, otherwise the first of those with the most fractions."""
    if any(not run.arm for run in runs):
        return ""
    fractions: dict[str, set[float]] = {}
    for run in runs:
        fractions.setdefault(run.arm, set()).add(run.fraction)
    return min(fractions, key=lambda arm: (-len(fractions[arm]), _natural(arm)))


def _natural(text: str) -> list[str | int]:
    """Sort key that orders numbers in a text by their value."""
    parts = re.split(r"(\d+)", text)
    return [int(part) if i % 2 else part for i, part in enumerate(parts)]


def init_order(init: str) -> tuple[int, str]:
    """Sort key: scratch, mae, then the others by name."""
    return ({BASELINE: 0, "mae": 1}.get(init, 2), init)


def read_info(path: Path) -> dict:
    """The content of a run directory's run.json. Raises UserError if it is missing or not a JSON object."""
    file = path / "run.json"
    try:
        info = parse(file)
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"{path} is not the directory of a run or study (no run.json); name one, or a folder in which other "
            "software wrote run.json and predictions.csv"
        ) from None
    except ValueError as error:
        raise UserError(f"{file}: cannot be read: it {error}; write it again") from None
    if not isinstance(info, dict):
        raise UserError(f"{file}: holds {show(info)}; it must be an object with init, fraction, seed, classes")
    return info


def _read_cell(path: Path) -> dict:
    """The checked values of run.json: the fields of a Run except its files and classes."""
    file, info = path / "run.json", read_info(path)
    if why := unreadable_format(peek(path / CONFIG)):
        raise UserError(f"{path / CONFIG} {why}; update mae_jax, or leave the run out")

    if is_pretraining(info):
        raise UserError(f"{path}: this is a pre-training; the report compares classifiers: leave it out")

    def field(name: str, allowed: Callable[[object], bool], words: str):
        if name not in info:
            raise UserError(f"{file}: the field {name!r} is missing; it must be {words}: add it")
        if not allowed(info[name]):
            raise UserError(f"{file}: {name} is {show(info[name])}; it must be {words}: correct it")
        return info[name]

    def is_integer(value: object) -> bool:
        return isinstance(value, int) and is_number(value)

    def is_name(value: object) -> bool:
        return isinstance(value, str) and clean(value) != "" and len(value) <= LONGEST

    def is_arm(value: object) -> bool:
        return value == "" or is_name(value)

    def is_class_list(value: object) -> bool:
        if not isinstance(value, list) or not all(map(is_name, value)):
            return False
        return len({clean(name) for name in value}) == len(value) > 1

    field("classes", is_class_list, f"a list of 2 or more names, each once and of up to {LONGEST} characters")
    if info.get("n_train") is not None:
        field("n_train", lambda v: is_integer(v) and is_number(v, 1.0, 1e12), "a count above 0")
    fraction = field("fraction", lambda v: is_number(v, 1e-9, 1.0), "above 0 and at most 1")
    return {
        "path": path,
        "evaluation": clean(field("evaluation", is_name, "a name such as finetune or knn"))
        if "evaluation" in info
        else USUAL,
        "init": clean(field("init", is_name, f"a name such as scratch or mae, of up to {LONGEST} characters")),
        "arm": clean(field("arm", is_arm, f"a text of up to {LONGEST} characters")) if "arm" in info else "",
        "fraction": float(fraction),
        "seed": field("seed", is_integer, "an integer"),
        "n_train": info.get("n_train") or _label_count(info) or None,
        "label_count": _label_count(info),
        "info": info,
    }


def _label_count(info: dict) -> int:
    """The number of labels that a run asked for; 0 where it asked for a share of them, or does not tell."""
    config = info.get("config")
    data = config.get("data") if isinstance(config, dict) else None
    asked = info.get("label_count", data.get("label_count") if isinstance(data, dict) else 0)
    return int(asked) if isinstance(asked, int) and is_number(asked, 1, 1e12) else 0


def _read_files(cell: dict, names: Sequence[str]) -> tuple[Run, list[str]]:
    """The run with its predictions, with class indices into `names`, and lines about missing columns."""
    path = cell["path"]
    test, missing_columns = read_predictions(path / "predictions.csv", names)
    notes = [f"{clean(shareable(path))}: {note}" for note in missing_columns]
    validation, file = None, path / "predictions_val.csv"
    if is_file(file):
        validation, _ = read_predictions(file, names)
        shared = set(validation.images) & set(test.images)
        if shared:
            raise UserError(
                f"{file}: image {show(min(shared))} is also in predictions.csv; the temperature is"
                " fitted on validation images only: leave the test images out"
            )
    log, broken = metrics_rows.read_thinned(path / METRICS)
    if broken:
        notes.append(f"{clean(shareable(path))}: skipped {count(broken, 'broken line')} of metrics.jsonl")
    classes = tuple(clean(name) for name in names)
    counts, last = _train_counts(path / "subset.json"), _last_epoch(path / "results.json")
    stated = peek_object(path / "results.json").get("n_validation")
    n = round(stated) if is_number(stated, 0, 1e12) else None
    parts = {"test": test, "validation": validation, "log": log, "train_counts": counts, "last_epoch": last}
    return Run(**cell, classes=classes, n_validation=n, **parts), notes


def series(log: Sequence[dict], axis: str, key: str) -> list[tuple[float, float]]:
    """The finite points of one logged scalar, in order. If a step was logged twice, the last value counts."""
    points = {
        float(line[axis]): float(line[key]) for line in log if is_number(line.get(axis)) and is_number(line.get(key))
    }
    return sorted(points.items())


def _train_counts(file: Path) -> dict[str, float] | None:
    """How many labeled images of each class a run was trained on, by subset.json; None where it does not tell.

    `actual` counts these images; `train` counts the images that they were drawn from.
    """
    try:
        counts = peek(file)["actual"]
    except (KeyError, TypeError):
        return None
    if not isinstance(counts, dict) or not all(is_number(n, 0.0, 1e12) for n in counts.values()):
        return None
    return {clean(name): float(n) for name, n in counts.items()}


def _last_epoch(file: Path) -> dict[str, float] | None:
    """Test scores of the last epoch, by results.json, where validation chose the epoch; None where it does not tell."""
    try:
        scores = peek(file)["last_epoch"]
        last = {name: scores[name] for name in ("accuracy", "f1")}
    except (KeyError, TypeError):
        return None
    return last if all(is_number(value, 0.0, 1.0) for value in last.values()) else None


def check_same_images(run: Run, first: Run, file: Path) -> None:
    """Raises UserError that names `file` unless both runs have the same test images, labels and groups."""
    mine, theirs = run.test, first.test
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
        raise UserError(f"{file}: the column 'group' differs from that of {first.path}; {rule}")


def is_number(value: object, low: float = -1e300, high: float = 1e300) -> TypeGuard[float]:
    """Whether a value is a finite number within the bounds; True and False are not."""
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
