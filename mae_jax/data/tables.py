"""Tables of labels: CSV or Parquet files with the path, label, and optional group and split of each image."""

from __future__ import annotations

import csv
import os
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from mae_jax.runtime import disk
from mae_jax.runtime.errors import UNUSABLE, UserError
from mae_jax.runtime.files import other_format
from mae_jax.runtime.places import local
from mae_jax.runtime.text import count

FIELD = "data.labels"
ROLES = ("path", "label", "group", "split")
USUAL = {  # names of columns in lower case without spaces and punctuation, the most likely first
    "path": (
        "path", "file", "filename", "filepath", "image", "imagepath", "imagefile", "imagefilename", "imagename", "img",
        "imgpath", "imgname", "relativepath", "relpath", "fname", "name",
    ),
    "label": (
        "label", "class", "classname", "celltype", "cellclass", "category", "target", "diagnosis", "annotation",
        "labels", "classlabel", "labelname",
    ),
    "group": (
        "group", "groupid", "patient", "patientid", "case", "caseid", "subject", "subjectid", "donor", "donorid",
        "slide", "slideid", "film", "filmid", "specimen", "specimenid",
    ),
    "split": ("split", "set", "subset", "partition"),
}  # fmt: skip
SUFFIXES = (".csv", ".tsv", ".parquet", ".pq")
MAX_BYTES = 2**31  # of a CSV file


@dataclass(frozen=True)
class Table:
    """Rows in the order of the file; each path occurs once."""

    names: tuple[str, ...]  # paths below `directory`, with '/', or absolute
    labels: tuple[str, ...]
    groups: tuple[str, ...] | None  # "": not known; None: there is no such column
    splits: tuple[str, ...] | None
    classes: tuple[str, ...]
    directory: Path
    columns: dict[str, str]  # the column of each role
    unused: tuple[str, ...]  # names of the other columns

    def in_words(self) -> str:
        """One line for the console."""
        used = ", ".join(f"{role} from column {name}" for role, name in self.columns.items())
        unused = ", ".join(self.unused[:10])
        return f"{count(len(self.names), 'row')}, {used}" + (f"; not used: {unused}" if unused else "")


def read(path: str | os.PathLike, directory: str | os.PathLike = "", columns: str = "") -> Table:
    """Reads a table. Its paths are relative to `directory`, or to the table's own folder if that is "".

    `columns` assigns columns, such as "path=file,label=cell_type"; the others are found by their usual names. Raises
    UserError with the row (row 1 follows the header) if a value is missing or contradicts another one.
    """
    path = Path(path)
    header, rows = _rows(path)
    at = _columns(header, columns, path)
    table = {role: [row[i].strip() for row in rows] for role, i in at.items()}
    first: dict[str, int] = {}
    keep: list[int] = []
    for number, (name, label) in enumerate(zip(table["path"], table["label"], strict=True)):
        for role, value in (("path", name), ("label", label)):
            if not value or UNUSABLE.search(value):
                what = f"holds {value!r}" if value else "is empty"
                raise UserError(
                    f"{FIELD}: {path}, row {number + 1}: column {header[at[role]]!r} {what}; fill it in or remove it"
                )
        name = table["path"][number] = _plain(name, f"{FIELD}: {path}, row {number + 1}: {header[at['path']]}")
        before = first.setdefault(name, number)
        if before == number:
            keep.append(number)
            continue
        for role in at:
            if table[role][before] != table[role][number]:
                raise UserError(
                    f"{FIELD}: {path}: {name} is in row {before + 1} with {role} {table[role][before]!r} and in row "
                    f"{number + 1} with {table[role][number]!r}; keep the right row"
                )
    if not keep:
        raise UserError(f"{FIELD}: {path} has no rows below its header")
    kept = {role: tuple(values[i] for i in keep) for role, values in table.items()}
    return Table(
        names=kept["path"],
        labels=kept["label"],
        groups=kept.get("group"),
        splits=kept.get("split"),
        classes=ordered(kept["label"]),
        directory=Path(directory) if directory else path.parent,
        columns={role: header[i] for role, i in at.items()},
        unused=tuple(name for i, name in enumerate(header) if i not in at.values() and name),
    )


