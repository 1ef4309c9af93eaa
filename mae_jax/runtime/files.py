"""Atomic file writes: a full disk or a killed process leaves the previous file intact."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import zipfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from mae_jax.runtime.disk import first_line, naming

if TYPE_CHECKING:  # arguments are checked before either is imported
    import numpy as np
    from PIL import Image


@contextlib.contextmanager
def replacing(path: Path, binary: bool = False) -> Iterator[Any]:
    """Opens a text or `binary` file that replaces `path` once it is completely written."""
    partial = path.with_name(path.name + ".partial")
    text: dict[str, Any] = {} if binary else {"encoding": "utf-8", "errors": "backslashreplace", "newline": ""}
    try:
        with open(partial, "wb" if binary else "w", **text) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException as error:
        if isinstance(error, OSError) and error.filename in (None, str(partial)):  # a failed write names no file
            error.filename = str(path)
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def replacing_path(path: Path) -> Iterator[Path]:
    """Like `replacing`, for libraries that open files themselves: yields the path to write to."""
    partial = path.with_name(path.name + ".partial")
    try:
        yield partial
        with open(partial, "rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


_PACKED = {  # first bytes of files that hold other files
    b"PK\x03\x04": "a .zip archive",
    b"Rar!": "a .rar archive",
    b"7z\xbc\xaf": "a .7z archive",
    b"\x1f\x8b": "a .gz archive",
    b"BZh": "a .bz2 archive",
    b"\xfd7zXZ": "a .xz archive",
}


def other_format(path: Path) -> str:
    """What an archive or a spreadsheet is, and what to do with it, as the end of a message; "" for other files.

    People name them in place of a folder of images or a table of labels.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(512)
    except OSError:
        return ""  # who opens the file reports that
    if start.startswith(b"\xd0\xcf\x11\xe0") or (start.startswith(b"PK\x03\x04") and _is_spreadsheet(path)):
        return "a spreadsheet; save it as CSV in UTF-8"
    what = next((name for magic, name in _PACKED.items() if start.startswith(magic)), "")
    what = what or ("a .tar archive" if start[257:262] == b"ustar" else "")
    return f"{what}; unpack it and name its folder" if what else ""


def _is_spreadsheet(path: Path) -> bool:
    """Whether a .zip archive is a workbook of Excel or LibreOffice."""
    try:
        with zipfile.ZipFile(path) as opened:
            names = set(opened.namelist())
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError):
        return False
    return "xl/workbook.xml" in names or {"mimetype", "content.xml"} <= names


def save_picture(path: Path, picture: Image.Image, **options: Any) -> None:
    """Writes a PNG or JPEG file atomically. `options` go to Pillow's `save`. Raises OSError."""
    stream = io.BytesIO()
    picture.save(stream, "JPEG" if path.suffix.lower() in (".jpg", ".jpeg") else "PNG", **options)
    with replacing(path, binary=True) as file:
        file.write(stream.getvalue())


def save_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes an .npz file atomically. Raises OSError."""
    import numpy as np

    stream = io.BytesIO()  # a ZipFile on a full disk would raise again when it is garbage-collected
    np.savez(stream, **cast(dict[str, Any], arrays))
    with replacing(path, binary=True) as file:
        file.write(stream.getbuffer())


def load_arrays(path: Path, but: Collection[str] = ()) -> dict[str, np.ndarray]:
    """The arrays in an .npz file by name, without those in `but`.

    Raises ValueError that says in one line why the file is damaged. Raises OSError or MemoryError if the storage or the
    memory fails, because that does not mean that the file is damaged.
    """
    import numpy as np

    try:
        with naming(path), open(path, "rb") as file, np.load(file, allow_pickle=False) as saved:
            arrays = {name: saved[name] for name in saved.files if name not in but}
    except MemoryError:
        raise
    except OSError as error:
        if error.errno not in (None, errno.EINVAL):  # zipfile seeks to before the start of a damaged file: EINVAL
            raise
        raise ValueError(error.strerror or first_line(error)) from None
    except Exception as error:  # zipfile, zlib and NumPy each raise their own types
        raise ValueError(first_line(error)) from None
    for name, array in arrays.items():  # NumPy returns the bytes of a member that is not an array
        if not isinstance(array, np.ndarray):
            raise ValueError(f"{name!r} is not an array")
    return arrays


def write(path: Path, content: str | bytes) -> Path:
    """Writes text or bytes atomically and creates the parent folders. Raises OSError that names the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, binary=isinstance(content, bytes)) as file:
        file.write(content)
    return path
