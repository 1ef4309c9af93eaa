"""Lists the runs and studies below a directory with state, scores and disk size, and compares two runs."""

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from mae_jax.config.fields import StudyConfig, SweepConfig
from mae_jax.config.loading import flatten, with_defaults
from mae_jax.config.tasks import EVALUATIONS, in_words
from mae_jax.report import stats
from mae_jax.report.analysis import FEW_GROUPS
from mae_jax.rundir import contents, lock
from mae_jax.rundir.predictions import Predictions, read_predictions
from mae_jax.runtime.disk import exists, is_dir, is_file, readable
from mae_jax.runtime.errors import UserError
from mae_jax.runtime.text import count

DEPTH = 4  # levels of folders to search for runs
# Folders of a run that contain no runs.
INSIDE = {"checkpoints", "best", "images", "thumbnails", "examples", "external", "folds", "report", "wandb"}


@dataclasses.dataclass(frozen=True)
class Entry:
    """A run, or a study or sweep."""

    path: Path
    task: str  # "" if not known
    state: str  # finished | running | stopped | not started | damaged | unreadable
    size: int  # bytes of all files
    config: dict[str, Any]
    results: dict[str, Any]
    run: dict[str, Any]
    runs: int = 0  # of a study: number of its runs
    finished: int = 0  # of a study: number of its finished runs
    why: str = ""  # why it is unreadable

    @property
    def scores(self) -> str:
        """Test accuracy and macro F1, or the reconstruction error on held-out images; "" if not known."""
        parts = []
        for name, words in (("accuracy", "accuracy"), ("f1", "F1"), ("val/loss", "held-out loss")):
            value = self.results.get(name)
            if type(value) in (int, float):
                parts.append(f"{words} {value:.3f}")
        return ", ".join(parts)

    @property
    def words(self) -> str:
        """A short description: initial weights, labels and seed, or how many runs of a study are finished."""
        if self.runs or self.task in ("study", "sweep"):
            return f"{self.finished} of {count(self.runs, 'run')} finished"
        if self.why:
            return self.why
        data = self.config.get("data")
        data = data if isinstance(data, dict) else {}
        asked, fraction = data.get("label_count"), data.get("fraction")
        labels = count(asked, "label") if type(asked) is int and asked else ""
        if not labels and self.task in EVALUATIONS and isinstance(fraction, int | float):
            labels = f"{100 * fraction:.4g} % of the labels"
        init = self.run.get("init") or self.config.get("init_name") or self.config.get("init", "")
        parts = [str(init), labels, f"seed {self.config.get('seed', 'not known')}"]
        return ", ".join(filter(None, parts))


def find(top: Path) -> list[Entry]:
    """The runs and studies in and below `top`, sorted by path.

    A folder that cannot be read has the state "unreadable". Raises UserError if there are none, and OSError if `top`
    itself cannot be read.
    """
    if not is_dir(top):
        raise UserError(f"{top} is not a directory; name one that contains runs")
    directories = sorted(_directories(top, DEPTH), key=lambda pair: pair[0])
    all_entries = [entry for path, error in directories if (entry := _read(path, error)) is not None]
    for i, entry in enumerate(all_entries):
        if entry.task in ("study", "sweep"):
            below = [other for other in all_entries if entry.path in other.path.parents]
            done = [other for other in below if other.state == "finished"]
            planned = max(len(below), _planned(entry))
            all_entries[i] = dataclasses.replace(entry, runs=planned, finished=len(done))
            if any(other.state == "running" for other in (entry, *below)):
                all_entries[i] = dataclasses.replace(all_entries[i], state="running")
            elif len(done) < planned:
                all_entries[i] = dataclasses.replace(all_entries[i], state="stopped")
    if not all_entries:
        raise UserError(
            f"{top} contains no runs (no {contents.CONFIG} of mae_jax within {DEPTH} levels); name another directory"
        )
    return all_entries


def _planned(entry: Entry) -> int:
    """The number of runs of a study or sweep, also of those that have not begun; 0 if its config cannot be used."""
    from mae_jax.study import cells, mask_sweep, validation

    try:
        config = validation.check(ConfigDict(entry.config))
    except (ValueError, TypeError, AttributeError, KeyError):  # an older version's, or damaged
        return 0
    if isinstance(config, StudyConfig):
        return len(cells.runs(config, entry.path))
    if isinstance(config, SweepConfig):
        networks = mask_sweep.pretrainings(config, entry.path)
        return len(networks) + len(mask_sweep.classifiers(config, entry.path, networks))
    return 0


