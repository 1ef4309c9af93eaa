"""Validation of the config of any task, also a study or sweep, before any device or image is touched.

Each check raises UserError with one line: the field, its value, what is allowed.
"""

import dataclasses
import math
from pathlib import Path
from typing import Any, TypeVar, cast

from ml_collections import ConfigDict

from mae_jax.config.fields import AnyConfig, Rule, RunConfig, StudyConfig, SweepConfig, rules
from mae_jax.config.loading import flatten, one_of
from mae_jax.config.tasks import QUICK, TASKS, TRAITS, UNLABELED, USUAL
from mae_jax.config.validation import (
    ENCODER,
    NORMALIZATION,
    OF_CLASSIFIERS,
    refuse_unknown,
    typed,
    validate,
    validate_ratio,
)
from mae_jax.rundir import saved_runs
from mae_jax.rundir.contents import sides_of
from mae_jax.runtime.errors import UNUSABLE, UserError
from mae_jax.study import cells
from mae_jax.study.inits import grid, inits

S = TypeVar("S", StudyConfig, SweepConfig)


def check(config: ConfigDict) -> AnyConfig:
    """Checks the config of any task and returns it frozen. Touches no device, file or image.

    Raises UserError that names the field, its value and what is allowed.
    """
    task = cast(str, config.get("task"))
    one_of("task", task, (*TASKS, "study", "sweep"))
    return {"study": validate_study, "sweep": validate_sweep}.get(task, validate)(config)


def check_images(config: AnyConfig) -> None:
    """Raises UserError if the images that a config names do not exist. Opens none of them.

    The content of folders is checked later, when they are opened.
    """
    from mae_jax.data import labeled_sets, splits  # NumPy and SciPy: not before the fields are checked

    if isinstance(config, StudyConfig):
        parts = {run.task: run for _, run in cells.runs(config, Path())}
    elif isinstance(config, SweepConfig):
        parts = {"pretrain": config.pretrain, "finetune": config.finetune}
    else:
        parts = {"": config}
    for name, part in parts.items():
        try:
            (labeled_sets.check if part.traits.labeled else splits.check_unlabeled)(part.data)
        except UserError as error:
            raise UserError(f"{name}.{error}" if name else str(error)) from None


def check_start(config: AnyConfig) -> None:
    """Raises UserError if the initial weights of a run are missing. Opens none of them.

    A study makes its pre-trainings itself, and checks the encoders that it is given when it reads its config.
    """
    if not isinstance(config, RunConfig):
        return
    if config.init == "mae":
        saved_runs.trained_config_of(Path(config.init_from), "init_from")
    elif config.init == "weights":
        from mae_jax.weights import arrays  # NumPy: not before the fields are checked

        arrays.files_of(Path(config.init_from), "init_from")


def validate_study(config: ConfigDict | StudyConfig) -> StudyConfig:
    """Checks the config of a study, with its parts and all cells, and returns it frozen. Raises UserError."""
    if isinstance(config, StudyConfig):
        return config
    study = _several(config, StudyConfig, "a study")
    _validate_contrasts(study)
    _validate_tuning(study)
    if not {*QUICK} & {*study.evaluations}:
        for text, init in zip(study.inits, inits(study), strict=True):
            if not init.has_network:
                raise UserError(
                    f"inits: {text!r} has no network to train, but evaluations={study.evaluations}; add "
                    f"{' or '.join(QUICK)} to evaluations"
                )
    _validate_arms(study)
    for _, run in cells.runs(study, Path()):
        if run.init != "weights":  # else the network comes from the weight files
            validate(run, f"{run.task if run.traits.frozen else run.name}: ")
    return study


def _validate_arms(study: StudyConfig) -> None:
    """Checks that the fine-tuning of each arm with a pre-training has its encoder. Only image sizes may differ."""
    pretrain, finetune = flatten(study.pretrain), flatten(study.finetune)
    for text, init in zip(study.inits, inits(study), strict=True):
        changes = init.pretrain
        if changes is None:
            continue
        for key in [f"model.{name}" for name in ENCODER if name != "image_size"]:
            before = changes.get(key, pretrain[key])
            given = init.finetune.get(key, changes.get(key, finetune[key]))
            if given != before:
                raise UserError(
                    f"inits: {text!r}: the fine-tuning has {key}={given}, but its pre-training {key}={before}; the "
                    f"encoder must be the same"
                )


def _validate_tuning(study: StudyConfig) -> None:
    """Checks `tune`, and that there are validation images to choose on, and runs to tune."""
    if not grid(study):
        return
    if not study.finetune.data.val_fraction and study.finetune.data.val_split in ("", "none"):
        raise UserError(
            f"tune={study.tune} chooses on validation images, but finetune.data.val_fraction=0; raise it, or leave "
            "tune out"
        )
    if not any(TRAITS[task].fine_tunes for task in study.evaluations):
        raise UserError(
            f"tune={study.tune} is for {USUAL}, but evaluations={study.evaluations}; add it, or leave tune out"
        )


