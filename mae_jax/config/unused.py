"""Which fields a run reads: the conditions that the rules of fields name (`Rule.used`).

A field that was set and is not read is refused, because it would silently do nothing.

A field may be set to 0, False or an empty value where it is not read, because that turns off what is not there.
"""

import dataclasses
import functools
from collections.abc import Callable, Set
from typing import Any

from mae_jax.config.fields import FEATURES, RunConfig, changed, defaults, rules
from mae_jax.config.loading import flatten
from mae_jax.config.selection import BY_FEATURES
from mae_jax.config.tasks import EVALUATIONS
from mae_jax.runtime.errors import UserError


@dataclasses.dataclass(frozen=True)
class Condition:
    """When a run reads some fields."""

    words: str  # ends the sentence "it is used only"
    holds: Callable[[RunConfig, bool], bool]  # (config, whether it is a run of a study or sweep) -> fields are read


def _sources(c: RunConfig) -> list[str]:
    return c.data.source.split("+")


def _splits(c: RunConfig) -> bool:
    return c.traits.labeled or c.data.part == "train"


# By the name that `Rule.used` gives; the first one that does not hold is the reason.
CONDITIONS = {
    "decoder": Condition("in pre-training", lambda c, _: c.traits.decoder),
    "labels": Condition("by classifiers", lambda c, _: c.traits.labeled),
    "features_choose": Condition("with data.subset=typical or coreset", lambda c, _: c.data.subset in BY_FEATURES),
    "splits": Condition("by classifiers, and by pre-training with data.part=train", lambda c, _: _splits(c)),
    "updates_with_labels": Condition(
        "by finetune and linear_probe", lambda c, _: c.traits.labeled and c.traits.updates
    ),
    "val_of_fraction": Condition("with data.val_of=fraction", lambda c, _: c.data.val_of == "fraction"),
    "val_folds": Condition("with data.val_folds above 0", lambda c, _: c.data.val_folds > 0),
    "fine_tuning": Condition("by finetune", lambda c, _: c.traits.fine_tunes),
    "updates": Condition(
        "by tasks that train in steps (pretrain, finetune, linear_probe)", lambda c, _: c.traits.updates
    ),
    "encoder_trained": Condition("where the encoder is trained", lambda c, _: c.traits.updates and not c.traits.frozen),
    "lbfgs": Condition("by lbfgs", lambda c, _: "l2" in c.traits.chooses),
    "knn": Condition("by knn", lambda c, _: "neighbours" in c.traits.chooses),
    "choosing": Condition("by lbfgs and knn", lambda c, _: bool(c.traits.chooses)),
    "epochs": Condition("with train.steps=0", lambda c, _: not c.train.steps),
    "open_batch": Condition("with train.batch_size=0", lambda c, _: not c.train.batch_size),
    "falling_rate": Condition("with optim.schedule=cosine or linear", lambda c, _: c.optim.schedule != "constant"),
    "adamw": Condition("with optim.name=adamw", lambda c, _: c.optim.name == "adamw"),
    "decay": Condition(
        "with optim.weight_decay above 0 or optim.name=lars",
        lambda c, _: c.optim.weight_decay > 0 or c.optim.name == "lars",
    ),
    "randaugment": Condition("with data.randaugment above 0", lambda c, _: c.data.randaugment > 0),
    "stain": Condition("with data.stain=hed, randstainna or jitter", lambda c, _: c.data.stain != "none"),
    "lower_rate": Condition("with train.on_divergence=lower_rate", lambda c, _: c.train.on_divergence == "lower_rate"),
    "initial_weights": Condition(
        "with init=mae, weights or features", lambda c, _: c.init in ("mae", "weights", FEATURES)
    ),
    "vit": Condition("by vision transformers (model.family=vit)", lambda c, _: c.model.family == "vit"),
    "resnet": Condition("by ResNets (model.family=resnet18)", lambda c, _: c.model.family == "resnet18"),
    "weights_or_features": Condition("with init=weights or features", lambda c, _: c.init in ("weights", FEATURES)),
    "network": Condition(
        "where a network computes the features (init=scratch, mae or weights)", lambda c, _: c.has_network
    ),
    "folder": Condition("with data.source=folder", lambda c, _: "folder" in _sources(c)),
    "files": Condition("with images in folders", lambda c, _: "folder" in _sources(c) or bool(c.data.external)),
    "table": Condition("with data.labels", lambda c, _: bool(c.data.labels)),
    "no_table": Condition("without data.labels", lambda c, _: not c.data.labels or bool(c.data.external)),
    "not_generated": Condition("with images that are not generated", lambda c, _: _sources(c) != ["synthetic"]),
    "synthetic": Condition("with data.source=synthetic", lambda c, _: "synthetic" in _sources(c)),
    "prepared": Condition("with prepared data sets", lambda c, _: bool({*_sources(c)} - {"synthetic", "folder"})),
    "cells": Condition("by the classifiers of a study", lambda c, in_study: in_study and c.traits.labeled),
}


@functools.cache
def conditions_of(key: str) -> tuple[Condition, ...]:
    """The conditions of a field, given by its dotted name, as its rule names them: a run reads it if all hold."""
    named = _NAMES.get(key, frozenset())
    return tuple(condition for name, condition in CONDITIONS.items() if name in named)


_NAMES = {key: frozenset(rule.used.split()) for key, (_, rule) in rules(RunConfig).items()}


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
    failing = {condition.words for condition in CONDITIONS.values() if not condition.holds(config, in_study)}
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
