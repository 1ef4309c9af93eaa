"""Configs: the fields and their defaults, arguments of config files, derived values.

A config file below `configs/` starts from `defaults(task)` and sets what its experiment is about.
Values that follow from others (steps, learning rate, warm-up) are computed in `resolve`, after every
override from the command line.
"""

import dataclasses
import difflib
import importlib.util
import inspect
import json
import math
import os
import re
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from mae_jax.errors import UNUSABLE, UserError

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
    r"|fractions|label_counts|inits|seeds|subset_seeds|evaluations|random_probe|step_matched|mask_ratios|visible_weights|experiments\..*|resolved\.(devices|rows)"
)


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
    t.select = "last"  # last | best: which epoch's weights are tested; best: by accuracy on validation images

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
        c.train.update(select=finetune.train.select, match_fraction=finetune.train.match_fraction)
        c.train.match_count = finetune.train.match_count
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


def parse_arg(arg: str | None, **known: Any) -> ConfigDict:
    """Reads a config file's argument, "key=value,key=value", typed as the defaults in `known`.

    Raises UserError on a key that is not known or a value of another type.
    """
    values, given = dict(known), set()
    for item in filter(None, (arg or "").split(",")):
        key, equals, text = item.partition("=")
        if key not in known or not equals:
            allowed = ", ".join(f"{k}={v}" for k, v in known.items()) or "none"
            raise UserError(f"config argument {item!r} is not known; allowed, with their defaults: {allowed}")
        if key in given:
            raise UserError(f"config argument {item!r}: {key} is given twice; give it once")
        given.add(key)
        kind = type(known[key])
        try:
            values[key] = {"true": True, "false": False}[text.lower()] if kind is bool else kind(text)
        except (ValueError, KeyError):
            raise UserError(f"config argument {item!r}: {text!r} is not a valid {kind.__name__}") from None
    return ConfigDict(values)


def init_of(path: str | os.PathLike) -> str:
    """What a path given as `init` is: "weights" for a file or folder of other code's weights, else "mae"."""
    path = Path(path)
    if path.is_dir():
        own = (path / "checkpoints").is_dir() or (not any(path.glob("*.safetensors")) and not any(path.glob("*.bin")))
        return "mae" if own else "weights"
    return "weights" if path.is_file() or path.suffix in WEIGHTS else "mae"


def one_of(field: str, value: Any, allowed: tuple) -> Any:
    """Returns `value` if it is allowed, else raises UserError naming the field."""
    if value not in allowed:
        raise UserError(f"{field}={value} is not allowed; use one of {', '.join(map(str, allowed))}")
    return value


def load(path: str | os.PathLike, arg: str = "") -> ConfigDict:
    """The config of a file such as `configs/demo.py`, as the flag --config=FILE:ARG gives it."""
    path = Path(path)
    if not path.is_file():
        what = "is no file" if path.exists() else "does not exist"
        raise UserError(f"config file {path} {what}; see configs/ for those that do")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise UserError(f"config file {path} is no Python file; see configs/ for those that are")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        raise UserError(f"config file {path} is not valid Python, line {error.lineno}: {error.msg}") from None
    except ImportError as error:
        raise UserError(f"config file {path} needs what is not here: {error}; install it, or leave it out") from None
    made = getattr(module, "get_config", None)
    if not callable(made):
        raise UserError(f"config file {path} has no function get_config(arg); see configs/ for some that have")
    try:
        inspect.signature(made).bind(arg)
    except TypeError:
        raise UserError(
            f"config file {path}: get_config takes one argument, the text after ':'; see configs/"
        ) from None
    config = made(arg)
    if not isinstance(config, ConfigDict):
        raise UserError(
            f"config file {path}: get_config gave a {type(config).__name__}; it should give a ConfigDict, see configs/"
        )
    return config


