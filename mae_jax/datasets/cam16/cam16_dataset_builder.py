"""CAM16: tiles of lymph nodes with and without breast cancer metastases, cut from CAMELYON16's slides."""

from typing import ClassVar

import tensorflow_datasets as tfds

from mae_jax.data import sources
from mae_jax.datasets.builder import ImageBuilder, root_of
from mae_jax.runtime import disk

CLASSES = ("normal", "tumor")


class Builder(ImageBuilder):
    """Reads `train|val|test/data/{normal,tumor}/*.jpg`."""

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = "Unpack to train/data/, val/data/ and test/data/, each with normal/ and tumor/."
    PUBLISHED: ClassVar = {
        "train": {"normal": 379, "tumor": 378},
        "val": {"normal": 54, "tumor": 54},
        "test": {"normal": 108, "tumor": 108},
    }

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=(
                "H&E tiles of 384 x 384 pixels from the whole slides of CAMELYON16, sentinel lymph nodes of breast "
                "cancer patients, with and without metastases. The group is the slide, one per patient."
            ),
            features=self.features(CLASSES),
            homepage="https://camelyon16.grand-challenge.org",
            citation="""@article{bejnordi2017diagnostic,
  title={Diagnostic Assessment of Deep Learning Algorithms for Detection of Lymph Node Metastases in Women With Breast
    Cancer},
  author={Ehteshami Bejnordi, Babak and Veta, Mitko and van Diest, Paul Johannes and others},
  journal={JAMA}, volume={318}, number={22}, pages={2199--2210}, year={2017}, doi={10.1001/jama.2017.14585}
}""",
            license="CAMELYON16's slides are CC0.",
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
        splits, root = {}, root_of(dl_manager, "train/data")
        for split in ("train", "val", "test"):
            folder = f"{split}/data"
            if disk.is_dir(root / folder) or split == "train":
                images = sources.folder(root, folder, classes=CLASSES, check=False, field="--source")
                splits[split] = self.examples(images)
        return splits
