"""From the `data` fields of a config to sources and the indices that train, validate and test."""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int
from ml_collections import ConfigDict

from mae_jax import grid
from mae_jax.config import source_names
from mae_jax.data import duplicates, prepared, sources, subsets
from mae_jax.data.sources import Source
from mae_jax.errors import UserError

NAMES = ("synthetic", "folder")
DRAWING_SEED = 0  # generated images are one fixed data set; other sizes give other data sets
Report = Callable[[int, int], None]  # called with (images checked, images in all)


@dataclasses.dataclass(frozen=True)
class Labelled:
    """Images with labels: a training source, of which some validate, and a test source."""

    train: Source
    test: Source
    train_idx: Int[np.ndarray, "_"]  # the labels that may be used: the fraction
    val_idx: Int[np.ndarray, "_"]  # the same for every fraction
    subset: dict  # what subset.json says
    external: dict[str, Source]  # further test sets, by name; they may lack some of the classes
    leaks: dict[str, dict]  # for each test set what it shares with the training source, see `duplicates`


@dataclasses.dataclass(frozen=True)
class Unlabelled:
    """Images without labels from one or several sources."""

    sources: tuple[Source, ...]
    train_idx: tuple[Int[np.ndarray, "_"], ...]
    val_idx: tuple[Int[np.ndarray, "_"], ...]
    names: tuple[str, ...]  # of the sources, no two alike


def check(config: ConfigDict) -> None:
    """Refuses a config of any task that names images which are not there; opens none.

    Raises UserError. What is in the folders is found when they are opened.
    """
    if config.task == "study":
        parts = {run.task: run for _, run in grid.runs(config, Path())}
    elif config.task == "sweep":
        parts = {"pretrain": config.pretrain, "finetune": config.finetune}
    else:
        parts = {"": config}
    for name, part in parts.items():
        try:
            (_check_unlabelled if part.task == "pretrain" else _check_labelled)(part.data)
        except UserError as error:
            raise UserError(f"{name}.{error}" if name else str(error)) from None


def labelled(data: ConfigDict, report: Report | None = None, opened: dict | None = None) -> Labelled:
    """Opens the training and the test images, splits validation off, takes the fraction.

    `opened` keeps sources between calls, for the cells of a study. Raises UserError where the source is
    unknown or its images cannot be used.
    """
    train = _open(opened, _labelled_train, data, report)
    test = _open(opened, _labelled_test, data, train.classes, report)
    pool, val_idx = subsets.split_validation(train.labels, train.groups, data.val_fraction, data.val_seed)
    chosen = subsets.nested_subset(train.labels[pool], data.fraction, data.subset_seed, train.classes)
    train_idx = pool[chosen]
    subset = subsets.describe(
        train,
        pool,
        val_idx,
        train_idx,
        fraction=data.fraction,
        subset_seed=data.subset_seed,
        validation_seed=data.val_seed,
    )
    external = _open(opened, _external, data, train.classes, report)
    shared = _open(opened, _leaks, data, train, {data.test_split: test} | external)
    return Labelled(train, test, train_idx, val_idx, subset, external, shared)


def _open(opened: dict | None, function: Callable, data: ConfigDict, *rest) -> Any:
    """`function(data, *rest)`, or what it gave before for the same fields."""
    if opened is None:
        return function(data, *rest)
    key = _key(function, data)
    if key not in opened:
        opened[key] = function(data, *rest)
    return opened[key]


def _key(function: Callable, data: ConfigDict) -> tuple:
    fields = ("source", "dir", "prepared_dir", "train_split", "test_split", "external", "bad_images")
    drawn = ("synthetic_train", "synthetic_test", "synthetic_unlabelled", "synthetic_size")
    return (function.__name__, *(data[name] for name in fields + drawn))


