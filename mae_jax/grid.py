"""The cells of a study: a run directory and a config for each."""

from collections.abc import Iterator
from pathlib import Path

from ml_collections import ConfigDict

from mae_jax.config import percent

Run = tuple[Path, ConfigDict]


def pretrain_dir(workdir: Path) -> Path:
    """Where the study's masked autoencoder lies."""
    return workdir / "pretrain"


def pretraining(config: ConfigDict, workdir: Path) -> list[Run]:
    """The pre-training, where an initialisation needs it."""
    if "mae" not in config.inits:
        return []
    cell = config.pretrain.copy_and_resolve_references()
    cell.name = "pre-training"
    return [(pretrain_dir(workdir), cell)]


def cells(config: ConfigDict, workdir: Path) -> Iterator[Run]:
    """Every fine-tuning run. Those of one seed and fraction differ in their first weights and in nothing else."""
    subset_seeds = tuple(config.subset_seeds) or (0,) * len(config.seeds)
    for seed, subset_seed in zip(config.seeds, subset_seeds, strict=True):
        for fraction in config.fractions:
            for init in config.inits:
                cell = config.finetune.copy_and_resolve_references()
                cell.seed, cell.data.subset_seed, cell.data.fraction = seed, subset_seed, fraction
                cell.init = init
                cell.init_from = str(pretrain_dir(workdir).resolve()) if init == "mae" else ""
                cell.name = f"finetune {fraction * 100:g} % {init}" + (f" seed {seed}" if len(config.seeds) > 1 else "")
                yield workdir / "cells" / f"{percent(fraction)}-{init}-seed{seed}", cell
