"""Checks of a config, before any device or image is touched.

Each raises UserError with one line: the field, its value, what is allowed.
"""

import dataclasses
import difflib
import math
import re
from collections.abc import Iterable
from typing import Any

from ml_collections import ConfigDict

from mae_jax.config.fields import QUICK, C, DataFields, Fields, ModelFields, RunConfig, rules
from mae_jax.config.loading import flatten, one_of
from mae_jax.runtime.errors import UNUSABLE, UserError

MOST_PATCHES = 2**14  # of an image; attention compares each with each


def validate(config: ConfigDict | RunConfig, prefix: str = "") -> RunConfig:
    """The config of one run, checked and frozen, before any device or image is touched.

    Raises UserError that names the field, its value and what is allowed.
    """
    flat, known = flatten(config), rules(RunConfig)
    refuse_unknown(flat, known, "the config", prefix)
    for key, (like, rule) in known.items():
        if key not in flat:
            raise UserError(f"{prefix}{key} is missing from the config; its default is {like!r}")
        _validate_type(prefix + key, flat[key], like)
        if rule.choices:
            one_of(prefix + key, flat[key], rule.choices)
        if rule.has_range and not rule.holds(flat[key]):
            raise UserError(f"{prefix}{key}={flat[key]} is out of range; allowed: {rule.range}")
    run = typed(config, RunConfig)
    _validate_data(run.data, prefix + "data.")
    _validate_model(run, prefix)
    _validate_rest(run, prefix)
    return run


def frozen(config: ConfigDict | RunConfig) -> RunConfig:
    """`config` if it is frozen, and so was checked; else `validate(config)`."""
    return config if isinstance(config, RunConfig) else validate(config)


def typed(config: ConfigDict | Fields, kind: type[C]) -> C:
    """A frozen object of the fields of `kind`, whose types are right; numbers and lists take the types of defaults."""
    values: dict[str, Any] = {}
    for each in dataclasses.fields(kind):  # type: ignore[arg-type]
        value = getattr(config, each.name)
        if isinstance(each.default_factory, type) and issubclass(each.default_factory, Fields):
            value = typed(value, each.default_factory)
        elif isinstance(value, ConfigDict):
            value = value.to_dict()
        elif isinstance(each.default, float):
            value = float(value)
        elif isinstance(each.default, tuple):
            value = tuple(value)
        values[each.name] = value
    return kind(**values)


def _validate_type(name: str, value: Any, like: Any) -> None:
    fits = type(value) in ((int, float) if isinstance(like, float) else (type(like),))
    if isinstance(like, tuple):
        fits = isinstance(value, tuple | list) and all(type(v) in (int, float) and math.isfinite(v) for v in value)
    if not fits:
        raise UserError(f"{name}={value!r} has the wrong type; allowed: {_kind(like)}")
    if isinstance(like, int | float) and not math.isfinite(value):
        raise UserError(f"{name}={value} is not a finite number")
    if isinstance(value, str) and UNUSABLE.search(value):
        raise UserError(f"{name}={value!r} is not allowed; use no control characters, and UTF-8")


def refuse_unknown(keys: Iterable[str], known: Iterable[str], whole: str, prefix: str = "") -> None:
    """Refuses a key that is not known, with the nearest that is; `whole` is what it would be a field of."""
    known = list(known)
    for key in keys:
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            hint = f"; did you mean {prefix}{near[0]}?" if near else ""
            raise UserError(f"{prefix}{key} is not a field of {whole}{hint}")


def _kind(like: Any) -> str:
    return "finite numbers in ( , )" if isinstance(like, tuple) else type(like).__name__


def _validate_data(d: DataFields, prefix: str) -> None:
    for key, length, low, high, words in (
        ("crop_scale", 2, 1e-4, 1, "2 shares of the image above 0.0001 and up to 1, the smaller first"),
        ("crop_ratio", 2, 1e-3, 1e3, "2 numbers above 0.001 and up to 1000, the smaller first"),
        ("mean", 3, -1e3, 1e3, "3 numbers, one for each channel, of images in 0..1"),
        ("std", 3, 1e-6, 1e3, "3 numbers above 0, one for each channel, of images in 0..1"),
    ):
        value = getattr(d, key)
        ordered = key in ("mean", "std") or value == tuple(sorted(value))
        if len(value) != length or min(value) <= low or max(value) > high or not ordered:
            raise UserError(f"{prefix}{key}={value} is not allowed; use {words}")
    if any(w <= 0 for w in d.weights):
        raise UserError(f"{prefix}weights={d.weights}: use numbers above 0, one for each source")


