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
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import UInt8

from mae_jax.data.checking import ReadError
from mae_jax.data.decode import decode
from mae_jax.data.sources import Source
from mae_jax.runtime import disk
from mae_jax.runtime.errors import UNUSABLE, UserError
from mae_jax.runtime.text import count

CHUNK = 256  # files read ahead of the writer

Example = dict[str, Any]
Cut = Callable[[str, bytes, UInt8[np.ndarray, "h w 3"]], Iterable[tuple[str, Example]]]


class LeftOut(Exception):
    """A file that is not part of the data set; the message is the reason."""


class ImageBuilder(tfds.core.GeneratorBasedBuilder):
    """Writes encoded images unchanged to ArrayRecord files, and lists the files that it leaves out."""

    PUBLISHED: ClassVar[dict[str, dict[str, int]]] = {}  # published number of images of each split and class

    def __init__(self, *, file_format="array_record", **kwargs):
        super().__init__(file_format=file_format, **kwargs)
        self.left_out: dict[str, list[str]] = {}  # names of files by reason
        self.unnamed: Counter[str] = Counter()  # for each reason, the number of files that are not listed by name
        self.assumed: Counter[str] = Counter()  # number of images read with each assumption, see `decode.Picture`
        self.progress: Callable[[int, int], None] = lambda done, total: None  # called with (files read, all files)
        self._files, self._read = 0, 0

    def features(self, classes: tuple[str, ...] = (), more: dict[str, Any] | None = None) -> tfds.features.FeaturesDict:
        """The features of an example. `classes` are in the order of their numbers; () for unlabeled images."""
        label = {"label": tfds.features.ClassLabel(names=classes)} if classes else {}
        return tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(doc="the file's own bytes, or the tile as JPEG"),
                "name": tfds.features.Text(doc="path below the data set's folder"),
                "group": tfds.features.Text(doc="patient, slide or region, which splits keep together"),
            }
            | label
            | (more or {})
        )

    def examples(self, source: Source, cut: Cut | None = None) -> Iterator[tuple[str, Example]]:
        """Keys and examples of the files of `source`, each decoded in full.

        `cut(name, bytes, pixels)` returns the examples that a file is cut into; None: each file is one example.
        Files that cannot be decoded are left out. Raises UserError if no file can be used, and ReadError if the
        storage fails.
        """
        for reason, names in source.skipped_files.items():
            self.left_out.setdefault(reason, []).extend(names)
            self.unnamed[reason] += source.counts[reason] - len(names)
        self._files += len(source)
        return self._examples(source, cut)

    def _examples(self, source: Source, cut: Cut | None) -> Iterator[tuple[str, Example]]:
        def read(i: int) -> tuple[list[tuple[str, Example]] | LeftOut, tuple[str, ...]]:
            name = source.names[i]
            if UNUSABLE.search(name):
                return LeftOut("unusable name"), ()
            try:
                data = source.read(i)
                assert isinstance(data, bytes), "a source of files"
                picture = decode(data, name)
                if cut is not None:
                    return list(cut(name, data, picture.pixels)), picture.assumed
            except LeftOut as reason:
                return reason, ()
            except ReadError:  # the disk failed, not the image
                raise
            except UserError as error:
                return LeftOut(getattr(error, "kind", "cannot be read")), ()
            example: Example = {"image": data, "name": name, "group": source.groups[i]}
            if source.classes:
                example["label"] = int(source.labels[i])
            return [(name, example)], picture.assumed

        n_examples, numbers = 0, iter(range(len(source)))
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            while chunk := list(islice(numbers, CHUNK)):
                for i, (examples, assumed) in zip(chunk, pool.map(read, chunk), strict=True):
                    self.assumed.update(assumed)
                    if isinstance(examples, LeftOut):
                        self.left_out.setdefault(str(examples), []).append(source.names[i])
                    else:
                        n_examples += len(examples)
                        yield from examples
                    self._read += 1
                    self.progress(self._read, self._files)
        if not n_examples:
            raise UserError(
                f"--source: none of the {count(len(source), 'file')} can be used; the first is {source.names[0]}"
            )

    def _generate_examples(self, **kwargs: Any) -> Any:
        raise NotImplementedError  # _split_generators returns the examples themselves


def root_of(dl_manager: tfds.download.DownloadManager, has: str = "") -> Path:
    """The folder with the files of the data set: TFDS's manual_dir, which is --source of `mae-jax prepare`.

    If it has no folder `has` but exactly one of its folders does, that one is returned: archives often add a level.
    """
    top = Path(dl_manager.manual_dir)
    below = [path for path in top.iterdir() if has and disk.is_dir(path / has)]
    return below[0] if len(below) == 1 and not disk.is_dir(top / has) else top
