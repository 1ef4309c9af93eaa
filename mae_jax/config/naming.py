"""Names made from a config: default run directories, file names, labels of data and arms."""

import os
import re
from pathlib import Path
from typing import cast

from ml_collections import ConfigDict

from mae_jax.config.fields import (
    FEATURE_FILES,
    WEIGHTS,
    AnyConfig,
    DataFields,
    ModelFields,
    RunConfig,
    StudyConfig,
    SweepConfig,
)
from mae_jax.config.tasks import UNLABELED
from mae_jax.runtime.errors import UNUSABLE, UserError


def arm_of(config: RunConfig) -> str:
    """The arm of a run: how it was trained, in words, or "" for the default. Runs are compared within an arm."""
    match, blocks = config.train.match_fraction, config.train.blocks
    parts = [f"as many updates as {match * 100:g} %"] if match else []
    parts += [f"as many updates as {config.train.match_count} labels"] if config.train.match_count else []
    if blocks >= 0:
        parts.append(f"{blocks} block{'s' * (blocks > 1)} trained" if blocks else "the head trained")
    return ", ".join(parts)


def run_directory(config: AnyConfig | ConfigDict, workdir: str | os.PathLike | None = None) -> Path:
    """`workdir`, or the default. Raises UserError for a name with unprintable characters."""
    directory = Path(workdir or default_workdir(config))
    if UNUSABLE.search(str(directory)):
        raise UserError(f"--workdir={str(directory)!r} has control characters or bytes that are not UTF-8; rename it")
    return directory


def default_workdir(config: AnyConfig | ConfigDict) -> str:
    """A descriptive directory under runs/, such as runs/finetune-raabin_wbc-10pct-mae_pretrain-base_p16_224px-seed0."""
    if isinstance(config, StudyConfig | SweepConfig) or config.task in ("study", "sweep"):
        finetune = cast(StudyConfig, config).finetune
        data = finetune.data
        label = source_label(data)
        return f"runs/{_in_path(config.name or config.task)}-{label}-{_model_label(finetune.model)}"
    parts = [_in_path(config.name or config.task), source_label(config.data)]
    if config.task not in UNLABELED:
        place = Path(config.init_from)
        origin = place.stem if place.suffix in (*WEIGHTS, *FEATURE_FILES) else place.name
        origin = origin if config.init_from and config.init != "scratch" else ""
        n = config.data.label_count
        parts += [
            f"{n}labels" if n else percent_slug(config.data.fraction),
            config.init + (f"_{origin}" if origin else ""),
        ]
        parts += [f"blocks{config.train.blocks}"] if config.train.blocks >= 0 else []
    parts += [_model_label(config.model), f"seed{config.seed}"]
    return "runs/" + "-".join(parts)


def percent_slug(fraction: float) -> str:
    """0.1 -> "10pct", for file names."""
    return f"{fraction * 100:g}pct"


def source_label(data: DataFields) -> str:
    """The name of the images: the sources, or the last part of each folder's path, joined by "+"."""
    return _in_path("+".join(source_names(data)))


def _in_path(name: str) -> str:
    return re.sub(r"[^\w.+-]", "_", name)


def source_names(data: DataFields) -> list[str]:
    """One name per source, in order: the data set, or the last part of the folder's path."""
    names = []
    folders = [Path(d).name or "folder" for d in data.dir.split(",") if d]
    for source in data.source.split("+"):
        names += (folders or [Path(data.labels).stem]) if source == "folder" else [source]
    return names


def _model_label(m: ModelFields) -> str:
    if m.family != "vit":
        return f"{m.family}_{m.image_size}px"
    size = f"{m.width}x{m.depth}" if m.size == "custom" else m.size
    return f"{size}_p{m.patch_size}_{m.image_size}px"
