"""Sources of images: each returns any example by its index, encoded or generated, and describes all its examples.

`Purpose` separates the random streams of everything random about data.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Int, Int8, Int32, UInt8, UInt64

from mae_jax.data import checking, folders, tables
from mae_jax.data import groups as grouping
from mae_jax.data import synthetic as drawing
from mae_jax.data.checking import Checked, Decoded, Progress, digest
from mae_jax.data.groups import Groups
from mae_jax.data.looks import Kept
from mae_jax.runtime.errors import UserError

SHOWN = 5  # number of names of skipped files to keep


class Purpose(IntEnum):
    """The purpose of a random stream. No two streams share one, and numbers never change their meaning."""

    VALIDATION = 1
    SUBSET = 2
    SHUFFLE = 3
    AUGMENT = 4
    SYNTHETIC_LABELS = 5
    SYNTHETIC_CELL = 6
    SYNTHETIC_TISSUE = 7
    TEST = 8
    FOLDS = 9
    UNSTRATIFIED = 10
    UNLABELED = 11
    SYNTHETIC_XRAY = 12


@dataclass(frozen=True, eq=False)
class Source:
    """Examples by index, and what is known about all of them without reading an image.

    `source[i]` is a dict: image (encoded bytes, or uint8 h w 3), label and index int32, name.
    """

    names: Sequence[str]  # unique; for files the path below the directory, with '/'
    labels: Int32[np.ndarray, " n"]  # indices into `classes`; -1 = unlabeled
    groups: tuple[str, ...]  # patient, film or slide, which splits and intervals keep together; "": not known
    classes: tuple[str, ...]  # () if unlabeled
    fingerprint: str  # SHA-256 of names, labels and contents of the files (of their sizes if unchecked)
    read: Callable[[int], bytes | UInt8[np.ndarray, "h w 3"]]
    counts: dict[str, int] = field(default_factory=dict)  # number of skipped files, by reason
    skipped_files: dict[str, tuple[str, ...]] = field(default_factory=dict)  # first names for each reason
    digests: UInt64[np.ndarray, " n"] | None = None  # of the encoded bytes, see `duplicates`; None: not known
    # Returns the perceptual hashes, 256 bytes per image. They are not sent to other processes.
    looks: Callable[[], Int8[np.ndarray, "n pixels"]] | None = None
    fields: tuple[str, ...] = ()  # field of view, which training and test must not share; (): the same as `groups`
    sizes: Int32[np.ndarray, "n 2"] | None = None  # height and width in pixels; None: not known
    assumed: dict[str, int] = field(default_factory=dict)  # number of images read with each assumption, see `decode`
    kind: str = ""  # what the groups are, such as "film" or "slide"; "": not known
    stain: str = ""  # how `mae-jax prepare` normalized the stain, in words; "": not

    @property
    def compared(self) -> tuple[str, ...]:
        """What training and test images must not share: the fields, or the groups if no fields are known."""
        return self.fields or self.groups

    def __len__(self) -> int:
        return len(self.names)

    def encoded(self, index: int) -> bytes:
        """The bytes of an image file. Raises UserError if it cannot be read, and TypeError for a generated image."""
        image = self.read(index)
        if not isinstance(image, bytes):
            raise TypeError(f"{self.names[index]} is generated and has no file")
        return image

    def __getitem__(self, index: int) -> dict:
        """One example. Raises UserError if it cannot be read, or has changed since the data set was checked."""
        image = self.read(index)
        if self.digests is not None and isinstance(image, bytes) and digest(image) != self.digests[index]:
            raise UserError(
                f"image {self.names[index]} has changed since the data set was checked (its bytes differ); restore the "
                f"old file, or use the new data in a new run directory (prepared data: prepare it again)"
            )
        return {
            "image": image,
            "label": np.int32(self.labels[index]),
            "index": np.int32(index),
            "name": self.names[index],
        }


def folder(
    directory: str | os.PathLike,
    split: str = "",
    *,
    classes: Sequence[str] | None = None,
    bad_images: str = "stop",
    pattern: str = "",
    field: str = "data.dir",
    check: bool = True,
    progress: Progress | None = None,
    decoded: Decoded | None = None,
    levels: str = folders.CLASS,
) -> Source:
    """Labeled images `directory/split/<class>/**`, with the classes in alphabetical order.

    `levels` says what the folders are: "class", "class/group" for `<class>/<group>/**`, or "group/class" for
    `<group>/<class>/**`. Their groups are used unless there is a `pattern`.

    For a test split, pass the training `classes`, so that labels keep their numbers even if the split lacks a class.
    With `check`, every file is decoded once; a file that cannot be used raises UserError or, with bad_images='skip',
    is skipped and counted. `decoded` is that of `checking.check`. `pattern` finds groups in names, see
    `groups.of_names`. Also raises UserError for a class that is empty (in training) or not among `classes`, for two
    classes that differ only in case or white space, and for two class folders that a link makes the same.
    """
    top = folders.existing(directory, split, field)
    passed: dict[str, list[str]] = {}
    places = folders.class_folders(top, split.strip("/"), levels, passed, field)
    files: dict[str, list[str]] = {}
    group_of: dict[str, str] = {}
    for real, (name, below, group) in places.items():
        barred = [os.path.realpath(top), *(other for other in places if other != real)]
        paths = list(folders.walk(os.path.join(directory, below), below, passed, set(), field, barred))
        files.setdefault(name, []).extend(paths)
        for file in paths:
            parts = file[len(below) + 1 :].split("/")
            group_of[file] = group if levels == folders.GROUP_CLASS else parts[0] if len(parts) > 1 else ""
    files = {name: files[name] for name in sorted(files)}
    folders.check_classes(top, [name for name in files if files[name] or classes is None], classes, field)
    known = tuple(files) if classes is None else tuple(classes)
    label_of = {name: label for label, c in enumerate(known) for name in files.get(c, ())}
    names = list(label_of)
    seen = checking.check(directory, names, bad_images, field, passed, progress, decoded) if check else None
    keep = names if seen is None else seen.names
    if not keep:
        raise UserError(f"{field}: no image below '{top}'; check the path")
    labels = [label_of[name] for name in keep]
    empty = [c for label, c in enumerate(known) if label not in set(labels)]
    if empty and classes is None:
        raise UserError(f"{field}: class folder '{top / empty[0]}' has no images; add some or remove the folder")
    groups = grouping.of_names(keep, pattern)
    if levels != folders.CLASS and not pattern:
        groups = Groups(tuple(group_of[name] for name in keep), kind="folder")
    return _of_files(directory, keep, labels, known, passed, field, seen, groups)


def unlabeled_folder(
    directory: str | os.PathLike,
    *,
    bad_images: str = "stop",
    pattern: str = "",
    field: str = "data.dir",
    check: bool = True,
    progress: Progress | None = None,
    decoded: Decoded | None = None,
) -> Source:
    """All images below `directory`, at any depth, without labels. The arguments are those of `folder`."""
    passed: dict[str, list[str]] = {}
    names = sorted(folders.walk(str(folders.existing(directory, "", field)), "", passed, set(), field))
    seen = checking.check(directory, names, bad_images, field, passed, progress, decoded) if check else None
    keep = names if seen is None else seen.names
    groups = grouping.of_names(keep, pattern)
    return _of_files(directory, keep, [-1] * len(keep), (), passed, field, seen, groups)


def listed(
    directory: str | os.PathLike,
    names: Sequence[str],
    labels: Sequence[str],
    groups: Sequence[str] | None = None,
    *,
    classes: Sequence[str],
    kind: str = grouping.UNNAMED,
    bad_images: str = "stop",
    pattern: str = "",
    field: str = "data.labels",
    progress: Progress | None = None,
    decoded: Decoded | None = None,
) -> Source:
    """Images of a table: `names` are paths below `directory` or absolute, `labels` are among `classes`.

    `groups` has the group of each image ("": not known); None: groups are found in the names. `kind` says what the
    groups are. Every file is decoded once, as in `folder`. Raises UserError if a file cannot be used, or if all are
    missing.
    """
    passed: dict[str, list[str]] = {}
    absent = tables.missing(directory, names)
    if absent and (bad_images == "stop" or len(absent) == len(names)):
        skip = "" if len(absent) == len(names) else ", or data.bad_images='skip' to leave such rows out"
        advice = "set data.dir to the folder that the paths are below"
        raise UserError(f"{field}: {tables.missing_in_words(absent, len(names), directory, advice)}{skip}")
    seen = checking.check(directory, names, bad_images, field, passed, progress, decoded)
    keep = seen.names
    row = {name: i for i, name in enumerate(names)}
    kept = [row[name] for name in keep]
    number = {name: label for label, name in enumerate(classes)}
    image_groups = grouping.of_names(keep, pattern)
    if groups is not None and not pattern:
        given = tuple(groups[i] for i in kept)
        image_groups = Groups(given, kind=kind if any(given) else "")
    numbers = [number[labels[i]] for i in kept]
    return _of_files(directory, keep, numbers, tuple(classes), passed, field, seen, image_groups)


def join(parts: Sequence[Source]) -> Source:
    """One source with the images of all `parts` in their order. All parts must have the same classes."""
    if len(parts) == 1:
        return parts[0]
    starts = np.cumsum([0, *map(len, parts)])
    counts: dict[str, int] = {}
    for part in parts:
        for reason, n in part.counts.items():
            counts[reason] = counts.get(reason, 0) + n
    skipped = {r: tuple(name for part in parts for name in part.skipped_files.get(r, ()))[:SHOWN] for r in counts}
    summary = hashlib.sha256("\n".join(part.fingerprint for part in parts).encode()).hexdigest()
    digests = [part.digests for part in parts if part.digests is not None]
    looks = [part.looks for part in parts if part.looks is not None]
    sizes = [part.sizes for part in parts if part.sizes is not None]
    return Source(
        names=tuple(name for part in parts for name in part.names),
        labels=np.concatenate([part.labels for part in parts]),
        groups=tuple(group for part in parts for group in part.groups),
        classes=parts[0].classes,
        fingerprint=summary,
        read=partial(_read_joined, tuple(part.read for part in parts), starts),
        counts=counts,
        skipped_files=skipped,
        digests=np.concatenate(digests) if len(digests) == len(parts) else None,
        looks=partial(_join_looks, looks) if len(looks) == len(parts) else None,
        sizes=np.concatenate(sizes) if len(sizes) == len(parts) else None,
        assumed=dict(sum((Counter(part.assumed) for part in parts), Counter())),
        fields=tuple(f for part in parts for f in part.compared) if any(part.fields for part in parts) else (),
        kind=" and ".join(dict.fromkeys(part.kind for part in parts if part.kind)),
        stain=" and ".join(dict.fromkeys(part.stain for part in parts if part.stain)),
    )


def take(source: Source, indices: Int[np.ndarray, " k"], *, counts: bool = True) -> Source:
    """The images of `source` with these indices. `counts`: also keep what it records about skipped files."""
    chosen = [int(i) for i in indices]
    summary = hashlib.sha256(source.fingerprint.encode() + np.asarray(indices, "<i8").tobytes()).hexdigest()
    return Source(
        names=tuple(source.names[i] for i in chosen),
        labels=source.labels[indices],
        groups=tuple(source.groups[i] for i in chosen),
        classes=source.classes,
        fingerprint=summary,
        read=partial(_read_taken, source.read, np.asarray(indices)),
        counts=source.counts if counts else {},
        skipped_files=source.skipped_files if counts else {},
        digests=None if source.digests is None else source.digests[indices],
        looks=None if source.looks is None else partial(_take_looks, source.looks, np.asarray(indices)),
        sizes=None if source.sizes is None else source.sizes[indices],
        assumed=source.assumed if counts else {},
        fields=tuple(source.fields[i] for i in chosen) if source.fields else (),
        kind=source.kind,
        stain=source.stain,
    )


def _read_joined(reads: Sequence[Callable], starts: np.ndarray, i: int) -> bytes | UInt8[np.ndarray, "h w 3"]:
    part = int(np.searchsorted(starts, i, "right")) - 1
    return reads[part](i - int(starts[part]))


def _read_taken(read: Callable, indices: np.ndarray, i: int) -> bytes | UInt8[np.ndarray, "h w 3"]:
    return read(int(indices[i]))


def _join_looks(looks: Sequence[Callable]) -> np.ndarray:
    return np.concatenate([look() for look in looks])


def _take_looks(looks: Callable, indices: np.ndarray) -> np.ndarray:
    return looks()[indices]


def synthetic(split: str, n: int, size: int, seed: int) -> Source:
    """`n` generated cells with labels, of size x size pixels. Each `split`, such as TestA, has different cells."""
    number = zlib.crc32(split.encode())
    rng = np.random.default_rng((seed, Purpose.SYNTHETIC_LABELS, number))
    labels = np.asarray(drawing.draw_labels(rng, n), np.int32)
    names = tuple(f"cells/{split}/{i:05d}" for i in range(n))
    cells = [(Purpose.SYNTHETIC_CELL, number, int(label)) for label in labels]
    return _drawn(names, labels, drawing.CLASSES, cells, size, seed)


def synthetic_unlabeled(n: int, size: int, seed: int, domains: str = "tissue+cells") -> Source:
    """`n` generated images without labels, equally many of each of `domains`: tissue, cells, xray.

    The cells occur in no labeled split.
    """
    number = zlib.crc32(b"unlabelled")
    kinds = domains.split("+")
    counts = [n // len(kinds)] * len(kinds)
    counts[0] += n - sum(counts)
    rng = np.random.default_rng((seed, Purpose.SYNTHETIC_LABELS, number))
    names: list[str] = []
    items: list[tuple[int, int, int]] = []
    for kind, count in zip(kinds, counts, strict=True):
        if kind == "cells":
            names += [f"cells/unlabelled/{i:05d}" for i in range(count)]
            items += [(Purpose.SYNTHETIC_CELL, number, int(label)) for label in drawing.draw_labels(rng, count)]
        else:
            purpose = {"tissue": Purpose.SYNTHETIC_TISSUE, "xray": Purpose.SYNTHETIC_XRAY}[kind]
            names += [f"{kind}/{i:05d}" for i in range(count)]
            items += [(purpose, number, -1)] * count
    return _drawn(tuple(names), np.full(n, -1, np.int32), (), items, size, seed)


def _drawn(
    names: tuple[str, ...],
    labels: Int32[np.ndarray, " n"],
    classes: Sequence[str],
    items: Sequence[tuple[int, int, int]],
    size: int,
    seed: int,
) -> Source:
    cache: list[np.ndarray | None] = [None] * len(names)
    sizes = [size * size * 3] * len(names)
    return Source(
        names=names,
        labels=labels,
        groups=("",) * len(names),
        classes=tuple(classes),
        fingerprint=_fingerprint(names, labels.tolist(), sizes, f"drawn with seed {seed}"),
        read=partial(_draw, cache, items, size, seed),
    )


def _draw(cache: list, items: Sequence[tuple[int, int, int]], size: int, seed: int, i: int):
    """Draws image `i` and caches it. Two threads may draw the same image at the same time, which is harmless."""
    if cache[i] is None:
        purpose, split, label = items[i]
        rng = np.random.default_rng((seed, purpose, split, i))
        if purpose == Purpose.SYNTHETIC_TISSUE:
            cache[i] = drawing.draw_tissue(rng, size)
        elif purpose == Purpose.SYNTHETIC_XRAY:
            cache[i] = drawing.draw_xray(rng, size)
        else:
            cache[i] = drawing.draw_cell(rng, label, size)
    return cache[i]


def _of_files(
    directory: str | os.PathLike,
    names: Sequence[str],
    labels: Sequence[int],
    classes: tuple[str, ...],
    passed: dict[str, list[str]],
    field: str,
    seen: Checked | None,
    groups: Groups,
) -> Source:
    """The source of files. `seen` has the result of checking them; None: they were not checked."""
    if not names:
        raise UserError(f"{field}: no image below '{directory}'; check the path")
    root = Path(directory)
    sizes = [_size(root / name) for name in names] if seen is None else seen.digests.tolist()
    return Source(
        names=tuple(names),
        labels=np.asarray(labels, np.int32),
        groups=groups.groups,
        classes=classes,
        fingerprint=_fingerprint(names, labels, sizes),
        read=partial(checking.read_file, str(root), tuple(names)),
        counts={reason: len(files) for reason, files in passed.items()},
        skipped_files={reason: tuple(files[:SHOWN]) for reason, files in passed.items()},
        digests=None if seen is None else seen.digests,
        fields=groups.fields,
        sizes=None if seen is None else seen.sizes,
        looks=None if seen is None else Kept(seen.looks),
        assumed={} if seen is None else seen.assumed,
        kind=groups.kind,
    )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1  # reading the file reports the error


def _fingerprint(names: Sequence[str], labels: Sequence[int], held: Sequence[int], origin: str = "files") -> str:
    rows = [origin, list(names), [int(label) for label in labels], list(held)]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()
