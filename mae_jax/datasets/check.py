"""Looks through a data set for images that are there twice and groups that straddle splits."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int

from mae_jax import cli, files
from mae_jax.data import duplicates, prepared, sources
from mae_jax.data.sources import Source
from mae_jax.errors import UserError
from mae_jax.spreadsheets import cell

COLUMNS = ("finding", "likeness", "across_splits", "two_labels", "image", "split", "label", "group")
COLUMNS += tuple(f"other_{name}" for name in ("image", "split", "label", "group"))
ALL = "images"  # what a folder without folders is called in the place of a split
MOST = 100_000  # near-identical pairs that are listed; blank tiles can make millions


@dataclass(frozen=True)
class Images:
    """All splits of a data set in one row."""

    names: tuple[str, ...]
    groups: tuple[str, ...]
    labels: tuple[str, ...]  # names of classes, "" without
    split: Int[np.ndarray, " n"]
    splits: tuple[str, ...]
    digests: np.ndarray
    looks: np.ndarray


def check(name: str, directory: str | os.PathLike, out: Path, say: Callable[[str], None] = cli.say) -> list[dict]:
    """Writes `out`, a row for each finding, and says what was found. Returns the rows.

    `name` is a prepared data set or a folder, see `_folders`. Raises UserError where it cannot be read.
    """
    images = _all(name, directory, say)
    rows = [*_groups(images), *_identical(images), *_near(images, say)]
    out.parent.mkdir(parents=True, exist_ok=True)
    with files.replacing(out) as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows({key: cell(value) for key, value in row.items()} for row in rows)
    sizes = ", ".join(f"{s} {n}" for s, n in zip(images.splits, np.bincount(images.split).tolist(), strict=True))
    say(f"{name}: {len(images.names)} images ({sizes}), {len(set(images.groups) - {''})} groups")
    for line in _summary(rows):
        say(f"  {line}")
    say(f"  written to {out}")
    return rows


def _all(name: str, directory: str | os.PathLike, say: Callable) -> Images:
    if prepared.known(name):
        path = prepared.locate(name, directory)
        info = prepared.info_of(name, directory)
        classes = info.features["label"].names if "label" in info.features else []
        parts = {split: prepared.index_of(name, split, path, directory) for split in sorted(info.splits)}
        rows = {s: (p.names, p.groups, p.label, p.digest, p.look) for s, p in parts.items()}
    elif name and Path(name).is_dir():
        found = _folders(name)
        classes = sorted({c for source in found.values() for c in source.classes})
        rows = {split: _of_folder(split, source, classes, say) for split, source in found.items()}
    else:
        raise UserError(
            f"{name!r} is neither a folder nor a data set that can be prepared; use one of {', '.join(prepared.WHERE)}"
        )
    names, groups, labels, digests, looks = zip(*rows.values(), strict=True)
    return Images(
        names=tuple(n for part in names for n in part),
        groups=tuple(g for part in groups for g in part),
        labels=tuple(classes[i] if i >= 0 else "" for part in labels for i in part.tolist()),
        split=np.repeat(np.arange(len(rows)), [len(part) for part in names]),
        splits=tuple(rows),
        digests=np.concatenate(digests),
        looks=np.concatenate(looks),
    )


def _folders(name: str) -> dict[str, Source]:
    """The splits of a folder: DIR/<split>/<class>/*, also DIR/<split>/data/<class>/* as CAM16 has it, and images
    without labels, in folders or in DIR itself.
    """

    def inside(top: Path) -> list[Path]:
        return sorted(p for p in top.iterdir() if p.is_dir() and not sources.hidden(p.name))

    options: dict = {"field": "DATASET", "bad_images": "skip"}
    found = {}
    for split in inside(Path(name)):
        classes = inside(split)
        if len(classes) == 1 and inside(classes[0]):
            split, classes = classes[0], inside(classes[0])
        title = split.relative_to(name).as_posix()
        found[title] = (
            sources.folder(name, title, **options) if classes else sources.unlabelled_folder(split, **options)
        )
    return found or {ALL: sources.unlabelled_folder(name, **options)}


def _of_folder(split: str, source: Source, classes: list[str], say: Callable) -> tuple:
    for reason, count in source.counts.items():
        names = source.passed_over[reason]
        more = ", ..." if count > len(names) else ""
        say(f"{split}: {count} file{'s' * (count > 1)} passed over ({reason}): {', '.join(names)}{more}")
    say(f"reading {len(source)} images of {split}")
    labels = np.asarray([classes.index(source.classes[i]) if i >= 0 else -1 for i in source.labels.tolist()])
    below = "" if source.classes or split == ALL else f"{split}/"
    return [below + name for name in source.names], source.groups, labels, *duplicates.hashes_of(source)


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


def _groups(images: Images) -> Iterator[dict]:
    """A row for each group that lies in two splits, with one image of each."""
    first: dict[tuple[str, int], int] = {}
    for i, (group, split) in enumerate(zip(images.groups, images.split.tolist(), strict=True)):
        if group:
            first.setdefault((group, split), i)
    places: dict[str, list[int]] = {}
    for (group, _), i in first.items():
        places.setdefault(group, []).append(i)
    for found in places.values():
        for j in found[1:]:
            yield _row(images, "group in two splits", "", found[0], j)


def _identical(images: Images) -> Iterator[dict]:
    """A row for each image that equals one before it."""
    first: dict[int, int] = {}
    for i, value in enumerate(images.digests.tolist()):
        if first.setdefault(value, i) != i:
            yield _row(images, "identical", "1", first[value], i)


def _near(images: Images, say: Callable) -> Iterator[dict]:
    _, unique = np.unique(images.digests, return_index=True)
    unique = np.sort(unique)
    for n, (i, j, likeness) in enumerate(duplicates.near(images.looks[unique])):
        if n == MOST:
            say(f"  more than {MOST} near-identical pairs; the others are not listed")
            return
        yield _row(images, "near-identical", f"{likeness:.3f}", int(unique[i]), int(unique[j]))


def _summary(rows: list[dict]) -> list[str]:
    lines = []
    for finding in ("group in two splits", "identical", "near-identical"):
        found = [row for row in rows if row["finding"] == finding]
        where = Counter(f"{r['split']} and {r['other_split']}" for r in found if r["across_splits"] == "yes")
        line = f"{finding}: {len(found)}"
        if finding != "group in two splits" and found:
            line += f", {where.total()} across splits, {sum(r['two_labels'] == 'yes' for r in found)} under two labels"
        if where:
            line += f" ({', '.join(f'{pair} {n}' for pair, n in where.items())})"
        lines.append(line)
    return lines