def _directories(top: Path, depth: int) -> Iterator[tuple[Path, OSError | None]]:
    """The folders to search, each with the error if it cannot be listed."""
    if not depth:
        yield top, None
        return
    try:
        with os.scandir(top) as scan:
            folders = [entry.path for entry in scan if entry.is_dir(follow_symlinks=False) and entry.name not in INSIDE]
    except FileNotFoundError:  # it was removed in the meantime
        return
    except OSError as error:
        if depth == DEPTH:
            raise
        yield top, error
        return
    yield top, None
    for folder in folders:
        if not os.path.basename(folder).startswith("."):
            yield from _directories(Path(folder), depth - 1)


def _read(path: Path, error: OSError | None) -> Entry | None:
    """`read`, or an unreadable entry if the directory cannot be read."""
    try:
        if error is not None:
            raise error
        return read(path)
    except OSError as fault:
        why = fault.strerror or str(fault)
        return Entry(path, "", "unreadable", 0, {}, {}, {}, why=why)


def read(path: Path) -> Entry | None:
    """The run or study in a directory; None if there is none. Raises OSError if the storage fails."""
    held = lock.is_held(path)  # before its files are read: it may end in between
    study = is_file(path / contents.STUDY)
    name = contents.STUDY if study else contents.CONFIG
    run, results = (contents.peek_object(path / part) for part in (contents.RUN, contents.RESULTS))
    if not is_file(path / name) and not run:
        return None
    saved = contents.peek_object(path / name)
    if contents.BUNDLE in saved:
        return None
    if why := contents.unreadable_format(saved):
        return Entry(path, "", "unreadable", size_of(path), {}, {}, {}, why=f"{name} {why}")
    config = saved.get("config") if isinstance(saved.get("config"), dict) else run.get("config", {})
    if not isinstance(config, dict) or not config.get("task"):
        if is_file(path / contents.CONFIG) and not run and not study:
            return None  # a bundle, or weights from other code
        config = {}
    size = size_of(path)
    if not config:
        state = "damaged"
    elif held:
        state = "running"
    elif study or (results and run):
        state = "finished"
    else:
        state = "stopped" if exists(path / contents.SAVED) or exists(path / contents.FOLDS) else "not started"
    return Entry(path, str(config.get("task", "")), state, size, with_defaults(config), results, run)


def size_of(path: Path) -> int:
    """Bytes of all files below a directory, without following links."""
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            try:
                total += os.lstat(os.path.join(folder, name)).st_size
            except OSError:
                continue  # it was removed in the meantime
    return total


def table(entries: list[Entry], top: Path) -> str:
    """The entries as a table of aligned columns with a total. Runs of a study are indented."""
    studies = [entry.path for entry in entries if entry.task in ("study", "sweep")]
    rows = [("run", "task", "state", "size", "what", "scores")]
    for entry in entries:
        inside = [study for study in studies if study in entry.path.parents]
        name = "  " * len(inside) + str(entry.path.relative_to(inside[-1] if inside else top))
        task = in_words(entry.task) or "not known"
        rows.append((name, task, entry.state, readable(entry.size), entry.words, entry.scores))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    alone = [entry for entry in entries if not any(other.path in entry.path.parents for other in entries)]
    return "\n".join(
        [*lines, f"{count(len(entries), 'entry', 'entries')}, {readable(sum(entry.size for entry in alone))} in total"]
    )


