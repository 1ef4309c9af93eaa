"""pRCC: regions of papillary renal cell carcinoma, 2000 x 2000 pixels, cut into tiles; used without labels."""

import dataclasses
import re
from collections.abc import Iterator
from functools import partial
from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import UInt8

from mae_jax.data import sources
from mae_jax.datasets.builder import Example, ImageBuilder, LeftOut, root_of
from mae_jax.runtime.errors import UserError


@dataclasses.dataclass(kw_only=True)
class Config(tfds.core.BuilderConfig):
    """`tile`: side of a tile in pixels."""

    tile: int = 500


def config_of(name: str) -> Config:
    """The configuration called `name`, "tile500" or with another size. Raises UserError for other names."""
    match = re.fullmatch(r"tile([1-9]\d{1,3})", name)
    if not match or not 16 <= int(match[1]) <= 2000:
        raise UserError(f"prcc:{name} is not known; use prcc:tile16 to prcc:tile2000, the side of a tile in pixels")
    return Config(name=name, description=f"Tiles of {match[1]} x {match[1]} pixels.", tile=int(match[1]))


def corners(length: int, tile: int) -> list[int]:
    """Where tiles begin along a side, so that they cover every pixel without padding.

    A last tile that would extend beyond the edge is moved back and overlaps its neighbor. Empty if the side is
    shorter than a tile.
    """
    starts = list(range(0, length - tile + 1, tile))
    return starts if not starts or starts[-1] + tile == length else [*starts, length - tile]


def cut(tile: int, name: str, data: bytes, pixels: UInt8[np.ndarray, "h w 3"]) -> Iterator[tuple[str, Example]]:
    """The tiles of one region. Raises LeftOut if it is smaller than a tile."""
    height, width, _ = pixels.shape
    if min(height, width) < tile:
        raise LeftOut(f"smaller than a tile of {tile} pixels")
    region = name.rsplit(".", 1)[0]
    for y in corners(height, tile):
        for x in corners(width, tile):
            key = f"{region}/x{x:05}_y{y:05}.jpg"
            yield key, {"image": pixels[y : y + tile, x : x + tile], "name": key, "group": region, "x": x, "y": y}


class Builder(ImageBuilder):
    """Reads all images in the folder; each is a region with a name like `3610_6089_2000.jpg`."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS: ClassVar = [config_of("tile500")]
    MANUAL_DOWNLOAD_INSTRUCTIONS = "Unpack 1.zip and 2.zip; all images below the folder are used."

    def _info(self) -> tfds.core.DatasetInfo:
        where = {axis: tfds.features.Scalar(np.int32, doc=f"{axis} of the tile in its region") for axis in "xy"}
        return tfds.core.DatasetInfo(
            builder=self,
            description=(
                "H&E regions of papillary renal cell carcinoma, chosen by pathologists from TCGA-KIRP slides: 1,162 "
                "regions of 171 slides. The tiles come without the subtype. The group is the region: its name does not "
                "contain the slide, so regions of one patient may be on both sides of a split."
            ),
            features=self.features(more=where),
            homepage="https://dataset.chenli.group/home/prcc-subtyping",
            citation="""@inproceedings{gao2021instance,
  title={Instance-based Vision Transformer for Subtyping of Papillary Renal Cell Carcinoma in Histopathological Image},
  author={Gao, Zeyu and Hong, Bangyang and Zhang, Xianli and Li, Yang and Jia, Chang and Wu, Jialun and
    Wang, Chunbao and Meng, Deyu and Li, Chen},
  booktitle={MICCAI}, year={2021}, doi={10.1007/978-3-030-87237-3_29}
}""",
            license="The homepage states the terms; the slides are TCGA's, open access.",
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
        assert isinstance(self.builder_config, Config)
        regions = sources.unlabeled_folder(root_of(dl_manager), check=False, field="--source")
        return {"train": self.examples(regions, partial(cut, self.builder_config.tile))}
