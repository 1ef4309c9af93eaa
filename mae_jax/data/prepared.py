"""Prepared data sets: ArrayRecord files that `mae-jax prepare` wrote, read by random access through TFDS.

An index next to the files lists the images, so that opening a data set reads none of them.
TensorFlow is not imported here; only building needs it.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, overload

import numpy as np
from jaxtyping import Int8, Int32, Int64, UInt8, UInt64

from mae_jax.data import groups as grouping
from mae_jax.data.checking import digest
from mae_jax.data.groups import Groups
from mae_jax.data.looks import look, size_of
from mae_jax.data.sources import Source
from mae_jax.rundir import contents
from mae_jax.runtime import disk, files
from mae_jax.runtime.disk import entries, exists, is_file
from mae_jax.runtime.errors import UserError, printable
from mae_jax.runtime.places import local
from mae_jax.runtime.text import count

WHERE = {  # where the published files are
    "raabin_wbc": "Train.rar, TestA.rar and TestB.zip of 'double labeled cropped cells', "
    "https://raabindata.com/free-data/",
    "cam16": "tiles of CAMELYON16 (https://camelyon16.grand-challenge.org) as train|val|test/data/normal|tumor/*.jpg",
    "prcc": "1.zip and 2.zip of https://dataset.chenli.group/home/prcc-subtyping",
    "tiles": "a folder of whole slides of your own",
}
DEFAULT_CONFIG = {"prcc": "tile500", "tiles": ""}  # of data sets with configs; "": you must name one
FROM_NAMES = ("raabin_wbc", "cam16")  # data sets whose file names contain the groups
KINDS = {"prcc": "region", "tiles": "slide"}  # kinds of the stored groups of the other data sets
FIELD = "data.source"
ABOUT = "prepared.json"  # facts about a data set, in its folder
CHUNK = 256  # number of images in memory while an index is made


class Texts(Sequence[str]):
    """A sequence of strings without line breaks, stored as one block of UTF-8 in less than half the memory."""

    def __init__(self, block: UInt8[np.ndarray, " bytes"]):
        self.block = block
        self.ends = np.append((block == ord("\n")).nonzero()[0], len(block))

    @classmethod
    def of(cls, texts: Iterable[str]) -> Texts:
        return cls(np.frombuffer("\n".join(texts).encode(), np.uint8))

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, i: int) -> str: ...
    @overload
    def __getitem__(self, i: slice) -> list[str]: ...
    def __getitem__(self, i: int | slice) -> str | list[str]:
        if isinstance(i, slice):
            return [self[j] for j in range(*i.indices(len(self)))]
        start = self.ends[i - 1] + 1 if i % len(self.ends) else 0
        return self.block[start : self.ends[i]].tobytes().decode()


@dataclass(frozen=True)
class Index:
    """The images of one split, sorted by name."""

    record: Int64[np.ndarray, " n"]  # number of each image in the ArrayRecord files
    names: Sequence[str]
    groups: Sequence[str]
    label: Int32[np.ndarray, " n"]
    digest: UInt64[np.ndarray, " n"]  # of the image's bytes, see `checking.digest`
    look: Int8[np.ndarray, "n pixels"]  # perceptual hash
    size: Int32[np.ndarray, "n 2"] | None = None  # height and width in pixels; None: an earlier version's index

    def save(self, path: Path) -> None:
        """Writes an .npz file; lists of strings are one block of UTF-8."""
        arrays = {}
        for f in fields(self):
            value = getattr(self, f.name)
            if value is None:
                continue
            if not isinstance(value, np.ndarray):
                value = np.frombuffer("\n".join(printable(text, keep="") for text in value).encode(), "u1")
            arrays[f.name] = value
        files.save_arrays(path, arrays)

    @classmethod
    def load(cls, path: Path, looks: bool = True) -> Index:
        """Reads what `save` wrote; `looks`: with perceptual hashes. Raises UserError if it is damaged, and OSError."""
        try:
            saved = files.load_arrays(path, () if looks else ("look",))
            wanted = [f.name for f in fields(cls) if looks or f.name != "look"]
            arrays: dict[str, Any] = {name: saved[name] for name in wanted if name != "size" or name in saved}
            arrays.setdefault("look", np.empty((len(arrays["record"]), 0), np.int8))
            names, groups = Texts(arrays["names"]), Texts(arrays["groups"])
            names.block.tobytes().decode()  # fails here rather than at a later name
            once: dict[str, str] = {}  # the images of a group share one string
            strings = {"names": names, "groups": tuple(once.setdefault(group, group) for group in groups)}
            index = cls(**(arrays | strings))
            if len({len(getattr(index, name)) for name in (*arrays, "names", "groups")}) != 1:
                raise ValueError("its arrays have different lengths")
        except Exception as error:  # zipfile and NumPy raise almost anything
            if fault := disk.failure(error):
                raise fault from None
            raise UserError(
                f"{path} cannot be read ({error}); remove its folder and prepare the data set again"
            ) from None
        return index


def make_index(examples: Iterable[dict]) -> Index:
    """Makes the index from all examples of a split, in the order of their records. Decodes each image."""

    def row(e: dict) -> tuple:
        name, group = (e[key].decode(errors="backslashreplace") for key in ("name", "group"))
        data = e["image"]
        return name, group, int(e.get("label", -1)), digest(data), look(data, name), size_of(data, name)

    rows: list[tuple] = []
    numbers = iter(examples)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        while chunk := list(islice(numbers, CHUNK)):  # not all images in memory
            rows += pool.map(row, chunk)
    order = sorted(range(len(rows)), key=lambda i: rows[i][0])
    names, groups, labels, digests, looks, sizes = zip(*(rows[i] for i in order), strict=True)
    return Index(
        record=np.asarray(order, np.int64),
        names=names,
        groups=groups,
        label=np.asarray(labels, np.int32),
        digest=np.asarray(digests, np.uint64),
        look=np.stack(looks),
        size=np.asarray(sizes, np.int32),
    )


def index_path(directory: Path, split: str) -> Path:
    """The path of the index of a split in the `directory` of a version."""
    return directory / f"index-{split}.npz"


def root(directory: str | os.PathLike = "") -> Path:
    """The folder of prepared data sets: `directory`, else $TFDS_DATA_DIR, else ~/tensorflow_datasets.

    Raises UserError where that cannot be a local directory, or no home directory is known.
    """
    if directory:
        return local(directory, "data.prepared_dir")
    if given := os.environ.get("TFDS_DATA_DIR"):
        return local(given, "TFDS_DATA_DIR")
    try:
        return Path("~/tensorflow_datasets").expanduser()
    except RuntimeError:
        raise UserError(
            "prepared data sets are expected in ~/tensorflow_datasets, and no home directory is known here; set "
            "TFDS_DATA_DIR or data.prepared_dir"
        ) from None


def known(name: str) -> bool:
    """Whether this is the name of a data set that can be prepared, with or without ":CONFIG"."""
    return name.partition(":")[0] in WHERE


def names() -> list[str]:
    """The names of the data sets that can be prepared. A name that needs a ":CONFIG" ends in ":NAME"."""
    return [name if DEFAULT_CONFIG.get(name, name) else f"{name}:NAME" for name in WHERE]


def tfds_name(name: str) -> str:
    """TFDS's name: prcc -> prcc/tile500, raabin_wbc -> raabin_wbc. Raises UserError if the part after ":" is wrong."""
    dataset, colon, config = name.partition(":")
    config = config if colon else DEFAULT_CONFIG.get(dataset, "")
    if bool(config) != (dataset in DEFAULT_CONFIG) or (config and not re.fullmatch(r"[\w.-]+", config)):
        allowed = f"{dataset}:NAME" if dataset in DEFAULT_CONFIG else dataset
        raise UserError(f"{FIELD}={name} is not a data set that can be prepared; use {allowed}")
    return f"{dataset}/{config}" if config else dataset