def _labelled_train(data: ConfigDict, report: Report | None) -> Source:
    if data.source == "synthetic":
        return sources.synthetic("Train", data.synthetic_train, data.synthetic_size, DRAWING_SEED)
    _check_labelled(data)
    if prepared.known(data.source):
        return prepared.labelled(data.source, data.train_split, data.prepared_dir)
    source = sources.folder(data.dir, data.train_split, bad_images=data.bad_images, progress=report)
    if len(source.classes) < 2:
        train = Path(data.dir, data.train_split)
        raise UserError(
            f"data.dir: '{train}' has one class, {source.classes[0]!r}; a classifier needs two class folders or more"
        )
    return source


def _check_labelled(data: ConfigDict) -> None:
    _refuse_unknown(data)
    if prepared.known(data.source) and data.train_split == data.test_split:
        raise UserError(f"data.train_split={data.train_split} is data.test_split too; name two splits")
    if data.source != "folder":
        _external_places(data)
        return
    train, test = (Path(data.dir, split).resolve() for split in (data.train_split, data.test_split))
    if train == test or train in test.parents or test in train.parents:
        raise UserError(
            f"data.train_split={data.train_split} and data.test_split={data.test_split} overlap in {data.dir}; a test "
            f"on training images says nothing: name two folders"
        )
    for split in (data.train_split, data.test_split):
        sources.existing(data.dir, split, "data.dir")
    _external_places(data)


def _labelled_test(data: ConfigDict, classes: tuple[str, ...], report: Report | None) -> Source:
    if data.source == "synthetic":
        return sources.synthetic("TestA", data.synthetic_test, data.synthetic_size, DRAWING_SEED)
    if prepared.known(data.source):
        field = "data.test_split"
        return prepared.labelled(data.source, data.test_split, data.prepared_dir, classes=classes, field=field)
    return sources.folder(data.dir, data.test_split, classes=classes, bad_images=data.bad_images, progress=report)


def _leaks(data: ConfigDict, train: Source, tests: dict[str, Source]) -> dict[str, dict]:
    """Generated images are drawn apart; there is nothing to look for."""
    return {} if data.source == "synthetic" else {name: duplicates.leaks([train], test) for name, test in tests.items()}


def seen_before(
    data: ConfigDict, tests: dict[str, Source], pretraining: ConfigDict, opened: dict | None = None
) -> dict[str, dict]:
    """What each test set shares with the images that a pre-training saw; `pretraining`: its fields `data`.

    {} where these images would have to be read anew, those of a folder that is not in `opened`, or have gone.
    """
    names, opened = pretraining.source.split("+"), {} if opened is None else opened
    known = _key(_unlabelled_sources, pretraining) in opened or all(map(prepared.known, names))
    if not known or "synthetic" in (*names, data.source):
        return {}
    key = ("seen_before", *_key(_leaks, data), *_key(_unlabelled_sources, pretraining))
    if key not in opened:
        try:
            images = _open(opened, _unlabelled_sources, pretraining, None)
        except UserError:
            return {}
        opened[key] = {name: duplicates.leaks(images, test) for name, test in tests.items()}
    return opened[key]


def _external(data: ConfigDict, classes: tuple[str, ...], report: Report | None) -> dict[str, Source]:
    """The sets that `data.external` names. A PLACE that is no folder is a split of `data.source`."""
    options: dict = {"classes": classes, "field": "data.external"}
    files = {"bad_images": data.bad_images, "progress": report}
    found: dict[str, Source] = {}
    for name, place in _external_places(data).items():
        if Path(place).is_dir():
            found[name] = sources.folder(place, **options, **files)
        elif data.source == "synthetic":
            found[name] = sources.synthetic(place, data.synthetic_test, data.synthetic_size, DRAWING_SEED)
        elif prepared.known(data.source):
            found[name] = prepared.labelled(data.source, place, data.prepared_dir, **options)
        else:
            found[name] = sources.folder(data.dir, place, **options, **files)
    return found


