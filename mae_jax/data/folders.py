"""Folders of images: their entries, class folders and links."""

import errno
import os
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

from mae_jax.data import tables
from mae_jax.runtime import disk
from mae_jax.runtime.errors import UNUSABLE, UserError
from mae_jax.runtime.files import other_format

SYSTEM = {  # in lower case, in addition to names with a leading dot
    "thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "system volume information",  # Windows
    "__macosx", "icon\r", "lost+found", "@eadir", "#recycle",  # macOS, Linux, network storage
}  # fmt: skip
LONGEST = 200  # maximum number of characters in a class name; the report accepts no more
CLASS, CLASS_GROUP, GROUP_CLASS = "class", "class/group", "group/class"  # values of data.levels


def existing(directory: str | os.PathLike, split: str, field: str) -> Path:
    """`directory`/`split`. Raises UserError that lists the existing folders if this is not one."""
    top = Path(directory, split.strip("/"))
    try:
        if disk.is_dir(top):
            return top
    except OSError as error:
        raise _unreadable(top, field, error) from None
    above = top.parent
    while not disk.is_dir(above):
        above = above.parent
    if above == top.parent and disk.is_file(top):
        packed = other_format(top)
        table = top.suffix.lower() in tables.SUFFIXES and field == "data.dir"
        if packed or table:
            raise UserError(f"{field}: '{top}' is {packed or 'a table; set data.labels to it'}")
    inside = names_in(above, field)[:10]
    raise UserError(f"{field}: '{top}' is not a folder; '{above}' has {', '.join(inside) or 'no folders'}")


def names_in(path: Path, field: str = "data.dir", refuse_broken: bool = False) -> list[str]:
    """The names of the folders in a folder, except those that operating systems and notebooks leave behind.

    `refuse_broken`: a broken link may be a split or a class and is refused.
    """
    visible = [entry for entry in entries(path, field) if not hidden(entry.name)]
    return [entry.name for entry in visible if is_folder(entry, field, refuse_broken)]


def hidden(name: str) -> bool:
    """Whether this is a file or folder that systems and notebooks leave behind: .DS_Store, ._x.jpg, Thumbs.db."""
    return name.startswith(".") or name.lower() in SYSTEM


def entries(path: str | Path, field: str) -> list[os.DirEntry]:
    """The entries of a folder, sorted by name. Raises UserError if it cannot be read."""
    try:
        with os.scandir(path) as scan:
            return sorted(scan, key=lambda entry: entry.name)
    except OSError as error:
        raise _unreadable(path, field, error) from None


def is_folder(entry: os.DirEntry, field: str, refuse_broken: bool = False) -> bool:
    """Whether an entry is a folder or a link to one.

    Raises UserError for a link that cannot be followed, because all images of a folder may be behind it. A broken link
    is refused only with `refuse_broken`, where the entry may be a class or split; elsewhere it counts as a file that
    cannot be used.
    """
    try:
        if entry.is_dir():
            return True
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise _unreadable(entry.path, field, error) from None
    if refuse_broken and entry.is_symlink() and _is_broken(entry, field):
        raise UserError(
            f"{field}: '{entry.path}' is a broken link to '{os.readlink(entry.path)}'; restore what it names, or "
            f"remove the link"
        )
    return False


def walk(
    path: str, name: str, passed: dict[str, list[str]], seen: set[str], field: str, barred: Sequence[str] = ()
) -> Iterator[str]:
    """Yields all files below `path` in order. Follows links, but visits each folder once, so links cannot loop.

    A link to a folder that overlaps one of `barred` is skipped and counted, because it would give images a second
    label.
    """
    real = os.path.realpath(path)
    if real in seen:
        return
    seen.add(real)
    for entry in entries(path, field):
        below = f"{name}/{entry.name}".lstrip("/")
        if hidden(entry.name):
            passed.setdefault("hidden", []).append(below)
        elif not is_folder(entry, field):
            yield below
        elif entry.is_symlink() and _barred(os.path.realpath(entry.path), barred):
            passed.setdefault("link to a folder of other classes", []).append(below)
        else:
            yield from walk(entry.path, below, passed, seen, field, barred)


