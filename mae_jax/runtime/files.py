"""Atomic file writes: a full disk or a killed process leaves the previous file intact."""

from __future__ import annotations

import contextlib
import errno
import io
import os
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