def read_paths(
    path: str | os.PathLike, columns: str = "", field: str = "--images", directory: str | os.PathLike = ""
) -> tuple[Path, list[str]]:
    """The folder that the paths of a table are below, and the paths, each once, in the order of the rows.

    The folder is `directory`, or if that is "" the table's own. `columns` is "path=COLUMN" if the column has no usual
    name. Raises UserError that names `field`.
    """
    path = Path(path)
    header, rows = _rows(path, field)
    role, _, column = columns.partition("=")
    usual = _usual(header, "path")
    if columns and (role.strip() != "path" or header.count(column.strip()) != 1):
        raise UserError(f"--columns={columns!r} is not path=COLUMN; {path} has the columns {', '.join(header)}")
    if not columns and not usual:
        what = "name the path column with --columns path=COLUMN" if field.startswith("--") else "name one of them path"
        raise UserError(f"{field}: {path} has the columns {', '.join(header)}; {what}")
    at = header.index(column.strip()) if columns else usual[0]
    names = [row[at].strip() for row in rows]
    empty = next((i for i, name in enumerate(names, 1) if not name or UNUSABLE.search(name)), 0)
    if empty:
        raise UserError(f"{field}: {path}, row {empty}: column {header[at]!r} holds {names[empty - 1]!r}, not a path")
    plain = [_plain(name, f"{field}: {path}, row {i}: {header[at]}") for i, name in enumerate(names, 1)]
    return Path(directory) if directory else path.parent, list(dict.fromkeys(plain))


def missing(directory: str | os.PathLike, names: Sequence[str]) -> list[str]:
    """Those of the `names` below `directory` (or absolute) that do not exist. A broken link exists."""
    return [name for name in names if not disk.lexists(os.path.join(directory, name))]


def missing_in_words(absent: Sequence[str], total: int, directory: str | os.PathLike, advice: str) -> str:
    """How many of `total` files do not exist, the first of them, and `advice`.

    If there is a file with almost its name, the advice is to correct that name.
    """
    similar = other_spelling(directory, absent[0])
    if similar:
        advice = f"{similar} exists: write upper and lower case and accents in the table as in the files"
    return (
        f"{len(absent)} of {count(total, 'file')} {'does' if len(absent) == 1 else 'do'} not exist, the first is "
        f"{Path(directory, absent[0])}; {advice}"
    )


def other_spelling(directory: str | os.PathLike, name: str) -> str:
    """The existing file whose path differs from `name` below `directory` only in case or in how accents are written.

    "" if there is none. Files from Windows and macOS often differ so, because these systems take both for the same.
    """
    start, *parts = PurePosixPath(os.path.join(directory, name)).parts
    place = Path(start)
    if not place.is_absolute():
        place, parts = Path(), [start, *parts]
    for part in parts:
        if disk.lexists(place / part):
            place /= part
            continue
        try:
            inside = os.listdir(place)
        except OSError:
            return ""
        same = [entry for entry in inside if _folded(entry) == _folded(part)]
        if not same:
            return ""
        place /= min(same)
    return str(place)


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def ordered(labels: Sequence[str]) -> tuple[str, ...]:
    """The classes: in numerical order if all are whole numbers, else in alphabetical order."""
    classes = sorted(set(labels))
    return tuple(sorted(classes, key=int)) if all(c.isdecimal() and c.isascii() for c in classes) else tuple(classes)


def _plain(name: str, where: str) -> str:
    """A path with '/', without '.' parts, and with `~` expanded. Backslashes, as on Windows, become '/'.

    Raises UserError that starts with `where` for an address such as s3://bucket/key.
    """
    name = name.replace("\\", "/")
    return str(PurePosixPath(local(name, where) if name.startswith("~") or ":/" in name else name))


