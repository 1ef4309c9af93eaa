"""Opens the labeled training, validation and test images of a config's `data` fields."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Int

from mae_jax.config.fields import DataFields
from mae_jax.data import folders, layouts, prepared, sources, subsets, tables
from mae_jax.data import groups as grouping
from mae_jax.data.checking import Decoded
from mae_jax.data.layouts import Layout
from mae_jax.data.sources import Purpose, Source
from mae_jax.runtime.disk import is_dir
from mae_jax.runtime.errors import UserError
from mae_jax.runtime.text import count

NAMES = ("synthetic", "folder")
DRAWING_SEED = 0  # generated images are one fixed data set for each size
HELD_OUT = "test"  # name of a test set that is split off
OnProgress = Callable[[int, int], None]  # called with (images checked, all images)


@dataclass(frozen=True)
class LabeledSets:
    """Training and test images, before validation images and a subset of labels are chosen."""

    train: Source  # including the validation images, if the data have some
    test: Source
    validation: Int[np.ndarray, " _"] | None  # indices of validation images in `train`; None: to be split off
    train_name: str
    test_name: str
    about: dict[str, str] = field(default_factory=dict)  # lines for the console about the origin of the sets


def load(data: DataFields, on_progress: OnProgress | None = None, decoded: Decoded | None = None) -> LabeledSets:
    """Opens the images that the fields name, and splits off a test set if there is none.

    Every image file is decoded once, those in `decoded` not again (see `checking.check`). Raises UserError if the data
    cannot be used.
    """
    check(data)
    if data.source == "synthetic":
        n, m, size = data.synthetic_train, data.synthetic_test, data.synthetic_size
        train, test = (sources.synthetic(*part, size, DRAWING_SEED) for part in (("Train", n), ("TestA", m)))
        return LabeledSets(train, test, None, "Train", "TestA")
    if prepared.known(data.source):
        layout, parts = _prepared(data)
        about = {} if (layout.train, layout.test) == (data.train_split, data.test_split) else {"splits": layout}
    elif data.labels:
        layout, parts, about = _of_table(data, on_progress, decoded)
    else:
        layout, parts = _of_folder(data, on_progress, decoded)
        about = {"layout": layout}
    words = {name: value.in_words() if isinstance(value, Layout) else value for name, value in about.items()}
    words |= _not_used(data, parts)
    train, where = parts["train"], layout.train or "all images"
    if "test" not in parts:
        train, parts["test"] = _held_out(data, train)
        kind = parts["test"].kind
        words["test set"] = (
            f"{count(len(parts['test']), 'image')}, {100 * data.test_fraction:g} % of {where}, split off by class"
            f"{f', with each {kind} on one side' if kind else ''} (data.test_seed={data.test_seed})"
        )
    validation = None
    if "val" in parts:
        validation = np.arange(len(train), len(train) + len(parts["val"]))
        train = sources.join([train, parts["val"]])
    return LabeledSets(train, parts["test"], validation, layout.train or "train", layout.test or HELD_OUT, words)


def _not_used(data: DataFields, parts: dict[str, Source]) -> dict[str, str]:
    """A line about fields that were set to split off images, although the data have a set of their own."""
    usual, lines = DataFields(), []
    for role, kind, names in (
        ("test", "test", ("test_fraction", "test_seed")),
        ("val", "validation", ("val_fraction",)),
    ):
        given = [f"data.{name}={getattr(data, name)}" for name in names if getattr(data, name) != getattr(usual, name)]
        if given and role in parts:
            lines.append(f"{' and '.join(given)}, because the data have a {kind} set (data.{role}_split)")
    return {"not used": "; ".join(lines)} if lines else {}


def _held_out(data: DataFields, train: Source) -> tuple[Source, Source]:
    """Splits the images of data without a test set into training and test images."""
    kept, held = subsets.split_validation(
        train.labels,
        train.groups,
        data.test_fraction,
        data.test_seed,
        field="data.test_fraction",
        purpose=Purpose.TEST,
    )
    if not len(held):
        reason = "is 0" if not data.test_fraction else "leaves no image: each class has one image or one group"
        raise UserError(
            f"there is no test set, and data.test_fraction={data.test_fraction:g} {reason}; name a test set with "
            f"data.test_split, or set a larger data.test_fraction"
        )
    return sources.take(train, kept), sources.take(train, held, counts=False)


def _of_folder(
    data: DataFields, on_progress: OnProgress | None, decoded: Decoded | None
) -> tuple[Layout, dict[str, Source]]:
    layout = layout_of(data)
    options: dict = {"bad_images": data.bad_images, "pattern": data.group_pattern}
    options |= {"progress": on_progress, "decoded": decoded}
    options["levels"] = layout.levels
    train = sources.folder(data.dir, layout.train, **options)
    _check_train(data, train)
    parts = {"train": train}
    for role, split in (("val", layout.validation), ("test", layout.test)):
        if split is not None:
            parts[role] = sources.folder(data.dir, split, classes=train.classes, **options)
    return layout, parts


def _prepared(data: DataFields) -> tuple[Layout, dict[str, Source]]:
    names = list(prepared.info_of(data.source, data.prepared_dir).splits)
    train = layouts.pick("train", data.train_split, names, data.source)
    if train is None:
        raise UserError(
            f"data.train_split={data.train_split} is not a split of {data.source}; use one of {', '.join(names)}"
        )
    first = prepared.labeled(data.source, train, data.prepared_dir)
    parts, chosen = {"train": first}, {}
    for role, value in (("val", data.val_split), ("test", data.test_split)):
        chosen[role] = layouts.pick(role, value, names, data.source)
        if chosen[role] is not None:
            place = data.source, chosen[role], data.prepared_dir
            parts[role] = prepared.labeled(*place, classes=first.classes, field=f"data.{role}_split")
    if train in chosen.values():
        raise UserError(f"data.train_split={train} is data.test_split or val_split, too; name two splits")
    return Layout(train, chosen["val"], chosen["test"]), parts


def _of_table(
    data: DataFields, on_progress: OnProgress | None, decoded: Decoded | None
) -> tuple[Layout, dict[str, Source], dict]:
    table = tables.read(data.labels, data.dir, data.columns)
    layout = table_layout(data, table)
    everything = of_table(table, data, on_progress, decoded)
    _check_train(data, everything)
    about = {"labels": table.in_words()}
    if table.splits is None:
        return layout, {"train": everything}, about
    parts = {}
    for role, name in (("train", layout.train), ("val", layout.validation), ("test", layout.test)):
        if name is not None:
            parts[role] = rows_of(everything, table, name, counts=role == "train")
    missing = [c for i, c in enumerate(everything.classes) if i not in set(parts["train"].labels.tolist())]
    if missing:
        raise UserError(
            f"data.labels={data.labels}: class {missing[0]!r} has no image in split {layout.train!r}; a class needs "
            f"training images"
        )
    return layout, parts, about | {"splits": layout}


def of_table(
    table: tables.Table, data: DataFields, on_progress: OnProgress | None = None, decoded: Decoded | None = None
) -> Source:
    """All images of a table, labeled with its classes."""
    return sources.listed(
        table.directory,
        table.names,
        table.labels,
        table.groups,
        classes=table.classes,
        kind=_kind(table),
        bad_images=data.bad_images,
        pattern=data.group_pattern,
        progress=on_progress,
        decoded=decoded,
    )


def _kind(table: tables.Table) -> str:
    """What the groups of a table are: the name of their column, unless it says nothing."""
    column = table.columns.get("group", "")
    return grouping.UNNAMED if column.lower() in ("", "group", "groups", "group_id") else column


def rows_of(everything: Source, table: tables.Table, split: str, counts: bool = False) -> Source:
    """The images whose row has `split` in the table's split column. Raises UserError if there are none."""
    assert table.splits is not None
    split_of = dict(zip(table.names, table.splits, strict=True))
    chosen = np.asarray([i for i, name in enumerate(everything.names) if split_of[name] == split], int)
    if not len(chosen):
        raise UserError(f"data.labels: split {split!r} has no image that can be used")
    return sources.take(everything, chosen, counts=counts)


