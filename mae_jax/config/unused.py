"""Which fields a run reads. A field that was set and is not read is refused, because it would silently do nothing.

A field may be set to 0, False or an empty value where it is not read, because that turns off what is not there.
"""

import dataclasses
import functools
from collections.abc import Callable, Set
from typing import Any

from mae_jax.config.fields import FEATURES, RunConfig, changed, defaults
from mae_jax.config.loading import flatten
from mae_jax.config.selection import BY_FEATURES
from mae_jax.config.tasks import EVALUATIONS
from mae_jax.runtime.errors import UserError


@dataclasses.dataclass(frozen=True)
class Condition:
    """When a run reads some fields."""

    words: str  # ends the sentence "it is used only"
    holds: Callable[[RunConfig, bool], bool]  # (config, whether it is a run of a study or sweep) -> fields are read
    fields: tuple[str, ...]  # dotted names; "mae." stands for all fields of the group


def _sources(c: RunConfig) -> list[str]:
    return c.data.source.split("+")


def _splits(c: RunConfig) -> bool:
    return c.traits.labeled or c.data.part == "train"


CONDITIONS = tuple(
    Condition(words, holds, tuple(fields.split()))
    for words, holds, fields in (
        (
            "in pre-training",
            lambda c, _: c.traits.decoder,
            "mae. eval.images eval.mask_seed eval.mask_ratios data.part data.weights data.unlabeled_count "
            "model.decoder_width model.decoder_depth model.decoder_heads",
        ),
        (
            "by classifiers",
            lambda c, _: c.traits.labeled,
            "data.external data.val_of data.fraction data.label_count data.subset data.subset_from data.subset_seed "
            "model.pool",
        ),
        ("with data.subset=typical or coreset", lambda c, _: c.data.subset in BY_FEATURES, "data.subset_from"),
        (
            "by classifiers, and by pre-training with data.part=train",
            lambda c, _: _splits(c),
            "data.train_split data.test_split data.val_split data.levels data.test_fraction data.test_seed",
        ),
        (
            "by finetune and linear_probe",
            lambda c, _: c.traits.labeled and c.traits.updates,
            "model.head_std train.match_fraction train.match_count train.label_smoothing train.select train.patience "
            "train.balance",
        ),
        (
            "by finetune",
            lambda c, _: c.traits.fine_tunes,
            "model.drop_path model.dropout train.blocks train.mixup train.cutmix train.cellmix",
        ),
        (
            "by tasks that train in steps (pretrain, finetune, linear_probe)",
            lambda c, _: c.traits.updates,
            "optim. train. checkpoint.every_epochs checkpoint.keep eval.every_epochs log.every_steps log.profile "
            "data.crop_scale data.crop_ratio data.flips data.randaugment data.randaugment_colour data.random_erasing "
            "data.stain data.stain_strength "
            "data.workers data.prefetch",
        ),
        ("where the encoder is trained", lambda c, _: c.traits.updates and not c.traits.frozen, "optim.layer_decay"),
        ("by lbfgs", lambda c, _: "l2" in c.traits.chooses, "probe.l2"),
        ("by knn", lambda c, _: "neighbours" in c.traits.chooses, "probe.neighbours probe.temperature"),
        ("by lbfgs and knn", lambda c, _: bool(c.traits.chooses), "probe.folds"),
        ("with train.steps=0", lambda c, _: not c.train.steps, "train.epochs"),
        ("with train.batch_size=0", lambda c, _: not c.train.batch_size, "train.batch_per_device"),
        ("with optim.schedule=cosine or linear", lambda c, _: c.optim.schedule != "constant", "optim.min_lr"),
        ("with optim.name=adamw", lambda c, _: c.optim.name == "adamw", "optim.b2"),
        (
            "with optim.weight_decay above 0 or optim.name=lars",
            lambda c, _: c.optim.weight_decay > 0 or c.optim.name == "lars",
            "optim.no_decay",
        ),
        ("with data.randaugment above 0", lambda c, _: c.data.randaugment > 0, "data.randaugment_colour"),
        (
            "with data.stain=hed, randstainna or jitter",
            lambda c, _: c.data.stain != "none",
            "data.stain_strength mae.target",
        ),
        (
            "with train.on_divergence=lower_rate",
            lambda c, _: c.train.on_divergence == "lower_rate",
            "train.lower_rate_times train.lower_rate_factor",
        ),
        ("with init=mae, weights or features", lambda c, _: c.init in ("mae", "weights", FEATURES), "init_from"),
        ("by classifiers", lambda c, _: c.traits.labeled, "model.family"),
        (
            "by vision transformers (model.family=vit)",
            lambda c, _: c.model.family == "vit",
            "model.size model.patch_size model.width model.depth model.heads model.mlp_ratio model.mlp model.pool "
            "model.drop_path model.dropout model.attention model.positions model.norm_eps model.registers "
            "model.layer_scale train.remat",
        ),
        ("with init=weights or features", lambda c, _: c.init in ("weights", FEATURES), "init_seen"),
        (
            "where a network computes the features (init=scratch, mae or weights)",
            lambda c, _: c.has_network,
            "model. data.mean data.std eval.batch_size sharding.",
        ),
        (
            "with data.source=folder",
            lambda c, _: "folder" in _sources(c),
            "data.dir data.labels data.columns data.levels",
        ),
        (
            "with images in folders",
            lambda c, _: "folder" in _sources(c) or bool(c.data.external),
            "data.group_pattern data.bad_images",
        ),
        ("with data.labels", lambda c, _: bool(c.data.labels), "data.columns"),
        ("without data.labels", lambda c, _: not c.data.labels or bool(c.data.external), "data.levels"),
        (
            "with images that are not generated",
            lambda c, _: _sources(c) != ["synthetic"],
            "data.train_split data.test_split data.val_split data.test_fraction data.test_seed data.bad_images",
        ),
        (
            "with data.source=synthetic",
            lambda c, _: "synthetic" in _sources(c),
            "data.synthetic_train data.synthetic_test data.synthetic_unlabelled data.synthetic_size",
        ),
        (
            "with prepared data sets",
            lambda c, _: bool({*_sources(c)} - {"synthetic", "folder"}),
            "data.prepared_dir",
        ),
        (
            "by the classifiers of a study",
            lambda c, in_study: in_study and c.traits.labeled,
            "checkpoint.keep_optimizer",
        ),
    )
)


