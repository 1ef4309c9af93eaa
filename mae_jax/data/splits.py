"""Opens the sources of a config's `data` fields and selects training, validation and test images."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Int

from mae_jax.config.fields import DataFields
from mae_jax.config.naming import source_names
from mae_jax.config.selection import BY_FEATURES
from mae_jax.config.tasks import TRAITS
from mae_jax.data import duplicates, findings, folders, labeled_sets, prepared, sources, subsets
from mae_jax.data import groups as grouping
from mae_jax.data.checking import Decoded
from mae_jax.data.labeled_sets import DRAWING_SEED, LabeledSets, OnProgress
from mae_jax.data.sources import Source
from mae_jax.runtime.errors import UserError
from mae_jax.runtime.text import count


@dataclasses.dataclass(frozen=True)
class Labeled:
    """Images with labels: a training source, which includes the validation images, and a test source."""

    train: Source
    test: Source
    train_idx: Int[np.ndarray, " _"]  # the images to train on
    val_idx: Int[np.ndarray, " _"]  # the same for every fraction, or with `data.val_of=fraction` a share of it
    subset: dict  # content of subset.json
    external: dict[str, Source]  # external test sets, by name; they may lack some of the classes
    leaks: dict[str, dict]  # what each test set shares with the training source, see `duplicates.leaks`
    sets: LabeledSets  # where the sets come from, and their names
    groups: dict  # entry of run.json about groups, see `groups.facts`
    repeated: dict  # identical images in the training source, see `findings.repeated`
    warnings: tuple[str, ...]  # about data that make scores unreliable
    folds: int = 0  # number of folds of the images to train on, of which each validates once (`data.val_folds`)


@dataclasses.dataclass(frozen=True)
class Unlabeled:
    """Images without labels from one or several sources."""

    sources: tuple[Source, ...]
    train_idx: tuple[Int[np.ndarray, " _"], ...]
    val_idx: tuple[Int[np.ndarray, " _"], ...]
    names: tuple[str, ...]  # of the sources, all different
    available: int  # number of images to train on before `data.unlabeled_count`


T = TypeVar("T")
# Selects images to label: (source, numbers of the images to select from, how many, seed) -> places in these numbers
Select = Callable[[Source, Int[np.ndarray, " n"], int, int], Int[np.ndarray, " k"]]


class DataCache:
    """A cache that the runs of a study share: sources, leaks and features are computed once for equal `data` fields.

    `decoded` keeps what is known about each image file (see `checking.check`), so that no file is decoded twice, not
    even for other fields.
    """

    def __init__(self) -> None:
        self.decoded: Decoded = {}
        self._sources: dict[tuple, Any] = {}
        self._made: dict[tuple, Any] = {}
        self._features: Any = None

    def sources(self, function: Callable[..., T], data: DataFields, *rest: Any) -> T:
        """The result of `function(data, *rest)`, which opens images; cached for equal fields."""
        key = _key(function, data)
        if key not in self._sources:
            self._sources[key] = function(data, *rest)
        return self._sources[key]

    def holds(self, function: Callable[..., Any], data: DataFields) -> bool:
        """Whether the result of `sources` is cached."""
        return _key(function, data) in self._sources

    def once(self, key: tuple, make: Callable[[], T]) -> T:
        """The result of `make`, which is called once for each key."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def features(self, make: Callable[[], T]) -> T:
        """The one feature cache of all runs; `make` is called once."""
        if self._features is None:
            self._features = make()
        return self._features