def class_folders(
    top: Path, at: str, levels: str, passed: dict[str, list[str]], field: str
) -> dict[str, tuple[str, str, str]]:
    """By real path: class, name below the data directory, and group of each class folder in `top`, which is named `at`.

    `passed` gets the names of other entries. Raises UserError if there is none, or two are the same by a link.
    """
    outer = [("", top, at)]  # group, folder with class folders, its name below the data directory
    if levels == GROUP_CLASS:
        inside = _folders_in(top, at, passed, field)
        outer = [(entry.name, Path(entry.path), f"{at}/{entry.name}".lstrip("/")) for entry in inside]
    places: dict[str, tuple[str, str, str]] = {}
    for group, place, name in outer:
        for entry in _folders_in(place, name, passed, field):
            real = os.path.realpath(entry.path)
            for other in places if entry.is_symlink() or levels != GROUP_CLASS else ():
                if _overlap(real, other):
                    raise UserError(
                        f"{field}: the class folders {places[other][0]!r} and {entry.name!r} in '{place}' are the same "
                        f"folder by a link, or one contains the other; remove the link"
                    )
            places[real] = (entry.name, f"{name}/{entry.name}".lstrip("/"), group)
    if not places:
        outside = passed.get("outside a class folder", [])
        images = f" (only files, such as {outside[0]})" if outside and len(passed) == 1 else ""
        raise UserError(f"{field}: '{top}' has no class folders{images}; use {top}/<{'>/<'.join(levels.split('/'))}>/")
    return places


def _folders_in(top: Path, name: str, passed: dict[str, list[str]], field: str) -> list[os.DirEntry]:
    """The folders in `top`, except hidden ones. `passed` gets the names of other entries, below `name`.

    Raises UserError for a link that cannot be followed, because it may be a class.
    """
    folders = []
    for entry in entries(top, field):
        below = f"{name}/{entry.name}".lstrip("/")
        if hidden(entry.name):
            passed.setdefault("hidden", []).append(below)
        elif is_folder(entry, field, refuse_broken=True):
            folders.append(entry)
        else:
            passed.setdefault("outside a class folder", []).append(below)
    return folders


def check_classes(top: Path, names: Sequence[str], classes: Sequence[str] | None, field: str) -> None:
    """Refuses class folders that are not among `classes` (None: any), and names that look the same."""
    first: dict[str, str] = {}
    for name in names:
        if UNUSABLE.search(name) or not _plain(name) or len(name) > LONGEST:
            raise UserError(
                f"{field}: '{top}' has a class folder {name!r}; a class needs a name of printable characters, at most "
                f"{LONGEST}: rename it"
            )
        if (other := first.setdefault(_plain(name), name)) != name:
            raise UserError(
                f"{field}: the class folders {other!r} and {name!r} in '{top}' differ only in case or white space; "
                f"merge them or rename one"
            )
    known = names if classes is None else classes
    for name in names:
        if name not in known:
            near = [c for c in known if _plain(c) == _plain(name)]
            hint = f"; is it {near[0]!r}, which differs only in case or white space?" if near else ""
            raise UserError(
                f"{field}: '{top}' has a folder {name!r}, which is not a class of the training "
                f"images ({', '.join(known)}){hint}; rename or remove it"
            )


def _plain(name: str) -> str:
    """A name without case, white space and invisible characters, and with accents in one form."""
    text = unicodedata.normalize("NFC", name).casefold()
    return "".join(c for c in text if not c.isspace() and unicodedata.category(c)[0] != "C")


def _unreadable(path: str | Path, field: str, error: OSError) -> UserError:
    """The error to raise if `path`, which is or may be a folder, cannot be read."""
    why = f"{error.strerror}; grant yourself permission, or remove it"
    if error.errno not in (errno.EACCES, errno.EPERM):
        why = disk.reason(error, Path(path))
    text, semicolon, advice = why.partition("; ")
    return UserError(f"{field}: '{path}' cannot be read ({text}){semicolon}{advice}")


def _barred(place: str, barred: Sequence[str]) -> bool:
    """Whether a linked folder contains the top folder, `barred[0]`, or overlaps one of the others, class folders."""
    if not barred:
        return False
    top, *others = barred
    return _inside(top, place) or any(_overlap(place, other) for other in others)


def _overlap(one: str, two: str) -> bool:
    """Whether two real paths are equal, or one is inside the other."""
    return _inside(one, two) or _inside(two, one)


def _is_broken(link: os.DirEntry, field: str) -> bool:
    try:
        return not disk.exists(Path(link.path))
    except OSError as error:
        if error.errno == errno.ELOOP:
            return True
        raise _unreadable(link.path, field, error) from None


def _inside(path: str, folder: str) -> bool:
    return f"{path}{os.sep}".startswith(f"{folder.rstrip(os.sep)}{os.sep}")