def versions(name: str, directory: str | os.PathLike = "") -> list[Path]:
    """The directories of a data set's finished versions, the newest last."""
    top = root(directory) / tfds_name(name)
    paths = [
        path
        for path in entries(top)
        if re.fullmatch(r"\d+\.\d+\.\d+", path.name) and exists(path / "dataset_info.json")
    ]
    return sorted(paths, key=lambda path: [int(part) for part in path.name.split(".")])


def locate(name: str, directory: str | os.PathLike = "") -> Path:
    """The directory of the newest version. Raises UserError that says how to prepare the data set if there is none."""
    if paths := versions(name, directory):
        return paths[-1]
    dataset = name.partition(":")[0]
    where = f" --data_dir {directory}" if directory else ""
    raise UserError(
        f"{FIELD}={name} is not prepared in {root(directory)}: get it ({WHERE[dataset]}) and run "
        f"mae-jax prepare {name} --source DIR{where}"
    )


def stain_of(place: Path) -> dict[str, Any]:
    """The stain normalization of the data set in `place`, as `mae-jax prepare` recorded it; {} for none."""
    saved = contents.peek_object(place / ABOUT).get("stain")
    return saved if isinstance(saved, dict) else {}


def stain_in_words(stain: dict[str, Any]) -> str:
    """A phrase for what `stain_of` returns; "" for none."""
    if not stain:
        return ""
    drawn = stain.get("target_drawn_from")
    source = f", typical of {count(drawn, 'training image')}" if drawn else ""
    return f"normalized by {stain.get('method')} to {stain.get('target')}{source}"