def labeled(
    data: DataFields,
    on_progress: OnProgress | None = None,
    cache: DataCache | None = None,
    search_leaks: bool = True,
    select: Select | None = None,
    fold: int | None = None,
) -> Labeled:
    """Opens the training and test images, splits off validation images, and selects the fraction of labels.

    `cache` keeps sources between calls, for the cells of a study. Without `search_leaks`, `leaks` is empty. `select`
    selects for data.subset=typical and coreset; without it, as in a plan, which needs only their number, the images are
    random. With data.val_folds, a `fold`, counted from 0, validates; without one, all images of the fraction train.
    Raises UserError if the source is unknown or its images cannot be used.
    """
    cache = cache or DataCache()
    sets = cache.sources(labeled_sets.load, data, on_progress, cache.decoded)
    train, test = sets.train, sets.test
    from_fraction = data.val_of == "fraction"  # validation images are taken out of the fraction
    if from_fraction and sets.validation is not None:
        raise UserError(
            "data.val_of=fraction, but these images have a validation split, whose labels are not of the fraction: set "
            "data.val_of=all, or data.val_split=none to leave that split out"
        )
    n_folds = 0
    if from_fraction:
        pool = np.arange(len(train))
        train_idx, val_idx = drawn_with_validation(train, data, select=select)
        if data.folds:
            of = folds_of(train, train_idx, data)
            n_folds = int(of.max()) + 1
            if fold is not None:
                train_idx, val_idx = train_idx[of != fold], train_idx[of == fold]
    else:
        pool, val_idx = cache.once(
            ("validation", *_key(labeled, data), data.val_fraction, data.val_seed), lambda: _split(sets, data)
        )
        train_idx = pool[_drawn(train, pool, data, data.fraction, data.label_count, select)]
    subset = subsets.describe(
        train,
        pool,
        val_idx,
        train_idx,
        fraction=data.fraction,
        subset_seed=data.subset_seed,
        validation_seed=data.val_seed,
        label_count=data.label_count,
        method=data.subset,
    )
    external = cache.sources(labeled_sets.external, data, train.classes, on_progress, cache.decoded)
    tests = {sets.test_name: test} | external
    shared = cache.once(_key(_leaks, data), lambda: _leaks(data, train, tests)) if search_leaks else {}
    if data.source == "synthetic":
        groups = grouping.generated(len(train), {name: len(source) for name, source in tests.items()})
    else:
        groups = grouping.facts(train.groups, {name: source.groups for name, source in tests.items()}, train.kind)
    drawn = (val_idx.tobytes(),) if from_fraction else ()
    repeated = cache.once(
        ("repeated", *_key(labeled, data), data.val_fraction, data.val_seed, *drawn),
        lambda: findings.repeated(train, val_idx),
    )
    warnings = [
        *findings.repeated_in_words(repeated),
        *findings.few(subset["actual"], subset["validation"]),
        *cache.sources(_of_one_class, data, {sets.train_name: train} | tests),
    ]
    about = (subset, external, shared, sets, groups, repeated, tuple(warnings), n_folds)
    return Labeled(train, test, train_idx, val_idx, *about)


def _split(sets: LabeledSets, data: DataFields) -> tuple[Int[np.ndarray, " t"], Int[np.ndarray, " v"]]:
    """The images that fractions are drawn from and those that validate, as numbers in the training source."""
    train = sets.train
    if sets.validation is None:
        return subsets.split_validation(train.labels, train.groups, data.val_fraction, data.val_seed)
    return np.setdiff1d(np.arange(len(train)), sets.validation), sets.validation


def _drawn(
    train: Source, pool: Int[np.ndarray, " n"], data: DataFields, share: float, count: int, select: Select | None
) -> Int[np.ndarray, " k"]:
    """The places in `pool`, numbers of images of `train`, of those that are labeled (`data.subset`), sorted."""
    if data.subset == "stratified":
        return subsets.nested_subset(train.labels[pool], share, data.subset_seed, train.classes, count)
    size = subsets.unstratified_size(len(pool), share, count)
    if data.subset in BY_FEATURES and select is not None:
        return np.sort(select(train, pool, size, data.subset_seed))
    return np.sort(subsets.random_subset(len(pool), size, data.subset_seed))


