"""Layouts of image folders: which subfolders hold the training, validation and test images.

Supported are `DIR/<split>/<Class>/*` with the usual names of splits, `DIR/<Class>/*` without splits, and
`DIR/<split>/data/<Class>/*`. Folders of groups (patients, slides) may be inside the class folders or around them, see
`levels_in`. This module only lists folders and opens no image.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mae_jax.data.folders import CLASS, CLASS_GROUP, GROUP_CLASS, entries, existing, hidden, is_folder, names_in
from mae_jax.runtime import disk
from mae_jax.runtime.errors import UserError
from mae_jax.runtime.text import shortened

AUTO = ("", "auto")  # values of data.train_split, test_split and val_split: find the split by its usual name
NONE = "none"  # value of data.val_split: ignore validation splits, take validation images from the training images
HERE = "."  # value of data.train_split: the folder itself holds the class folders
USUAL = {  # in lower case
    "train": ("train", "training", "trainset", "train_set"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing", "testset", "test_set", "testa"),
}
DEFAULT = {"train": "Train", "val": "auto", "test": "TestA"}  # if they do not exist, usual names are tried


@dataclass(frozen=True)
class Layout:
    """Where the splits are: folders below the directory (or values of a column), "" for the directory itself."""

    train: str
    validation: str | None = None  # None: validation images are taken from the training images
    test: str | None = None  # None: test images are split off the training images first
    unused: tuple[str, ...] = ()  # other folders
    levels: str = CLASS  # what the folders in a split are, from the outermost: CLASS, CLASS_GROUP or GROUP_CLASS

    def in_words(self) -> str:
        """One line for the console."""
        groups = {CLASS_GROUP: ", each with folders of groups", GROUP_CLASS: " in folders of groups"}.get(
            self.levels, ""
        )
        groups += " (patients, slides)" if groups else ""
        if not self.train and self.test is None:
            return f"class folders{groups}{',' if groups else ''} without splits"
        parts = [f"{self.train or 'all images'} for training"]
        parts += [f"{self.validation} for validation"] if self.validation is not None else []
        parts += [f"{self.test} for test"] if self.test is not None else []
        parts += [f"class folders{groups}"] if groups else []
        unused = shortened(self.unused, 10)
        return ", ".join(parts) + (f"; not used: {unused}" if unused else "")


def pick(role: str, value: str, names: Sequence[str], where: str) -> str | None:
    """Which of `names` is the split `role` (train, val or test); None if there is none.

    `value` is the config's field: a name, AUTO or NONE. A default that is not among `names` counts as AUTO. Raises
    UserError if a given name is missing, or if several names are usual ones.
    """
    field = f"data.{role}_split"
    if value == NONE and role == "val":
        return None
    if value in names:
        return value
    if value not in (*AUTO, DEFAULT[role]):
        raise UserError(f"{field}={value} is not in {where}; it has {', '.join(sorted(names)[:10]) or 'no splits'}")
    matches = [name for name in names if name.lower() in USUAL[role]]
    if len(matches) > 1:
        raise UserError(f"{where} has {' and '.join(sorted(matches))}; set {field} to the one you mean")
    return matches[0] if matches else None


def find(directory: str | os.PathLike, train: str, validation: str, test: str, levels: str = "") -> Layout:
    """The layout of `directory`, from the fields data.train_split, val_split, test_split and levels.

    Raises UserError if a named folder is missing, or if the layout is ambiguous; it says which field to set.
    """
    top = existing(directory, "", "data.dir")
    names = names_in(top, refuse_broken=True)
    if train == HERE and test in (*AUTO, DEFAULT["test"]):
        return Layout("", levels=levels or levels_in(top) or CLASS)
    named = {"train": train, "val": validation, "test": test}
    for role, value in named.items():  # a path such as train/data is allowed, too
        if value not in (*AUTO, NONE, DEFAULT[role], *names):
            existing(directory, value, f"data.{role}_split")
            names.append(value)
    where = f"data.dir: '{top}'"
    trained = pick("train", train, names, where)
    if trained is None:
        return _without_splits(top, names, test, levels)
    tested, validated = (pick(role, named[role], names, where) for role in ("test", "val"))
    unused = tuple(name for name in names if name not in (trained, validated, tested))
    _refuse_classes(top, trained, unused)
    inner = _inner(top / trained)
    validated, tested = (name if name is None else _below(top, name, inner) for name in (validated, tested))
    trained = _below(top, trained, inner)
    others = [top / name for name in (validated, tested) if name]
    return Layout(trained, validated, tested, unused, levels or certain_levels(top / trained, others=others))


def levels_in(folder: Path) -> str:
    """What the folders in `folder` are, if they have folders themselves; "" if the names do not show it.

    - No name of an inner folder occurs twice, and each outer folder has several: the outer ones are classes, the
      inner ones groups, because a class occurs in several groups.
    - Each outer folder has one inner folder, and these have fewer different names: the outer ones are groups, the inner
      ones classes, as if each patient has one diagnosis.
    - Images are next to the inner folders, or all inner folders have one name: the outer folders are classes, and the
      inner ones mean nothing.
    - Otherwise names of inner folders repeat: the outer ones may be splits, classes or groups.
    """
    inside = {name: names_in(folder / name) for name in names_in(folder)}
    times = Counter(inner for inners in inside.values() for inner in inners)
    if len(times) < 2 or any(_files(folder / name) for name in inside):
        return CLASS
    if max(times.values()) == 1:
        return CLASS_GROUP if len(inside) > 1 and all(len(inners) > 1 for inners in inside.values()) else CLASS
    if all(len(inners) == 1 for inners in inside.values()):
        return GROUP_CLASS if len(times) < len(inside) else CLASS
    return ""


def certain_levels(folder: Path, field: str = "data.dir", others: Sequence[Path] = ()) -> str:
    """`levels_in`, or what the `others`, the validation and test folders next to `folder`, show.

    Classes are the same in all splits, and groups are not: if the outer folders of the others occur in `folder` and
    the inner ones do not, the outer ones are classes, and the reverse. Raises UserError if the names do not show it;
    it says which field to set.
    """
    if levels := levels_in(folder):
        return levels
    names = names_in(folder)
    if levels := _levels_across(folder, others):
        return levels
    times = Counter(inner for name in names for inner in names_in(folder / name))
    outer = shortened(names, 5)
    common = [inner for inner, n in times.most_common(3) if n > 1]
    inner = ", ".join(sorted(common)) + (", ..." if len(times) > len(common) else "")
    ways = [
        f"data.levels={GROUP_CLASS} if {inner} are the classes",
        f"data.levels={CLASS_GROUP} if {outer} are the classes and {inner} groups",
        f"data.levels={CLASS} if {inner} mean nothing",
    ]
    if not others:
        ways.append(f"data.train_split and data.test_split if {outer} are splits")
    raise UserError(
        f"{field}: '{folder}': the folders {outer} hold folders of the same names ({inner}), so they may be "
        f"{'' if others else 'splits, '}classes or groups (patients). Set {', '.join(ways[:-1])}, or {ways[-1]}"
    )


def _levels_across(folder: Path, others: Sequence[Path]) -> str:
    """What the `others` show about the folders in `folder`, see `certain_levels`; "" if nothing."""

    def names(places: Sequence[Path]) -> tuple[set[str], set[str]]:
        paths = [place / name for place in places for name in names_in(place)]
        return {path.name.casefold() for path in paths}, {name.casefold() for path in paths for name in names_in(path)}

    (outer, inner), (other_outer, other_inner) = names([folder]), names(others)
    if not other_outer or not other_inner:
        return ""
    if other_outer <= outer and not other_inner & inner:
        return CLASS_GROUP
    return GROUP_CLASS if other_inner <= inner and not other_outer & outer else ""


def _files(path: Path) -> list[str]:
    visible = [entry for entry in entries(path, "data.dir") if not hidden(entry.name)]
    return [entry.name for entry in visible if not is_folder(entry, "data.dir")]


def _inner(split: Path) -> str:
    """The name of a split's only folder if it holds the class folders, as in CAM16's train/data/<Class>; else ""."""
    below = names_in(split)
    return below[0] if len(below) == 1 and not _files(split) and len(names_in(split / below[0])) > 1 else ""


def _below(top: Path, name: str, inner: str) -> str:
    return f"{name}/{inner}" if inner and disk.is_dir(top / name / inner) else name


def _without_splits(top: Path, names: list[str], test: str, levels: str) -> Layout:
    """The layout if no folder has a usual name for training."""
    if len(names) == 1 and not _files(top) and len(names_in(top / names[0])) > 1:  # the top folder of an archive
        inner = find(top / names[0], "auto", "auto", test if test in AUTO else DEFAULT["test"], levels)
        validated, tested = (None if n is None else f"{names[0]}/{n}" for n in (inner.validation, inner.test))
        return Layout(f"{names[0]}/{inner.train}".rstrip("/"), validated, tested, inner.unused, inner.levels)
    if test not in (*AUTO, DEFAULT["test"]):  # the user named a test folder, so there is a training folder, too
        raise UserError(
            f"data.dir: '{top}' has no folder with a usual name for training ({', '.join(USUAL['train'])}); set "
            f"data.train_split to one of {', '.join(names[:10])}"
        )
    like = [name for name in names if name.lower() in (*USUAL["val"], *USUAL["test"])]
    if like:
        raise UserError(
            f"data.dir: '{top}' has {' and '.join(like)}, but no folder with a usual name for training "
            f"({', '.join(USUAL['train'])}); set data.train_split, or data.train_split={HERE} if these are classes"
        )
    return Layout("", levels=levels or certain_levels(top))


def _refuse_classes(top: Path, train: str, others: Sequence[str]) -> None:
    """Raises UserError if the folder named for training and its neighbors hold images instead of class folders."""
    if names_in(top / train) or not _files(top / train):
        return
    alike = [name for name in others if "/" not in name and not names_in(top / name) and _files(top / name)]
    if alike and train.lower() not in USUAL["train"]:
        raise UserError(
            f"data.train_split={train}: {', '.join([train, *alike][:10])} in '{top}' look like classes, not splits: "
            f"they hold images and no class folders. Set data.train_split=auto to use all of them as classes"
        )
