"""Validation of a config, before any device or image is touched.

Each check raises UserError with one line: the field, its value, what is allowed.
"""

import dataclasses
import difflib
import math
import re
from collections.abc import Iterable
from typing import Any, cast

from ml_collections import ConfigDict

from mae_jax.config.fields import COMPUTED, DataFields, Fields, ModelFields, Rule, RunConfig, changed, rules
from mae_jax.config.loading import flatten, one_of
from mae_jax.config.rule import C
from mae_jax.config.run_fields import FROZEN_BATCH, ROTARY
from mae_jax.config.selection import BY_FEATURES
from mae_jax.config.tasks import QUICK
from mae_jax.runtime.errors import UNUSABLE, UserError
from mae_jax.runtime.places import expanded

OF_CLASSIFIERS = ("family", "norm")  # fields of `model` that only a run with labels reads
ENCODER = (  # fields of `model` that a classifier shares with the pre-training of its encoder
    *("image_size", "patch_size", "size", "width", "depth", "heads", "mlp_ratio", "mlp"),
    *("positions", "pre_norm", "norm_eps", "registers", "layer_scale", *OF_CLASSIFIERS),
)
NORMALIZATION = ("mean", "std")  # fields of `data` that it shares
MOST_PATCHES = 2**14  # per image, because attention is quadratic in their number


def validate(config: ConfigDict | RunConfig, prefix: str = "") -> RunConfig:
    """Checks the config of one run and returns it frozen. `prefix` precedes field names in messages.

    `~` is expanded in fields that are paths. Raises UserError that names the field, its value and what is allowed.
    """
    flat, known = flatten(config), rules(RunConfig)
    refuse_unknown(flat, known, "the config", prefix)
    for key, (like, rule) in known.items():
        if key not in flat:
            raise UserError(f"{prefix}{key} is missing from the config; its default is {like!r}")
        if isinstance(like, tuple) and rule.choices:
            _validate_names(prefix + key, flat[key], rule)
            continue
        _validate_type(prefix + key, flat[key], like)
        if rule.choices:
            one_of(prefix + key, flat[key], rule.choices)
        if rule.has_range and not rule.holds(flat[key]):
            raise UserError(f"{prefix}{key}={flat[key]} is out of range; allowed: {rule.range}")
    paths = {key: expanded(flat[key], prefix + key, rule.path) for key, (_, rule) in known.items() if rule.path}
    run = changed(typed(config, RunConfig), paths)
    _validate_data(run.data, prefix + "data.")
    _validate_model(run, prefix)
    for check in (_validate_training, _validate_mixing, _validate_probe, _validate_labels, _validate_start):
        check(run, prefix)
    return run


def frozen(config: ConfigDict | RunConfig) -> RunConfig:
    """`config` if it is a RunConfig, which was checked when it was made; else `validate(config)`."""
    return config if isinstance(config, RunConfig) else validate(config)


def typed(config: ConfigDict | Fields, kind: type[C]) -> C:
    """Converts a config whose types were checked to the frozen class `kind`, casting numbers and lists to its types."""
    values: dict[str, Any] = {}
    for each in dataclasses.fields(kind):
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
    if isinstance(like, int | float) and not math.isfinite(cast(float, value)):
        raise UserError(f"{name}={value} is not a finite number")
    if isinstance(value, str) and UNUSABLE.search(value):
        raise UserError(f"{name}={value!r} is not allowed; use UTF-8 text without control characters")


def _validate_names(name: str, value: Any, rule: Rule) -> None:
    """Refuses a list with a name that is not one of the choices, or that occurs twice and may not."""
    if not isinstance(value, tuple | list):
        allowed = f"several of {', '.join(rule.choices)} in parentheses, such as ({rule.choices[0]!r},)"
        raise UserError(f"{name}={value!r} has the wrong type; allowed: {allowed}")
    for each in value:
        one_of(f"{name}: each", each, rule.choices)
        if not rule.may_repeat and list(value).count(each) > 1:
            raise UserError(f"{name}={tuple(value)} is not allowed; use each value once")


