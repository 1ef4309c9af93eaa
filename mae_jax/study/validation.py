"""Checks of the config of a study or sweep, before any device or image is touched.

Each raises UserError with one line: the field, its value, what is allowed.
"""

import math
from pathlib import Path

from ml_collections import ConfigDict

from mae_jax.config.fields import EVALUATIONS, TASKS, study_defaults, sweep_defaults
from mae_jax.config.loading import one_of
from mae_jax.config.validation import refuse_unknown, validate, validate_ratio
from mae_jax.data import labelled_sets, splits
from mae_jax.runtime.errors import UNUSABLE, UserError
from mae_jax.study import cells


def check(config: ConfigDict) -> None:
    """Refuses a config of any task that cannot work; touches no device, no file and no image.

    Raises UserError that names the field, its value and what is allowed.
    """
    task = config.get("task")
    one_of("task", task, (*TASKS, "study", "sweep"))
    {"study": validate_study, "sweep": validate_sweep}.get(task, validate)(config)


def check_images(config: ConfigDict) -> None:
    """Refuses a config of any task that names images which are not there; opens none.

    Raises UserError. What is in the folders is found when they are opened.
    """
    if config.task == "study":
        parts = {run.task: run for _, run in cells.runs(config, Path())}
    elif config.task == "sweep":
        parts = {"pretrain": config.pretrain, "finetune": config.finetune}
    else:
        parts = {"": config}
    for name, part in parts.items():
        try:
            (splits.check_unlabelled if part.task == "pretrain" else labelled_sets.check)(part.data)
        except UserError as error:
            raise UserError(f"{name}.{error}" if name else str(error)) from None


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
    if type(config.target) not in (int, float) or not 0 <= config.target <= 1:
        raise UserError(
            f"target={config.target!r} is out of range; allowed: a macro F1 in [0, 1], 0 for 0.02 below the best"
        )
    for value in config.evaluations:
        one_of("evaluations: each", value, EVALUATIONS)
    cells.inits(config)
    _validate_parts(config)
    for _, cell in cells.cells(config, Path()):
        if cell.task != "finetune":
            validate(cell, f"{cell.task}: ")
    for _, run in cells.runs(config, Path()):
        if run.init != "weights":  # else the files say what the network is
            validate(run, f"{run.name}: ")


def validate_sweep(config: ConfigDict) -> None:
    """`validate` for a sweep and both of its parts."""
    _whole(config, sweep_defaults(ConfigDict(), ConfigDict()), "a sweep")
    _validate_lists(config, ("mask_ratios", "visible_weights", "seeds", "subset_seeds"))
    _validate_parts(config)
    for ratio in config.mask_ratios:
        validate_ratio(config.pretrain.model, ratio, f"mask_ratios={tuple(config.mask_ratios)}: {ratio}")
    if not config.pretrain.data.val_fraction or not config.pretrain.eval.mask_ratios:
        raise UserError(
            "a sweep measures reconstructions of images held out: pretrain.data.val_fraction must be above 0 and "
            "pretrain.eval.mask_ratios must not be empty"
        )


def _whole(config: ConfigDict, known: ConfigDict, what: str) -> None:
    """Refuses a config of several runs with other fields than `known`, or with a value in the place of a section."""
    refuse_unknown(config, known, what)
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