def _usual(header: Sequence[str], role: str) -> list[int]:
    """The columns with a usual name for `role`, the most likely first."""
    plain = [re.sub(r"[\W_]", "", name.lower()) for name in header]
    return [plain.index(name) for name in USUAL[role] if plain.count(name) == 1]


def _columns(header: Sequence[str], columns: str, path: Path) -> dict[str, int]:
    """The column index of each role that has a column."""
    has = f"{path} has the columns {', '.join(header)}"
    column_of: dict[str, int] = {}
    for item in filter(None, columns.split(",")):
        role, equals, name = (part.strip() for part in item.partition("="))
        if role not in ROLES or not equals or role in column_of:
            raise UserError(f"data.columns={columns!r}: {item!r} is not ROLE=COLUMN; ROLE is one of {', '.join(ROLES)}")
        if header.count(name) != 1:
            what = "is not a column" if name not in header else "is the name of several columns"
            raise UserError(f"data.columns={columns!r}: {name!r} {what}; {has}")
        column_of[role] = header.index(name)
    for role in ROLES:
        usual = [i for i in _usual(header, role) if i not in column_of.values()]
        if role not in column_of and usual:
            column_of[role] = usual[0]
    if absent := [role for role in ("path", "label") if role not in column_of]:
        what = f"the {' and '.join(absent)} {'column' if len(absent) == 1 else 'columns'}"
        given = ",".join(f"{role}=COLUMN" for role in absent)
        raise UserError(f"{FIELD}: {has}; name {what} with data.columns='{given}'")
    return {role: column_of[role] for role in ROLES if role in column_of}


def _rows(path: Path, field: str = FIELD) -> tuple[list[str], list[list[str]]]:
    """Header and rows, with all values as text. Raises UserError if the file cannot be read."""
    if not disk.is_file(path):
        what = "is not a regular file" if disk.exists(path) else "does not exist"
        raise UserError(f"{field}={path} {what}; name a CSV or Parquet file")
    try:
        if path.suffix.lower() in (".parquet", ".pq"):
            return _parquet(path, field)
        if other := other_format(path):
            raise UserError(f"{field}={path} is {other}")
        if path.stat().st_size > MAX_BYTES:
            raise UserError(f"{field}={path} has {path.stat().st_size} bytes, but at most {MAX_BYTES} are allowed")
        text = disk.read_text(path, encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{field}={path} cannot be read: {disk.reason(error, path)}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{field}={path} is not UTF-8 (byte {error.start}); save it as CSV in UTF-8") from None
    start = text.partition("\n")[0]
    delimiter = max(",;\t", key=start.count)
    try:
        lines = list(csv.reader(text.splitlines(keepends=True), delimiter=delimiter, strict=True))
    except csv.Error as error:
        raise UserError(f"{field}={path} is not valid CSV ({error}); save it again") from None
    if not lines:
        raise UserError(f"{field}={path} is empty; it needs a header and a row for each image")
    header = [name.strip() for name in lines[0]]
    rows = [line for line in lines[1:] if line]
    for number, line in enumerate(rows, 1):
        if len(line) != len(header):
            raise UserError(
                f"{field}={path}, row {number}: {count(len(line), 'value')} for {count(len(header), 'column')}; "
                f"fix the row"
            )
    return header, rows


def _parquet(path: Path, field: str) -> tuple[list[str], list[list[str]]]:
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.read_table(path)
    except (pyarrow.ArrowException, ValueError) as error:
        raise UserError(f"{field}={path} is not a Parquet file that can be read ({error})") from None
    columns = [[_text(value) for value in column.to_pylist()] for column in table.columns]
    return list(table.column_names), [list(row) for row in zip(*columns, strict=True)]


def _text(value: object) -> str:
    """A value of a Parquet file as a CSV file has it: pandas turns whole numbers next to missing ones into floats."""
    if value is None or value != value:  # only nan differs from itself
        return ""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