def compare(first: Path, second: Path) -> list[str]:
    """Compares two runs: config fields that differ, and scores on the test images that both have.

    The intervals of the differences, second minus first, are from a paired bootstrap over these images, or over their
    groups if they are known. Raises UserError if one of the two is not a run, and OSError.
    """
    entries = [read(path) for path in (first, second)]
    for path, entry in zip((first, second), entries, strict=True):
        if entry is not None and entry.why:
            raise UserError(f"{path}: {entry.why}; update mae_jax, or name another directory")
        if entry is None or entry.task in ("study", "sweep", ""):
            raise UserError(f"{path} is not the directory of one run; name two run directories")
    a, b = (entry for entry in entries if entry)
    ours, theirs = flatten(a.config), flatten(b.config)
    lines = [f"A {first}: {a.state}, {a.scores or 'no scores'}", f"B {second}: {b.state}, {b.scores or 'no scores'}"]
    missing = "missing"
    differing = [key for key in sorted(ours | theirs) if ours.get(key, missing) != theirs.get(key, missing)]
    lines.append(
        f"{count(len(differing), 'field differs', 'fields differ')}" if differing else "no field of the config differs"
    )
    lines += [f"  {key}: {ours.get(key, missing)!r} -> {theirs.get(key, missing)!r}" for key in differing]
    return lines + _paired(a, b)


def _paired(a: Entry, b: Entry) -> list[str]:
    files = [entry.path / contents.PREDICTIONS for entry in (a, b)]
    classes, others = (_class_names(entry) for entry in (a, b))
    if not classes or not others or not all(is_file(file) for file in files):
        return ["scores: not compared, because at least one run has no predictions"]
    if classes != others:
        return [f"scores: not compared, because the classes differ ({classes} and {others})"]
    predictions = [read_predictions(file, classes)[0] for file in files]
    n_classes = len(classes)
    rows = [{image: i for i, image in enumerate(one.images)} for one in predictions]
    shared = [image for image in predictions[0].images if image in rows[1]]
    at = [np.asarray([of[image] for image in shared], int) for of in rows]
    if not shared or (predictions[0].labels[at[0]] != predictions[1].labels[at[1]]).any():
        why = "their labels differ" if shared else "they have no test image in common"
        return [f"scores: not compared, because {why}"]
    return [f"{count(len(shared), 'test image')} in both", *_differences(predictions, at, n_classes)]


def _differences(predictions: list[Predictions], at: list[np.ndarray], n_classes: int) -> list[str]:
    """Lines about the scores of two runs on the images `at` of each, and their paired differences."""
    terms = [
        stats.image_terms(one.labels[i], one.predictions[i], one.confidence[i], None, n_classes)
        for one, i in zip(predictions, at, strict=True)
    ]
    units, of_what = _units(predictions[0], at[0])
    lines = []
    draws = stats.bootstrap(terms, units, lambda sums: stats.metrics_from_sums(sums, n_classes))
    points = [stats.metrics_from_sums(t.sum(0), n_classes) for t in terms]
    for name, words in (("accuracy", "accuracy"), ("f1", "macro F1")):
        drawn = stats.allow_for_few_units(draws[name], int(units.max()) + 1)
        low, high = stats.percentile_interval(drawn[1] - drawn[0])
        one, two = (float(point[name]) for point in points)
        lines.append(
            f"  {words}: A {one:.4f}, B {two:.4f}, B - A {two - one:+.4f} (95 % interval {low:+.4f} to {high:+.4f})"
        )
    rights = [one.right[i] for one, i in zip(predictions, at, strict=True)]
    only = [int((rights[0] & ~rights[1]).sum()), int((rights[1] & ~rights[0]).sum())]
    p = stats.mcnemar(*rights)
    lines.append(f"  correct only in A: {only[0]}, only in B: {only[1]}; McNemar's exact test p = {p:.3g}")
    lines.append(f"  the intervals resample {of_what}; they do not include differences between seeds")
    if "groups" in of_what and units.max() + 1 < FEW_GROUPS:
        lines.append("  they are widened for so few groups, which say little about others")
    return lines


def _class_names(entry: Entry) -> list[str]:
    names = entry.run.get("classes")
    return names if isinstance(names, list) and all(isinstance(name, str) for name in names) else []


def _units(predictions: Predictions, at: np.ndarray) -> tuple[np.ndarray, str]:
    """The unit of each image that the bootstrap resamples, its group if known, and what to call these units."""
    if predictions.groups is not None:
        groups = [predictions.groups[i] for i in at]
        if len(set(groups)) > 1:
            return np.unique(groups, return_inverse=True)[1], f"{len(set(groups))} groups of images"
    return np.arange(len(at)), "images, because groups are not known"
