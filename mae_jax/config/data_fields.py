"""The fields `data.*`: images, splits and augmentation."""

import dataclasses

from mae_jax.config.rule import SEEDS, Fields, field
from mae_jax.config.selection import SUBSETS

DOMAINS = ("tissue+cells", "tissue", "cells", "tissue+cells+xray")  # of generated unlabeled images
STAINS = ("none", "hed", "randstainna", "jitter")


@dataclasses.dataclass(frozen=True)
class DataFields(Fields):
    """Images, splits and augmentation."""

    source: str = field(
        "raabin_wbc", 'synthetic, folder, raabin_wbc, cam16, prcc or tiles:NAME; pre-training joins several by "+"'
    )
    prepared_dir: str = field(
        "", "directory of prepared data sets; empty: $TFDS_DATA_DIR, else ~/tensorflow_datasets",
        may_differ=True, path="one", used="prepared",
    )  # fmt: skip
    dir: str = field(
        "", 'source=folder: the directory; pre-training takes several, joined by ","', path="several", used="folder"
    )
    part: str = field(
        "all",
        "pre-training: use all images of the source, or only those of the training split of fine-tuning",
        choices=("all", "train"),
        used="decoder",
    )
    weights: tuple[float, ...] = field(
        (), "pre-training: share of each source; empty: in proportion to the number of images", used="decoder"
    )
    unlabeled_count: int = field(
        0,
        "pre-training: number of images to train on, drawn at random from all; 0: all. There are as many updates as "
        "for `epochs` over all images, so that equally many images are seen",
        low=0,
        high=10**9,
        used="decoder",
    )
    labels: str = field(
        "", "source=folder: a CSV or Parquet file with path, label, optional group and split; paths are below `dir`",
        path="one", used="folder",
    )  # fmt: skip
    columns: str = field(
        "",
        'columns of `labels` with other names, such as "path=file,label=cell_type,group=patient"',
        used="folder table",
    )
    train_split: str = field(
        "Train",
        'folder or split to train on; "auto", or "Train" if it does not exist: look for the usual names',
        used="splits not_generated",
    )
    test_split: str = field(
        "TestA",
        "folder or split to test on; without a test set, `test_fraction` of the images becomes one",
        used="splits not_generated",
    )
    val_split: str = field(
        "auto",
        "folder or split to validate on; if there is none, `val_fraction` of the training images becomes one",
        used="splits not_generated",
    )
    levels: str = field(
        "",
        "source=folder: what the folders below a split are: classes alone, or classes with folders of patients inside "
        "or around them; empty: seen from their names",
        choices=("", "class", "class/group", "group/class"), used="splits folder no_table",
    )  # fmt: skip
    test_fraction: float = field(
        0.2,
        "without a test set: share of the images to use as one, by group and class",
        low=0,
        high=1,
        open="high",
        used="splits not_generated",
    )
    test_seed: int = field(
        0,
        "random seed that selects the images of `test_fraction`",
        low=0,
        high=SEEDS,
        open="high",
        used="splits not_generated",
    )
    group_pattern: str = field(
        "", "regular expression whose one group matches the patient or slide in an image's path", used="files"
    )
    external: str = field(
        "",
        'more test sets, joined by ",": [NAME=]PLACE, where PLACE is a folder of class folders or a split',
        path="named",
        used="labels",
    )
    val_fraction: float = field(
        0.1,
        "share of the training images to validate on, set aside first and the same for every fraction",
        low=0,
        high=1,
        open="high",
    )
    val_of: str = field(
        "all",
        "what `val_fraction` is a share of: all training images, so that small fractions have more labels to validate "
        "on than to train on; or the fraction, so that validation labels are among those that are counted",
        choices=("all", "fraction"),
        used="labels",
    )
    val_folds: int = field(
        0,
        "val_of=fraction: number of folds of a cross-validation that chooses the epoch on the images of the fraction, "
        "all of which then train the model; trains that many more models. 0: off",
        low=0,
        high=100,
        used="updates_with_labels val_of_fraction",
    )
    val_folds_up_to: float = field(
        0.0,
        "cross-validate fractions up to this one, or label_counts up to this number; larger ones hold `val_fraction` "
        "out. 0: cross-validate all",
        low=0,
        high=10**9,
        used="updates_with_labels val_folds",
    )
    fraction: float = field(1.0, "share of the labels to train on, per class", low=0, high=1, open="low", used="labels")
    label_count: int = field(
        0, "number of labeled images to train on, over all classes; 0: use `fraction`", low=0, high=10**9, used="labels"
    )
    subset: str = field(
        "stratified",
        "which training images are labeled: the same share of each class (stratified, which takes labels to draw), "
        "random ones, or those that an encoder selects without labels, as in mae-jax select (typical, coreset)",
        choices=SUBSETS,
        used="labels",
    )
    subset_from: str = field(
        "",
        "subset=typical or coreset: run directory or weights of the encoder that selects; empty: that of init_from",
        path="one",
        used="labels features_choose",
    )
    subset_seed: int = field(
        0,
        "random seed that selects the labels of `fraction`; independent of `seed`",
        low=0,
        high=SEEDS,
        open="high",
        used="labels",
    )
    val_seed: int = field(
        0,
        "random seed that selects the validation images; the same in all runs of a study",
        low=0,
        high=SEEDS,
        open="high",
    )
    bad_images: str = field(
        "stop",
        "what to do with a file that is not a readable image",
        choices=("stop", "skip"),
        used="files not_generated",
    )
    crop_scale: tuple[float, float] = field(
        (0.2, 1.0), "area of the random crop, smallest and largest share of the image", used="updates"
    )
    crop_ratio: tuple[float, float] = field(
        (3 / 4, 4 / 3), "aspect ratio of the random crop, smallest and largest width / height", used="updates"
    )
    flips: bool = field(True, "flip horizontally and vertically, each with probability 1/2", used="updates")
    randaugment: float = field(
        0.0, "RandAugment (Cubuk et al. 2020): magnitude of two random operations per image; 0: off", low=0, high=10,
        augments=True, used="updates",
    )  # fmt: skip
    randaugment_colour: bool = field(
        True, "let RandAugment change colors; False: only rotate, shear and translate", used="updates randaugment"
    )
    random_erasing: float = field(
        0.0,
        "share of the images in which a random rectangle is replaced by noise",
        low=0,
        high=1,
        augments=True,
        used="updates",
    )
    stain: str = field(
        "none",
        "random change of stain and color in training: hed (H&E: amounts of hematoxylin, eosin and DAB), randstainna "
        "(any stain: mean and standard deviation in LAB, drawn with their spread over the training images), jitter "
        "(brightness, contrast, saturation, hue)",
        choices=STAINS,
        augments=True,
        used="updates",
    )
    stain_strength: float = field(
        1.0, "factor for the ranges of `stain`", low=0, high=10, open="low", augments=True, used="updates stain"
    )
    mean: tuple[float, float, float] = field(
        (0.485, 0.456, 0.406),
        "mean of each channel, for pixel values in 0..1; subtracted (default: ImageNet's)",
        used="network",
    )
    std: tuple[float, float, float] = field(
        (0.229, 0.224, 0.225), "standard deviation of each channel; the images are divided by it", used="network"
    )
    threads: int = field(8, "decoding threads per process", low=0, high=1024, may_differ=True)
    workers: int = field(
        0, "decoding processes besides the main one; 0: only threads", low=0, high=1024, may_differ=True, used="updates"
    )
    prefetch: int = field(4, "batches to load ahead", low=1, high=4096, may_differ=True, used="updates")
    synthetic_train: int = field(
        2000, "source=synthetic: labeled training images to draw", low=10, high=10**7, used="synthetic"
    )
    synthetic_test: int = field(500, "source=synthetic: test images to draw", low=10, high=10**7, used="synthetic")
    synthetic_unlabelled: int = field(
        4000, "source=synthetic: unlabeled images to draw", low=10, high=10**7, used="synthetic"
    )
    synthetic_domains: str = field(
        "tissue+cells",
        "source=synthetic: kinds of unlabeled images to draw, in equal shares",
        choices=DOMAINS, used="decoder synthetic",
    )  # fmt: skip
    synthetic_size: int = field(
        96, "source=synthetic: width and height of an image in pixels", low=16, high=4096, used="synthetic"
    )

    @property
    def folds(self) -> int:
        """The number of folds of this run's cross-validation; 0: none."""
        return self.folds_of(self.fraction, self.label_count)

    def folds_of(self, fraction: float, label_count: int) -> int:
        """`folds` of a run on another fraction or, unless it is 0, number of labels."""
        few = not self.val_folds_up_to or (label_count or fraction) <= self.val_folds_up_to
        return self.val_folds if few else 0
