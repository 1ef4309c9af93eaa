"""The fields of every config: defaults, meanings, choices and ranges."""

import math
import re

from ml_collections import ConfigDict

EVALUATIONS = ("finetune", "linear_probe", "lbfgs", "knn")  # of an encoder, each a task of one run
QUICK = ("lbfgs", "knn")  # those that train nothing: they solve for the head, or have none
TASKS = ("pretrain", *EVALUATIONS)
SIZES = ("tiny", "small", "base", "large", "custom")
WEIGHTS = (".safetensors", ".npz", ".pth", ".pt", ".bin", ".ckpt")  # endings of files of weights
# Fields that may change between two starts of a run: they do not alter its numbers. A study may grow by
# fractions, initialisations and seeds, a sweep by mask ratios and weights: their cells have configs of their own.
FREE = re.compile(
    r"((pretrain|finetune)\.)?"
    r"(name|title|log\..*|checkpoint\.keep|data\.(threads|workers|prefetch|prepared_dir)|sharding\..*|model\.attention|train\.(remat|on_divergence|lower_rate_(times|factor)))"
    r"|fractions|label_counts|inits|seeds|subset_seeds|evaluations|random_probe|step_matched|target|mask_ratios|visible_weights|experiments\..*|resolved\.(devices|rows)"
)

_CHOICES = {
    "task": TASKS,
    "init": ("scratch", "mae", "weights"),
    "data.bad_images": ("stop", "skip"),
    "train.select": ("last", "best", "accuracy", "macro_f1", "loss"),
    "train.balance": ("none", "sampler", "loss"),
    "train.on_divergence": ("stop", "lower_rate"),
    "model.size": SIZES,
    "model.pool": ("cls", "mean"),
    "model.dtype": ("auto", "float32", "bfloat16"),
    "model.attention": ("auto", "xla", "cudnn"),
    "model.positions": ("fixed", "learned"),
    "optim.name": ("adamw", "lars"),
    "optim.schedule": ("cosine", "constant", "linear"),
}
_RANGES = {  # low, high, whether low itself is allowed, whether high is
    "data.val_fraction": (0, 1, True, False),
    "data.test_fraction": (0, 1, True, False),
    "data.fraction": (0, 1, False, True),
    "data.label_count": (0, 10**9, True, True),
    "data.randaugment": (0, 10, True, True),
    "data.random_erasing": (0, 1, True, True),
    "data.threads": (0, 1024, True, True),
    "data.workers": (0, 1024, True, True),
    "data.prefetch": (1, 4096, True, True),
    "data.synthetic_train": (10, 10**7, True, True),
    "data.synthetic_test": (10, 10**7, True, True),
    "data.synthetic_unlabelled": (10, 10**7, True, True),
    "data.synthetic_size": (16, 4096, True, True),
    "seed": (0, 2**31, True, False),
    "data.subset_seed": (0, 2**31, True, False),
    "data.val_seed": (0, 2**31, True, False),
    "data.test_seed": (0, 2**31, True, False),
    "model.image_size": (1, 2**15, True, True),
    "model.patch_size": (1, 2**15, True, True),
    "model.mlp_ratio": (0.01, 64, True, True),
    "model.decoder_width": (4, 2**16, True, True),
    "model.decoder_depth": (1, 100, True, False),
    "model.decoder_heads": (1, 2**16, True, True),
    "model.head_std": (0, math.inf, True, False),
    "model.drop_path": (0, 1, True, False),
    "model.norm_eps": (0, 1, False, False),
    "model.registers": (0, 1024, True, True),
    "model.layer_scale": (0, math.inf, True, False),
    "mae.mask_ratio": (0, 1, False, False),
    "mae.visible_weight": (0, math.inf, True, False),
    "optim.base_lr": (0, 1e3, False, True),
    "optim.warmup_epochs": (0, 1e6, True, True),
    "optim.min_lr": (0, 1e3, True, True),
    "optim.weight_decay": (0, 1e3, True, True),
    "optim.b1": (0, 1, True, False),
    "optim.b2": (0, 1, True, False),
    "optim.clip_norm": (0, math.inf, True, False),
    "optim.layer_decay": (0, 1, False, True),
    "train.epochs": (0, 1e6, False, True),
    "train.steps": (0, 10**9, True, True),
    "train.batch_size": (0, 10**6, True, True),
    "train.batch_per_device": (0, 10**6, True, True),
    "train.accumulation": (1, 10**6, True, True),
    "train.match_fraction": (0, 1, True, True),
    "train.match_count": (0, 10**9, True, True),
    "train.label_smoothing": (0, 1, True, False),
    "train.patience": (0, 10**6, True, True),
    "train.blocks": (-1, math.inf, True, False),
    "train.mixup": (0, 1000, True, True),
    "train.cutmix": (0, 1000, True, True),
    "train.lower_rate_times": (1, 100, True, True),
    "train.lower_rate_factor": (0, 1, False, False),
    "eval.every_epochs": (0, 1e6, False, True),
    "eval.batch_size": (1, 10**6, True, True),
    "eval.images": (1, 64, True, True),
    "eval.mask_seed": (0, 2**31, True, False),
    "checkpoint.every_epochs": (0, 1e6, False, True),
    "checkpoint.keep": (1, 10**6, True, True),
    "sharding.fsdp": (1, 10**6, True, True),
    "log.every_steps": (1, 10**9, True, True),
    "log.progress_seconds": (0, 1e9, True, True),
}


