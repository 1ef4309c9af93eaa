"""Refuses fields of a study or sweep that none of its runs reads."""

from pathlib import Path
from typing import Any

from mae_jax.config.fields import AnyConfig, RunConfig, StudyConfig, SweepConfig, changed
from mae_jax.config.loading import flatten
from mae_jax.config.unused import refuse_unused, same, set_fields, used, why_unused, why_unused_in_part, without_effect
from mae_jax.runtime.errors import UserError
from mae_jax.study import cells
from mae_jax.study.inits import BY_THE_STUDY

_NOT_OF_RUNS = ("task", "name", "title", "target", "pictures", "random_probe")  # fields of the study itself
_BY_THE_SWEEP = {
    "finetune": ("seed", "init", "init_from", "data.subset_seed"),
    "pretrain": ("mae.mask_ratio", "mae.visible_weight"),
}


def refuse(config: AnyConfig, loaded: dict[str, Any] | None) -> None:
    """Raises UserError for a field that was set and has no effect.

    `loaded` has the values of the config file by dotted names, before any were changed; None if they are not known.
    Then a field of a study counts as set if it differs from its default, and as read if any evaluation reads it. Of a
    value that both parts of a study share, it is enough if one of them reads it.
    """
    if isinstance(config, RunConfig):
        refuse_unused(config)
        return
    for part in ("pretrain", "finetune"):
        for key, value in set_fields(getattr(config, part)).items():
            words = _why_not(config, part, key)
            if words and not _shared(config, part, key):
                raise without_effect(f"{part}.{key}", value, words)
    if loaded is None:
        return
    before = _effect(config)
    for key, value in flatten(config).items():
        if not value or key in _NOT_OF_RUNS or key.startswith("experiments.") or same(value, loaded.get(key)):
            continue
        part, _, field = key.partition(".")
        if part in ("pretrain", "finetune") and _shared(config, part, field):
            continue
        if key in loaded and _effect(changed(config, {key: _typed(loaded[key])})) == before:
            raise without_effect(key, value, "no run of this study uses it")


def _why_not(config: StudyConfig | SweepConfig, part: str, key: str) -> str:
    """Why no run reads a field of a part of the study; "" if one does."""
    if isinstance(config, SweepConfig) and key in _BY_THE_SWEEP[part]:
        return "the sweep sets it in each of its runs"
    if isinstance(config, StudyConfig) and part == "finetune" and key in BY_THE_STUDY - {"task", "name"}:
        return "the study sets it in each of its runs"
    words = why_unused_in_part(key, getattr(config, part))
    return f"it is used only {words}" if words else ""


def _shared(config: StudyConfig | SweepConfig, part: str, key: str) -> bool:
    """Whether the other part has the same value of a field and reads it."""
    other = config.finetune if part == "pretrain" else config.pretrain
    here, there = (flatten(run)[key] for run in (getattr(config, part), other))
    return same(here, there) and not why_unused(key, other, in_study=True)


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
