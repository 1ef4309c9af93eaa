"""Searches a data set for images that occur twice and for groups that two splits share. Command: `mae-jax check`."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from mae_jax.config.fields import DataFields, changed
from mae_jax.data import copies, duplicates, findings, folders, labeled_sets, layouts, prepared, sources, splits, tables
from mae_jax.data import groups as grouping
from mae_jax.data.checking import Decoded
from mae_jax.data.groups import Groups
from mae_jax.data.looks import picture
from mae_jax.data.sources import Source
from mae_jax.runtime import command, files
from mae_jax.runtime.csv_cells import cell
from mae_jax.runtime.disk import is_dir, is_file
from mae_jax.runtime.errors import UserError
from mae_jax.runtime.option_names import in_options
from mae_jax.runtime.text import count

COLUMNS = ("finding", "likeness", "across_splits", "two_labels", "image", "split", "label", "group")
COLUMNS += tuple(f"other_{name}" for name in ("image", "split", "label", "group"))
ALL = ""  # name of the only split of images without splits
IMAGE_SIZE = 64  # side of the network's input in pixels, as with scale=laptop


@dataclass(frozen=True)
class Images:
    """The images of all splits of a data set, one split after another."""

    names: tuple[str, ...]
    groups: tuple[str, ...]
    fields: tuple[str, ...]
    kind: str  # what the groups are; "": not known
    labels: tuple[str, ...]  # names of classes; "": unlabeled
    split: Int[np.ndarray, " n"]
    splits: tuple[str, ...]
    digests: np.ndarray
    looks: np.ndarray
    reads: tuple[Callable[[int], bytes], ...]  # for each split, reads an image by its index in the split


def check(
    name: str,
    directory: str | os.PathLike,
    out: Path,
    say: Callable[[str], None] = command.say,
    columns: str = "",
    pattern: str = "",
    cache: splits.DataCache | None = None,
    fields: Mapping[str, str] | None = None,
    options: Mapping[str, str] | None = None,
    image_size: int = IMAGE_SIZE,
) -> list[dict]:
    """Writes `out`, a row for each finding, and prints a summary. Returns the rows.

    `name` is a prepared data set in `directory`, a folder (see `_folders`) or a table of labels with these `columns`.
    `pattern` finds groups in names, as data.group_pattern does; `fields` are further fields of `data`, such as levels.
    `cache` has images that are decoded already. `options` are the command's options for fields of `data`, for what is
    printed. Images are reported as large for a network with inputs of `image_size` pixels. Raises UserError if the data
    set cannot be read.
    """
    given = {"columns": columns, "group_pattern": pattern, "train_split": "auto", "test_split": "auto"}
    data = changed(DataFields(), given | dict(fields or {}) | {"bad_images": "skip"})
    cache = cache or splits.DataCache()

    printed: list[str] = []

    def in_words_of_the_command(line: str) -> None:
        printed.append(line)
        say(in_options(line, options or {}))

    images = _all(name, directory, in_words_of_the_command, data, cache.decoded)
    rows = [*_shared(images), *_identical(images), *_near(images, say)]
    out.parent.mkdir(parents=True, exist_ok=True)
    with files.replacing(out) as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows({key: cell(value) for key, value in row.items()} for row in rows)
    sizes = ", ".join(f"{s} {n}" for s, n in zip(images.splits, np.bincount(images.split).tolist(), strict=True))
    say(f"{name}: {count(len(images.names), 'image')}" + (f" ({sizes})" if images.splits != (ALL,) else ""))
    say(f"  groups: {_groups_in_words(images)}")
    for line in _summary(rows, images):
        say(f"  {line}")
    try:
        for line in _as_in_a_run(name, directory, data, cache, image_size, labeled=any(images.labels)):
            in_words_of_the_command(f"  {line}")
    except UserError as error:
        if f"layout: {error}" not in printed:
            in_words_of_the_command(f"  a run cannot use these images: {error}")
    say(f"  written to {out}")
    return rows


def _as_in_a_run(
    name: str,
    directory: str | os.PathLike,
    data: DataFields,
    cache: splits.DataCache,
    image_size: int,
    labeled: bool,
) -> Iterator[str]:
    """What a run prints about the same images, from the same functions: its sets, and what makes scores unreliable.

    Raises UserError if a run cannot use the images.
    """
    if prepared.known(name):
        data = changed(data, {"source": name, "prepared_dir": os.fspath(directory)})
    else:
        data = changed(data, {"source": "folder", "labels" if is_file(Path(name)) else "dir": name})
    if labeled:
        opened = splits.labeled(data, cache=cache, search_leaks=False)
        sets = {opened.sets.train_name: opened.train, opened.sets.test_name: opened.test}
        train, validation = len(opened.train_idx), len(opened.val_idx)
        yield f"a run uses {train} for training, {validation} for validation, {len(opened.test)} for test"
        yield from (f"{key}: {text}" for key, text in opened.sets.about.items() if key not in ("layout", "labels"))
        identical = findings.repeated_in_words(opened.repeated)  # which the summary has
        yield from (f"warning: {line}" for line in opened.warnings if line not in identical)
    else:
        unlabeled = splits.unlabeled(data, cache=cache)
        sets = dict(zip(unlabeled.names if len(unlabeled.names) > 1 else ("",), unlabeled.sources, strict=True))
    about = findings.about_files(sets, image_size, labeled)
    yield from (f"{key}: {text}" for key, text in about.items() if key != "files")  # skipped files are listed above


def _groups_in_words(images: Images) -> str:
    known = len(set(images.groups) - {""})
    if not known:
        return grouping.UNKNOWN
    alone = images.groups.count("")
    text = f"{known} ({images.kind})"
    if alone:
        text += f", and {count(alone, 'image')} without a group, such as {images.names[images.groups.index('')]}"
    return text + ("; the same patient may be on both sides" if alone or images.kind in grouping.WEAK else "")


def _all(name: str, directory: str | os.PathLike, say: Callable, data: DataFields, decoded: Decoded | None) -> Images:
    if prepared.known(name):

        def _records(split: str, index: prepared.Index) -> prepared.Records:
            return prepared.Records(name, (split,), directory, [index.record])

        path = prepared.locate(name, directory)
        info = prepared.info_of(name, directory)
        features: Any = info.features
        classes = features["label"].names if "label" in features else []
        parts = {split: prepared.index_of(name, split, path, directory) for split in sorted(info.splits)}
        rows = {
            s: (p.names, prepared.groups_of(name, p.names, p.groups), p.label, p.digest, p.look, _records(s, p))
            for s, p in parts.items()
        }
    elif name and (is_dir(Path(name)) or is_file(Path(name))):
        if is_dir(Path(name)):
            splits = _folders(name, data, say, decoded)
        else:
            splits = _table(name, data, say, decoded)
        _refuse_useless_pattern(name, data.group_pattern, splits)
        classes = sorted({c for source in splits.values() for c in source.classes})
        rows = {split: _of_folder(split, source, classes, say) for split, source in splits.items()}
    elif "/" in name or Path(name).suffix:
        raise UserError(
            f"{name} does not exist; name a folder, a CSV or Parquet file of labels, or a prepared data set"
        )
    else:
        raise UserError(
            f"{name!r} is neither a folder, a table of labels nor a data set that can be prepared; use one of "
            f"{', '.join(prepared.names())}"
        )
    names, groups, labels, digests, looks, reads = zip(*rows.values(), strict=True)
    return Images(
        names=tuple(n for part in names for n in part),
        groups=tuple(g for part in groups for g in part.groups),
        fields=tuple(f for part in groups for f in part.fields or part.groups),
        kind=" and ".join(dict.fromkeys(part.kind for part in groups if part.kind)),
        labels=tuple(classes[i] if i >= 0 else "" for part in labels for i in part.tolist()),
        split=np.repeat(np.arange(len(rows)), [len(part) for part in names]),
        splits=tuple(rows),
        digests=np.concatenate(digests),
        looks=np.concatenate(looks),
        reads=reads,
    )


def _folders(name: str, data: DataFields, say: Callable, decoded: Decoded | None) -> dict[str, Source]:
    """The splits of a folder, found by `layouts.find`, or its images without labels. Unused folders are splits, too.

    If the layout is ambiguous, this is printed and each folder counts as a split.
    """
    options: dict = {"field": "data.dir", "bad_images": "skip", "decoded": decoded}
    inside = folders.names_in(Path(name))
    if not inside:
        return {ALL: _unlabeled(Path(name), data, options)}
    levels = data.levels or folders.CLASS
    try:
        layout = layouts.find(name, data.train_split, data.val_split, data.test_split, data.levels)
    except UserError as error:
        if any((data.levels, *({data.train_split, data.val_split, data.test_split} - {"auto"}))):
            raise
        say(f"layout: {error}")
        say("layout: until then, each folder is checked as a split")
        titles = inside
    else:
        say(f"layout: {layout.in_words()}")
        levels = layout.levels
        named = data.train_split not in (*layouts.AUTO, layouts.HERE)
        if not named and not any(part.lower() in layouts.USUAL["train"] for part in Path(layout.train).parts):
            return {layout.train or ALL: _labeled(name, layout.train, data, options, levels)}
        titles = [split for split in (layout.train, layout.validation, layout.test, *layout.unused) if split]
    source_of = {}
    for title in sorted(titles):
        has_classes = bool(folders.names_in(Path(name, title)))
        source_of[title] = (
            _labeled(name, title, data, options, levels)
            if has_classes
            else _unlabeled(Path(name, title), data, options)
        )
    return source_of


def _labeled(name: str, split: str, data: DataFields, options: dict, levels: str) -> Source:
    return sources.folder(name, split, **options, pattern=data.group_pattern, levels=levels)


def _unlabeled(place: Path, data: DataFields, options: dict) -> Source:
    return sources.unlabeled_folder(place, **options, pattern=data.group_pattern)


def _refuse_useless_pattern(name: str, pattern: str, splits: dict[str, Source]) -> None:
    """Raises UserError if `pattern` matches no name in any split."""
    if pattern and not any(group for source in splits.values() for group in source.groups):
        names = [image for source in splits.values() for image in source.names]
        raise UserError(grouping.no_match(pattern, names, name))


def _table(name: str, data: DataFields, say: Callable, decoded: Decoded | None) -> dict[str, Source]:
    """The splits of a table of labels, or all its images."""
    table = tables.read(name, data.dir, data.columns)
    say(f"labels: {table.in_words()}")
    everything = labeled_sets.of_table(table, data, decoded=decoded)
    if table.splits is None:
        return {ALL: everything}
    return {split or "no split": labeled_sets.rows_of(everything, table, split) for split in sorted(set(table.splits))}


def _of_folder(split: str, source: Source, classes: list[str], say: Callable) -> tuple:
    for reason, n in source.counts.items():
        names = source.skipped_files[reason]
        more = ", ..." if n > len(names) else ""
        say(f"{split}: " * bool(split) + f"{count(n, 'file')} skipped ({reason}): {', '.join(names)}{more}")
    say(f"reading {count(len(source), 'image')}" + (f" of {split}" if split else ""))
    labels = np.asarray([classes.index(source.classes[i]) if i >= 0 else -1 for i in source.labels.tolist()])
    below = "" if source.classes or split == ALL else f"{split}/"
    groups = Groups(source.groups, source.fields, source.kind)
    return [below + name for name in source.names], groups, labels, *duplicates.hashes_of(source), source.read


def _row(images: Images, finding: str, likeness: str, i: int, j: int) -> dict:
    row = {
        "finding": finding,
        "likeness": likeness,
        "across_splits": "yes" if images.split[i] != images.split[j] else "no",
        "two_labels": "yes" if len({images.labels[i], images.labels[j]} - {""}) == 2 else "no",
    }
    for prefix, k in (("", i), ("other_", j)):
        values = (images.names[k], images.splits[images.split[k]], images.labels[k], images.groups[k])
        row |= {f"{prefix}{key}": v for key, v in zip(("image", "split", "label", "group"), values, strict=True)}
    return row


def _shared(images: Images) -> Iterator[dict]:
    """A row for each group and each field that is in two splits, with one image of each split."""
    yield from _in_two_splits(images, "group in two splits", images.groups)
    if images.fields != images.groups:
        yield from _in_two_splits(images, "field in two splits", images.fields)


def _in_two_splits(images: Images, finding: str, groups: tuple[str, ...]) -> Iterator[dict]:
    first: dict[tuple[str, int], int] = {}
    for i, (group, split) in enumerate(zip(groups, images.split.tolist(), strict=True)):
        if group:
            first.setdefault((group, split), i)
    places: dict[str, list[int]] = {}
    for (group, _), i in first.items():
        places.setdefault(group, []).append(i)
    for indices in places.values():
        for j in indices[1:]:
            yield _row(images, finding, "", indices[0], j)


def _identical(images: Images) -> Iterator[dict]:
    """A row for each image that is identical to an earlier one."""
    first: dict[int, int] = {}
    for i, value in enumerate(images.digests.tolist()):
        if first.setdefault(value, i) != i:
            yield _row(images, "identical", "1", first[value], i)


def _near(images: Images, say: Callable) -> Iterator[dict]:
    _, unique = np.unique(images.digests, return_index=True)
    unique = np.sort(unique)
    starts = np.searchsorted(images.split, np.arange(len(images.splits)))

    def read(i: int) -> copies.Picture:
        k = int(unique[i])
        split = int(images.split[k])
        return picture(images.reads[split](k - int(starts[split])), images.names[k])

    if not duplicates.searched(len(unique)):
        say(f"  {len(unique)} images are too many to search for shifted and cropped ones; check the splits separately")
    for i, j, likeness in duplicates.find(images.looks[unique], read):
        yield _row(images, "near-identical", f"{likeness:.3f}", int(unique[i]), int(unique[j]))


def _summary(rows: list[dict], images: Images) -> list[str]:
    """The number of findings of each kind. Groups are counted only if they are known and there are several splits."""
    compared = any(images.groups) and len(images.splits) > 1
    words = {
        "group in two splits": f"{images.kind or grouping.UNNAMED} in two splits",
        "field in two splits": "field of view in two splits",
        "identical": "identical images",
        "near-identical": "near-identical images",
    }
    lines = []
    for finding, what in words.items():
        of_kind = [row for row in rows if row["finding"] == finding]
        where = Counter(f"{r['split']} and {r['other_split']}" for r in of_kind if r["across_splits"] == "yes")
        if (finding == "field in two splits" and not of_kind) or (finding == "group in two splits" and not compared):
            continue
        line = f"{what}: {len(of_kind)}"
        if "two splits" not in finding and of_kind:
            line += (
                f", {where.total()} across splits, {sum(r['two_labels'] == 'yes' for r in of_kind)} under two labels"
            )
        if where:
            line += f" ({', '.join(f'{pair} {n}' for pair, n in where.items())})"
        lines.append(line)
        if finding == "near-identical":
            alike = {row[key] for row in of_kind for key in ("image", "other_image")}
            if note := duplicates.all_alike(len(alike), len(images.names)):
                lines.append(f"note: {len(alike)} of {len(images.names)} images look like copies of others, {note}")
    return lines
