"""Refuses fields of a study or sweep that none of its runs reads."""

from pathlib import Path
from typing import Any

from mae_jax.config.fields import AnyConfig, RunConfig, StudyConfig, SweepConfig, changed, rules
from mae_jax.config.loading import flatten
from mae_jax.config.unused import refuse_unused, same, set_fields, used, why_unused, why_unused_in_part, without_effect
from mae_jax.runtime.errors import UserError
from mae_jax.study import cells
from mae_jax.study.inits import BY_THE_STUDY

PARTS = ("pretrain", "finetune")
_OVERWRITTEN = {  # fields that differ from run to run
    StudyConfig: {f"finetune.{key}" for key in BY_THE_STUDY - {"task", "name"}},
    SweepConfig: {
        *("finetune.seed", "finetune.init", "finetune.init_from", "finetune.data.subset_seed"),
        *("pretrain.mae.mask_ratio", "pretrain.mae.visible_weight"),
    },
}


def refuse(config: AnyConfig, loaded: dict[str, Any]) -> None:
    """Raises UserError for a field that was set and has no effect.

    `loaded` has the values of the config file by dotted names, before any were changed. If some were, only these are
    refused: a change may leave a value of the file without effect, as train.steps does with train.epochs. The file
    itself may set fields of a study that only some evaluations read. Of a value that both parts of a study share, it is
    enough if one of them reads it.
    """
    meant = {key for key, value in flatten(config).items() if not same(value, loaded.get(key))} or None
    if isinstance(config, RunConfig):
        refuse_unused(config, meant)
        return
    for part in PARTS:
        for key, value in set_fields(getattr(config, part)).items():
            words = _why_not(config, part, key)
            if words and (meant is None or f"{part}.{key}" in meant) and not _shared(config, part, key):
                raise without_effect(f"{part}.{key}", value, words)
    before = _effect(config)
    for key, value in flatten(config).items():
        if not value or not _is_of_runs(config, key) or same(value, loaded.get(key)):
            continue
        part, _, field = key.partition(".")
        if isinstance(getattr(config, part), RunConfig) and _shared(config, part, field):
            continue
        if key in loaded and _effect(changed(config, {key: _typed(loaded[key])})) == before:
            raise without_effect(key, value, f"no run of this {config.task} uses it")


def _is_of_runs(config: StudyConfig | SweepConfig, key: str) -> bool:
    name = key.partition(".")[0] if key.startswith("experiments.") else key
    return rules(type(config))[name][1].of_runs


def _why_not(config: StudyConfig | SweepConfig, part: str, key: str) -> str:
    """Why no run reads a field of a part of the study; "" if one does."""
    if f"{part}.{key}" in _OVERWRITTEN[type(config)]:
        return f"the {config.task} sets it in each of its runs"
    words = why_unused_in_part(key, getattr(config, part))
    return f"it is used only {words}" if words else ""


def _shared(config: StudyConfig | SweepConfig, part: str, key: str) -> bool:
    """Whether the other part has the same value of a field and reads it."""
    here = getattr(config, part)
    other = config.pretrain if here is config.finetune else config.finetune
    return same(flatten(here)[key], flatten(other)[key]) and not why_unused(key, other, in_study=True)


def _effect(config: StudyConfig | SweepConfig) -> list[tuple[str, dict[str, Any]]]:
    """The directory of each run and the fields that it reads; [] if the config is not possible."""
    try:
        return [(str(place), used(run, in_study=True) | {"name": ""}) for place, run in _runs(config)]
    except UserError:
        return []


def _runs(config: StudyConfig | SweepConfig) -> list[cells.Run]:
    if isinstance(config, StudyConfig):
        return cells.runs(config, Path())
    from mae_jax.study import mask_sweep  # JAX

    networks = mask_sweep.pretrainings(config, Path())
    return [*networks, *mask_sweep.classifiers(config, Path(), networks)]


def _typed(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
