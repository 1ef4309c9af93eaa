"""Digests of a directory's files: a changed bit is found before anything is read from it."""

import hashlib
import json
import os
from pathlib import Path

DIGESTS = "digests.json"


def write(directory: Path) -> None:
    """Writes `digests.json` in `directory`: size and SHA-256 of every other file below it. All is on disk then."""
    found = {str(path.relative_to(directory)): _digest(path) for path in _files(directory)}
    with open(directory / DIGESTS, "w", encoding="utf-8") as file:
        json.dump(found, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    for folder in {directory, *(path for path in directory.rglob("*") if path.is_dir())}:
        sync_directory(folder)


def problem(directory: Path) -> str:
    """What is wrong with `directory` by its digests, in a few words; "" where every file is as it was written."""
    if (directory / DIGESTS).exists() and not (directory / DIGESTS).is_file():  # a pipe would be waited for
        return f"{DIGESTS} is no regular file"
    try:
        known = json.loads((directory / DIGESTS).read_text(encoding="utf-8"))
        for name, (size, digest) in known.items():
            path = directory / name
            if not path.is_file():
                return f"{name} is missing"
            if path.stat().st_size != size:
                return f"{name} has {path.stat().st_size} bytes in place of {size}"
            if _digest(path)[1] != digest:
                return f"{name} is not as it was written (SHA-256)"
    except FileNotFoundError:
        return f"{DIGESTS} is missing"
    except (OSError, ValueError, TypeError, AttributeError) as error:
        return f"{DIGESTS} or a file that it names cannot be read ({error})"
    return "" if known else f"{DIGESTS} names no file"


def sync_directory(directory: Path) -> None:
    """Makes new names in `directory` last through a power cut."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _files(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if path.is_file() and path != directory / DIGESTS)


def _digest(path: Path) -> list[int | str]:
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        size = os.fstat(file.fileno()).st_size
        os.fsync(file.fileno())
    return [size, digest]