def refuse_unknown(keys: Iterable[str], known: Iterable[str], config_name: str, prefix: str = "") -> None:
    """Raises UserError for a key that is not in `known`, with a suggestion. `config_name` is the name of the config."""
    known = list(known)
    for key in keys:
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            part = prefix.rpartition(": ")[2]  # without the name of a file
            hint = f"; did you mean {part}{near[0]}?" if near else ""
            raise UserError(f"{prefix}{key} is not a field of {config_name}{hint}")


def _kind(like: Any) -> str:
    return "finite numbers in parentheses" if isinstance(like, tuple) else type(like).__name__


def _validate_data(d: DataFields, prefix: str) -> None:
    for key, length, low, high, words in (
        ("crop_scale", 2, 1e-4, 1, "2 shares of the image, above 0.0001 and up to 1, the smaller first"),
        ("crop_ratio", 2, 1e-3, 1e3, "2 numbers above 0.001 and up to 1000, the smaller first"),
        ("mean", 3, -1e3, 1e3, "3 numbers, one per channel, for pixel values in 0..1"),
        ("std", 3, 1e-6, 1e3, "3 numbers above 0, one per channel, for pixel values in 0..1"),
    ):
        value = getattr(d, key)
        ordered = key in ("mean", "std") or value == tuple(sorted(value))
        if len(value) != length or min(value) <= low or max(value) > high or not ordered:
            raise UserError(f"{prefix}{key}={value} is not allowed; use {words}")
    if any(w <= 0 for w in d.weights):
        raise UserError(f"{prefix}weights={d.weights}: use numbers above 0, one for each source")


def _validate_model(config: RunConfig, prefix: str) -> None:
    m = config.model
    if m.family != "vit" and not config.traits.labeled:
        raise UserError(
            f"{prefix}model.family={m.family} is a classifier, but {prefix}task={config.task} trains without labels; "
            f"use a task with labels, or model.family=vit"
        )
    if m.family != "vit" and m.norm == FROZEN_BATCH and config.init == "scratch":
        raise UserError(
            f"{prefix}model.norm={m.norm} needs the statistics of trained weights, but {prefix}init=scratch; set "
            f"init=PATH to such weights, or use model.norm=group"
        )
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
            f"{patches} patches; at most {MOST_PATCHES} are allowed: use larger patches or smaller images"
        )
    if m.size == "custom":
        fits = min(m.width, m.depth, m.heads) >= 1 and m.depth <= 100 and m.width <= 2**16
        if not fits or m.width % 4 or m.width % m.heads:
            raise UserError(
                f"{prefix}model.width={m.width}, depth={m.depth}, heads={m.heads}: with size=custom, all must be "
                f"at least 1, depth at most 100, width at most {2**16}, and width a multiple of 4 and of heads"
            )
        if m.positions == ROTARY and m.width // m.heads % 4:
            raise UserError(
                f"{prefix}model.positions={m.positions} needs a multiple of 4 features per head, but width={m.width} "
                f"and heads={m.heads} make {m.width // m.heads}; change {prefix}model.heads or the positions"
            )
        if int(m.width * m.mlp_ratio) < 1:
            raise UserError(
                f"{prefix}model.mlp_ratio={m.mlp_ratio} gives the MLP no hidden features with "
                f"{prefix}model.width={m.width}; use a larger ratio, such as 4"
            )
    elif m.width or m.depth or m.heads:
        raise UserError(
            f"{prefix}model.width={m.width}, depth={m.depth}, heads={m.heads} are for size=custom, but "
            f"{prefix}model.size={m.size}"
            + (f"; leave out {prefix}model.size to keep the network of {config.init_from}" if config.init_from else "")
            + f"; set {prefix}model.size=custom, or width, depth and heads to 0"
        )
    if m.decoder_width % 4 or m.decoder_width % m.decoder_heads:
        raise UserError(
            f"{prefix}model.decoder_width={m.decoder_width} must be a multiple of 4 and of "
            f"decoder_heads={m.decoder_heads}"
        )
    if config.traits.decoder:
        validate_ratio(m, config.mae.mask_ratio, f"{prefix}mae.mask_ratio={config.mae.mask_ratio}")
        ratios = config.eval.mask_ratios
        if len(set(ratios)) != len(ratios):
            raise UserError(f"{prefix}eval.mask_ratios={ratios} is not allowed; use each value once")
        for ratio in ratios:
            validate_ratio(m, ratio, f"{prefix}eval.mask_ratios={ratios}: {ratio}")