def _validate_model(config: RunConfig, prefix: str) -> None:
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
        validate_ratio(m, config.mae.mask_ratio, f"{prefix}mae.mask_ratio={config.mae.mask_ratio}")
        ratios = config.eval.mask_ratios
        if len(set(ratios)) != len(ratios):
            raise UserError(f"{prefix}eval.mask_ratios={ratios} is not allowed; use none twice")
        for ratio in ratios:
            validate_ratio(m, ratio, f"{prefix}eval.mask_ratios={ratios}: {ratio}")


def validate_ratio(m: ModelFields, ratio: float, said: str) -> None:
    patches = (m.image_size // m.patch_size) ** 2
    visible = int(patches * (1 - ratio))
    if not 1 <= visible < patches:
        raise UserError(
            f"{said} leaves {visible} of {patches} patches visible; at least one must be visible and one removed"
        )


def _validate_rest(config: RunConfig, prefix: str) -> None:
    o, t = config.optim, config.train
    try:
        re.compile(o.no_decay)
    except (re.error, RecursionError, OverflowError) as error:
        raise UserError(
            f"{prefix}optim.no_decay={o.no_decay!r} is not a regular expression: {error}; correct it"
        ) from None
    if 0 < t.batch_size < t.accumulation:
        raise UserError(
            f"{prefix}train.batch_size={t.batch_size} is smaller than {prefix}train.accumulation={t.accumulation}; "
            f"each micro-batch needs an image"
        )
    if not t.batch_size and not t.batch_per_device:
        raise UserError(f"{prefix}train.batch_size=0: set it or {prefix}train.batch_per_device")
    if t.select != "last" and config.task == "pretrain":
        raise UserError(
            f"{prefix}train.select={t.select} is for classifiers; of an autoencoder the last epoch is used: set last"
        )
    if t.select != "last" and not config.data.val_fraction:
        raise UserError(
            f"{prefix}train.select={t.select} needs validation images, and {prefix}data.val_fraction=0: set one of "
            f"the two"
        )
    if t.patience and t.select == "last":
        raise UserError(
            f"{prefix}train.patience={t.patience} needs {prefix}train.select=accuracy, macro_f1 or loss: it counts "
            f"evaluations without a gain in that"
        )
    if t.balance != "none" and config.task in ("pretrain", *QUICK):
        raise UserError(f"{prefix}train.balance={t.balance} is for fine-tuning and linear probes; set none")
    if t.blocks >= 0 and config.task != "finetune":
        raise UserError(f"{prefix}train.blocks={t.blocks} is for fine-tuning; set -1")
    for name, alpha in (("mixup", t.mixup), ("cutmix", t.cutmix)):
        if 0 < alpha < 1e-3:
            raise UserError(f"{prefix}train.{name}={alpha:g} is out of range; allowed: 0, or [0.001, 1000]")
        if alpha and config.task != "finetune":
            raise UserError(f"{prefix}train.{name}={alpha} mixes labels and is for fine-tuning; set 0")
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


def _validate_probe(config: RunConfig, prefix: str) -> None:
    """What lbfgs and knn choose among, and that there is something to choose on."""
    used = {"lbfgs": ("l2",), "knn": ("neighbours", "temperature")}.get(config.task, ())
    for name in ("l2", "neighbours", "temperature"):
        value = getattr(config.probe, name)
        whole = name == "neighbours"
        if not value or len(set(value)) != len(value) or min(value) <= 0 or (whole and any(v % 1 for v in value)):
            what = "whole numbers" if whole else "numbers"
            raise UserError(f"{prefix}probe.{name}={value} is not allowed; use {what} above 0, none twice")
        if name in used and len(value) > 1 and not config.data.val_fraction:
            raise UserError(
                f"{prefix}probe.{name}={value} is chosen on validation images, and {prefix}data.val_fraction=0: set "
                f"one number, or validation images"
            )
    if used and config.train.select != "last":
        raise UserError(
            f"{prefix}train.select={config.train.select} chooses among epochs, and {config.task} has none: set last"
        )