def _external_places(data: ConfigDict) -> dict[str, str]:
    """{NAME: PLACE} of `data.external`. Raises UserError for names and places that cannot be used."""

    def where(place: str) -> Path:
        if data.source == "folder":
            return Path(data.dir, place).resolve()
        return Path(f"/{data.source}", place)

    used = ("Train", "TestA") if data.source == "synthetic" else (data.train_split, data.test_split)
    found: dict[str, str] = {}
    for item in filter(None, data.external.split(",")):
        name, equals, place = item.partition("=")
        place = place if equals else name
        name = name if equals else Path(place).name
        if not re.fullmatch(r"\w[\w.+-]*", name) or name in found:
            raise UserError(
                f"data.external={data.external!r}: {item!r} needs a name of its own, NAME=DIR, of letters, digits "
                f"and .+-_"
            )
        folder = Path(place).is_dir()
        own = Path(place).resolve() if folder else where(place)
        for split in used:
            other = where(split)
            if own == other or own in other.parents or other in own.parents:
                raise UserError(f"data.external={data.external!r}: {place} holds the images of {split}; name others")
        if data.source == "folder" and not folder:
            sources.existing(data.dir, place, "data.external")
        elif "/" in place and not folder:
            raise UserError(f"data.external={data.external!r}: {place!r} is no folder; name one that is there")
        found[name] = place
    return found


def unlabelled(data: ConfigDict, report: Report | None = None, opened: dict | None = None) -> Unlabelled:
    """Opens the sources joined by "+"; a small part of each is held out to watch the reconstruction."""
    found = _open(opened, _unlabelled_sources, data, report)
    train_idx, val_idx = [], []
    for source in found:
        # At most 256 are held out: enough to see a curve, and cheap to evaluate.
        share = min(data.val_fraction, 256 / len(source))
        labels = np.zeros(len(source), np.int32)
        kept, held = subsets.split_validation(labels, source.groups, share, data.val_seed)
        train_idx.append(kept)
        val_idx.append(held)
    names = source_names(data)
    names = [f"{i}_{name}" if names.count(name) > 1 else name for i, name in enumerate(names)]
    return Unlabelled(tuple(found), tuple(train_idx), tuple(val_idx), tuple(names))


def _check_unlabelled(data: ConfigDict) -> None:
    names, directories = data.source.split("+"), _directories(data)
    if len(set(names)) != len(names):
        raise UserError(f"data.source={data.source} names a source twice; data.weights sets how often it is seen")
    for name in names:
        _refuse_unknown(data, name)
    if "folder" in names:
        real = [Path(d).resolve() for d in directories]
        if not real or len(set(real)) != len(real):
            raise UserError(f"data.dir={data.dir!r}: name at least one directory, none twice, joined by ','")
        for directory in directories:
            sources.existing(directory, "", "data.dir")
    found = len(names) + ("folder" in names) * (len(directories) - 1)
    if data.weights and len(data.weights) != found:
        raise UserError(
            f"data.weights={tuple(data.weights)} has {len(data.weights)} numbers for {found} sources; "
            f"give one for each, or none"
        )


def _directories(data: ConfigDict) -> list[str]:
    return [d for d in data.dir.split(",") if d]


def _unlabelled_sources(data: ConfigDict, report: Report | None) -> list[Source]:
    _check_unlabelled(data)
    found = []
    for name in data.source.split("+"):
        if name == "synthetic":
            n, size = data.synthetic_unlabelled, data.synthetic_size
            found.append(sources.synthetic_unlabelled(n, size, DRAWING_SEED))
        elif prepared.known(name):
            found.append(prepared.unlabelled(name, data.prepared_dir))
        else:
            options = {"bad_images": data.bad_images, "progress": report}
            found += [sources.unlabelled_folder(d, **options) for d in _directories(data)]
    return found


def _refuse_unknown(data: ConfigDict, name: str = "") -> None:
    name = name or data.source
    if prepared.known(name):
        prepared.locate(name, data.prepared_dir)
    elif name not in NAMES:
        raise UserError(f"data.source={name} is not known; use one of {', '.join((*NAMES, *prepared.WHERE))}")
    if name == "folder" and not data.dir:
        raise UserError("data.dir='' is empty; source=folder needs the directory of the images")