def drawn_with_validation(
    train: Source, data: DataFields, share: float = 0.0, count: int = 0, select: Select | None = None
) -> tuple[Int[np.ndarray, " t"], Int[np.ndarray, " v"]]:
    """The images of the fraction that train and those that validate, as numbers in `train`.

    `share` or `count`, where one is given, replace `data.fraction` and `data.label_count`. The fractions are nested
    unless an encoder selects them; what trains and what validates within each is drawn for itself. Where the fraction
    is cross-validated, all its images train. Raises UserError as `nested_subset` does.
    """
    wanted = (share or 1.0, count) if share or count else (data.fraction, data.label_count)
    chosen = _drawn(train, np.arange(len(train)), data, *wanted, select)
    if data.folds_of(*wanted):
        return chosen, chosen[:0]
    groups = [train.groups[i] for i in chosen]
    kept, held = subsets.split_validation(train.labels[chosen], groups, data.val_fraction, data.val_seed)
    return chosen[kept], chosen[held]


def folds_of(train: Source, chosen: Int[np.ndarray, " n"], data: DataFields) -> Int[np.ndarray, " n"]:
    """The fold of each of these images of `train`, counted from 0. Raises UserError as `subsets.folds` does."""
    groups = [train.groups[i] for i in chosen]
    return subsets.folds(train.labels[chosen], groups, data.folds, data.val_seed, field="data.val_folds")


def n_training(data: DataFields, opened: Labeled, share: float = 0.0, count: int = 0) -> int:
    """How many images a run of this share or number of labels trains on."""
    if data.val_of == "fraction":
        return len(drawn_with_validation(opened.train, data, share, count)[0])
    if data.subset != "stratified":
        return subsets.unstratified_size(sum(opened.subset["train"].values()), share or 1.0, count)
    return sum(subsets.subset_sizes(opened.subset["train"].values(), share, count))


def _key(function: Callable, data: DataFields) -> tuple:
    fields = ("source", "dir", "prepared_dir", "train_split", "test_split", "external", "bad_images")
    fields += ("val_split", "labels", "columns", "group_pattern", "levels", "test_fraction", "test_seed")
    drawn = ("synthetic_train", "synthetic_test", "synthetic_unlabelled", "synthetic_size", "synthetic_domains")
    return (function.__name__, *(getattr(data, name) for name in fields + drawn))


def _leaks(data: DataFields, train: Source, tests: dict[str, Source]) -> dict[str, dict]:
    """What test sets share with training; {} for generated images, which are drawn independently."""
    return {} if data.source == "synthetic" else {name: duplicates.leaks([train], test) for name, test in tests.items()}


def _of_one_class(data: DataFields, sets: dict[str, Source]) -> list[str]:
    """Warnings about groups, days and sizes of one class; none for generated images, which have none."""
    if data.source == "synthetic":
        return []
    return findings.by_text((name, line) for name, source in sets.items() for line in findings.of_one_class(source))


def seen_before(
    data: DataFields,
    tests: dict[str, Source],
    earlier: Sequence[tuple[str, DataFields]],
    cache: DataCache | None = None,
) -> dict[str, dict]:
    """What each test set shares with the images of the runs that the encoder comes from.

    `earlier` has the task and `data` fields of these runs. {} if their images are gone, or if a folder that is not in
    `cache` would have to be read again.
    """
    cache = cache or DataCache()
    steps = [(labeled_sets.load, fields) if TRAITS[task].labeled else _opening(fields) for task, fields in earlier]
    for function, fields in steps:
        names = fields.source.split("+")
        known = cache.holds(function, fields) or all(map(prepared.known, names))
        if not known or "synthetic" in (*names, data.source):
            return {}
    key = ("seen_before", *_key(_leaks, data), *(part for function, fields in steps for part in _key(function, fields)))
    try:
        opened = [cache.sources(function, fields, None, cache.decoded) for function, fields in steps]
    except UserError:
        return {}
    images = [s for part in opened for s in ([part.train] if isinstance(part, LabeledSets) else part)]
    return cache.once(key, lambda: {name: duplicates.leaks(images, test) for name, test in tests.items()})


