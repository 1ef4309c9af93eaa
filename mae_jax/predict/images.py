"""Image sources for prediction: a folder, a table of paths, a prepared data set, or arrays in memory."""

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from mae_jax.data import checking, prepared, sources, tables
from mae_jax.data.checking import ReadError
from mae_jax.data.decode import load_image
from mae_jax.data.sources import Source
from mae_jax.runtime.disk import exists, is_dir, is_file
from mae_jax.runtime.errors import UserError
from mae_jax.runtime.files import other_format
from mae_jax.runtime.places import local

STOP, SKIP = "stop", "skip"
Images = str | os.PathLike | np.ndarray | Sequence[str | os.PathLike | np.ndarray]


def named(
    place: str, columns: str = "", field: str = "--images", directory: str | os.PathLike = "", bad_images: str = STOP
) -> Source:
    """The images in `place`: a folder (at any depth), a CSV or Parquet file, one image, or a prepared data set.

    `columns` names the path column of a table, as in "path=file", and `directory` the folder that its paths are below
    ("": the table's own). A prepared data set is NAME or NAME/SPLIT. No image is read. Raises UserError that names
    `field` if there are no images, and with `bad_images="stop"` if a file of the table is missing.
    """
    path = place_of(place, field)
    if directory and path.suffix.lower() not in tables.SUFFIXES:
        raise UserError(f"--dir={directory} is for a table of paths, but {field}={place} is not one; omit it")
    if is_dir(path):
        return sources.unlabeled_folder(path, field=field, check=False)
    if path.suffix.lower() in tables.SUFFIXES:
        folder, names = tables.read_paths(path, columns, field, directory)
        absent = tables.missing(folder, names)
        if absent and (bad_images == STOP or len(absent) == len(names)):
            command = field.startswith("--")
            advice = "set --dir to the folder that the paths are below" if command else "correct the paths"
            skip = "" if len(absent) == len(names) else f", or {field.partition('images')[0]}bad_images={SKIP}"
            raise UserError(f"{field}={place}: {tables.missing_in_words(absent, len(names), folder, advice)}{skip}")
        return _of_files(names, folder)
    if exists(path):
        if is_file(path) and (packed := other_format(path)):
            raise UserError(f"{field}={place} is {packed}")
        return _of_files([path.name], path.parent)
    name, _, split = place.partition("/")
    return prepared.of_splits(name, split, field=field)


def place_of(place: str, field: str = "--images") -> Path:
    """`place` with `~` expanded. Raises UserError that names `field` if it is neither there nor a prepared data set."""
    path = local(place, field)
    if not exists(path) and not prepared.known(place.partition("/")[0]):
        raise UserError(f"{field}={place} does not exist; name a folder of images, a CSV or Parquet file, or an image")
    return path


def given(images: Images) -> Source:
    """Images passed from Python: uint8 arrays (b h w 3, or a list of h w 3 of any size), a list of file names, or a
    single string or path as for `named`.

    Raises UserError for anything else.
    """
    if isinstance(images, str | os.PathLike):
        return named(os.fspath(images), field="images")
    if isinstance(images, np.ndarray) and images.ndim == 3:
        images = images[None]
    items = list(images)
    if items and all(isinstance(item, str | os.PathLike) for item in items):
        return _of_files([str(local(item, f"images: item {i}")) for i, item in enumerate(items)], Path())
    for i, item in enumerate(items):
        array = item if isinstance(item, np.ndarray) else None
        if array is None or array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or not array.size:
            what = type(item).__name__ if array is None else f"{array.dtype} of shape {array.shape}"
            raise UserError(
                f"images: item {i} is {what}; pass uint8 arrays of shape (height, width, 3) or file names, but not "
                f"both in one list"
            )
    return _source([f"image {i}" for i in range(len(items))], items.__getitem__)


def _of_files(names: Sequence[str], directory: Path) -> Source:
    root = os.fspath(directory)
    return _source(names, lambda i: checking.read_file(root, names, i))


def _source(names: Sequence[str], read: Callable[[int], bytes | np.ndarray]) -> Source:
    return Source(
        names=names,
        labels=np.full(len(names), -1, np.int32),
        groups=("",) * len(names),
        classes=(),
        fingerprint="",
        read=read,
    )


class Reader:
    """Decodes the images of a source lazily and records which ones cannot be read.

    With `bad_images="skip"`, `bad` maps the index of each skipped image to the reason, and a black pixel replaces it in
    the batch. With "stop", the first such image raises UserError. Storage errors always raise UserError.
    """

    def __init__(self, source: Source, bad_images: str = STOP, field: str = "--bad_images"):
        if bad_images not in (STOP, SKIP):
            raise UserError(f"{field}={bad_images!r} is not allowed; use '{STOP}' or '{SKIP}'")
        self.original, self.bad_images, self.field = source, bad_images, field
        self.bad: dict[int, str] = {}
        self.source = dataclasses.replace(source, read=self.read, digests=None, looks=None)

    def read(self, i: int) -> UInt8[np.ndarray, "h w 3"]:
        """The pixels of image `i`, or one black pixel if it is skipped. Raises UserError as the class describes."""
        name = self.original.names[i]
        try:
            image = self.original.read(i)
            return image if isinstance(image, np.ndarray) else load_image(image, name)
        except ReadError:
            raise
        except UserError as error:
            if self.bad_images == STOP:
                raise UserError(f"{error}; fix or remove this image, or set {self.field}={SKIP} to skip it") from None
            self.bad[i] = str(error)
            return np.zeros((1, 1, 3), np.uint8)