def table_layout(data: DataFields, table: tables.Table) -> Layout:
    """Which values of the split column are for training, validation and test. Raises UserError if this is unclear."""
    if table.splits is None:
        return Layout("")
    values = sorted(set(table.splits) - {""})
    where = f"data.labels={data.labels}: column {table.columns['split']!r}"
    named = {"train": data.train_split, "val": data.val_split, "test": data.test_split}
    train, val, test = (layouts.pick(role, value, values, where) for role, value in named.items())
    if train is None:
        raise UserError(
            f"{where} has the values {', '.join(values[:10])}, none of them usual for training; set data.train_split "
            f"and data.test_split to two of them, or data.columns without a split"
        )
    if train == test:
        raise UserError(f"data.train_split={train} is data.test_split too; name two values of {where}")
    return Layout(train, val, test, tuple(v for v in values if v not in (train, val, test)))


def layout_of(data: DataFields) -> Layout:
    """The layout of a folder; see `layouts.find`. Raises UserError if splits overlap."""
    layout = layouts.find(data.dir, data.train_split, data.val_split, data.test_split, data.levels)
    named = {"train": layout.train, "val": layout.validation, "test": layout.test}
    places = [(role, name, Path(data.dir, name).resolve()) for role, name in named.items() if name is not None]
    for i, (role, name, place) in enumerate(places):
        for other_role, other_name, other in places[:i]:
            if place == other or place in other.parents or other in place.parents:
                raise UserError(
                    f"data.{other_role}_split={other_name} and data.{role}_split={name} overlap in {data.dir}; a "
                    f"score on training images says nothing: name two separate folders"
                )
    return layout


def _check_train(data: DataFields, train: Source) -> None:
    """Refuses a single class, and a group pattern that matches no name."""
    classes = list(train.classes)
    if len(classes) < 2:
        raise UserError(
            f"the training images of {data.labels or data.dir or data.source} have one class, "
            f"{classes[0]!r}; a classifier needs two classes or more"
        )
    if data.group_pattern and not any(train.groups):
        raise UserError(grouping.no_match(data.group_pattern, train.names, data.labels or data.dir or data.source))