def defaults(task: str) -> ConfigDict:
    """All fields of one run, `task` = one of TASKS, with the study's shared values."""
    c = ConfigDict()
    c.task = task
    c.name = ""  # what to call the run in its default directory; empty: made from the values below
    c.seed = 0  # initial weights, order of the images, augmentation, masks
    c.init = "scratch"  # scratch | mae | weights: where the first weights come from
    c.init_from = ""  # mae: the run directory of the pre-training; weights: a file or folder (see README)
    c.init_name = ""  # what tables call it; empty: as `init`

    d = c.data = ConfigDict()
    d.source = "raabin_wbc"  # synthetic | folder | raabin_wbc | cam16 | prcc | tiles:NAME; pre-training joins by "+"
    d.prepared_dir = ""  # where prepared data sets are; empty: $TFDS_DATA_DIR, else ~/tensorflow_datasets
    d.dir = ""  # for folder: the directory; several of them, for pre-training, joined by ","
    d.weights = ()  # pre-training: shares of the sources; empty: by their numbers of images
    d.labels = ""  # folder: a CSV or Parquet file with path, label, optional group and split; paths are below `dir`
    d.columns = ""  # its columns where they have other names, such as "path=file,label=cell_type,group=patient"
    d.train_split = "Train"  # folder or split to train on; auto, or "Train" where it is missing: found by usual names
    d.test_split = "TestA"  # the same for test; without one, `test_fraction` is split off
    d.val_split = "auto"  # the same for validation; none: validation images are taken from the training images
    d.test_fraction = 0.2  # without a test set: share of the images split off as one, by group and class
    d.test_seed = 0  # which images these are
    d.group_pattern = ""  # regular expression with one group that finds the patient or slide in an image's path
    d.external = ""  # further test sets, joined by ",": [NAME=]PLACE, a folder of class folders or another split
    d.val_fraction = 0.1  # split off the training images first, the same for every fraction
    d.fraction = 1.0  # share of the labels that training may see, per class
    d.label_count = 0  # labels that training may see, in images of all classes; 0: `fraction` says how many
    d.subset_seed = 0  # which images are in the fraction; apart from `seed`
    d.val_seed = 0  # which images validate; the same for every fraction and seed of a study
    d.bad_images = "stop"  # stop | skip: what to do about a file that is not an image
    d.crop_scale = (0.2, 1.0)  # area of the random crop as a share of the image's
    d.crop_ratio = (3 / 4, 4 / 3)  # width over height of the random crop
    d.flips = True  # mirror left-right and up-down, each with probability 1/2
    d.randaugment = 0.0  # magnitude, up to 10, of two random operations on each image (RandAugment); 0: none
    d.randaugment_colour = True  # also operations on colours; False: rotation, shear and translation alone
    d.random_erasing = 0.0  # share of the images of which a random box is replaced by noise
    d.mean = (0.485, 0.456, 0.406)  # subtracted from the images in 0..1 (ImageNet's values)
    d.std = (0.229, 0.224, 0.225)  # and divided by
    d.threads = 8  # decoding threads per process
    d.workers = 0  # decoding processes beside the main one; 0: threads alone
    d.prefetch = 4  # batches read ahead
    d.synthetic_train = 2000  # synthetic: labelled images to draw
    d.synthetic_test = 500
    d.synthetic_unlabelled = 4000
    d.synthetic_size = 96  # pixels

    m = c.model = ConfigDict()
    m.size = "base"  # tiny | small | base | large | custom
    m.image_size = 224  # pixels; a multiple of patch_size
    m.patch_size = 16  # pixels
    m.width = 0  # for size = custom: features per token, a multiple of 4 and of heads
    m.depth = 0  # for size = custom: blocks
    m.heads = 0  # for size = custom
    m.mlp_ratio = 4.0  # hidden features of the MLP over width
    m.pool = "cls"  # cls | mean: what the classifier's head reads
    m.decoder_width = 512  # pre-training: the decoder of He et al. 2022
    m.decoder_depth = 8
    m.decoder_heads = 16
    m.head_std = 0.02  # deviation of the classifier head's first weights (normal, cut off at two); 0: Xavier-uniform
    m.drop_path = 0.0  # fine-tuning: stochastic depth of the last block
    m.dtype = "auto"  # auto | float32 | bfloat16: of the arithmetic; auto: bfloat16 where that is faster, not on CPUs
    m.attention = "auto"  # auto | xla | cudnn: what computes attention; auto: cudnn where it can, xla elsewhere
    m.positions = "fixed"  # fixed (sine-cosine) | learned: the encoder's position embeddings
    m.norm_eps = 1e-6  # epsilon of the layer norms
    m.registers = 0  # further learned tokens beside the class token
    m.layer_scale = 0.0  # where learned factors on the residual branches start; 0: none

    a = c.mae = ConfigDict()
    a.mask_ratio = 0.75  # share of the patches that is removed
    a.norm_pix_loss = True  # targets: pixels normalised within their patch
    a.visible_weight = 0.0  # weight of the visible patches' loss beside the removed ones'; 0: He et al. 2022

    o = c.optim = ConfigDict()
    o.name = "adamw"  # adamw | lars
    o.base_lr = 1.5e-4  # learning rate for 256 images; peak = base_lr * images per step / 256
    o.schedule = "cosine"  # cosine | constant | linear, after the warm-up
    o.warmup_epochs = 40.0  # linear from 0
    o.min_lr = 0.0  # where cosine and linear end
    o.weight_decay = 0.05  # decoupled (AdamW)
    o.no_decay = r"(^|/)(bias|scale|gamma)$"  # parameters whose path matches are not decayed, nor scaled by LARS
    o.b1 = 0.9  # for lars: momentum
    o.b2 = 0.95
    o.clip_norm = 0.0  # largest global norm of the gradient; 0: no clipping
    o.layer_decay = 1.0  # factor on the learning rate per block, counted from the head

    t = c.train = ConfigDict()
    t.epochs = 100.0
    t.steps = 0  # in place of epochs, where not 0
    t.batch_size = 0  # images per update, all devices together; 0: from batch_per_device
    t.batch_per_device = 48  # images per device and accumulation step
    t.accumulation = 1  # micro-batches per update
    t.match_fraction = 0.0  # fine-tuning: as many updates as this share of the labels would get; 0: those of its own
    t.match_count = 0  # the same by images, for label_count: as many updates as so many labels would get
    t.label_smoothing = 0.0  # fine-tuning
    t.blocks = -1  # fine-tuning: how many of the last blocks are trained, with norm and head; 0: the head; -1: all
    t.mixup = 0.0  # fine-tuning: alpha of mixup's Beta distribution; 0: off; with CutMix, each has half of the updates
    t.cutmix = 0.0  # fine-tuning: alpha of CutMix's Beta distribution; 0: off
    t.remat = False  # compute activations again for the gradient: less memory, about a third more work
    t.on_divergence = "stop"  # stop | lower_rate: what to do about a loss or gradient that is not finite
    t.lower_rate_times = 3  # for lower_rate: so often it goes back to the last sound checkpoint, then it stops
    t.lower_rate_factor = 0.5  # and goes on from there with the learning rate times this
    t.select = "last"  # last | accuracy | macro_f1 | loss: which epoch is tested, by validation; best: accuracy
    t.patience = 0  # stops early after so many evaluations without a gain in what `select` names; 0: never
    t.balance = "none"  # none | sampler (classes drawn by the root of their size) | loss (weights 1 / class size)

    b = c.probe = ConfigDict()  # what lbfgs and knn choose among on the validation images
    b.l2 = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # lbfgs: penalties on the squared weights
    b.neighbours = (1, 5, 10, 20, 50)  # knn: how many vote
    b.temperature = (0.07,)  # knn: a vote of cosine similarity s weighs exp(s / temperature)

    e = c.eval = ConfigDict()
    e.every_epochs = 1.0
    e.batch_size = 128  # images per evaluation step
    e.images = 8  # pre-training: reconstructions to show
    e.mask_seed = 0  # pre-training: which patches evaluation removes; the same for every seed and experiment
    e.mask_ratios = (0.75,)  # pre-training: shares removed in its last pictures and errors

    k = c.checkpoint = ConfigDict()
    k.every_epochs = 1.0
    k.keep = 2  # newest checkpoints to keep; the older serves where the newest is damaged

    s = c.sharding = ConfigDict()
    s.fsdp = 1  # devices over which parameters and optimiser state are split

    g = c.log = ConfigDict()
    g.every_steps = 20
    g.tensorboard = True  # write event files beside metrics.jsonl
    g.profile = False  # trace a few steps for TensorBoard's profiler
    g.progress_seconds = 10.0  # between two lines of progress

    if task != "pretrain":
        o.base_lr, o.warmup_epochs, o.b2, o.weight_decay = 5e-4, 2.0, 0.999, 0.05
        o.no_decay = r"(^|/)(bias|scale|gamma|cls_token|pos_embed|reg_token)$"
        t.epochs, t.batch_size, t.batch_per_device = 20.0, 64, 0
    if task == "linear_probe":  # He et al. 2022, appendix A.1; see configs/linear_probe.py
        o.name, o.base_lr, o.warmup_epochs, o.weight_decay, m.head_std = "lars", 6.4, 10.0, 0.0, 0.01
        t.epochs, t.batch_size = 90.0, 256
    return c