def check_arguments(arguments: list[str]) -> None:
    """Refuses a --config that does not load, a --config.FIELD that is no field and a value of another type.

    Raises UserError.
    """
    following = [*arguments[1:], ""]
    joined = [a if "=" in a else f"{a}={b}" for a, b in zip(arguments, following, strict=True)]
    given = [a.lstrip("-").partition("=") for a in joined if a.startswith(("--config", "-config"))]
    files = [value for name, _, value in given if name == "config"]
    if not files:
        return
    if not files[-1]:
        raise UserError("--config= names no file; use one of configs/, for example --config=configs/demo.py")
    path, _, arg = files[-1].partition(":")
    flat = flatten(load(path, arg))
    for name, equals, value in given:
        field = name.removeprefix("config.")
        if name.startswith("config.") and field not in flat:
            near = difflib.get_close_matches(field, flat, 1)
            hint = f"did you mean --config.{near[0]}?" if near else f"{path} lists the fields"
            inside = [key for key in flat if key.startswith(f"{field}.")]
            if inside:
                hint = f"it has fields of its own, such as --config.{inside[0]}"
            raise UserError(f"--config.{field}{equals}{value}: {field} is not a field of the config; {hint}")
        kind = type(flat.get(field))
        if name.startswith("config.") and kind in (int, float):
            try:
                kind(value)
            except ValueError:
                words = {int: "a whole number", float: "a number"}[kind]
                raise UserError(f"--config.{field}{equals}{value}: {value!r} is not {words}") from None


