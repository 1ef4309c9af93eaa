"""The base class of the dataset builders: encoded images with name, group and label, each decoded once.

TFDS imports TensorFlow when it builds. Reading (`mae_jax.data.prepared`) never does.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import UInt8

from mae_jax.data import jpeg
from mae_jax.data.checking import ReadError
from mae_jax.data.decode import decode
from mae_jax.data.sources import Source
from mae_jax.datasets import stain_normalization
from mae_jax.datasets.stain_normalization import Normalization, Unsuitable
from mae_jax.runtime import disk
from mae_jax.runtime.errors import UNUSABLE, UserError
from mae_jax.runtime.text import count

CHUNK = 256  # files read ahead of the writer

Example = dict[str, Any]
Cut = Callable[[str, bytes, UInt8[np.ndarray, "h w 3"]], Iterable[tuple[str, Example]]]


class LeftOut(Exception):
    """A file that is not part of the data set; the message is the reason."""


class _Examples(NamedTuple):
    """What one file becomes. `unchanged` has names and reasons of images whose stain could not be normalized."""

    examples: list[tuple[str, Example]]
    assumed: tuple[str, ...]
    unchanged: list[tuple[str, str]]


class ImageBuilder(tfds.core.GeneratorBasedBuilder):
    """Writes encoded images to ArrayRecord files, and lists the files that it leaves out.

    Files are written unchanged, unless `stain` normalizes them.
    """

    PUBLISHED: ClassVar[dict[str, dict[str, int]]] = {}  # published number of images of each split and class

    def __init__(self, *, file_format="array_record", **kwargs):
        super().__init__(file_format=file_format, **kwargs)
        self.left_out: dict[str, list[str]] = {}  # names of files by reason
        self.unnamed: Counter[str] = Counter()  # for each reason, the number of files that are not listed by name
        self.assumed: Counter[str] = Counter()  # number of images read with each assumption, see `decode.Picture`
        self.progress: Callable[[int, int], None] = lambda done, total: None  # called with (files read, all files)
        self.stain: Normalization | None = None  # of every image, see `stain_normalization`
        self._files, self._done = 0, 0

    def features(self, classes: tuple[str, ...] = (), more: dict[str, Any] | None = None) -> tfds.features.FeaturesDict:
        """The features of an example. `classes` are in the order of their numbers; () for unlabeled images."""
        label = {"label": tfds.features.ClassLabel(names=classes)} if classes else {}
        return tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(doc="the file's own bytes, or a tile or a normalized image as JPEG"),
                "name": tfds.features.Text(doc="path below the data set's folder"),
                "group": tfds.features.Text(doc="patient, slide or region, which splits keep together"),
            }
            | label
            | (more or {})
        )

    def examples(self, source: Source, cut: Cut | None = None) -> Iterator[tuple[str, Example]]:
        """Keys and examples of the files of `source`, each decoded in full.

        `cut(name, bytes, pixels)` returns the examples that a file is cut into, with encoded images or with pixels,
        which are encoded here; None: each file is one example. Files that cannot be decoded are left out. With
        `stain`, the target is drawn from the first `source`, which must be the training images. Raises UserError if no
        file can be used, and ReadError if the storage fails.
        """
        for reason, names in source.skipped_files.items():
            self.left_out.setdefault(reason, []).extend(names)
            self.unnamed[reason] += source.counts[reason] - len(names)
        self._files += len(source)
        if self.stain is not None and self.stain.target is None:
            self.stain.set_target(self._typical(source, cut))
        return self._examples(source, cut)

    def _examples(self, source: Source, cut: Cut | None) -> Iterator[tuple[str, Example]]:
        n_examples, numbers = 0, iter(range(len(source)))
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            while chunk := list(islice(numbers, CHUNK)):
                for i, part in zip(chunk, pool.map(lambda i: self._read(source, cut, i), chunk), strict=True):
                    if isinstance(part, LeftOut):
                        self.left_out.setdefault(str(part), []).append(source.names[i])
                    else:
                        self.assumed.update(part.assumed)
                        for name, reason in part.unchanged:
                            assert self.stain is not None
                            self.stain.unchanged.setdefault(reason, []).append(name)
                        n_examples += len(part.examples)
                        yield from part.examples
                    self._done += 1
                    self.progress(self._done, self._files)
        if not n_examples:
            raise UserError(
                f"--source: none of the {count(len(source), 'file')} can be used; the first is {source.names[0]}"
            )

    def _read(self, source: Source, cut: Cut | None, i: int) -> _Examples | LeftOut:
        """The examples of file `i`, or why it is left out. Raises ReadError if the storage fails."""
        name = source.names[i]
        if UNUSABLE.search(name):
            return LeftOut("unusable name")
        try:
            data = source.read(i)
            assert isinstance(data, bytes), "a source of files"
            picture = decode(data, name)
            if cut is None:
                label = {"label": int(source.labels[i])} if source.classes else {}
                example: Example = {"image": data, "name": name, "group": source.groups[i]} | label
                cut_examples = [(name, example)]
            else:
                cut_examples = list(cut(name, data, picture.pixels))
        except LeftOut as reason:
            return reason
        except ReadError:  # the disk failed, not the image
            raise
        except UserError as error:
            return LeftOut(getattr(error, "kind", "cannot be read"))
        unchanged = []
        for key, example in cut_examples:
            example["image"], reason = self._encoded(example["image"], data)
            if reason:
                unchanged.append((key, reason))
        return _Examples(cut_examples, picture.assumed, unchanged)

    def _encoded(self, image: bytes | UInt8[np.ndarray, "h w 3"], data: bytes) -> tuple[bytes, str]:
        """The image of an example as it is stored, and why its stain was not normalized, or "".

        `data` is the file that it comes from: a JPEG is as fine in chroma as that.
        """
        reason = ""
        if self.stain is not None and self.stain.target is not None:
            try:
                image = self.stain(decode(image).pixels if isinstance(image, bytes) else image)
            except Unsuitable as unsuitable:
                reason = str(unsuitable)
        if isinstance(image, bytes):
            return image, reason
        header = jpeg.read_header(data)
        return jpeg.encode(image, header is not None and header.halved), reason

    def _typical(self, source: Source, cut: Cut | None) -> stain_normalization.Target:
        """The image whose stain all others get: a typical one of those drawn from `source`, at most one a file."""
        rng = np.random.default_rng(stain_normalization.SEED)
        names, images = [], []
        for i in np.sort(rng.permutation(len(source))[: stain_normalization.SAMPLED]):
            part = self._read(source, cut, int(i))
            if not isinstance(part, LeftOut) and part.examples:
                name, example = part.examples[int(rng.integers(len(part.examples)))]
                names.append(name)
                images.append(decode(example["image"]).pixels)
        return stain_normalization.typical(names, images)

    def _generate_examples(self, **kwargs: Any) -> Any:
        raise NotImplementedError  # _split_generators returns the examples themselves


def root_of(dl_manager: tfds.download.DownloadManager, has: str = "") -> Path:
    """The folder with the files of the data set: TFDS's manual_dir, which is --source of `mae-jax prepare`.

    If it has no folder `has` but exactly one of its folders does, that one is returned: archives often add a level.
    """
    top = Path(dl_manager.manual_dir)
    below = [path for path in top.iterdir() if has and disk.is_dir(path / has)]
    return below[0] if len(below) == 1 and not disk.is_dir(top / has) else top