def validate_ratio(m: ModelFields, ratio: float, shown: str) -> None:
    """Raises UserError, starting with `shown`, for a mask ratio that keeps or removes no patch at all."""
    patches = (m.image_size // m.patch_size) ** 2
    visible = int(patches * (1 - ratio))
    if not 1 <= visible < patches:
        raise UserError(
            f"{shown} leaves {visible} of {patches} patches visible; at least one must be visible and one removed"
        )


def _validate_training(config: RunConfig, prefix: str) -> None:
    """Checks the size of a batch, and which epoch is selected and when training stops."""
    t = config.train
    try:
        re.compile(config.optim.no_decay)
    except (re.error, RecursionError, OverflowError) as error:
        raise UserError(
            f"{prefix}optim.no_decay={config.optim.no_decay!r} is not a regular expression: {error}; correct it"
        ) from None
    if 0 < t.batch_size < t.accumulation:
        raise UserError(
            f"{prefix}train.batch_size={t.batch_size} is smaller than {prefix}train.accumulation={t.accumulation}; "
            f"each micro-batch needs at least one image"
        )
    if not t.batch_size and not t.batch_per_device:
        raise UserError(f"{prefix}train.batch_size=0: set it or {prefix}train.batch_per_device")
    if t.select != "last" and not config.traits.labeled:
        raise UserError(f"{prefix}train.select={t.select} is only for classifiers; for pre-training set it to last")
    _validate_folds(config, prefix)
    if t.select != "last" and not config.data.val_fraction and not config.data.folds:
        raise UserError(
            f"{prefix}train.select={t.select} needs validation images, but {prefix}data.val_fraction=0: raise "
            f"it, or set {prefix}train.select=last"
        )
    if t.patience and t.select == "last":
        raise UserError(
            f"{prefix}train.patience={t.patience} needs {prefix}train.select=accuracy, macro_f1 or loss: it counts "
            f"evaluations without a better score"
        )
    if t.blocks >= 0 and not config.traits.fine_tunes:
        raise UserError(f"{prefix}train.blocks={t.blocks} is only for fine-tuning; set it to -1")
    if t.balance != "none" and not _takes_labels(config):
        raise UserError(f"{prefix}train.balance={t.balance} is only for finetune and linear_probe; set it to none")


def _takes_labels(config: RunConfig) -> bool:
    """Whether the run trains on labels in updates: fine-tuning and linear probes by gradient descent."""
    return config.traits.labeled and config.traits.updates


def _validate_mixing(config: RunConfig, prefix: str) -> None:
    """Checks mixup, CutMix and CellMix, which change labels."""
    t = config.train
    for name, alpha in (("mixup", t.mixup), ("cutmix", t.cutmix)):
        if 0 < alpha < 1e-3:
            raise UserError(f"{prefix}train.{name}={alpha:g} is out of range; allowed: 0, or [0.001, 1000]")
        if alpha and not config.traits.fine_tunes:
            raise UserError(f"{prefix}train.{name}={alpha} mixes labels and is only for fine-tuning; set it to 0")
    if t.cellmix != "none" and not config.traits.fine_tunes:
        raise UserError(f"{prefix}train.cellmix={t.cellmix} mixes labels and is only for fine-tuning; set it to none")
    if t.cellmix != "none" and (t.mixup or t.cutmix):
        raise UserError(
            f"{prefix}train.cellmix={t.cellmix}, {prefix}train.mixup={t.mixup:g} and {prefix}train.cutmix={t.cutmix:g} "
            f"exclude each other; use CellMix alone, or set it to none"
        )


def _validate_labels(config: RunConfig, prefix: str) -> None:
    """Checks how many labels are used, and the fields that take the number of updates of a run with more labels."""
    t = config.train
    if config.data.label_count and config.data.fraction != 1:
        raise UserError(
            f"{prefix}data.label_count={config.data.label_count} and {prefix}data.fraction={config.data.fraction:g} "
            f"both limit the labels; set only one (fraction=1 with label_count)"
        )
    if t.match_fraction and (not _takes_labels(config) or t.steps or t.match_fraction < config.data.fraction):
        raise UserError(
            f"{prefix}train.match_fraction={t.match_fraction} is only for finetune and linear_probe without "
            f"{prefix}train.steps (now {t.steps}), and must be at least {prefix}data.fraction={config.data.fraction}; "
            f"0 turns it off"
        )
    if t.match_count and (not _takes_labels(config) or t.steps or t.match_count < config.data.label_count):
        raise UserError(
            f"{prefix}train.match_count={t.match_count} is only for finetune and linear_probe without "
            f"{prefix}train.steps (now {t.steps}), and must be at least {prefix}data.label_count="
            f"{config.data.label_count}; 0 turns it off"
        )
    if t.match_count and not config.data.label_count:
        raise UserError(
            f"{prefix}train.match_count={t.match_count} needs {prefix}data.label_count; set both or neither"
        )


def _validate_start(config: RunConfig, prefix: str) -> None:
    """Checks what training starts from, and that there is a network to train."""
    own_encoder = config.init != "scratch" and config.has_network
    if config.data.subset in BY_FEATURES and not own_encoder and not config.data.subset_from:
        raise UserError(
            f"{prefix}data.subset={config.data.subset} selects by the features of a trained encoder, but "
            f"{prefix}init={config.init}: name an encoder in {prefix}data.subset_from, or use random"
        )
    if config.init not in ("scratch", *COMPUTED) and not config.init_from:
        what = {"mae": "the directory of a pre-training run", "weights": "a file or folder of weights"}
        needed = what.get(config.init, "a file of features")
        raise UserError(f"{prefix}init={config.init} needs {prefix}init_from: {needed}")
    if not config.has_network and (config.traits.updates or not config.traits.labeled):
        raise UserError(
            f"{prefix}init={config.init} has no network to train, so {prefix}task={config.task} is not possible; use "
            f"{prefix}task={' or '.join(QUICK)}, such as --config=configs/probe.py"
        )


def _validate_folds(config: RunConfig, prefix: str) -> None:
    """Checks the cross-validation that chooses the epoch."""
    k = config.data.val_folds
    if k == 1:
        raise UserError(f"{prefix}data.val_folds=1 leaves nothing to train on; use 0 for none, or 2 and more")
    if k and config.data.val_of != "fraction":
        raise UserError(
            f"{prefix}data.val_folds={k} validates on the images of the fraction, but {prefix}data.val_of="
            f"{config.data.val_of}: set it to fraction, or val_folds to 0"
        )
    if k and config.train.select == "last":
        raise UserError(
            f"{prefix}data.val_folds={k} chooses the epoch, but {prefix}train.select=last: set it to macro_f1, "
            f"accuracy or loss, or val_folds to 0"
        )


def _validate_probe(config: RunConfig, prefix: str) -> None:
    """Checks the candidates of lbfgs and knn, and that there are validation images to select on."""
    used = config.traits.chooses
    if config.probe.folds == 1:
        raise UserError(f"{prefix}probe.folds=1 leaves nothing to train on; use 0 for none, or 2 and more")
    for name in ("l2", "neighbours", "temperature"):
        value = getattr(config.probe, name)
        integral = name == "neighbours"
        if not value or len(set(value)) != len(value) or min(value) <= 0 or (integral and any(v % 1 for v in value)):
            what = "whole numbers" if integral else "numbers"
            raise UserError(f"{prefix}probe.{name}={value} is not allowed; use {what} above 0, each once")
        if name in used and len(value) > 1 and not config.data.val_fraction and not config.probe.folds:
            raise UserError(
                f"{prefix}probe.{name}={value} is selected on validation images, but {prefix}data.val_fraction=0: "
                f"give one value, raise val_fraction, or set {prefix}probe.folds=5"
            )
    if used and config.train.select != "last":
        raise UserError(
            f"{prefix}train.select={config.train.select} selects an epoch, but {config.task} has none: set it to last"
        )