def flatten(config: ConfigDict | dict, prefix: str = "") -> dict[str, Any]:
    """{"data.fraction": 0.1, ...}: the fields in one level."""
    flat = {}
    for key, value in config.items():
        if isinstance(value, ConfigDict | dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def hparams(config: ConfigDict) -> dict[str, Any]:
    """The fields as TensorBoard's table wants them: the same keys in every run, no None."""
    return {
        key: value if isinstance(value, int | float | str) else json.dumps(value)
        for key, value in flatten(config).items()
        if not key.startswith(("log.", "data.threads", "data.workers", "data.prefetch", "data.prepared_dir"))
    }


@dataclasses.dataclass(frozen=True)
class Resolved:
    """What follows from a config, the number of training images and the devices."""

    n_train: int  # images
    devices: int
    batch_size: int  # images per update
    rows: int  # batch_size rounded up to a multiple of devices * accumulation; the rest is padding
    steps_per_epoch: int
    steps: int
    warmup_steps: int
    peak_lr: float
    eval_every: int  # steps
    save_every: int  # steps


def arm_of(config: ConfigDict) -> str:
    """How a run was trained, in words, where that is not the usual way; runs are compared within an arm."""
    match, blocks = config.train.match_fraction, config.train.blocks
    said = [f"as many updates as {match * 100:g} %"] if match else []
    said += [f"as many updates as {config.train.match_count} labels"] if config.train.match_count else []
    if blocks >= 0:
        said.append(f"{blocks} block{'s' * (blocks > 1)} trained" if blocks else "the head trained")
    return ", ".join(said)


def resolve(config: ConfigDict, n_train: int, devices: int, n_schedule: int = 0) -> Resolved:
    """Steps, learning rate and warm-up from a config (Goyal et al. 2017: linear scaling of the rate).

    An epoch is ceil(images / batch) updates, at least one, so a subset smaller than the batch still
    gives one update per epoch; its images then repeat within the batch, augmented anew. `n_schedule` images,
    where not 0, decide on steps, warm-up and the pace of evaluation in place of `n_train`.
    """
    t, o = config.train, config.optim
    batch = t.batch_size or t.batch_per_device * t.accumulation * devices
    if batch < t.accumulation:
        raise UserError(f"train.batch_size={batch} is smaller than train.accumulation={t.accumulation}")
    if devices % config.sharding.fsdp:
        raise UserError(f"sharding.fsdp={config.sharding.fsdp} does not divide the {devices} devices")
    peak = o.base_lr * batch / 256
    if o.min_lr > peak:
        raise UserError(
            f"optim.min_lr={o.min_lr:g} is above the peak learning rate, optim.base_lr * images / 256 = {peak:g}; the "
            f"rate falls to it: use a smaller one"
        )
    unit = devices * t.accumulation
    per_epoch = math.ceil(n_train / batch)
    pace = math.ceil((n_schedule or n_train) / batch)
    steps = t.steps or max(1, round(t.epochs * pace))
    warmup = min(round(o.warmup_epochs * pace), steps)

    def every(epochs: float) -> int:
        return max(1, round(epochs * pace))

    return Resolved(
        n_train=n_train,
        devices=devices,
        batch_size=batch,
        rows=math.ceil(batch / unit) * unit,
        steps_per_epoch=per_epoch,
        steps=steps,
        warmup_steps=warmup,
        peak_lr=peak,
        eval_every=every(config.eval.every_epochs),
        save_every=every(config.checkpoint.every_epochs),
    )


def run_directory(config: ConfigDict, workdir: str | os.PathLike | None = None) -> Path:
    """`workdir`, else the default. Raises UserError for a name that cannot be shown."""
    directory = Path(workdir or default_workdir(config))
    if UNUSABLE.search(str(directory)):
        raise UserError(f"--workdir={str(directory)!r} has control characters or bytes that are no UTF-8; rename it")
    return directory


def default_workdir(config: ConfigDict) -> str:
    """A speaking directory below runs/, for example runs/finetune-raabin_wbc-10pct-mae-base16_224-seed0."""
    if config.task in ("study", "sweep"):
        data = config.finetune.data
        label = source_label(data)
        return f"runs/{_in_path(config.name or config.task)}-{label}-{_model_label(config.finetune.model)}"
    parts = [_in_path(config.name or config.task), source_label(config.data)]
    if config.task != "pretrain":
        origin = Path(config.init_from)
        origin = "" if config.init == "scratch" else origin.stem if origin.suffix in WEIGHTS else origin.name
        n = config.data.label_count
        parts += [f"{n}labels" if n else percent(config.data.fraction), config.init + (f"_{origin}" if origin else "")]
        parts += [f"blocks{config.train.blocks}"] if config.train.blocks >= 0 else []
    parts += [_model_label(config.model), f"seed{config.seed}"]
    return "runs/" + "-".join(parts)


def percent(fraction: float) -> str:
    """0.1 -> "10pct", for file names."""
    return f"{fraction * 100:g}pct"


def source_label(data: ConfigDict) -> str:
    """What to call the images: the source, or the last part of each folder's path."""
    return _in_path("+".join(source_names(data)))


def _in_path(name: str) -> str:
    return re.sub(r"[^\w.+-]", "_", name)


def source_names(data: ConfigDict) -> list[str]:
    """One name for each source, in their order: the data set, or the last part of the folder's path."""
    names = []
    for source in data.source.split("+"):
        names += [Path(d).name or "folder" for d in data.dir.split(",") if d] if source == "folder" else [source]
    return names


def _model_label(m: ConfigDict) -> str:
    size = f"{m.width}x{m.depth}" if m.size == "custom" else m.size
    return f"{size}_p{m.patch_size}_{m.image_size}px"


def with_defaults(saved: dict[str, Any]) -> dict[str, Any]:
    """A config as saved (JSON), with the fields that came since at their defaults: what the run did."""
    task = saved.get("task")
    if task in TASKS:
        known = defaults(task)
    elif task in ("study", "sweep"):
        make = study_defaults if task == "study" else sweep_defaults
        known = make(ConfigDict(), ConfigDict())
        saved = saved | {part: with_defaults(saved.get(part, {})) for part in ("pretrain", "finetune")}
    else:
        return saved
    return _filled(saved, json.loads(known.to_json()))


def _filled(saved: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    found = known | saved
    for key, value in known.items():
        if isinstance(value, dict) and isinstance(found[key], dict):
            found[key] = _filled(found[key], value)
    return found


def difference(ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """ "key: theirs -> ours" for each field that differs, but for those that may (`FREE`)."""
    return [
        f"{key}: {theirs.get(key)!r} -> {ours.get(key)!r}"
        for key in sorted(ours.keys() | theirs.keys())
        if not FREE.fullmatch(key) and ours.get(key) != theirs.get(key)
    ]