def check(data: DataFields) -> None:
    """Raises UserError if the fields name images that do not exist. Opens none."""
    refuse_unknown(data)
    if data.group_pattern:
        grouping.compiled(data.group_pattern)
    if (data.labels or data.columns) and data.source != "folder":
        raise UserError(f"data.labels={data.labels!r} is for data.source=folder, but data.source={data.source}")
    if data.columns and not data.labels:
        raise UserError(f"data.columns={data.columns!r} needs data.labels, the CSV or Parquet file")
    if data.source == "folder" and data.labels:
        table = tables.read(data.labels, data.dir, data.columns)
        if data.group_pattern and "group" in data.columns:
            raise UserError(
                f"data.group_pattern={data.group_pattern!r} and the group of data.columns={data.columns!r} "
                f"exclude each other; set one"
            )
        table_layout(data, table)
        external_places(data, table)
        return
    if data.source == "folder":
        layout_of(data)
    elif prepared.known(data.source) and data.train_split == data.test_split and data.train_split not in layouts.AUTO:
        raise UserError(f"data.train_split={data.train_split} is data.test_split too; name two splits")
    external_places(data)


def external(
    data: DataFields, classes: tuple[str, ...], on_progress: OnProgress | None, decoded: Decoded | None = None
) -> dict[str, Source]:
    """The sets that `data.external` names. A PLACE that is not a folder is a split of `data.source`."""
    files: dict = {"bad_images": data.bad_images, "pattern": data.group_pattern}
    files |= {"progress": on_progress, "decoded": decoded}
    options: dict = {"classes": classes, "field": "data.external"}
    table = tables.read(data.labels, data.dir, data.columns) if data.labels and data.external else None
    opened: dict[str, Source] = {}
    for name, place in external_places(data, table).items():
        if is_dir(Path(place)):
            levels = data.levels or layouts.certain_levels(Path(place), "data.external")
            opened[name] = sources.folder(place, **options, **files, levels=levels)
        elif data.source == "synthetic":
            opened[name] = sources.synthetic(place, data.synthetic_test, data.synthetic_size, DRAWING_SEED)
        elif prepared.known(data.source):
            opened[name] = prepared.labeled(data.source, place, data.prepared_dir, **options)
        elif table is not None:
            opened[name] = rows_of(of_table(table, data, on_progress, decoded), table, place)
        else:
            opened[name] = sources.folder(data.dir, place, **options, **files, levels=layout_of(data).levels)
    return opened


def external_places(data: DataFields, table: tables.Table | None = None) -> dict[str, str]:
    """{NAME: PLACE} of `data.external`. Raises UserError for names and places that cannot be used."""

    def where(place: str) -> Path:
        if data.source == "folder":
            return Path(data.dir, place).resolve()
        return Path(f"/{data.source}", place)

    items = [item for item in data.external.split(",") if item]
    used = _used_splits(data, table) if items else ()
    values = set(table.splits or ()) if table else set()
    place_of: dict[str, str] = {}
    for item in items:
        name, equals, place = item.partition("=")
        place = place if equals else name
        name = name if equals else Path(place).name
        if not re.fullmatch(r"\w[\w.+-]*", name) or name in place_of:
            raise UserError(
                f"data.external={data.external!r}: {item!r} needs a name of its own, NAME=DIR, of letters, digits "
                f"and .+-_"
            )
        folder = is_dir(Path(place))
        resolved = Path(place).resolve() if folder else where(place)
        for split in used:
            other = where(split)
            same = (
                place == split if table else resolved == other or resolved in other.parents or other in resolved.parents
            )
            if same:
                words = split or "training"
                raise UserError(f"data.external={data.external!r}: {place} holds the images of {words}; name others")
        if table and not folder and place not in values:
            raise UserError(f"data.external={data.external!r}: {place!r} is neither a folder nor a split of the table")
        if data.source == "folder" and not folder and not table:
            folders.existing(data.dir, place, "data.external")
        elif "/" in place and not folder:
            raise UserError(f"data.external={data.external!r}: {place!r} is not a folder; name one that exists")
        place_of[name] = place
    return place_of


def _used_splits(data: DataFields, table: tables.Table | None) -> tuple[str, ...]:
    if data.source == "synthetic":
        return ("Train", "TestA")
    if prepared.known(data.source):
        return data.train_split, data.test_split
    layout = table_layout(data, table) if table else layout_of(data)
    return tuple(split for split in (layout.train, layout.validation, layout.test) if split is not None)


def refuse_unknown(data: DataFields, name: str = "") -> None:
    """Raises UserError for a source that is not known, is not prepared, or lacks its directory."""
    name = name or data.source
    if prepared.known(name):
        prepared.locate(name, data.prepared_dir)
    elif name not in NAMES:
        raise UserError(f"data.source={name} is not known; use one of {', '.join((*NAMES, *prepared.names()))}")
    if name == "folder" and not data.dir and not data.labels:
        raise UserError("data.dir='' is empty; source=folder needs the directory of the images, or data.labels")
