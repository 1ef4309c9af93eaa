"""The runs of a study: pre-training runs and cells of the grid, each with its run directory and config."""

import itertools
from collections.abc import Iterator, Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from mae_jax.config.fields import RunConfig, StudyConfig, changed, probe_of
from mae_jax.config.loading import init_of
from mae_jax.config.naming import percent_slug
from mae_jax.config.tasks import LINEAR, RANDOM_PROBE, TRAITS
from mae_jax.config.validation import typed
from mae_jax.runtime.disk import exists
from mae_jax.runtime.text import count
from mae_jax.study.inits import OF_THE_ENCODER, OF_THE_PROBES, Init, grid, in_words, inits

Run = tuple[Path, RunConfig]
TRIED = "tried"  # the field `tuned` of runs that try hyperparameters


def pretrain_dir(config: StudyConfig, workdir: Path, init: Init, number: int) -> Path:
    """The directory of the encoder of `init`, for the seed with index `number`.

    Arms whose pre-training is the same share it, unless `workdir` has one of this arm's own already.
    """
    if init.path:
        return Path(init.path)
    places = [_own_dir(config, workdir, each, number) for each in inits(config) if each.pretrain == init.pretrain]
    unshared = _own_dir(config, workdir, init, number)
    return next((place for place in (unshared, *places) if exists(place)), places[0])


def _own_dir(config: StudyConfig, workdir: Path, init: Init, number: int) -> Path:
    variant = init.slug.removeprefix("mae").replace("_", "-", 1) if init.unnamed else f"-{init.slug}"
    name = f"pretrain{variant}"
    return workdir / (f"{name}-seed{config.pretrain_seeds[number]}" if config.pretrain_seeds else name)


def pretrainings(config: StudyConfig, workdir: Path) -> Iterator[Run]:
    """The pre-training runs of the study. Each init has one for all seeds, or one per seed; equal ones are shared."""
    seen: set[Path] = set()
    for init in inits(config):
        for number in range(max(1, len(config.pretrain_seeds))):
            place = pretrain_dir(config, workdir, init, number)
            if init.pretrain is None or place in seen:
                continue
            seen.add(place)
            name = f"pre-training{init.name.removeprefix('mae')}" if init.unnamed else f"pre-training {init.name}"
            changes = {**init.pretrain, "name": name}
            if config.pretrain_seeds:
                seed = config.pretrain_seeds[number]
                changes |= {"seed": seed, "name": f"{name} seed {seed}"}
            yield place, changed(config.pretrain, changes)


def cells(config: StudyConfig, workdir: Path, tuned: Mapping[str, Mapping[str, Any]] | None = None) -> Iterator[Run]:
    """The evaluations of the study, with the `tuned` hyperparameters of each level (see `tuning`)."""
    for place, cell, level, _ in _cells(config, workdir):
        yield place, changed(cell, (tuned or {}).get(level, {}))


def tuning(config: StudyConfig, workdir: Path) -> Iterator[tuple[str, dict[str, Any], Run]]:
    """The runs that try hyperparameters: for each level, and each setting of `inits.grid`, one with the first seed.

    A level is an arm at a number of labels and of updates. Yields (level, setting, run). The runs differ from the first
    cell of their level in the setting alone.
    """
    settings = grid(config)
    for _, cell, level, number in _cells(config, workdir) if settings else ():
        if not level or number:
            continue
        for setting in settings:
            slug = ",".join(f"{key.rpartition('.')[2]}={value:g}" for key, value in setting.items())
            name = {"name": f"tuning {cell.name}, {in_words(setting)}", "tuned": TRIED}
            # Deeper than the directories of cells, so that no report takes it for one.
            yield level, setting, (workdir / "tuning" / level / slug, changed(cell, setting | name))


def untuned(config: StudyConfig, workdir: Path, tuned: Mapping[str, Any]) -> Iterator[Run]:
    """The cells whose level should have tuned hyperparameters and has none."""
    for place, cell, level, _ in _cells(config, workdir):
        if level and config.tune and level not in tuned:
            yield place, cell


