"""Files that are written whole or not at all, so that a full disk or a kill leaves what was there."""

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


@contextlib.contextmanager
def replacing(path: Path, binary: bool = False) -> Iterator[Any]:
    """Opens a file, of text or `binary`, that takes the place of `path` when all of it is written."""
    partial = path.with_name(path.name + ".partial")
    text = {} if binary else {"encoding": "utf-8", "errors": "backslashreplace", "newline": ""}
    try:
        with open(partial, "wb" if binary else "w", **text) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException as error:
        if isinstance(error, OSError) and error.filename in (None, str(partial)):  # a write that failed names no file
            error.filename = str(path)
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def replacing_path(path: Path) -> Iterator[Path]:
    """The same for a library that opens its files by name: gives the name to write to."""
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


def save_picture(path: Path, picture: Image.Image, **options: Any) -> None:
    """Writes a PNG or JPEG file whole or not at all; `options` are those of Pillow's save. Raises OSError."""
    stream = io.BytesIO()
    picture.save(stream, "JPEG" if path.suffix.lower() in (".jpg", ".jpeg") else "PNG", **options)
    with replacing(path, binary=True) as file:
        file.write(stream.getvalue())


def save_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes an .npz file whole or not at all. Raises OSError."""
    stream = io.BytesIO()  # a ZipFile that cannot write to its file says so once more when it is collected
    np.savez(stream, **arrays)
    with replacing(path, binary=True) as file:
        file.write(stream.getbuffer())


def write(path: Path, content: str | bytes) -> Path:
    """Writes text or bytes, with the folders above. Raises OSError that names the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, binary=isinstance(content, bytes)) as file:
        file.write(content)
    return path