def probe_of(finetune: ConfigDict, task: str) -> ConfigDict:
    """The config of a probe of the frozen encoder: first weights, network and data are those of a fine-tuning."""
    c = defaults(task)
    for name in ("name", "seed", "init", "init_from", "init_name"):
        c[name] = finetune[name]
    for section in ("data", "model", "eval", "checkpoint", "sharding", "log"):
        c[section].update(finetune[section])
    c.data.update(randaugment=0.0, random_erasing=0.0)
    c.model.update(drop_path=0.0, head_std=defaults(task).model.head_std)
    if task not in QUICK:
        for name in ("select", "patience", "balance", "match_fraction", "match_count"):
            c.train[name] = finetune.train[name]
    return c


def study_defaults(pretrain: ConfigDict, finetune: ConfigDict) -> ConfigDict:
    """All fields of a study: one pre-training, then fine-tuning over a grid, then the report."""
    c = ConfigDict()
    c.task = "study"
    c.name = ""
    c.title = "Label efficiency of masked autoencoders"
    c.fractions = (0.01, 0.1, 0.5, 1.0)
    c.label_counts = ()  # labels in images, such as (20, 50, 100, 200), in place of `fractions`
    c.inits = ("scratch", "mae")  # scratch | mae | mae:mask_ratio=0.5 | mae:exp=1 | [NAME=]PATH of an encoder
    c.seeds = (0,)  # initial weights and order
    c.subset_seeds = ()  # which labels; empty: 0 for every seed
    c.evaluations = ("finetune",)  # of each initialisation: finetune | linear_probe | lbfgs | knn, see EVALUATIONS
    c.random_probe = False  # a solved linear probe on random weights beside any evaluations: what all must beat
    c.step_matched = 0.0  # fine-tuning: fractions up to this (or all label_counts) also get the updates of the largest
    c.target = 0.0  # report: the macro F1 at which labels are enough; 0: 0.02 below the best with all labels
    c.pretrain_seeds = ()  # a pre-training for each of `seeds`; empty: one for all, with the seed of `pretrain`
    c.experiments = ConfigDict()  # exp1, exp2 ...: what each changes of `pretrain`, for inits such as mae:exp=1
    c.pretrain = pretrain
    c.finetune = finetune
    return c


def sweep_defaults(pretrain: ConfigDict, finetune: ConfigDict) -> ConfigDict:
    """All fields of a sweep: pre-training over mask ratios x visible weights, then fine-tuning from each."""
    c = ConfigDict()
    c.task = "sweep"
    c.name = ""
    c.title = "What the autoencoder learned"
    c.mask_ratios = (0.25, 0.5, 0.75, 0.9)  # shares of the patches removed in pre-training
    c.visible_weights = (0.0, 1.0)  # mae.visible_weight; 0: He et al. 2022
    c.seeds = (0,)  # of fine-tuning: initial weights and order; each network is pre-trained once
    c.subset_seeds = ()  # which labels; empty: 0 for every seed
    c.pretrain = pretrain
    c.finetune = finetune
    return c