def unlabeled(data: DataFields, on_progress: OnProgress | None = None, cache: DataCache | None = None) -> Unlabeled:
    """Opens the sources joined by "+". A small part of each is held out to monitor the reconstruction."""
    function, fields = _opening(data)
    cache = cache or DataCache()
    opened = cache.sources(function, fields, on_progress, cache.decoded)
    opened_sources = [_to_train(opened)] if isinstance(opened, LabeledSets) else opened
    train_idx, val_idx = [], []
    for source in opened_sources:
        # 256 held-out images are enough to see a curve, and are cheap to evaluate.
        share = min(data.val_fraction, 256 / len(source))
        labels = np.zeros(len(source), np.int32)
        kept, held = subsets.split_validation(labels, source.groups, share, data.val_seed)
        train_idx.append(kept)
        val_idx.append(held)
    names = source_names(data)
    names = [f"{i}_{name}" if names.count(name) > 1 else name for i, name in enumerate(names)]
    available = sum(map(len, train_idx))
    if data.unlabeled_count:
        train_idx = subsets.unlabeled_subset(train_idx, data.unlabeled_count, data.val_seed)
    return Unlabeled(tuple(opened_sources), tuple(train_idx), tuple(val_idx), tuple(names), available)


def _opening(data: DataFields) -> tuple[Callable[..., Any], DataFields]:
    """The function that opens the images of a pre-training, and the fields to call it with.

    With data.part=train these are the function and the fields of a fine-tuning, so that a `DataCache` opens the images
    once for both.
    """
    if data.part == "train":
        return labeled_sets.load, dataclasses.replace(data, part="all")
    return _unlabeled_sources, data


def _to_train(sets: LabeledSets) -> Source:
    """The training images, without the validation set if the data have one."""
    if sets.validation is None:
        return sets.train
    return sources.take(sets.train, np.setdiff1d(np.arange(len(sets.train)), sets.validation))


def check_unlabeled(data: DataFields) -> None:
    """Raises UserError if the fields of a pre-training name images that do not exist. Opens none."""
    if data.part == "train":
        labeled_sets.check(data)
        return
    names, directories = data.source.split("+"), _directories(data)
    if data.group_pattern:
        grouping.compiled(data.group_pattern)
    if len(set(names)) != len(names):
        raise UserError(f"data.source={data.source} names a source twice; set data.weights to use it more")
    for name in names:
        labeled_sets.refuse_unknown(data, name)
    if "folder" in names:
        real = [Path(d).resolve() for d in directories]
        if not real or len(set(real)) != len(real):
            raise UserError(f"data.dir={data.dir!r}: name at least one directory, each once, joined by ','")
        for directory in directories:
            folders.existing(directory, "", "data.dir")
    n_sources = len(names) + ("folder" in names) * (len(directories) - 1)
    if data.weights and len(data.weights) != n_sources:
        raise UserError(
            f"data.weights={tuple(data.weights)} has {count(len(data.weights), 'number')} for "
            f"{count(n_sources, 'source')}; give one for each, or none"
        )


def _directories(data: DataFields) -> list[str]:
    return [d for d in data.dir.split(",") if d]


def _unlabeled_sources(data: DataFields, on_progress: OnProgress | None, decoded: Decoded) -> list[Source]:
    check_unlabeled(data)
    opened = []
    for name in data.source.split("+"):
        if name == "synthetic":
            n, size = data.synthetic_unlabelled, data.synthetic_size
            opened.append(sources.synthetic_unlabeled(n, size, DRAWING_SEED, data.synthetic_domains))
        elif prepared.known(name):
            opened.append(prepared.unlabeled(name, data.prepared_dir))
        else:
            options: dict = {"bad_images": data.bad_images, "pattern": data.group_pattern}
            options |= {"progress": on_progress, "decoded": decoded}
            of_folders = [sources.unlabeled_folder(d, **options) for d in _directories(data)]
            if data.group_pattern and not any(group for source in of_folders for group in source.groups):
                names = [image for source in of_folders for image in source.names]
                raise UserError(grouping.no_match(data.group_pattern, names, data.dir))
            opened += of_folders
    return opened
