"""What the dataset builders share: encoded images with their name, group and label, each decoded once.

TFDS imports TensorFlow when it builds. Reading (`mae_jax.data.prepared`) never does.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import ClassVar

import tensorflow_datasets as tfds

from mae_jax.data.checking import ReadError
from mae_jax.data.decode import load_image
from mae_jax.data.sources import Source
from mae_jax.runtime.errors import UNUSABLE, UserError

CHUNK = 256  # files read ahead of the writer

Example = dict
Cut = Callable[[str, bytes], Iterable[tuple[str, Example]]]


class LeftOut(Exception):
    """A file that is no part of the data set; the message is the reason."""


class ImageBuilder(tfds.core.GeneratorBasedBuilder):
    """Writes encoded images as they are, in ArrayRecord files, and keeps a list of what it left out."""

    PUBLISHED: ClassVar[dict[str, dict[str, int]]] = {}  # images of each split and class, where known

    def __init__(self, *, file_format="array_record", **kwargs):
        super().__init__(file_format=file_format, **kwargs)
        self.left_out: dict[str, list[str]] = {}  # names of files by reason
        self.unnamed: Counter[str] = Counter()  # how many more there are for a reason
        self.progress: Callable[[int, int], None] = lambda done, total: None  # files read, files in all
        self._files, self._read = 0, 0

    def features(self, classes: tuple[str, ...] = (), **more) -> tfds.features.FeaturesDict:
        """`classes` in the order of their numbers; none for unlabelled images."""
        label = {"label": tfds.features.ClassLabel(names=classes)} if classes else {}
        return tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(doc="the file's own bytes, or the tile as JPEG"),
                "name": tfds.features.Text(doc="path below the data set's folder"),
                "group": tfds.features.Text(doc="what must not straddle a split"),
            }
            | label
            | more
        )

    def examples(self, source: Source, cut: Cut | None = None) -> Iterator[tuple[str, Example]]:
        """Keys and examples of the files of `source`, each decoded in full before it is taken.

        `cut(name, bytes)` gives the examples that a file is cut into; without, the file is the example.
        Files that cannot be decoded are left out. Raises UserError where none is left.
        """
        for reason, names in source.passed_over.items():
            self.left_out.setdefault(reason, []).extend(names)
            self.unnamed[reason] += source.counts[reason] - len(names)
        self._files += len(source)
        return self._examples(source, cut)

    def _examples(self, source: Source, cut: Cut | None) -> Iterator[tuple[str, Example]]:
        def read(i: int) -> list[tuple[str, Example]] | LeftOut:
            name = source.names[i]
            if UNUSABLE.search(name):
                return LeftOut("unusable name")
            try:
                data = source.read(i)
                if cut is not None:
                    return list(cut(name, data))
                load_image(data, name)
            except LeftOut as reason:
                return reason
            except ReadError:  # the disk failed, not the image
                raise
            except UserError as error:
                return LeftOut(getattr(error, "kind", "cannot be read"))
            example = {"image": data, "name": name, "group": source.groups[i]}
            return [(name, example | ({"label": int(source.labels[i])} if source.classes else {}))]

        found, numbers = 0, iter(range(len(source)))
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            while chunk := list(islice(numbers, CHUNK)):
                for i, made in zip(chunk, pool.map(read, chunk), strict=True):
                    if isinstance(made, LeftOut):
                        self.left_out.setdefault(str(made), []).append(source.names[i])
                    else:
                        found += len(made)
                        yield from made
                    self._read += 1
                    self.progress(self._read, self._files)
        if not found:
            raise UserError(f"--source: none of the {len(source)} files is of use; the first is {source.names[0]}")

    def _generate_examples(self):
        raise NotImplementedError  # _split_generators gives the examples themselves


def root_of(dl_manager: tfds.download.DownloadManager, has: str = "") -> Path:
    """The folder with the data set's files: TFDS's manual_dir, prepare_data's --source.

    Where it has no folder `has` but one of its folders does, that one: archives add a level of their own.
    """
    top = Path(dl_manager.manual_dir)
    below = [path for path in top.iterdir() if has and (path / has).is_dir()]
    return below[0] if len(below) == 1 and not (top / has).is_dir() else top
