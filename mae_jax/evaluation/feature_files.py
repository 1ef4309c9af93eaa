"""Features of images from files: .npz, HDF5 and Parquet files of any software, joined to images by name."""

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from mae_jax.config.fields import FEATURE_FILES
from mae_jax.data.groups import TILE
from mae_jax.data.sources import Source
from mae_jax.runtime import disk, files
from mae_jax.runtime.errors import UserError
from mae_jax.runtime.text import count, shortened

FEATURES = ("features", "embedding", "embeddings", "feature")  # names of the array or column, the most likely first
NAMES = ("names", "name", "images", "image", "paths", "path", "filenames", "filename", "files", "file")


@dataclasses.dataclass(frozen=True)
class FeatureFile:
    """Features (n d), float32, and the name of the image of each row. Names may repeat; `joined` refuses that."""

    place: str  # file or folder
    names: tuple[str, ...]
    features: Float[np.ndarray, "n d"]
    of_tiles: bool = False  # names are made from coordinates, as in TRIDENT's files

    @property
    def digest(self) -> str:
        """SHA-256 of names and features."""
        summary = hashlib.sha256("\n".join(self.names).encode())
        summary.update(np.ascontiguousarray(self.features).tobytes())
        return summary.hexdigest()


def check(place: str | Path, field: str) -> list[Path]:
    """The files in `place`, one file or a folder of files. Raises UserError that names `field` if there is none."""
    path = Path(place)
    files = [path] if disk.is_file(path) else []
    if disk.is_dir(path):
        files = sorted(each for each in disk.entries(path) if each.suffix.lower() in FEATURE_FILES)
    if not files or any(each.suffix.lower() not in FEATURE_FILES for each in files):
        what = (
            "does not exist" if not disk.exists(path) else "has no features" if disk.is_dir(path) else "is not allowed"
        )
        raise UserError(
            f"{field}={place} {what}; name a file ending in {', '.join(FEATURE_FILES)}, or a folder of such files"
        )
    return files


def read(place: str | Path, field: str) -> FeatureFile:
    """Reads the features in a file, or in all files of a folder.

    .npz files have the arrays `features` (n d) and `names` (n). HDF5 files have the same data sets, or as TRIDENT
    writes them `features` and `coords` (n 2) of the slide that the file is named after. Parquet files have a column
    name and a column embedding of lists. Raises UserError that names `field` and the file if it cannot be read, or
    holds values that are not finite.
    """
    parts = [_one(path, field) for path in check(place, field)]
    widths = {part.features.shape[1] for part in parts}
    if len(widths) > 1 or len({part.of_tiles for part in parts}) > 1:
        raise UserError(
            f"{field}={place} has files of different kinds (widths {', '.join(map(str, sorted(widths)))}); keep the "
            f"files of one encoder in one folder"
        )
    names = tuple(name for part in parts for name in part.names)
    return FeatureFile(str(place), names, np.concatenate([part.features for part in parts]), parts[0].of_tiles)


def _one(path: Path, field: str) -> FeatureFile:
    kind = path.suffix.lower()
    reader = _npz if kind == ".npz" else _parquet if kind in (".parquet", ".pq") else _hdf5
    names, features, of_tiles = reader(path, f"{field}={path}")
    if features.ndim == 3 and features.shape[0] == 1:
        features = features[0]
    numbers = features.ndim == 2 and features.dtype.kind in "fiu"
    if not numbers or not features.size or len(features) != len(names):
        raise UserError(
            f"{field}={path}: features have shape {features.shape} and type {features.dtype} for "
            f"{count(len(names), 'name')}; one row of numbers for each name is needed"
        )
    features = np.ascontiguousarray(features, np.float32)
    if not np.isfinite(features).all():
        row = int(np.flatnonzero(~np.isfinite(features).all(1))[0])
        raise UserError(f"{field}={path}: the features of {names[row]} are not finite; compute them again")
    return FeatureFile(str(path), tuple(names), features, of_tiles)


def _needs(where: str, keys: Sequence[str], what: str, possible: Sequence[str]) -> str:
    """The first of the names in `possible` that a file has. Raises UserError that lists what it has."""
    key = next((name for name in possible if name in keys), None)
    if key is None:
        has = ", ".join(keys) or "nothing"
        raise UserError(f"{where} has {has}, but no {what}; name it {possible[0]}")
    return key


def _npz(path: Path, where: str) -> tuple[list[str], np.ndarray, bool]:
    try:
        arrays = files.load_arrays(path)
    except ValueError as error:
        raise UserError(f"{where} is not an .npz file that can be read ({error}); write it again") from None
    features, names = (_needs(where, list(arrays), *need) for need in (("features", FEATURES), ("names", NAMES)))
    return [str(name) for name in _texts(arrays[names])], arrays[features], False


def _texts(values: Any) -> list[str]:
    return [value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value) for value in values]