def open_split(name: str, split: str, directory: str | os.PathLike = "", raw: bool = False) -> Any:
    """TFDS's data source of one split: examples by record number, with encoded images; `raw`: undecoded records."""
    import tensorflow_datasets as tfds

    what: dict[str, Any] = {"split": split, "data_dir": root(directory)}
    if raw:
        return tfds.data_source(tfds_name(name), **what, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES)
    return tfds.data_source(tfds_name(name), **what, decoders={"image": tfds.decode.SkipDecoding()})


def labeled(
    name: str,
    split: str,
    directory: str | os.PathLike = "",
    *,
    classes: Sequence[str] | None = None,
    field: str = "data.train_split",
) -> Source:
    """One split with its labels.

    Raises UserError for a data set that is not prepared, or has no such split or no labels. Unless `classes` are
    given, every class needs an image.
    """
    info = info_of(name, directory)
    if split not in info.splits:
        raise UserError(f"{field}={split} is not a split of {name}; use one of {', '.join(info.splits)}")
    features: Any = info.features
    if "label" not in features:
        raise UserError(
            f"{FIELD}={name} has no labels and can only be used for pre-training; use a data set with labels"
        )
    names = locate(name, directory) / "label.labels.txt"
    if not is_file(names):  # TFDS would call the classes 0, 1, 2
        raise UserError(f"{names.parent} is damaged ({names.name} is missing); remove it and prepare {name} again")
    class_names = tuple(features["label"].names)
    source = _source(name, (split,), directory, class_names)
    empty = [c for i, c in enumerate(class_names) if i not in set(source.labels.tolist())]
    if empty and classes is None:
        raise UserError(f"{field}={split}: class {empty[0]} has no image in {name}; train on another split")
    return source


def unlabeled(name: str, directory: str | os.PathLike = "") -> Source:
    """All splits except those whose name starts with "test", without their labels."""
    info = info_of(name, directory)
    return _source(name, tuple(s for s in sorted(info.splits) if not s.lower().startswith("test")), directory, ())


def of_splits(name: str, split: str = "", directory: str | os.PathLike = "", field: str = FIELD) -> Source:
    """One split without its labels, or all of them. Raises UserError that names `field`."""
    splits = sorted(info_of(name, directory).splits)
    if split and split not in splits:
        raise UserError(f"{field}={name}/{split}: {split} is not a split of {name}; use one of {', '.join(splits)}")
    return _source(name, (split,) if split else tuple(splits), directory, ())


def info_of(name: str, directory: str | os.PathLike):
    import tensorflow_datasets as tfds

    path = locate(name, directory)
    try:
        return tfds.builder_from_directory(path).info
    except Exception as error:
        if fault := disk.failure(error):
            raise fault from None
        raise UserError(f"{path} is damaged ({error}); remove it and prepare {name} again") from None


