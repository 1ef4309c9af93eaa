"""Writers for files of predictions and embeddings.

They write one batch at a time, so the results are never all in memory. A file gets its name once it is complete, so an
interrupted command leaves an earlier file unchanged.
"""

import contextlib
import csv
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float

from mae_jax.data.groups import TILE
from mae_jax.runtime.csv_cells import cell
from mae_jax.runtime.errors import UserError
from mae_jax.runtime.files import replacing, replacing_path

ROWS = 4096  # rows per Parquet row group


class Columns(Protocol):
    """Writes the next rows, given one sequence for each column."""

    def __call__(self, columns: Sequence[Sequence[Any] | np.ndarray]) -> None: ...


def kind_of(path: Path, allowed: Sequence[str], option: str = "--out") -> str:
    """The extension of `path`, in lower case. Raises UserError if it is not `allowed`, or h5py is missing for .h5."""
    kind = path.suffix.lower()
    if kind not in allowed:
        raise UserError(f"{option}={path} is not allowed; name a file ending in {' or '.join(allowed)}")
    if kind == ".h5":
        _h5py(path)
    return kind


@contextlib.contextmanager
def table(path: Path, names: Sequence[str], texts: Sequence[str], widths: dict[str, int]) -> Iterator[Columns]:
    """A CSV or Parquet file with the columns `names`. Those in `texts` hold text, the others numbers.

    A column in `widths` holds that many numbers per row: a list in Parquet, columns NAME_0, NAME_1, ... in CSV. Raises
    OSError if the file cannot be written.
    """
    make = _parquet if path.suffix.lower() == ".parquet" else _csv
    with make(path, names, texts, widths) as write:
        yield write


@contextlib.contextmanager
def _csv(path: Path, names: Sequence[str], texts: Sequence[str], widths: dict[str, int]) -> Iterator[Columns]:
    with replacing(path) as file:
        rows = csv.writer(file)
        header = [[f"{name}_{i}" for i in range(widths[name])] if name in widths else [name] for name in names]
        rows.writerow([column for part in header for column in part])

        def write(columns: Sequence[Sequence[Any] | np.ndarray]) -> None:
            for values in zip(*columns, strict=True):
                row: list[object] = []
                for name, value in zip(names, values, strict=True):
                    if name in texts:
                        row.append(cell(value))
                    else:
                        row += [f"{v:.9g}" for v in np.atleast_1d(value)]
                rows.writerow(row)

        yield write


@contextlib.contextmanager
def _parquet(path: Path, names: Sequence[str], texts: Sequence[str], widths: dict[str, int]) -> Iterator[Columns]:
    import pyarrow
    from pyarrow import parquet

    waiting: list[Sequence[Sequence[Any] | np.ndarray]] = []

    def array(name: str, parts: Sequence[Any]) -> Any:
        if name in texts:
            return pyarrow.array([str(value) for part in parts for value in part], pyarrow.string())
        values = np.concatenate([np.asarray(part) for part in parts])
        if name in widths:
            return pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(values.ravel()), widths[name])
        return pyarrow.array(values)

    with replacing(path, binary=True) as file, contextlib.ExitStack() as stack:
        writer = None

        def flush() -> None:
            nonlocal writer
            parts = list(zip(*waiting, strict=True)) if waiting else [[] for _ in names]
            waiting.clear()
            rows = pyarrow.table({name: array(name, part) for name, part in zip(names, parts, strict=True)})
            if writer is None:
                writer = stack.enter_context(parquet.ParquetWriter(file, rows.schema))
            writer.write_table(rows)

        def write(columns: Sequence[Sequence[Any] | np.ndarray]) -> None:
            waiting.append(columns)
            if sum(len(part[0]) for part in waiting) >= ROWS:
                flush()

        yield write
        if waiting:
            flush()
        stack.close()  # write the footer before the file gets its name


class Vectors(Protocol):
    """Writes the next embeddings with the names of their images."""

    def __call__(self, names: Sequence[str], features: Float[np.ndarray, "b d"], /) -> None: ...


@contextlib.contextmanager
def vectors(path: Path, width: int) -> Iterator[Vectors]:
    """An .npz, .h5 or .parquet file of embeddings of `width` features.

    .npz files hold `features` (n d) float32 and `names`. If every name contains a tile's position, they also hold
    `coords` (n 2) int64, x and y in pixels of the scan. .h5 files hold the same as data sets that TRIDENT and CLAM can
    read. .parquet files have the columns name and embedding. Raises OSError if the file cannot be written.
    """
    make = {".npz": _npz, ".h5": _hdf5, ".parquet": _vectors_parquet}[path.suffix.lower()]
    with make(path, width) as write:
        yield write


@contextlib.contextmanager
def _vectors_parquet(path: Path, width: int) -> Iterator[Vectors]:
    with table(path, ("name", "embedding"), ("name",), {"embedding": width}) as write:
        yield lambda names, features: write((names, features))


@contextlib.contextmanager
def _npz(path: Path, width: int) -> Iterator[Vectors]:
    names: list[str] = []
    with tempfile.TemporaryFile(dir=path.parent) as raw, replacing(path, binary=True) as file:

        def write(more: Sequence[str], features: Float[np.ndarray, "b d"]) -> None:
            names.extend(more)
            raw.write(np.ascontiguousarray(features, np.float32).tobytes())

        yield write
        raw.seek(0)
        with zipfile.ZipFile(file, "w") as archive:
            with archive.open("features.npy", "w", force_zip64=True) as entry:
                about = {"descr": "<f4", "fortran_order": False, "shape": (len(names), width)}
                np.lib.format.write_array_header_1_0(entry, about)
                while part := raw.read(2**22):
                    entry.write(part)
            places = coordinates(names)
            for name, array in (("names", np.asarray(names, str)), ("coords", places)):
                if array is not None:
                    with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                        np.lib.format.write_array(entry, array, allow_pickle=False)


@contextlib.contextmanager
def _hdf5(path: Path, width: int) -> Iterator[Vectors]:
    h5py = _h5py(path)
    names: list[str] = []
    with replacing_path(path) as partial, h5py.File(partial, "w") as archive:
        features = archive.create_dataset("features", (0, width), np.float32, maxshape=(None, width), chunks=True)

        def write(more: Sequence[str], new: Float[np.ndarray, "b d"]) -> None:
            names.extend(more)
            features.resize(len(names), 0)
            features[len(names) - len(new) :] = new

        yield write
        archive.create_dataset("names", data=names, dtype=h5py.string_dtype())
        places = coordinates(names)
        if places is not None:
            archive.create_dataset("coords", data=places)


def coordinates(names: Sequence[str]) -> np.ndarray | None:
    """x and y of tiles (n 2), int64, in pixels of the scan, from their names. None if any name has no position."""
    matches = [TILE.search(name) for name in names]
    if not names or not all(matches):
        return None
    return np.asarray([[int(match[1]), int(match[2])] for match in matches if match], np.int64)


def slides(names: Sequence[str]) -> set[str]:
    """The slides of tiles: their names before the position. Empty if any name has no position."""
    matches = [TILE.search(name) for name in names]
    if not all(matches):
        return set()
    return {match.string[: match.start()].strip("/") for match in matches if match}


def _h5py(path: Path) -> Any:
    try:
        import h5py
    except ImportError:
        raise UserError(
            f"--out={path} needs the package h5py; install it with pip install h5py, or name an .npz or .parquet file"
        ) from None
    return h5py
