"""Checks of a config, before any device or image is touched.

Each raises UserError with one line: the field, its value, what is allowed.
"""

import difflib
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from mae_jax import grid
from mae_jax.config import EVALUATIONS, QUICK, SIZES, TASKS, defaults, flatten, one_of, study_defaults, sweep_defaults
from mae_jax.errors import UNUSABLE, UserError

_CHOICES = {
    "task": TASKS,
    "init": ("scratch", "mae", "weights"),
    "data.bad_images": ("stop", "skip"),
    "train.select": ("last", "best"),
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


MOST_PATCHES = 2**14  # of an image; attention compares each with each


def check(config: ConfigDict) -> None:
    """Refuses a config of any task that cannot work; touches no device, no file and no image.

    Raises UserError that names the field, its value and what is allowed.
    """
    task = config.get("task")
    one_of("task", task, (*TASKS, "study", "sweep"))
    {"study": validate_study, "sweep": validate_sweep}.get(task, validate)(config)


def validate(config: ConfigDict, prefix: str = "") -> None:
    """Refuses a config of one run that cannot work, before any device or image is touched.

    Raises UserError that names the field, its value and what is allowed.
    """
    flat, schema = flatten(config), flatten(defaults("finetune"))
    _refuse_unknown(flat, schema, "the config", prefix)
    for key, like in schema.items():
        if key not in flat:
            raise UserError(f"{prefix}{key} is missing from the config; its default is {like!r}")
        value, number = flat[key], isinstance(like, int | float) and not isinstance(like, bool)
        fits = type(value) in ((int, float) if isinstance(like, float) else (type(like),))
        if isinstance(like, tuple):
            finite = all(type(v) in (int, float) and math.isfinite(v) for v in value)
            fits = isinstance(value, tuple | list) and finite
        if not fits:
            raise UserError(f"{prefix}{key}={value!r} has the wrong type; allowed: {_kind(like)}")
        if number and not math.isfinite(value):
            raise UserError(f"{prefix}{key}={value} is not a finite number")
        if isinstance(value, str) and UNUSABLE.search(value):
            raise UserError(f"{prefix}{key}={value!r} is not allowed; use no control characters, and UTF-8")
    for key, allowed in _CHOICES.items():
        one_of(prefix + key, flat[key], allowed)
    for key, (low, high, with_low, with_high) in _RANGES.items():
        value = flat[key]
        if not (low < value < high or (value == low and with_low) or (value == high and with_high)):
            left, right = "[" if with_low else "(", "]" if with_high else ")"
            raise UserError(f"{prefix}{key}={value} is out of range; allowed: {left}{low}, {high}{right}")
    _validate_data(config.data, prefix + "data.")
    _validate_model(config, prefix)
    _validate_rest(config, prefix)


def _refuse_unknown(keys: Iterable[str], known: Iterable[str], whole: str, prefix: str = "") -> None:
    """Refuses a key that is not known, with the nearest that is; `whole` is what it would be a field of."""
    known = list(known)
    for key in keys:
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            hint = f"; did you mean {prefix}{near[0]}?" if near else ""
            raise UserError(f"{prefix}{key} is not a field of {whole}{hint}")


def _kind(like: Any) -> str:
    return "finite numbers in ( , )" if isinstance(like, tuple) else type(like).__name__


def _validate_data(d: ConfigDict, prefix: str) -> None:
    for key, length, low, high, words in (
        ("crop_scale", 2, 1e-4, 1, "2 shares of the image above 0.0001 and up to 1, the smaller first"),
        ("crop_ratio", 2, 1e-3, 1e3, "2 numbers above 0.001 and up to 1000, the smaller first"),
        ("mean", 3, -1e3, 1e3, "3 numbers, one for each channel, of images in 0..1"),
        ("std", 3, 1e-6, 1e3, "3 numbers above 0, one for each channel, of images in 0..1"),
    ):
        value = tuple(d[key])
        ordered = key in ("mean", "std") or value == tuple(sorted(value))
        if len(value) != length or min(value) <= low or max(value) > high or not ordered:
            raise UserError(f"{prefix}{key}={value} is not allowed; use {words}")
    if any(w <= 0 for w in d.weights):
        raise UserError(f"{prefix}weights={tuple(d.weights)}: use numbers above 0, one for each source")


def _validate_model(config: ConfigDict, prefix: str) -> None:
    m = config.model
    if m.image_size % m.patch_size:
        below = m.image_size // m.patch_size * m.patch_size
        raise UserError(
            f"{prefix}model.image_size={m.image_size} is not a multiple of "
            f"{prefix}model.patch_size={m.patch_size}; use "
            + (f"{below} or {below + m.patch_size}" if below else f"{m.patch_size}, or smaller patches")
        )
    patches = (m.image_size // m.patch_size) ** 2
    if patches > MOST_PATCHES:
        raise UserError(
            f"{prefix}model.image_size={m.image_size} in patches of {prefix}model.patch_size={m.patch_size} makes "
            f"{patches} patches; at most {MOST_PATCHES} are computed: use larger patches or smaller images"
        )
    if m.size == "custom":
        fits = min(m.width, m.depth, m.heads) >= 1 and m.depth <= 100 and m.width <= 2**16
        if not fits or m.width % 4 or m.width % m.heads:
            raise UserError(
                f"{prefix}model.width={m.width}, depth={m.depth}, heads={m.heads}: for size=custom all are at least 1, "
                f"depth at most 100, width at most {2**16}, and width is a multiple of 4 and of heads"
            )
        if int(m.width * m.mlp_ratio) < 1:
            raise UserError(
                f"{prefix}model.mlp_ratio={m.mlp_ratio} leaves the MLP no feature of {prefix}model.width={m.width}; "
                f"use a larger one, such as 4"
            )
    elif m.width or m.depth or m.heads:
        raise UserError(
            f"{prefix}model.width, depth and heads are for size=custom; size={m.size} has its own: set "
            f"{prefix}model.size=custom or leave them 0"
        )
    if m.decoder_width % 4 or m.decoder_width % m.decoder_heads:
        raise UserError(
            f"{prefix}model.decoder_width={m.decoder_width} must be a multiple of 4 and of "
            f"decoder_heads={m.decoder_heads}"
        )
    if config.task == "pretrain":
        _validate_ratio(m, config.mae.mask_ratio, f"{prefix}mae.mask_ratio={config.mae.mask_ratio}")
        ratios = tuple(config.eval.mask_ratios)
        if len(set(ratios)) != len(ratios):
            raise UserError(f"{prefix}eval.mask_ratios={ratios} is not allowed; use none twice")
        for ratio in ratios:
            _validate_ratio(m, ratio, f"{prefix}eval.mask_ratios={ratios}: {ratio}")


def _validate_ratio(m: ConfigDict, ratio: float, said: str) -> None:
    patches = (m.image_size // m.patch_size) ** 2
    visible = int(patches * (1 - ratio))
    if not 1 <= visible < patches:
        raise UserError(
            f"{said} leaves {visible} of {patches} patches visible; at least one must be visible and one removed"
        )


def _validate_rest(config: ConfigDict, prefix: str) -> None:
    o, t = config.optim, config.train
    try:
        re.compile(o.no_decay)
    except (re.error, RecursionError, OverflowError) as error:
        raise UserError(
            f"{prefix}optim.no_decay={o.no_decay!r} is not a regular expression: {error}; mend it"
        ) from None
    if 0 < t.batch_size < t.accumulation:
        raise UserError(
            f"{prefix}train.batch_size={t.batch_size} is smaller than {prefix}train.accumulation={t.accumulation}; "
            f"each micro-batch needs an image"
        )
    if not t.batch_size and not t.batch_per_device:
        raise UserError(f"{prefix}train.batch_size=0: set it or {prefix}train.batch_per_device")
    if t.select == "best" and config.task == "pretrain":
        raise UserError(f"{prefix}train.select=best is for classifiers; an autoencoder is used as it ends: set last")
    if t.select == "best" and not config.data.val_fraction:
        raise UserError(
            f"{prefix}train.select=best needs validation images, and {prefix}data.val_fraction=0: set one of the two"
        )
    if t.blocks >= 0 and config.task != "finetune":
        raise UserError(f"{prefix}train.blocks={t.blocks} is for fine-tuning; set -1")
    for name in ("mixup", "cutmix"):
        if 0 < config.train[name] < 1e-3:
            raise UserError(
                f"{prefix}train.{name}={config.train[name]:g} is out of range; allowed: 0, or [0.001, 1000]"
            )
        if t[name] and config.task != "finetune":
            raise UserError(f"{prefix}train.{name}={t[name]} mixes labels and is for fine-tuning; set 0")
    _validate_probe(config, prefix)
    if t.match_fraction and (config.task in ("pretrain", *QUICK) or t.steps or t.match_fraction < config.data.fraction):
        raise UserError(
            f"{prefix}train.match_fraction={t.match_fraction} is for classifiers, at least {prefix}data.fraction="
            f"{config.data.fraction}, and not beside {prefix}train.steps={t.steps}; 0 turns it off"
        )
    if config.data.label_count and config.data.fraction != 1:
        raise UserError(
            f"{prefix}data.label_count={config.data.label_count} and {prefix}data.fraction={config.data.fraction:g} "
            f"both say how many labels are used; set one of the two (fraction=1 with label_count)"
        )
    if t.match_count and (config.task in ("pretrain", *QUICK) or t.steps or t.match_count < config.data.label_count):
        raise UserError(
            f"{prefix}train.match_count={t.match_count} is for classifiers, at least {prefix}data.label_count="
            f"{config.data.label_count}, and not beside {prefix}train.steps={t.steps}; 0 turns it off"
        )
    if t.match_count and not config.data.label_count:
        raise UserError(f"{prefix}train.match_count={t.match_count} needs {prefix}data.label_count; set it, or 0")
    if config.init != "scratch" and not config.init_from:
        what = "the run directory of a pre-training" if config.init == "mae" else "a file or folder of weights"
        raise UserError(f"{prefix}init={config.init} needs {prefix}init_from: {what}")


def _validate_probe(config: ConfigDict, prefix: str) -> None:
    """What lbfgs and knn choose among, and that there is something to choose on."""
    used = {"lbfgs": ("l2",), "knn": ("neighbours", "temperature")}.get(config.task, ())
    for name in ("l2", "neighbours", "temperature"):
        value = tuple(config.probe[name])
        whole = name == "neighbours"
        if not value or len(set(value)) != len(value) or min(value) <= 0 or (whole and any(v % 1 for v in value)):
            what = "whole numbers" if whole else "numbers"
            raise UserError(f"{prefix}probe.{name}={value} is not allowed; use {what} above 0, none twice")
        if name in used and len(value) > 1 and not config.data.val_fraction:
            raise UserError(
                f"{prefix}probe.{name}={value} is chosen on validation images, and {prefix}data.val_fraction=0: set "
                f"one number, or validation images"
            )
    if used and config.train.select == "best":
        raise UserError(f"{prefix}train.select=best chooses among epochs, and {config.task} has none: set last")


_LISTS = {  # of studies and sweeps: whether a number is allowed, and the words for it
    "fractions": (lambda v: type(v) in (int, float) and 0 < v <= 1, "numbers above 0 and up to 1"),
    "label_counts": (lambda v: type(v) is int and 0 < v <= 10**9, "whole numbers above 0"),
    "seeds": (lambda v: type(v) is int and 0 <= v < 2**31, "whole numbers of 0 and above"),
    "subset_seeds": (lambda v: type(v) is int and 0 <= v < 2**31, "whole numbers of 0 and above"),
    "pretrain_seeds": (lambda v: type(v) is int and 0 <= v < 2**31, "whole numbers of 0 and above"),
    "mask_ratios": (lambda v: type(v) in (int, float) and 0 < v < 1, "numbers above 0 and below 1"),
    "visible_weights": (lambda v: type(v) in (int, float) and 0 <= v < math.inf, "numbers of 0 and above"),
}


def validate_study(config: ConfigDict) -> None:
    """`validate` for a study and both of its parts."""
    _whole(config, study_defaults(ConfigDict(), ConfigDict()), "a study")
    lists = ("fractions", "label_counts", "inits", "evaluations", "seeds", "subset_seeds", "pretrain_seeds")
    _validate_lists(config, lists)
    if type(config.step_matched) not in (int, float) or not 0 <= config.step_matched <= 1:
        raise UserError(f"step_matched={config.step_matched!r} is out of range; allowed: [0, 1], 0 for none")
    for value in config.evaluations:
        one_of("evaluations: each", value, EVALUATIONS)
    grid.inits(config)
    _validate_parts(config)
    for _, cell in grid.cells(config, Path()):
        if cell.task != "finetune":
            validate(cell, f"{cell.task}: ")
    for _, run in grid.runs(config, Path()):
        if run.init != "weights":  # else the files say what the network is
            validate(run, f"{run.name}: ")


def validate_sweep(config: ConfigDict) -> None:
    """`validate` for a sweep and both of its parts."""
    _whole(config, sweep_defaults(ConfigDict(), ConfigDict()), "a sweep")
    _validate_lists(config, ("mask_ratios", "visible_weights", "seeds", "subset_seeds"))
    _validate_parts(config)
    for ratio in config.mask_ratios:
        _validate_ratio(config.pretrain.model, ratio, f"mask_ratios={tuple(config.mask_ratios)}: {ratio}")
    if not config.pretrain.data.val_fraction or not config.pretrain.eval.mask_ratios:
        raise UserError(
            "a sweep measures reconstructions of images held out: pretrain.data.val_fraction must be above 0 and "
            "pretrain.eval.mask_ratios must not be empty"
        )


def _whole(config: ConfigDict, known: ConfigDict, what: str) -> None:
    """Refuses a config of several runs with other fields than `known`, or with a value in the place of a section."""
    _refuse_unknown(config, known, what)
    for key, like in known.items():
        if key not in config:
            raise UserError(f"{key} is missing from the config; {what} needs it: start from a file of configs/")
        if isinstance(like, ConfigDict) and not isinstance(config[key], ConfigDict):
            raise UserError(f"{key}={config[key]!r} is not allowed; {what} has fields there")


def _validate_lists(config: ConfigDict, keys: tuple[str, ...]) -> None:
    for key in ("name", "title"):
        if not isinstance(config[key], str) or UNUSABLE.search(config[key]):
            raise UserError(f"{key}={config[key]!r} is not allowed; use a text without control characters")
    for key in keys:
        value = config[key]
        if not isinstance(value, tuple | list):
            raise UserError(f"{key}={value!r} has the wrong type; allowed: several values in ( , )")
        value = tuple(value)
        twice = any(value.count(v) > 1 for v in value) and key not in ("subset_seeds", "pretrain_seeds")
        if twice or (not value and key not in ("subset_seeds", "pretrain_seeds", "label_counts")):
            raise UserError(f"{key}={value} is not allowed; use at least one value, none twice")
        fits, allowed = _LISTS.get(key, (lambda v: True, ""))
        for number in value:
            if not fits(number):
                raise UserError(f"{key}={value}: {number!r} is not allowed; use {allowed}")
    for key in {"subset_seeds", "pretrain_seeds"} & set(keys):
        if config[key] and len(config[key]) != len(config.seeds):
            raise UserError(f"{key}={tuple(config[key])} must be empty or as many as seeds={tuple(config.seeds)}")


def _validate_parts(config: ConfigDict) -> None:
    """`validate` for a pre-training and the fine-tuning from it."""
    for part in ("pretrain", "finetune"):
        if config[part].get("task") != part:
            raise UserError(f"{part}.task={config[part].get('task')} is not allowed; it must be {part}")
        validate(config[part], f"{part}.")
    same = ("image_size", "patch_size", "size", "width", "depth", "heads", "mlp_ratio")
    for key in (*same, "positions", "norm_eps", "registers", "layer_scale"):
        if config.pretrain.model[key] != config.finetune.model[key]:
            raise UserError(
                f"pretrain.model.{key}={config.pretrain.model[key]} and finetune.model.{key}="
                f"{config.finetune.model[key]} differ; the encoder must be the same"
            )
    for key in ("mean", "std"):
        one, two = (tuple(part.data[key]) for part in (config.pretrain, config.finetune))
        if one != two:
            raise UserError(
                f"pretrain.data.{key}={one} and finetune.data.{key}={two} differ; the encoder must see images on "
                f"one scale"
            )