def validate_sweep(config: ConfigDict | SweepConfig) -> SweepConfig:
    """Checks the config of a sweep and its parts, and returns it frozen. Raises UserError."""
    if isinstance(config, SweepConfig):
        return config
    sweep = _several(config, SweepConfig, "a sweep")
    for ratio in sweep.mask_ratios:
        validate_ratio(sweep.pretrain.model, ratio, f"mask_ratios={sweep.mask_ratios}: {ratio}")
    if not sweep.pretrain.data.val_fraction or not sweep.pretrain.eval.mask_ratios:
        raise UserError(
            "a sweep measures reconstructions of held-out images: pretrain.data.val_fraction must be above 0 and "
            "pretrain.eval.mask_ratios must not be empty"
        )
    return sweep


def _several(config: ConfigDict, kind: type[S], what: str) -> S:
    """Checks the config of a study or sweep, except its cells, and returns it frozen."""
    known = {key: rule for key, rule in rules(kind).items() if "." not in key}
    sections = ("pretrain", "finetune") + (("experiments",) if "experiments" in known else ())
    refuse_unknown(config, [*known, *sections], what)
    for key in (*known, *sections):
        if key not in config:
            raise UserError(f"{key} is missing from the config; {what} needs it: start from a file in configs/")
        if key in sections and not isinstance(config[key], ConfigDict):
            raise UserError(f"{key}={config[key]!r} is not allowed; {what} needs a group of fields here")
    for key, (like, rule) in known.items():
        if key not in sections:
            _validate_value(key, config[key], like, rule)
    for key in ("subset_seeds", "pretrain_seeds"):
        if key in known and (given := cast(Any, config[key])) and len(given) != len(config.seeds):
            raise UserError(f"{key}={tuple(given)} must be empty or as long as seeds={tuple(config.seeds)}")
    for part in ("pretrain", "finetune"):
        run = cast(ConfigDict, config[part])
        allowed = UNLABELED if part in UNLABELED else (part,)
        if run.get("task") not in allowed:
            raise UserError(f"{part}.task={run.get('task')} is not allowed; it must be {' or '.join(allowed)}")
    parts = {part: validate(cast(ConfigDict, config[part]), f"{part}.") for part in ("pretrain", "finetune")}
    checked = dataclasses.replace(typed(config, kind), **parts)
    _validate_parts(checked.pretrain, checked.finetune)
    return checked


def _validate_contrasts(study: StudyConfig) -> None:
    names = [init.name for init in inits(study)]
    for text in study.contrasts:
        first, second = sides_of(text)
        if first == second or not {first, second} <= {*names}:
            raise UserError(
                f"contrasts: {text!r} is not allowed; use A:B with two different names of inits: {', '.join(names)}"
            )


def _validate_value(key: str, value: Any, like: Any, rule: Rule) -> None:
    if isinstance(like, tuple):
        if not isinstance(value, tuple | list):
            raise UserError(f"{key}={value!r} has the wrong type; allowed: several values in parentheses, such as (0,)")
        value = tuple(value)
        twice = not rule.may_repeat and any(value.count(v) > 1 for v in value)
        if twice or (not value and not rule.may_be_empty):
            raise UserError(f"{key}={value} is not allowed; use at least one value, each once")
        for item in value:
            if rule.choices:
                one_of(f"{key}: each", item, rule.choices)
            kinds = (int, float) if rule.kind is float else (rule.kind,)
            if rule.kind and not (type(item) in kinds and math.isfinite(item) and rule.holds(item)):
                raise UserError(f"{key}={value}: {item!r} is not allowed; use {rule.allowed}")
    elif isinstance(like, str):
        if not isinstance(value, str) or UNUSABLE.search(value):
            raise UserError(f"{key}={value!r} is not allowed; use text without control characters")
        if rule.number_or_auto and value != "auto" and not (value.isdecimal() and 0 < int(value) < 1000):
            raise UserError(f"{key}={value} is not allowed; use auto, or a whole number from 1 to 999")
    elif isinstance(like, bool):
        if type(value) is not bool:
            raise UserError(f"{key}={value!r} has the wrong type; allowed: bool")
    elif type(value) not in (int, float) or not rule.holds(value):
        raise UserError(f"{key}={value!r} is out of range; allowed: {rule.range}, {rule.allowed}")


def _validate_parts(pretrain: RunConfig, finetune: RunConfig) -> None:
    """Checks that fine-tuning has the encoder and the normalization of its pre-training."""
    for key in ENCODER:
        if key in OF_CLASSIFIERS:  # a study without pre-training may have another family
            continue
        one, two = getattr(pretrain.model, key), getattr(finetune.model, key)
        if one != two:
            raise UserError(
                f"pretrain.model.{key}={one} and finetune.model.{key}={two} differ; the encoder must be the same"
            )
    for key in NORMALIZATION:
        one, two = getattr(pretrain.data, key), getattr(finetune.data, key)
        if one != two:
            raise UserError(
                f"pretrain.data.{key}={one} and finetune.data.{key}={two} differ; the encoder must see images with "
                f"the same normalization"
            )
