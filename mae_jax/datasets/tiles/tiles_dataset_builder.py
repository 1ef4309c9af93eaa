"""tiles:NAME: tiles of the whole slides in a folder. `slides` cuts them; this builder stores them."""

import json
import re
import zipfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import UInt8

from mae_jax.data.sources import Source
from mae_jax.datasets.builder import Example, ImageBuilder, root_of
from mae_jax.datasets.tiles.slides import SETTINGS, about
from mae_jax.runtime.disk import entries, exists
from mae_jax.runtime.errors import UserError


def config_of(name: str) -> tfds.core.BuilderConfig:
    """The configuration of tiles:NAME."""
    return tfds.core.BuilderConfig(name=name, description="Tiles of the slides of one folder.")


class Builder(ImageBuilder):
    """Reads the .zip files that `slides.cut_folder` wrote, one per slide."""

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = "Run mae-jax prepare tiles:NAME --source DIR_OF_SLIDES."

    def _info(self) -> tfds.core.DatasetInfo:
        where = {axis: tfds.features.Scalar(np.int32, doc=f"{axis} of the tile in pixels of the scan") for axis in "xy"}
        return tfds.core.DatasetInfo(
            builder=self,
            description="Tiles with tissue, cut from whole slides. The group is the slide.",
            features=self.features(more=where),
            homepage="https://openslide.org",
            citation="The slides are your own.",
            license="That of the slides.",
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
        root = root_of(dl_manager)
        if not exists(root / SETTINGS):
            raise UserError(f"{root} holds no tiles; {self.MANUAL_DOWNLOAD_INSTRUCTIONS}")
        return {"train": self.examples(tiles_of(root), example)}


def tiles_of(root: Path) -> Source:
    """A source of all tiles of all slides; the group of a tile is its slide."""
    members, names, groups = [], [], []
    for path in (path for path in entries(root) if path.suffix == ".zip"):
        slide = about(path)["slide"]
        inside = _opened(path).namelist()
        members += [(path, member) for member in inside]
        names += [f"{slide}/{member}" for member in inside]
        groups += [slide] * len(inside)
    return Source(
        names=tuple(names),
        labels=np.full(len(names), -1, np.int32),
        groups=tuple(groups),
        classes=(),
        fingerprint=json.dumps(len(names)),
        read=lambda i: _opened(members[i][0]).read(members[i][1]),
    )


@lru_cache(maxsize=64)
def _opened(path: Path) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)


def example(name: str, data: bytes, pixels: UInt8[np.ndarray, "h w 3"]) -> Iterator[tuple[str, Example]]:
    """The example of one tile; its place is in its name."""
    group, _, place = name.rpartition("/")
    match = re.fullmatch(r"x(\d+)_y(\d+)\.jpg", place)
    assert match, f"{name}: not a tile that `slides` has named"
    yield name, {"image": data, "name": name, "group": group, "x": int(match[1]), "y": int(match[2])}
