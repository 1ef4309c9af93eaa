"""Checks whether a report is up to date: neither its inputs nor its files have changed."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mae_jax.rundir import contents, lock
from mae_jax.runtime import files
from mae_jax.runtime.disk import is_dir
from mae_jax.runtime.version import __version__

RECORD = "made_from.json"
NOT_READ = {"checkpoints", "best"}  # folders of a run directory that no report reads


def fingerprint(run_dirs: Sequence[Path], settings: dict[str, Any]) -> str:
    """A digest of `settings`, this code, and names, sizes and times of all files of the runs that a report may read.

    The pre-training directories of the runs count, too. Raises OSError.
    """
    places = {place.resolve() for place in run_dirs}
    for place in run_dirs:
        start = contents.read_object(place / contents.RUN).get("init_from")
        if isinstance(start, str) and start:  # in a moved study, the pre-training is next to the cells
            starts = Path(start), place.resolve().parent.parent / Path(start).name
            places |= {start.resolve() for start in starts if is_dir(start)}
    digest = hashlib.sha256(json.dumps([__version__, settings], sort_keys=True, default=str).encode())
    for place in [Path(__file__).parent, *sorted(places)]:
        for path in sorted(_files(place)):
            seen = path.stat()
            digest.update(f"{path}\0{seen.st_size}\0{seen.st_mtime_ns}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _files(place: Path) -> Iterator[Path]:
    for path in place.iterdir():
        if is_dir(path) and not path.is_symlink():
            if path.name not in NOT_READ and path.name != "__pycache__":
                yield from _files(path)
        elif path.name != lock.FILE and not path.name.startswith("events.out"):
            yield path


def keep(out: Path, inputs: str, paths: Sequence[Path], content: dict[str, Any]) -> None:
    """Records in `out` what its report was made from (`fingerprint`), its files `paths`, and `content` for `kept`."""
    sizes = {str(path.relative_to(out)): path.stat().st_size for path in paths}
    files.write(out / RECORD, json.dumps({"inputs": inputs, "files": sizes, "content": content}))


def kept(out: Path, inputs: str) -> dict[str, Any] | None:
    """The `content` of the report in `out` if it was made from `inputs` and all its files are there; else None."""
    try:
        record = contents.parse(out / RECORD)
        same = record["inputs"] == inputs and all(
            (out / name).stat().st_size == size for name, size in record["files"].items()
        )
        return record["content"] if same else None
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):  # another version's, or damaged
        return None