def _source(name: str, splits: tuple[str, ...], directory: str | os.PathLike, classes: tuple[str, ...]) -> Source:
    path = locate(name, directory)
    parts = [index_of(name, split, path, directory, looks=False) for split in splits]
    label = np.concatenate([part.label for part in parts])
    groups = groups_of(name, (n for part in parts for n in part.names), (g for part in parts for g in part.groups))
    summary = hashlib.sha256(name.encode())
    for part in parts:
        for value in (part.label, part.digest):
            summary.update(value.tobytes())
        summary.update("\n".join(part.names).encode())
    sizes = [part.size for part in parts if part.size is not None]
    return Source(
        names=Texts.of(name for part in parts for name in part.names),
        labels=label if classes else np.full(len(label), -1, np.int32),
        groups=groups.groups,
        classes=classes,
        fingerprint=summary.hexdigest(),
        read=Records(name, splits, directory, [part.record for part in parts]),
        digests=np.concatenate([part.digest for part in parts]),
        looks=partial(_looks, name, splits, directory),
        fields=groups.fields,
        sizes=np.concatenate(sizes) if len(sizes) == len(parts) else None,
        kind=groups.kind,
        stain=stain_in_words(stain_of(path)),
    )


def groups_of(name: str, names: Iterable[str], stored: Iterable[str]) -> Groups:
    """The groups of a data set's images: from their names if these contain them, else the stored ones.

    Earlier versions stored the field of view of Raabin-WBC's images as group, or nothing, so names come first.
    """
    dataset, from_names = name.partition(":")[0], grouping.of_names(names)
    if dataset in FROM_NAMES:
        return from_names
    combined = tuple(group or other for group, other in zip(from_names.groups, stored, strict=True))
    kinds = [from_names.kind] if any(from_names.groups) else []
    kinds += [KINDS[dataset]] if not all(from_names.groups) and any(combined) else []
    return Groups(combined, kind=" and ".join(kinds))


def _looks(name: str, splits: tuple[str, ...], directory: str | os.PathLike) -> Int8[np.ndarray, "n pixels"]:
    path = locate(name, directory)
    return np.concatenate([index_of(name, split, path, directory).look for split in splits])


def index_of(name: str, split: str, path: Path, directory: str | os.PathLike, looks: bool = True) -> Index:
    records = open_split(name, split, directory)
    saved = index_path(path, split)
    # A data set without an index was built by TFDS's own command.
    index = Index.load(saved, looks) if exists(saved) else make_index(records)
    if len(index.record) != len(records):
        raise UserError(
            f"{saved} lists {count(len(index.record), 'image')}, but the files hold {len(records)}; "
            f"prepare {name} again"
        )
    return index


class Records:
    """Reads encoded images by their number in the index. Each process opens the files at its first read."""

    def __init__(
        self,
        name: str,
        splits: Sequence[str],
        directory: str | os.PathLike,
        records: Sequence[Int64[np.ndarray, " n"]],
    ):
        """`records`: for each split the record number of every image in the index."""
        self.name, self.splits, self.directory = name, tuple(splits), os.fspath(directory)
        self.records = list(records)
        self.starts = np.cumsum([0, *map(len, records)])
        self._open: list[Any] | None = None

    def __call__(self, i: int) -> bytes:
        """The encoded image `i`. Raises UserError if the file is damaged."""
        from tensorflow_datasets.proto import tf_example_pb2

        example: Any = getattr(tf_example_pb2, "Example")  # noqa: B009  # protobuf creates the class at run time
        if self._open is None:
            self._open = [open_split(self.name, split, self.directory, raw=True) for split in self.splits]
        part = int(np.searchsorted(self.starts, i, "right")) - 1
        try:
            record = self._open[part][int(self.records[part][i - self.starts[part]])]
            # Parse only the image: TFDS takes three times as long, because it makes NumPy arrays of all features.
            return example.FromString(record).features.feature["image"].bytes_list.value[0]
        except Exception as error:
            if fault := disk.failure(error):
                raise fault from None
            raise UserError(
                f"image {i} of {self.name} cannot be read from {locate(self.name, self.directory)} "
                f"({' '.join(str(error).split())[:200]}); remove that folder and prepare the data set again"
            ) from None

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_open": None}