@functools.cache
def conditions_of(key: str) -> tuple[Condition, ...]:
    """The conditions of a field, given by its dotted name: a run reads it if all hold."""

    def meant(name: str) -> bool:
        return key == name or (name[-1] == "." and key.startswith(name))

    return tuple(condition for condition in CONDITIONS if any(map(meant, condition.fields)))


def why_unused(key: str, config: RunConfig, in_study: bool = False) -> str:
    """When the field with this dotted name is read, as the end of a sentence; "" if the run reads it."""
    return next((c.words for c in conditions_of(key) if not c.holds(config, in_study)), "")


def why_unused_in_part(key: str, part: RunConfig) -> str:
    """`why_unused` for the pre-training or the fine-tuning of a study, which is also the config of its probes."""
    tasks = EVALUATIONS if part.traits.labeled else ()
    runs = [part, *(changed(part, {"task": task}) for task in tasks if task != part.task)]
    words = [why_unused(key, run, in_study=True) for run in runs]
    return words[0] if all(words) else ""


def used(config: RunConfig, in_study: bool = False) -> dict[str, Any]:
    """The fields that the run reads, by their dotted names."""
    failing = {condition.words for condition in CONDITIONS if not condition.holds(config, in_study)}
    return {
        key: value
        for key, value in flatten(config).items()
        if not any(condition.words in failing for condition in conditions_of(key))
    }


def refuse_unused(config: RunConfig, among: Set[str] | None = None) -> None:
    """Raises UserError for a field that differs from its default for the task, but is not read by this run.

    `among`: the dotted names of the fields to look at; None: all.
    """
    for key, value in set_fields(config).items():
        if (among is None or key in among) and (words := why_unused(key, config)):
            raise without_effect(key, value, f"it is used only {words}")


def set_fields(config: RunConfig) -> dict[str, Any]:
    """The fields that are on and differ from their defaults for the task, by their dotted names."""
    usual = flatten(defaults(config.task))
    return {key: value for key, value in flatten(config).items() if value and not same(value, usual[key])}


def without_effect(key: str, value: Any, why: str) -> UserError:
    """The error about a field that does nothing."""
    return UserError(f"{key}={value} has no effect: {why}; leave it out")


def same(one: Any, two: Any) -> bool:
    """Whether two values of a field are equal; a list equals a tuple."""
    listed = [tuple(value) if isinstance(value, list | tuple) else value for value in (one, two)]
    return listed[0] == listed[1]