def _hdf5(path: Path, where: str) -> tuple[list[str], np.ndarray, bool]:
    try:
        import h5py
    except ImportError:
        raise UserError(f"{where} needs the package h5py; install it with pip install h5py") from None
    try:
        with h5py.File(path, "r") as archive:
            arrays = {str(key): value for key, value in archive.items() if isinstance(value, h5py.Dataset)}
            features = np.asarray(arrays[_needs(where, list(arrays), "features", FEATURES)])
            key = next((name for name in NAMES if name in arrays), None)
            if key is not None:
                return _texts(arrays[key][:]), features, False
            coords = np.asarray(arrays[_needs(where, list(arrays), "names or coords", ("names", "coords"))])
    except (OSError, RuntimeError, ValueError) as error:
        if isinstance(error, OSError) and error.errno:
            raise
        raise UserError(f"{where} is not an HDF5 file that can be read ({disk.first_line(error)})") from None
    coords = coords.reshape(-1, coords.shape[-1]) if coords.ndim else coords.reshape(0, 0)
    if coords.shape[1:] != (2,) or coords.dtype.kind not in "iuf":
        raise UserError(f"{where}: coords have shape {coords.shape}; x and y of each tile are needed")
    return [f"{path.stem}/x{int(x):06}_y{int(y):06}.jpg" for x, y in coords], features, True


def _parquet(path: Path, where: str) -> tuple[list[str], np.ndarray, bool]:
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.read_table(path)
        names = table.column(_needs(where, table.column_names, "names", ("name", *NAMES))).to_pylist()
        column = table.column(_needs(where, table.column_names, "features", ("embedding", *FEATURES))).combine_chunks()
        lists = column.flatten() if hasattr(column, "flatten") else column
        values = np.asarray(lists.to_numpy(zero_copy_only=False))
    except (pyarrow.ArrowException, ValueError) as error:
        raise UserError(f"{where} is not a Parquet file that can be read ({disk.first_line(error)})") from None
    if not names or values.dtype.kind not in "fiu" or len(values) % len(names):
        raise UserError(f"{where}: the lists of features have different lengths or no numbers; write equal lengths")
    return _texts(names), values.reshape(len(names), -1), False


class Joined:
    """The features of a file for the images of some sources."""

    def __init__(self, file: FeatureFile, rows: dict[str, Int[np.ndarray, " _"]]):
        """`rows` has, for each source's fingerprint, the row of the file for each of its images."""
        self.digest, self.width = file.digest, file.features.shape[1]
        self._features, self._rows = file.features, rows

    def of(self, source: Source, indices: Int[np.ndarray, " n"]) -> Float[np.ndarray, "n d"]:
        """Features of the images `indices` of one of the sources, in this order."""
        return self._features[self._rows[source.fingerprint][indices]]


def joined(file: FeatureFile, sources: Sequence[Source], field: str) -> Joined:
    """Finds the row of each image of the `sources` by its name.

    A name is that of the image in its source, such as Train/Basophil/7.png. If no name of the file is one of these, the
    file names alone are compared, then the file names without their ending. Tiles of TRIDENT's files are compared by
    slide and position. Raises UserError that names `field` for images without features, names of the file that are no
    image, and names that occur twice, each with their number and the first of them.
    """
    key = _key_of(file, sources)
    images = [key(name) for source in sources for name in source.names]
    shown = [name for source in sources for name in source.names]
    given = [key(name) for name in file.names]
    where = f"{field}={file.place}"
    _refuse_twice(where, given, file.names, "names", "keep one row for each image")
    _refuse_twice(where, images, shown, "images of the data have names that are equal here", "use full names")
    row = {name: i for i, name in enumerate(given)}
    missing = [name for name, image in zip(shown, images, strict=True) if image not in row]
    if missing:
        raise UserError(
            f"{where} has no features of {len(missing)} of {count(len(images), 'image')}: {shortened(missing)}; its "
            f"names are such as {file.names[0]}: add these images, or write the names as they are here"
        )
    known = set(images)
    surplus = [name for name, image in zip(file.names, given, strict=True) if image not in known]
    if surplus:
        raise UserError(
            f"{where} has features of {count(len(surplus), 'image')} that the data do not have: {shortened(surplus)}; "
            f"remove these rows, so that nothing is compared by mistake"
        )
    rows, start = {}, 0
    for source in sources:
        part = images[start : start + len(source)]
        rows[source.fingerprint] = np.asarray([row[image] for image in part], int)
        start += len(source)
    return Joined(file, rows)


def _key_of(file: FeatureFile, sources: Sequence[Source]) -> Callable[[str], str]:
    """How names are compared: as they are, or without folders, or also without ending; tiles by slide and position."""
    if file.of_tiles:
        return _tile
    ways: tuple[Callable[[str], str], ...] = (str, lambda name: _path(name).name, lambda name: _path(name).stem)
    images = [name for source in sources for name in source.names]
    for way in ways:
        if {way(name) for name in file.names} & {way(name) for name in images}:
            return way
    return ways[0]


def _path(name: str) -> PurePosixPath:
    return PurePosixPath(name.replace("\\", "/"))


def _tile(name: str) -> str:
    """Slide and position of a tile; a name without a position stays as it is."""
    match = TILE.search(name)
    return f"{_path(name[: match.start()]).name} {int(match[1])} {int(match[2])}" if match else name


def _refuse_twice(where: str, keys: Sequence[str], names: Sequence[str], what: str, advice: str) -> None:
    counts = Counter(keys)
    if len(counts) == len(keys):
        return
    twice = list(dict.fromkeys(name for name, key in zip(names, keys, strict=True) if counts[key] > 1))
    number = sum(n > 1 for n in counts.values())
    raise UserError(f"{where}: {number} {what} occur more than once: {shortened(twice)}; {advice}")