def _cells(config: StudyConfig, workdir: Path) -> Iterator[tuple[Path, RunConfig, str, int]]:
    """The evaluations of the study: `config.evaluations` x seeds x fractions x inits, and step-matched runs.

    Cells with the same evaluation, seed, fraction and number of updates differ only in their initial weights and in
    the fields that `config.inits` changes, except that each encoder has the network and the normalization of its
    pre-training. Only fine-tuning has step-matched runs. Arms without a network have evaluations without updates alone.
    Yields directory, config, level ("" unless labels change the encoder), and the number of the seed.
    """
    subset_seeds = config.subset_seeds or (0,) * len(config.seeds)
    labels = config.label_counts or config.fractions
    most = max(labels)
    budgets = [(n, 0) for n in labels]
    matched = most if config.label_counts else config.step_matched
    budgets += [(n, most) for n in labels if config.step_matched and n <= matched and n < most]
    seeds = list(enumerate(zip(config.seeds, subset_seeds, strict=True)))
    arms = {init.name: init for init in inits(config)}
    encoder_of = lru_cache(None)(lambda name, number: str(pretrain_dir(config, workdir, arms[name], number).resolve()))
    wanted = [(task, list(arms.values())) for task in config.evaluations]
    if config.random_probe and not ("scratch" in config.inits and {*LINEAR} & {*config.evaluations}):
        wanted.append((RANDOM_PROBE, [Init("scratch")]))
    for (task, starts), (number, (seed, subset_seed)), (amount, match) in itertools.product(wanted, seeds, budgets):
        frozen = TRAITS[task].frozen
        if match and frozen:
            continue
        for init in starts:
            if TRAITS[task].updates and not init.has_network:
                continue
            start = typed(probe_of(config.finetune, task), RunConfig) if frozen else config.finetune
            changes: dict[str, Any] = {"seed": seed, "data.subset_seed": subset_seed}
            if config.label_counts:
                changes |= {"data.fraction": 1.0, "data.label_count": amount, "train.match_count": match}
            else:
                changes |= {"data.fraction": float(amount), "train.match_fraction": float(match)}
            if init.start:
                changes["init"] = init.start
            elif init.trained:
                changes["init"] = init_of(init.path) if init.path else "mae"
            if init.trained:
                changes["init_from"] = encoder_of(init.name, number)
            if init.seen:
                changes["init_seen"] = init.seen
            if init.name not in ("scratch", "mae"):
                changes["init_name"] = init.name
            changes |= {key: value for key, value in (init.pretrain or {}).items() if key in OF_THE_ENCODER}
            changes |= {key: value for key, value in init.finetune.items() if not frozen or key in OF_THE_PROBES}
            shown = partial(_labels, counted=bool(config.label_counts))
            updates = f" as {shown(match)[0]}" if match else ""
            which = f" seed {seed}" if len(config.seeds) > 1 else ""
            what = TRAITS[task].words if frozen else task
            changes["name"] = f"{what} {shown(amount)[0]}{updates} {init.name}{which}"
            cell = changed(start, changes)
            budget = shown(amount)[1] + (f"-as{shown(match)[1]}" if match else "")
            before = f"{task}-" if frozen else ""
            level = f"{budget}-{init.slug}" if TRAITS[task].fine_tunes else ""
            yield workdir / "cells" / f"{before}{budget}-{init.slug}-seed{seed}", cell, level, number


def _labels(amount: float, counted: bool) -> tuple[str, str]:
    """A fraction or number of labels, in words and for file names."""
    return (count(amount, "label"), f"{amount}labels") if counted else (f"{amount * 100:g} %", percent_slug(amount))


def runs(config: StudyConfig, workdir: Path) -> list[Run]:
    """All runs of a study, in the order in which they run."""
    tried = (run for _, _, run in tuning(config, workdir))
    return [*pretrainings(config, workdir), *tried, *cells(config, workdir)]
