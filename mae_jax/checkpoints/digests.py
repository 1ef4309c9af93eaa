"""SHA-256 digests of a file, or of the files in a directory, which reveal any changed bit before loading."""

import hashlib
import json
import os
import stat
from pathlib import Path
from typing import NoReturn

from mae_jax.runtime import files
from mae_jax.runtime.disk import exists, is_file, naming, read_text

DIGESTS = "digests.json"
NO_OPTIMIZER = "no_optimizer"  # a file of a checkpoint whose optimizer state was dropped, see `cleaning`


def write(directory: Path) -> None:
    """Writes `digests.json` in `directory`, with size and SHA-256 of all other files in it, and flushes all to disk.

    Raises OSError.
    """
    digests = {str(path.relative_to(directory)): _digest(path) for path in _files(directory)}
    with naming(directory / DIGESTS), open(directory / DIGESTS, "w", encoding="utf-8") as file:
        json.dump(digests, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    for folder, _, _ in os.walk(directory, onerror=_raise):
        sync_directory(Path(folder))


def problem(directory: Path) -> str:
    """Says how the files in `directory` differ from their digests; "" if they do not.

    Raises OSError if a file cannot be read, because a storage error does not mean that the data is damaged.
    """
    manifest = directory / DIGESTS
    try:
        if not stat.S_ISREG(manifest.stat().st_mode):  # opening a FIFO would block
            return f"{DIGESTS} is not a regular file"
        known = json.loads(read_text(manifest))
        dropped = exists(directory / NO_OPTIMIZER)
        for name, (size, digest) in known.items():
            path = directory / name
            if dropped and name.startswith("optimizer/"):
                continue
            try:
                status = path.stat()
            except (FileNotFoundError, NotADirectoryError):
                return f"{name} is missing"
            if not stat.S_ISREG(status.st_mode):
                return f"{name} is not a regular file"
            if status.st_size != size:
                return f"{name} has {status.st_size} bytes instead of {size}"
            if _digest(path)[1] != digest:
                return f"{name} differs from what was written (SHA-256)"
    except FileNotFoundError:
        return f"{DIGESTS} is missing"
    except (ValueError, TypeError, AttributeError) as error:
        return f"{DIGESTS} is damaged ({error})"
    return "" if known else f"{DIGESTS} names no file"


def path_of_file(path: Path) -> Path:
    """Where the digest of the single file `path` is: next to it."""
    return path.with_name(f"{path.name}.digest")


def write_file(path: Path) -> None:
    """Writes size and SHA-256 of the single file `path` next to it. Raises OSError."""
    with files.replacing(path_of_file(path)) as file:
        json.dump(_digest(path), file)


def problem_of_file(path: Path) -> str:
    """Says how the single file `path` differs from its digest; "" if it does not, or if an earlier version wrote none.

    Raises OSError if one of them cannot be read.
    """
    try:
        size, digest = json.loads(read_text(path_of_file(path)))
    except FileNotFoundError:
        return ""
    except (ValueError, TypeError) as error:
        return f"{path_of_file(path).name} is damaged ({error})"
    return "" if _digest(path) == [size, digest] else "it differs from what was written (SHA-256)"


def sync_directory(directory: Path) -> None:
    """Flushes the entries of `directory` to disk, so that they survive a power failure."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _files(directory: Path) -> list[Path]:
    paths = [Path(folder, name) for folder, _, names in os.walk(directory, onerror=_raise) for name in names]
    return sorted(path for path in paths if is_file(path) and path != directory / DIGESTS)


def _raise(error: OSError) -> NoReturn:
    raise error  # a folder that cannot be listed must not be left out


def _digest(path: Path) -> list[int | str]:
    with naming(path), open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        size = os.fstat(file.fileno()).st_size
        os.fsync(file.fileno())
    return [size, digest]
