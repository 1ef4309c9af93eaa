"""Raabin-WBC: white blood cells of five classes, cropped, each labeled by two experts."""

from typing import ClassVar

import tensorflow_datasets as tfds

from mae_jax.data import sources
from mae_jax.datasets.builder import ImageBuilder, root_of
from mae_jax.runtime import disk

CLASSES = ("Basophil", "Eosinophil", "Lymphocyte", "Monocyte", "Neutrophil")


class Builder(ImageBuilder):
    """Reads `Train|TestA|TestB/<Class>/*.jpg`; TestB has only two of the five classes; labels keep their numbers."""

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = "Unpack Train.rar, TestA.rar and TestB.zip to Train/, TestA/ and TestB/."
    PUBLISHED: ClassVar = {
        "Train": dict(zip(CLASSES, (212, 744, 2427, 561, 6231), strict=True)),
        "TestA": dict(zip(CLASSES, (89, 322, 1034, 234, 2660), strict=True)),
        "TestB": {"Lymphocyte": 148, "Neutrophil": 1971},
    }

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=(
                "Cropped white blood cells of normal peripheral blood, from smears of several laboratories, "
                "microscopes and cameras. Train and TestA were taken with one microscope and camera, TestB with "
                "others. The group is the film (one patient), or the day if the name is a time stamp."
            ),
            features=self.features(CLASSES),
            homepage="https://raabindata.com/free-data/",
            citation="""@article{kouzehkanan2022raabin,
  title={A large dataset of white blood cells containing cell locations and types, along with segmented nuclei and
    cytoplasm},
  author={Kouzehkanan, Zahra Mousavi and Saghari, Sepehr and Tavakoli, Sajad and others},
  journal={Scientific Reports}, volume={12}, pages={1123}, year={2022}, doi={10.1038/s41598-021-04426-x}
}""",
            license="Free of charge at raabindata.com, which states the terms; cite the article.",
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
        splits, root = {}, root_of(dl_manager, "Train")
        for split in ("Train", "TestA", "TestB"):
            if disk.is_dir(root / split) or split == "Train":
                images = sources.folder(root, split, classes=CLASSES, check=False, field="--source")
                splits[split] = self.examples(images)
        return splits
