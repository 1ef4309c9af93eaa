"""Names made from a config: default run directories, file names, labels of data and arms."""

import os
import re
from pathlib import Path

from ml_collections import ConfigDict

from mae_jax.config.fields import WEIGHTS, AnyConfig, DataFields, ModelFields, RunConfig, StudyConfig, SweepConfig
from mae_jax.runtime.errors import UNUSABLE, UserError


def arm_of(config: RunConfig) -> str:
    """How a run was trained, in words, where that is not the usual way; runs are compared within an arm."""
    match, blocks = config.train.match_fraction, config.train.blocks
    said = [f"as many updates as {match * 100:g} %"] if match else []
    said += [f"as many updates as {config.train.match_count} labels"] if config.train.match_count else []
    if blocks >= 0:
        said.append(f"{blocks} block{'s' * (blocks > 1)} trained" if blocks else "the head trained")
    return ", ".join(said)


def run_directory(config: AnyConfig | ConfigDict, workdir: str | os.PathLike | None = None) -> Path:
    """`workdir`, else the default. Raises UserError for a name that cannot be shown."""
    directory = Path(workdir or default_workdir(config))
    if UNUSABLE.search(str(directory)):
        raise UserError(f"--workdir={str(directory)!r} has control characters or bytes that are no UTF-8; rename it")
    return directory


def default_workdir(config: AnyConfig | ConfigDict) -> str:
    """A speaking directory below runs/, for example runs/finetune-raabin_wbc-10pct-mae-base16_224-seed0."""
    if isinstance(config, StudyConfig | SweepConfig) or config.task in ("study", "sweep"):
        data = config.finetune.data
        label = source_label(data)
        return f"runs/{_in_path(config.name or config.task)}-{label}-{_model_label(config.finetune.model)}"
    parts = [_in_path(config.name or config.task), source_label(config.data)]
    if config.task != "pretrain":
        origin = Path(config.init_from)
        origin = "" if config.init == "scratch" else origin.stem if origin.suffix in WEIGHTS else origin.name
        n = config.data.label_count
        parts += [f"{n}labels" if n else percent(config.data.fraction), config.init + (f"_{origin}" if origin else "")]
        parts += [f"blocks{config.train.blocks}"] if config.train.blocks >= 0 else []
    parts += [_model_label(config.model), f"seed{config.seed}"]
    return "runs/" + "-".join(parts)


def percent(fraction: float) -> str:
    """0.1 -> "10pct", for file names."""
    return f"{fraction * 100:g}pct"


def source_label(data: DataFields) -> str:
    """What to call the images: the source, or the last part of each folder's path."""
    return _in_path("+".join(source_names(data)))


def _in_path(name: str) -> str:
    return re.sub(r"[^\w.+-]", "_", name)


def source_names(data: DataFields) -> list[str]:
    """One name for each source, in their order: the data set, or the last part of the folder's path."""
    names = []
    folders = [Path(d).name or "folder" for d in data.dir.split(",") if d]
    for source in data.source.split("+"):
        names += (folders or [Path(data.labels).stem]) if source == "folder" else [source]
    return names


def _model_label(m: ModelFields) -> str:
    size = f"{m.width}x{m.depth}" if m.size == "custom" else m.size
    return f"{size}_p{m.patch_size}_{m.image_size}px"
