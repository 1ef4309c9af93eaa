"""The fields of one run, except those of its data: network, objective, optimizer, training, evaluation, files."""

import dataclasses

from mae_jax.config.data_fields import DataFields
from mae_jax.config.rule import SEEDS, Fields, field
from mae_jax.config.tasks import TASKS, TRAITS, Traits

TRACKERS = ("wandb", "mlflow", "trackio")
FAMILIES = ("vit", "resnet18")
FROZEN_BATCH, ROTARY = "frozen_batch", "rotary"
SIZES = ("tiny", "small", "base", "large", "custom")
WEIGHTS = (".safetensors", ".npz", ".pth", ".pt", ".bin", ".ckpt", ".torch", ".tar")  # suffixes of weight files
FEATURES = "features"  # the `init` of features from files
COMPUTED = {"histogram": "color histograms", "nucleus": "measurements of the nucleus"}  # `init` and its words
WITHOUT_NETWORK = (FEATURES, *COMPUTED)  # values of `init`
FEATURE_FILES = (".npz", ".h5", ".hdf5", ".parquet", ".pq")  # suffixes of files of features


@dataclasses.dataclass(frozen=True)
class ModelFields(Fields):
    """The network."""

    family: str = field(
        "vit",
        "kind of network: vit, or resnet18, a classifier for comparison (He et al. 2016)",
        choices=FAMILIES,
        used="labels",
    )
    norm: str = field(
        "group",
        "norm of resnet18; frozen_batch: batch norm with the statistics of the initial weights, as published networks "
        "have it",
        choices=("group", FROZEN_BATCH),
        used="labels resnet",
    )
    size: str = field(
        "base", "ViT size (Dosovitskiy et al. 2021); custom: set width, depth and heads", choices=SIZES, used="vit"
    )
    image_size: int = field(224, "width and height of the input in pixels; a multiple of patch_size", low=1, high=2**15)
    patch_size: int = field(16, "width and height of a patch in pixels", low=1, high=2**15, used="vit")
    width: int = field(0, "size=custom: features per token; a multiple of 4 and of heads", used="vit")
    depth: int = field(0, "size=custom: number of blocks", used="vit")
    heads: int = field(0, "size=custom: number of attention heads", used="vit")
    mlp_ratio: float = field(4.0, "hidden features of the MLP, as a multiple of width", low=0.01, high=64, used="vit")
    mlp: str = field(
        "gelu",
        "MLP of each block; quick_gelu: CLIP's approximation; swiglu (Shazeer 2020): hidden features are gated",
        choices=("gelu", "quick_gelu", "swiglu"),
        used="vit",
    )
    pool: str = field(
        "cls",
        "what the classification head or the probe reads: class token, mean of the patch tokens, or both, concatenated",
        choices=("cls", "mean", "both"),
        used="labels vit",
    )
    decoder_width: int = field(
        512, "pre-training: features per token in the decoder (He et al. 2022)", low=4, high=2**16, used="decoder"
    )
    decoder_depth: int = field(
        8, "pre-training: number of blocks in the decoder", low=1, high=100, open="high", used="decoder"
    )
    decoder_heads: int = field(
        16, "pre-training: number of attention heads in the decoder", low=1, high=2**16, used="decoder"
    )
    head_std: float = field(
        0.02,
        "standard deviation of the head's initial weights (truncated normal); 0: Xavier uniform",
        low=0,
        open="high",
        used="updates_with_labels",
    )
    drop_path: float = field(
        0.0,
        "fine-tuning: stochastic depth; rate of the last block, falling linearly to 0 at the first",
        low=0,
        high=1,
        open="high",
        used="fine_tuning vit",
    )
    dropout: float = field(
        0.0,
        "fine-tuning: dropout rate after the embedding and each linear layer but queries, keys and values",
        low=0,
        high=1,
        open="high",
        used="fine_tuning vit",
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
        used="vit",
    )
    positions: str = field(
        "fixed",
        "positions of the encoder; fixed: sine-cosine; rotary: queries and keys are rotated, as in DINOv3",
        choices=("fixed", "learned", ROTARY),
        used="vit",
    )
    pre_norm: bool = field(False, "a norm before the first block, as in CLIP (Radford et al. 2021)", used="vit")
    norm_eps: float = field(1e-6, "epsilon of the layer norms", low=0, high=1, open="low high", used="vit")
    registers: int = field(0, "number of register tokens (Darcet et al. 2024)", low=0, high=1024, used="vit")
    layer_scale: float = field(
        0.0,
        "initial value of LayerScale (Touvron et al. 2021), learned factors on residual branches; 0: off",
        low=0,
        open="high",
        used="vit",
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
        used="stain",
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
    min_lr: float = field(
        0.0, "final learning rate of the cosine and linear schedules", low=0, high=1e3, used="falling_rate"
    )
    weight_decay: float = field(0.05, "decoupled weight decay (AdamW)", low=0, high=1e3)
    no_decay: str = field(
        r"(^|/)(bias|scale|gamma)$",
        "regular expression; matching parameters get no weight decay and no LARS scaling",
        used="decay",
    )
    b1: float = field(0.9, "beta 1 of AdamW; momentum of LARS", low=0, high=1, open="high")
    b2: float = field(0.95, "beta 2 of AdamW", low=0, high=1, open="high", used="adamw")
    clip_norm: float = field(0.0, "clip the gradient to this global norm; 0: off", low=0, open="high")
    layer_decay: float = field(
        1.0,
        "layer-wise decay: factor on the learning rate per block, from the head down",
        low=0,
        high=1,
        open="low",
        used="encoder_trained",
    )


@dataclasses.dataclass(frozen=True)
class TrainFields(Fields):
    """Training length, batches, regularization, and handling of divergence."""

    epochs: float = field(100.0, "passes over the training images", low=0, high=1e6, open="low", used="epochs")
    epoch_images: int = field(
        0,
        "pre-training: number of images that count as one epoch, so that runs on other images see as many; 0: all",
        low=0, high=10**9, used="decoder",
    )  # fmt: skip
    steps: int = field(0, "number of updates, instead of epochs; 0: use `epochs`", low=0, high=10**9)
    batch_size: int = field(
        0, "images per update over all devices; 0: batch_per_device * accumulation * devices", low=0, high=10**6
    )
    batch_per_device: int = field(48, "images per device and accumulation step", low=0, high=10**6, used="open_batch")
    accumulation: int = field(1, "micro-batches per update", low=1, high=10**6)
    match_fraction: float = field(
        0.0,
        "classifiers: train for as many updates as this share of the labels would get; 0: off",
        low=0,
        high=1,
        used="updates_with_labels",
    )
    match_count: int = field(
        0,
        "classifiers: train for as many updates as this number of labels would get; 0: off",
        low=0,
        high=10**9,
        used="updates_with_labels",
    )
    label_smoothing: float = field(
        0.0, "classifiers: label smoothing", low=0, high=1, open="high", used="updates_with_labels"
    )
    blocks: int = field(
        -1,
        "fine-tuning: train this many of the last blocks, the last norm and the head; 0: only the head; -1: all",
        low=-1,
        open="high",
        used="fine_tuning",
    )
    mixup: float = field(
        0.0,
        "fine-tuning: alpha of mixup; 0: off; with CutMix, each gets half of the updates",
        low=0,
        high=1000,
        used="fine_tuning",
    )
    cutmix: float = field(0.0, "fine-tuning: alpha of CutMix; 0: off", low=0, high=1000, used="fine_tuning")
    cellmix: str = field(
        "none",
        "fine-tuning: CellMix (Zhang et al. 2023) in half of the updates: exchange patches between pairs of images, or "
        "among all images of the batch, each in its place",
        choices=("none", "pairs", "batch"),
        used="fine_tuning",
    )
    remat: bool = field(
        False,
        "recompute activations in the backward pass: less memory, about a third more computation",
        may_differ=True,
        used="vit",
    )
    on_divergence: str = field(
        "stop",
        "what to do if a loss or gradient is not finite: stop, or roll back and lower the learning rate",
        choices=("stop", "lower_rate"),
        may_differ=True,
    )
    lower_rate_times: int = field(
        3,
        "on_divergence=lower_rate: maximum number of rollbacks before giving up",
        low=1,
        high=100,
        may_differ=True,
        used="lower_rate",
    )
    lower_rate_factor: float = field(
        0.5,
        "factor on the learning rate after each rollback",
        low=0,
        high=1,
        open="low high",
        may_differ=True,
        used="lower_rate",
    )
    select: str = field(
        "last",
        "which epoch to test: the last, or the best by this validation score; best: the same as accuracy",
        choices=("last", "best", "accuracy", "macro_f1", "loss"),
        used="updates_with_labels",
    )
    patience: int = field(
        0,
        "stop after this many evaluations without a better `select` score (at a tie, a lower loss); 0: never",
        low=0,
        high=10**6,
        used="updates_with_labels",
    )
    balance: str = field(
        "none",
        "imbalanced classes: sampler draws each class by the square root of its size, loss weights it by 1 / size",
        choices=("none", "sampler", "loss"),
        used="updates_with_labels",
    )


@dataclasses.dataclass(frozen=True)
class ProbeFields(Fields):
    """Hyperparameters that lbfgs and knn select on validation images, or by cross-validation on the training images."""

    l2: tuple[float, ...] = field((1e-4, 1e-3, 1e-2, 1e-1, 1.0), "lbfgs: candidate L2 penalties", used="lbfgs")
    neighbours: tuple[int, ...] = field((1, 5, 10, 20, 50), "knn: candidate numbers of neighbors", used="knn")
    temperature: tuple[float, ...] = field(
        (0.07,),
        "knn: candidate temperatures; a neighbor with cosine similarity s has weight exp(s / temperature)",
        used="knn",
    )
    folds: int = field(
        0,
        "number of folds of a cross-validation on the training images, which needs no further labels; 0: select on the "
        "validation images",
        low=0,
        high=100,
        used="choosing",
    )


@dataclasses.dataclass(frozen=True)
class EvalFields(Fields):
    """Evaluation during and after training."""

    every_epochs: float = field(1.0, "epochs between two evaluations", low=0, high=1e6, open="low", used="updates")
    batch_size: int = field(128, "images per evaluation step", low=1, high=10**6, used="network")
    images: int = field(8, "pre-training: number of reconstructions to show", low=1, high=64, used="decoder")
    mask_seed: int = field(
        0,
        "pre-training: random seed of the masks in evaluation; independent of `seed`",
        low=0,
        high=SEEDS,
        open="high",
        used="decoder",
    )
    mask_ratios: tuple[float, ...] = field(
        (0.75,), "pre-training: mask ratios of the final reconstructions and errors", used="decoder"
    )


@dataclasses.dataclass(frozen=True)
class CheckpointFields(Fields):
    """Checkpoints: how often, and how many to keep."""

    every_epochs: float = field(1.0, "epochs between two checkpoints", low=0, high=1e6, open="low", used="updates")
    keep: int = field(
        2,
        "number of newest checkpoints to keep; an older one is used if the newest is damaged",
        low=1,
        high=10**6,
        may_differ=True,
        used="updates",
    )
    keep_optimizer: bool = field(
        False,
        "in a study: keep all checkpoints and optimizer states of finished classifiers, with which they could resume",
        may_differ=True,
        used="cells",
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

    every_steps: int = field(
        20, "updates between two rows of metrics.jsonl", low=1, high=10**9, may_differ=True, used="updates"
    )
    tensorboard: bool = field(True, "also write TensorBoard event files", may_differ=True)
    profile: bool = field(False, "profile a few steps for TensorBoard", may_differ=True, used="updates")
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
        used="initial_weights",
    )
    init_name: str = field("", "name of the initial weights in tables; empty: the value of init")
    init_seen: str = field(
        "",
        'data sets that the encoder in init_from was trained on, joined by ","; the report warns if the test images '
        "are among them",
        used="weights_or_features",
    )
    tuned: str = field("", "how a study has chosen hyperparameters of the run, for the report", may_differ=True)
    data: DataFields = dataclasses.field(default_factory=DataFields)
    model: ModelFields = dataclasses.field(default_factory=ModelFields, metadata={"used": "network"})
    mae: MaeFields = dataclasses.field(default_factory=MaeFields, metadata={"used": "decoder"})
    optim: OptimFields = dataclasses.field(default_factory=OptimFields, metadata={"used": "updates"})
    train: TrainFields = dataclasses.field(default_factory=TrainFields, metadata={"used": "updates"})
    probe: ProbeFields = dataclasses.field(default_factory=ProbeFields)
    eval: EvalFields = dataclasses.field(default_factory=EvalFields)
    checkpoint: CheckpointFields = dataclasses.field(default_factory=CheckpointFields)
    sharding: ShardingFields = dataclasses.field(default_factory=ShardingFields, metadata={"used": "network"})
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
