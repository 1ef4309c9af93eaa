"""All config fields, each stated once: default, meaning, allowed values, and whether a resumed run may change it.

The code uses `RunConfig`, `StudyConfig` and `SweepConfig`, which are typed and frozen; `config.validation` checks and
creates them. Config files and flags use a `ConfigDict` with the same fields, from `defaults`, `study_defaults` or
`sweep_defaults`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar, cast

from ml_collections import ConfigDict

from mae_jax.config.selection import SUBSETS
from mae_jax.config.tasks import EVALUATIONS, QUICK, TASKS, TRAITS, Traits
from mae_jax.runtime.ranges import INF, Range

TRACKERS = ("wandb", "mlflow", "trackio")
STAINS = ("none", "hed", "randstainna", "jitter")
FAMILIES = ("vit", "resnet18")
SIZES = ("tiny", "small", "base", "large", "custom")
WEIGHTS = (".safetensors", ".npz", ".pth", ".pt", ".bin", ".ckpt", ".torch", ".tar")  # suffixes of weight files
FEATURES = "features"  # the `init` of features from files
COMPUTED = {"histogram": "color histograms", "nucleus": "measurements of the nucleus"}  # `init` and its words
WITHOUT_NETWORK = (FEATURES, *COMPUTED)  # values of `init`
FEATURE_FILES = (".npz", ".h5", ".hdf5", ".parquet", ".pq")  # suffixes of files of features
SEEDS = 2**31  # seeds are smaller

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Rule:
    """What a field means and allows. A number lies in [low, high]; ends named in `open` are excluded."""

    meaning: str
    choices: tuple[Any, ...] = ()
    low: float = -INF
    high: float = INF
    open: str = ""  # "low", "high" or "low high": excluded ends
    may_differ: bool = False  # whether a resumed run may change it, because it does not affect results
    kind: type | None = None  # type of each value in a list
    allowed: str = ""  # allowed values in a list, in words
    may_be_empty: bool = True  # for a list
    may_repeat: bool = True  # for the values in a list
    number_or_auto: bool = False  # for text: a whole number above 0, or "auto"
    augments: bool = False  # randomly changes training images, besides crops and flips; off in probes
    path: str = ""  # for a path of the user: "one", "several" joined by ",", or "named", [NAME=]PATH joined by ","

    @property
    def has_range(self) -> bool:
        return (self.low, self.high) != (-INF, INF)

    def holds(self, value: float) -> bool:
        """Whether a number is within the range."""
        return Range(self.low, self.high, self.open).holds(value)

    @property
    def range(self) -> str:
        """The range as an interval, such as "[0, 1)"."""
        return str(Range(self.low, self.high, self.open))


def field(default: T, meaning: str, **rule: Any) -> T:
    """A dataclass field with its `Rule`; `rule` are further attributes of the Rule."""
    return dataclasses.field(default=default, metadata={"rule": Rule(meaning, **rule)})


@dataclasses.dataclass(frozen=True)
class Fields:
    """Base class of all groups of fields."""


C = TypeVar("C", bound=Fields)


@dataclasses.dataclass(frozen=True)
class DataFields(Fields):
    """Images, splits and augmentation."""

    source: str = field(
        "raabin_wbc", 'synthetic, folder, raabin_wbc, cam16, prcc or tiles:NAME; pre-training joins several by "+"'
    )
    prepared_dir: str = field(
        "", "directory of prepared data sets; empty: $TFDS_DATA_DIR, else ~/tensorflow_datasets",
        may_differ=True, path="one",
    )  # fmt: skip
    dir: str = field("", 'source=folder: the directory; pre-training takes several, joined by ","', path="several")
    part: str = field(
        "all",
        "pre-training: use all images of the source, or only those of the training split of fine-tuning",
        choices=("all", "train"),
    )
    weights: tuple[float, ...] = field(
        (), "pre-training: share of each source; empty: in proportion to the number of images"
    )
    unlabeled_count: int = field(
        0,
        "pre-training: number of images to train on, drawn at random from all; 0: all. There are as many updates as "
        "for `epochs` over all images, so that equally many images are seen",
        low=0,
        high=10**9,
    )
    labels: str = field(
        "", "source=folder: a CSV or Parquet file with path, label, optional group and split; paths are below `dir`",
        path="one",
    )  # fmt: skip
    columns: str = field("", 'columns of `labels` with other names, such as "path=file,label=cell_type,group=patient"')
    train_split: str = field(
        "Train", 'folder or split to train on; "auto", or "Train" if it does not exist: look for the usual names'
    )
    test_split: str = field(
        "TestA", "folder or split to test on; without a test set, `test_fraction` of the images becomes one"
    )
    val_split: str = field(
        "auto", "folder or split to validate on; if there is none, `val_fraction` of the training images becomes one"
    )
    levels: str = field(
        "", 'source=folder: folders in a split; empty: found if names show it; "class", or patients inside or around',
        choices=("", "class", "class/group", "group/class"),
    )  # fmt: skip
    test_fraction: float = field(
        0.2, "without a test set: share of the images to use as one, by group and class", low=0, high=1, open="high"
    )
    test_seed: int = field(0, "random seed that selects the images of `test_fraction`", low=0, high=SEEDS, open="high")
    group_pattern: str = field("", "regular expression whose one group matches the patient or slide in an image's path")
    external: str = field(
        "",
        'more test sets, joined by ",": [NAME=]PLACE, where PLACE is a folder of class folders or a split',
        path="named",
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
    )
    fraction: float = field(1.0, "share of the labels to train on, per class", low=0, high=1, open="low")
    label_count: int = field(
        0, "number of labeled images to train on, over all classes; 0: use `fraction`", low=0, high=10**9
    )
    subset: str = field(
        "stratified",
        "which training images are labeled: the same share of each class (stratified, which takes labels to draw), "
        "random ones, or those that an encoder selects without labels, as in mae-jax select (typical, coreset)",
        choices=SUBSETS,
    )
    subset_from: str = field(
        "",
        "subset=typical or coreset: run directory or weights of the encoder that selects; empty: that of init_from",
        path="one",
    )
    subset_seed: int = field(
        0, "random seed that selects the labels of `fraction`; independent of `seed`", low=0, high=SEEDS, open="high"
    )
    val_seed: int = field(
        0,
        "random seed that selects the validation images; the same in all runs of a study",
        low=0,
        high=SEEDS,
        open="high",
    )
    bad_images: str = field("stop", "what to do with a file that is not a readable image", choices=("stop", "skip"))
    crop_scale: tuple[float, float] = field(
        (0.2, 1.0), "area of the random crop, smallest and largest share of the image"
    )
    crop_ratio: tuple[float, float] = field(
        (3 / 4, 4 / 3), "aspect ratio of the random crop, smallest and largest width / height"
    )
    flips: bool = field(True, "flip horizontally and vertically, each with probability 1/2")
    randaugment: float = field(
        0.0, "RandAugment (Cubuk et al. 2020): magnitude of two random operations per image; 0: off", low=0, high=10,
        augments=True,
    )  # fmt: skip
    randaugment_colour: bool = field(True, "let RandAugment change colors; False: only rotate, shear and translate")
    random_erasing: float = field(
        0.0, "share of the images in which a random rectangle is replaced by noise", low=0, high=1, augments=True
    )
    stain: str = field(
        "none",
        "random change of stain and color in training: hed (H&E: amounts of hematoxylin, eosin and DAB), randstainna "
        "(any stain: mean and standard deviation in LAB, drawn with their spread over the training images), jitter "
        "(brightness, contrast, saturation, hue)",
        choices=STAINS,
        augments=True,
    )
    stain_strength: float = field(1.0, "factor for the ranges of `stain`", low=0, high=10, open="low", augments=True)
    mean: tuple[float, float, float] = field(
        (0.485, 0.456, 0.406), "mean of each channel, for pixel values in 0..1; subtracted (default: ImageNet's)"
    )
    std: tuple[float, float, float] = field(
        (0.229, 0.224, 0.225), "standard deviation of each channel; the images are divided by it"
    )
    threads: int = field(8, "decoding threads per process", low=0, high=1024, may_differ=True)
    workers: int = field(
        0, "decoding processes besides the main one; 0: only threads", low=0, high=1024, may_differ=True
    )
    prefetch: int = field(4, "batches to load ahead", low=1, high=4096, may_differ=True)
    synthetic_train: int = field(2000, "source=synthetic: labeled training images to draw", low=10, high=10**7)
    synthetic_test: int = field(500, "source=synthetic: test images to draw", low=10, high=10**7)
    synthetic_unlabelled: int = field(4000, "source=synthetic: unlabeled images to draw", low=10, high=10**7)
    synthetic_size: int = field(96, "source=synthetic: width and height of an image in pixels", low=16, high=4096)


@dataclasses.dataclass(frozen=True)
class ModelFields(Fields):
    """The network."""

    family: str = field(
        "vit",
        "kind of network: vit, or a classifier for comparison from random weights: resnet18, with group norm",
        choices=FAMILIES,
    )
    size: str = field("base", "ViT size (Dosovitskiy et al. 2021); custom: set width, depth and heads", choices=SIZES)
    image_size: int = field(224, "width and height of the input in pixels; a multiple of patch_size", low=1, high=2**15)
    patch_size: int = field(16, "width and height of a patch in pixels", low=1, high=2**15)
    width: int = field(0, "size=custom: features per token; a multiple of 4 and of heads")
    depth: int = field(0, "size=custom: number of blocks")
    heads: int = field(0, "size=custom: number of attention heads")
    mlp_ratio: float = field(4.0, "hidden features of the MLP, as a multiple of width", low=0.01, high=64)
    mlp: str = field(
        "gelu", "MLP of each block; swiglu (Shazeer 2020): hidden features are gated", choices=("gelu", "swiglu")
    )
    pool: str = field(
        "cls",
        "what the classification head or the probe reads: class token, mean of the patch tokens, or both, concatenated",
        choices=("cls", "mean", "both"),
    )
    decoder_width: int = field(
        512, "pre-training: features per token in the decoder (He et al. 2022)", low=4, high=2**16
    )
    decoder_depth: int = field(8, "pre-training: number of blocks in the decoder", low=1, high=100, open="high")
    decoder_heads: int = field(16, "pre-training: number of attention heads in the decoder", low=1, high=2**16)
    head_std: float = field(
        0.02,
        "standard deviation of the head's initial weights (truncated normal); 0: Xavier uniform",
        low=0,
        open="high",
    )
    drop_path: float = field(
        0.0,
        "fine-tuning: stochastic depth; rate of the last block, falling linearly to 0 at the first",
        low=0,
        high=1,
        open="high",
    )
    dropout: float = field(
        0.0,
        "fine-tuning: dropout rate after the embedding and each linear layer but queries, keys and values",
        low=0,
        high=1,
        open="high",
    )
    dtype: str = field(
        "auto",
        "dtype of computations; auto: bfloat16 where it is faster, never on CPUs",
        choices=("auto", "float32", "bfloat16"),
    )
    attention: str = field(
        "auto",
        "attention kernel; auto: cuDNN's if possible, else XLA's",
        choices=("auto", "xla", "cudnn"),
        may_differ=True,
    )
    positions: str = field(
        "fixed", "position embeddings of the encoder; fixed: sine-cosine", choices=("fixed", "learned")
    )
    norm_eps: float = field(1e-6, "epsilon of the layer norms", low=0, high=1, open="low high")
    registers: int = field(0, "number of register tokens (Darcet et al. 2024)", low=0, high=1024)
    layer_scale: float = field(
        0.0,
        "initial value of LayerScale (Touvron et al. 2021), learned factors on residual branches; 0: off",
        low=0,
        open="high",
    )


@dataclasses.dataclass(frozen=True)
class MaeFields(Fields):
    """Masked autoencoding (He et al. 2022)."""

    mask_ratio: float = field(0.75, "share of the patches to remove", low=0, high=1, open="low high")
    norm_pix_loss: bool = field(True, "predict pixels that are normalized within each patch")
    target: str = field(
        "augmented",
        "what to predict if data.stain changes the images: the changed image, or the original one",
        choices=("augmented", "original"),
    )
    visible_weight: float = field(
        0.0, "weight of an additional loss on visible patches; 0: none, as in He et al. 2022", low=0, open="high"
    )


@dataclasses.dataclass(frozen=True)
class OptimFields(Fields):
    """Optimizer and learning rate."""

    name: str = field("adamw", "optimizer", choices=("adamw", "lars"))
    base_lr: float = field(
        1.5e-4, "base learning rate; peak rate = base_lr * images per update / 256", low=0, high=1e3, open="low"
    )
    schedule: str = field("cosine", "learning rate after the warm-up", choices=("cosine", "constant", "linear"))
    warmup_epochs: float = field(40.0, "epochs of linear warm-up from 0", low=0, high=1e6)
    min_lr: float = field(0.0, "final learning rate of the cosine and linear schedules", low=0, high=1e3)
    weight_decay: float = field(0.05, "decoupled weight decay (AdamW)", low=0, high=1e3)
    no_decay: str = field(
        r"(^|/)(bias|scale|gamma)$", "regular expression; matching parameters get no weight decay and no LARS scaling"
    )
    b1: float = field(0.9, "beta 1 of AdamW; momentum of LARS", low=0, high=1, open="high")
    b2: float = field(0.95, "beta 2 of AdamW", low=0, high=1, open="high")
    clip_norm: float = field(0.0, "clip the gradient to this global norm; 0: off", low=0, open="high")
    layer_decay: float = field(
        1.0, "layer-wise decay: factor on the learning rate per block, from the head down", low=0, high=1, open="low"
    )


@dataclasses.dataclass(frozen=True)
class TrainFields(Fields):
    """Training length, batches, regularization, and handling of divergence."""

    epochs: float = field(100.0, "passes over the training images", low=0, high=1e6, open="low")
    steps: int = field(0, "number of updates, instead of epochs; 0: use `epochs`", low=0, high=10**9)
    batch_size: int = field(
        0, "images per update over all devices; 0: batch_per_device * accumulation * devices", low=0, high=10**6
    )
    batch_per_device: int = field(48, "images per device and accumulation step", low=0, high=10**6)
    accumulation: int = field(1, "micro-batches per update", low=1, high=10**6)
    match_fraction: float = field(
        0.0, "classifiers: train for as many updates as this share of the labels would get; 0: off", low=0, high=1
    )
    match_count: int = field(
        0, "classifiers: train for as many updates as this number of labels would get; 0: off", low=0, high=10**9
    )
    label_smoothing: float = field(0.0, "classifiers: label smoothing", low=0, high=1, open="high")
    blocks: int = field(
        -1,
        "fine-tuning: train this many of the last blocks, the last norm and the head; 0: only the head; -1: all",
        low=-1,
        open="high",
    )
    mixup: float = field(
        0.0,
        "fine-tuning: alpha of mixup; 0: off; with CutMix, each gets half of the updates",
        low=0,
        high=1000,
    )
    cutmix: float = field(0.0, "fine-tuning: alpha of CutMix; 0: off", low=0, high=1000)
    cellmix: str = field(
        "none",
        "fine-tuning: CellMix (Zhang et al. 2023) in half of the updates: exchange patches between pairs of images, or "
        "among all images of the batch, each in its place",
        choices=("none", "pairs", "batch"),
    )
    remat: bool = field(
        False,
        "recompute activations in the backward pass: less memory, about a third more computation",
        may_differ=True,
    )
    on_divergence: str = field(
        "stop",
        "what to do if a loss or gradient is not finite: stop, or roll back and lower the learning rate",
        choices=("stop", "lower_rate"),
        may_differ=True,
    )
    lower_rate_times: int = field(
        3, "on_divergence=lower_rate: maximum number of rollbacks before giving up", low=1, high=100, may_differ=True
    )
    lower_rate_factor: float = field(
        0.5, "factor on the learning rate after each rollback", low=0, high=1, open="low high", may_differ=True
    )
    select: str = field(
        "last",
        "which epoch to test: the last, or the best by this validation score; best: the same as accuracy",
        choices=("last", "best", "accuracy", "macro_f1", "loss"),
    )
    patience: int = field(
        0,
        "stop after this many evaluations without a better `select` score (at a tie, a lower loss); 0: never",
        low=0,
        high=10**6,
    )
    balance: str = field(
        "none",
        "imbalanced classes: sampler draws each class by the square root of its size, loss weights it by 1 / size",
        choices=("none", "sampler", "loss"),
    )


@dataclasses.dataclass(frozen=True)
class ProbeFields(Fields):
    """Hyperparameters that lbfgs and knn select on validation images, or by cross-validation on the training images."""

    l2: tuple[float, ...] = field((1e-4, 1e-3, 1e-2, 1e-1, 1.0), "lbfgs: candidate L2 penalties")
    neighbours: tuple[int, ...] = field((1, 5, 10, 20, 50), "knn: candidate numbers of neighbors")
    temperature: tuple[float, ...] = field(
        (0.07,), "knn: candidate temperatures; a neighbor with cosine similarity s has weight exp(s / temperature)"
    )
    folds: int = field(
        0,
        "number of folds of a cross-validation on the training images, which needs no further labels; 0: select on the "
        "validation images",
        low=0,
        high=100,
    )


@dataclasses.dataclass(frozen=True)
class EvalFields(Fields):
    """Evaluation during and after training."""

    every_epochs: float = field(1.0, "epochs between two evaluations", low=0, high=1e6, open="low")
    batch_size: int = field(128, "images per evaluation step", low=1, high=10**6)
    images: int = field(8, "pre-training: number of reconstructions to show", low=1, high=64)
    mask_seed: int = field(
        0, "pre-training: random seed of the masks in evaluation; independent of `seed`", low=0, high=SEEDS, open="high"
    )
    mask_ratios: tuple[float, ...] = field((0.75,), "pre-training: mask ratios of the final reconstructions and errors")


@dataclasses.dataclass(frozen=True)
class CheckpointFields(Fields):
    """Checkpoints: how often, and how many to keep."""

    every_epochs: float = field(1.0, "epochs between two checkpoints", low=0, high=1e6, open="low")
    keep: int = field(
        2,
        "number of newest checkpoints to keep; an older one is used if the newest is damaged",
        low=1,
        high=10**6,
        may_differ=True,
    )
    keep_optimizer: bool = field(
        False,
        "in a study: keep all checkpoints and optimizer states of finished classifiers, with which they could resume",
        may_differ=True,
    )


@dataclasses.dataclass(frozen=True)
class ShardingFields(Fields):
    """Distribution over devices."""

    fsdp: int = field(
        1, "number of devices over which parameters and optimizer state are sharded", low=1, high=10**6, may_differ=True
    )


@dataclasses.dataclass(frozen=True)
class LogFields(Fields):
    """Logs and progress."""

    every_steps: int = field(20, "updates between two rows of metrics.jsonl", low=1, high=10**9, may_differ=True)
    tensorboard: bool = field(True, "also write TensorBoard event files", may_differ=True)
    profile: bool = field(False, "profile a few steps for TensorBoard", may_differ=True)
    trackers: tuple[str, ...] = field(
        (), "experiment trackers that also get the scalars; each needs the extra of its name",
        choices=TRACKERS, may_repeat=False, may_differ=True,
    )  # fmt: skip
    progress_seconds: float = field(
        10.0, "seconds between two progress lines in a log", low=0, high=1e9, may_differ=True
    )


@dataclasses.dataclass(frozen=True)
class RunConfig(Fields):
    """One run: a pre-training, a fine-tuning, or a probe of a frozen encoder."""

    task: str = field("finetune", "what the run does", choices=TASKS)
    name: str = field("", "name of the run, in messages and its default directory; empty: the task", may_differ=True)
    seed: int = field(
        0, "random seed of initial weights, image order, augmentation and masks", low=0, high=SEEDS, open="high"
    )
    init: str = field(
        "scratch",
        "initial weights: scratch (random), mae (a run of mae_jax), or weights (from other code); for lbfgs and knn "
        "also no network: features (of a file), histogram (of colors), or nucleus (its measurements)",
        choices=("scratch", "mae", "weights", *WITHOUT_NETWORK),
    )
    init_from: str = field(
        "",
        "init=mae: run directory of the pre-training; init=weights: file or folder of weights; init=features: .npz, "
        "HDF5 or Parquet file, or folder of such files",
        path="one",
    )
    init_name: str = field("", "name of the initial weights in tables; empty: the value of init")
    init_seen: str = field(
        "",
        'data sets that the encoder in init_from was trained on, joined by ","; the report warns if the test images '
        "are among them",
    )
    tuned: str = field("", "how a study has chosen hyperparameters of the run, for the report", may_differ=True)
    data: DataFields = dataclasses.field(default_factory=DataFields)
    model: ModelFields = dataclasses.field(default_factory=ModelFields)
    mae: MaeFields = dataclasses.field(default_factory=MaeFields)
    optim: OptimFields = dataclasses.field(default_factory=OptimFields)
    train: TrainFields = dataclasses.field(default_factory=TrainFields)
    probe: ProbeFields = dataclasses.field(default_factory=ProbeFields)
    eval: EvalFields = dataclasses.field(default_factory=EvalFields)
    checkpoint: CheckpointFields = dataclasses.field(default_factory=CheckpointFields)
    sharding: ShardingFields = dataclasses.field(default_factory=ShardingFields)
    log: LogFields = dataclasses.field(default_factory=LogFields)

    @property
    def traits(self) -> Traits:
        """The traits of its task."""
        return TRAITS[self.task]

    @property
    def has_network(self) -> bool:
        """Whether a network computes its features or classifies; else features take its place."""
        return self.init not in WITHOUT_NETWORK

    @property
    def features_in_words(self) -> str:
        """What a probe classifies."""
        if self.has_network:
            return "features of the frozen encoder"
        return COMPUTED.get(self.init, f"features of {self.init_from}")


SEED_RULE = {"kind": int, "low": 0, "high": SEEDS, "open": "high", "allowed": "whole numbers of 0 and above"}


def _subset_seeds() -> tuple[int, ...]:
    """The field `subset_seeds` of a study or sweep."""
    return field((), "which labels, one for each of `seeds`; empty: 0 for every seed", may_differ=True, **SEED_RULE)


def _parallel() -> str:
    """The field `parallel` of a study or sweep."""
    return field(
        "auto",
        "how many runs train at the same time, each on its own GPU or CPU cores, after the pre-training: a number, or "
        "auto: as many as there are GPUs, on CPUs as many as a short measurement shows to be faster",
        number_or_auto=True, may_differ=True,
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class StudyConfig(Fields):
    """A label-efficiency study: pre-training, then evaluations over a grid, then the report."""

    task: str = field("study", "what the command does")
    name: str = field("", "name of the study in its default directory", may_differ=True)
    title: str = field("Label efficiency of masked autoencoders", "heading of the report", may_differ=True)
    fractions: tuple[float, ...] = field(
        (0.01, 0.1, 0.5, 1.0),
        "shares of the labels to train on",
        kind=float, low=0, high=1, open="low", allowed="numbers above 0 and up to 1",
        may_be_empty=False, may_repeat=False, may_differ=True,
    )  # fmt: skip
    label_counts: tuple[int, ...] = field(
        (),
        "numbers of labeled images to train on, such as (20, 50, 100, 200), instead of `fractions`",
        kind=int, low=0, high=10**9, open="low", allowed="whole numbers above 0", may_repeat=False, may_differ=True,
    )  # fmt: skip
    inits: tuple[str, ...] = field(
        ("scratch", "mae"),
        "initial weights: [NAME=]scratch, mae, PATH of an encoder, features:FILE, histogram, nucleus, or with "
        "changed fields, such as mae:mask_ratio=0.5 or scratch:model.dropout=0.1",
        may_be_empty=False, may_repeat=False, may_differ=True,
    )  # fmt: skip
    seeds: tuple[int, ...] = field(
        (0,), "random seeds of initial weights and image order", may_be_empty=False, may_repeat=False, may_differ=True,
        **SEED_RULE,
    )  # fmt: skip
    subset_seeds: tuple[int, ...] = _subset_seeds()
    evaluations: tuple[str, ...] = field(
        ("finetune",), "how to evaluate each encoder", choices=EVALUATIONS,
        may_be_empty=False, may_repeat=False, may_differ=True,
    )  # fmt: skip
    tune: tuple[str, ...] = field(
        (),
        "fine-tuning: fields to choose for each arm and number of labels on validation images, and the values to try, "
        "such as ('optim.base_lr=5e-4;1e-3','optim.weight_decay=0.05;0.3'); all combinations run with the first seed",
        may_repeat=False,
    )
    random_probe: bool = field(
        False,
        "add a linear probe of randomly initialized weights, the baseline that every encoder must beat",
        may_differ=True,
    )
    step_matched: float = field(
        0.0,
        "fine-tuning: also train fractions up to this one (or all label_counts) for as many updates as the largest",
        low=0, high=1, allowed="0 for none", may_differ=True,
    )  # fmt: skip
    target: float = field(
        0.0,
        "report: the macro F1 that counts as enough; 0: 0.02 below the best with all labels",
        low=0, high=1, allowed="0 for 0.02 below the best", may_differ=True,
    )  # fmt: skip
    pictures: bool = field(
        True, "report: show test images; False where their license forbids passing them on", may_differ=True
    )
    contrasts: tuple[str, ...] = field(
        (),
        'report: pairs of arms to compare besides each arm with the baseline; "A:B" is A minus B, by names of `inits`',
        may_repeat=False, may_differ=True,
    )  # fmt: skip
    pretrain_seeds: tuple[int, ...] = field(
        (),
        "random seeds of pre-training, one for each of `seeds`; empty: one pre-training for all, with its own seed",
        **SEED_RULE,
    )
    parallel: str = _parallel()
    experiments: Mapping[str, Mapping[str, Mapping[str, Any]]] = dataclasses.field(
        default_factory=dict,
        metadata={"rule": Rule("exp1, exp2 ...: what each changes in `pretrain`, for mae:exp=1", may_differ=True)},
    )
    pretrain: RunConfig = dataclasses.field(default_factory=RunConfig)
    finetune: RunConfig = dataclasses.field(default_factory=RunConfig)


@dataclasses.dataclass(frozen=True)
class SweepConfig(Fields):
    """A sweep: pre-training over mask ratios and visible weights, then fine-tuning from each network."""

    task: str = field("sweep", "what the command does")
    name: str = field("", "name of the sweep in its default directory", may_differ=True)
    title: str = field("What the autoencoder learned", "heading of the report", may_differ=True)
    mask_ratios: tuple[float, ...] = field(
        (0.25, 0.5, 0.75, 0.9),
        "mask ratios of the pre-training runs",
        kind=float, low=0, high=1, open="low high", allowed="numbers above 0 and below 1",
        may_be_empty=False, may_repeat=False, may_differ=True,
    )  # fmt: skip
    visible_weights: tuple[float, ...] = field(
        (0.0, 1.0),
        "values of mae.visible_weight; 0: none, as in He et al. 2022",
        kind=float, low=0, open="high", allowed="numbers of 0 and above",
        may_be_empty=False, may_repeat=False, may_differ=True,
    )  # fmt: skip
    unlabeled_counts: tuple[int, ...] = field(
        (),
        "numbers of unlabeled images of the pre-training runs, which all see equally many; 0: all; empty: all",
        kind=int, low=0, high=10**9, allowed="whole numbers, 0 for all images", may_repeat=False, may_differ=True,
    )  # fmt: skip
    seeds: tuple[int, ...] = field(
        (0,), "random seeds of fine-tuning; each autoencoder is pre-trained once",
        may_be_empty=False, may_repeat=False, may_differ=True, **SEED_RULE,
    )  # fmt: skip
    subset_seeds: tuple[int, ...] = _subset_seeds()
    parallel: str = _parallel()
    pretrain: RunConfig = dataclasses.field(default_factory=RunConfig)
    finetune: RunConfig = dataclasses.field(default_factory=RunConfig)


AnyConfig = RunConfig | StudyConfig | SweepConfig

# How the defaults of a task differ from those above.
_CLASSIFIER = {
    "optim.base_lr": 5e-4,
    "optim.warmup_epochs": 2.0,
    "optim.b2": 0.999,
    "optim.weight_decay": 0.05,
    "optim.no_decay": r"(^|/)(bias|scale|gamma|cls_token|pos_embed|reg_token)$",
    "train.epochs": 20.0,
    "train.batch_size": 64,
    "train.batch_per_device": 0,
}
_LINEAR_PROBE = _CLASSIFIER | {  # He et al. 2022, appendix A.1; see configs/linear_probe.py
    "optim.name": "lars",
    "optim.base_lr": 6.4,
    "optim.warmup_epochs": 10.0,
    "optim.weight_decay": 0.0,
    "model.head_std": 0.01,
    "train.epochs": 90.0,
    "train.batch_size": 256,
}
_TASKS = {"linear_probe": _LINEAR_PROBE}


def rules(fields: type[Fields], prefix: str = "") -> dict[str, tuple[Any, Rule]]:
    """{dotted name: (default, Rule)} for all fields, such as "data.fraction"."""
    by_name: dict[str, tuple[Any, Rule]] = {}
    for each in dataclasses.fields(fields):
        if "rule" in each.metadata:
            default = each.default if each.default is not dataclasses.MISSING else {}
            by_name[prefix + each.name] = default, each.metadata["rule"]
        elif isinstance(each.default_factory, type) and issubclass(each.default_factory, Fields):
            by_name |= rules(each.default_factory, f"{prefix}{each.name}.")
    return by_name


def may_differ(key: str) -> bool:
    """Whether a resumed run, study or sweep may change the field with this dotted name."""
    return key in _MAY_DIFFER or key.startswith("experiments.")


# A study may gain fractions, inits and seeds, and a sweep mask ratios, because each cell has its own config.
_MAY_DIFFER = {"resolved.devices", "resolved.rows"} | {
    key
    for fields in (RunConfig, StudyConfig, SweepConfig)
    for key, (_, rule) in rules(fields).items()
    if rule.may_differ
}


def changed(config: C, changes: Mapping[str, Any]) -> C:
    """A copy of `config` with the given {dotted name: value} changes."""
    here = {key: value for key, value in changes.items() if "." not in key}
    for section in dict.fromkeys(key.partition(".")[0] for key in changes if "." in key):
        inner = {key.partition(".")[2]: value for key, value in changes.items() if key.startswith(f"{section}.")}
        here[section] = changed(getattr(config, section), inner)
    return dataclasses.replace(config, **here)


def as_dict(config: Fields) -> dict[str, Any]:
    """The fields as nested dicts."""
    return dataclasses.asdict(config)


def defaults(task: str) -> ConfigDict:
    """All fields of one run with their defaults; `task` is one of TASKS."""
    changes = _TASKS.get(task, _CLASSIFIER if TRAITS[task].labeled else {})
    return ConfigDict(as_dict(changed(RunConfig(task=task), changes)))


def probe_of(finetune: RunConfig | ConfigDict, task: str) -> ConfigDict:
    """The config of a probe with the initial weights, network and data of a fine-tuning config."""
    c, given = defaults(task), finetune if isinstance(finetune, ConfigDict) else ConfigDict(as_dict(finetune))
    for name in ("name", "seed", "init", "init_from", "init_name", "init_seen"):
        c[name] = given[name]
    for section in ("data", "model", "probe", "eval", "checkpoint", "sharding", "log"):
        cast(ConfigDict, c[section]).update(given[section])
    c.data.update({name: default for name, (default, rule) in rules(DataFields).items() if rule.augments})
    c.model.update(drop_path=0.0, dropout=0.0, head_std=defaults(task).model.head_std)
    if task in QUICK:  # their images are cropped as in evaluation
        c.data.update({name: getattr(DataFields(), name) for name in ("crop_scale", "crop_ratio", "flips")})
    else:
        for name in ("select", "patience", "balance", "match_fraction", "match_count"):
            c.train[name] = given.train[name]
    return c


def study_defaults(pretrain: ConfigDict, finetune: ConfigDict) -> ConfigDict:
    """All fields of a study: one pre-training, then fine-tuning over a grid, then the report."""
    return _of_several(StudyConfig(), pretrain, finetune)


def sweep_defaults(pretrain: ConfigDict, finetune: ConfigDict) -> ConfigDict:
    """All fields of a sweep: pre-training over mask ratios x visible weights, then fine-tuning from each."""
    return _of_several(SweepConfig(), pretrain, finetune)


def _of_several(config: StudyConfig | SweepConfig, pretrain: ConfigDict, finetune: ConfigDict) -> ConfigDict:
    fields = as_dict(config)
    del fields["pretrain"], fields["finetune"]
    c = ConfigDict(fields)
    c.pretrain, c.finetune = pretrain, finetune
    return c
