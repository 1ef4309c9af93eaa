"""What a directory holds: a run, finished or not, of which kind, with which config. Nothing here starts JAX."""

from pathlib import Path

from mae_jax.config.fields import RunConfig
from mae_jax.config.tasks import DECODING, TRAINED
from mae_jax.rundir.contents import (
    BUNDLE,
    CONFIG,
    PREDICTIONS,
    RESULTS,
    RUN,
    listed,
    peek,
    peek_object,
    read_config,
    run_config,
    runs_below,
)
from mae_jax.runtime.disk import exists, is_file
from mae_jax.runtime.errors import UserError
from mae_jax.runtime.text import count

ADVICE = "mae-jax runs DIR lists the runs below a folder"


def is_run(place: Path) -> bool:
    """True if this is a run directory: its config.json holds the config of a run."""
    saved = peek(place / CONFIG)
    if saved is None:
        return is_file(place / RUN)
    return isinstance(saved, dict) and isinstance(saved.get("config"), dict) and "task" in saved["config"]


def is_bundle(folder: Path) -> bool:
    """True if the folder's config.json marks it as a bundle."""
    return BUNDLE in peek_object(folder / CONFIG)


def finished_classifiers(study: Path) -> list[Path]:
    """Directories of the finished classifiers below a study's directory."""
    return [run for run in runs_below(study) if is_file(run / PREDICTIONS) and is_file(run / RESULTS)]


def refuse_unfinished(run_dir: Path, field: str) -> None:
    """Raises UserError that names `field` if a run has no results yet."""
    for name in (RUN, RESULTS):
        if not is_file(run_dir / name):
            raise UserError(f"{field}={run_dir} is not finished (no {name}); rerun its command to finish it")


def config_of(run_dir: Path, field: str) -> RunConfig:
    """The checked config of a run directory, with defaults for fields that are newer than the run.

    Raises UserError that names `field`, and for a study's directory its runs.
    """
    path = run_dir / CONFIG
    if not is_file(path) and (runs := runs_below(run_dir)):
        raise UserError(
            f"{field}={run_dir} is the directory of {count(len(runs), 'run')}; name one: {listed(run_dir, runs)}"
        )
    if not exists(run_dir):
        raise UserError(f"{field}={run_dir} does not exist; name the directory of a run")
    if not is_file(path):
        raise UserError(
            f"{field}={run_dir} is not a run directory (no {CONFIG}); name the --workdir of a run ({ADVICE})"
        )
    return run_config(read_config(path), f"{field}: {path}: ")


def trained_config_of(run_dir: Path, field: str) -> RunConfig:
    """`config_of` for a run that trains a network. Raises UserError that names `field` for another task."""
    config = config_of(run_dir, field)
    if not config.traits.updates:
        raise UserError(
            f"{field}={run_dir} is a run of task {config.task}, which trains no network; name a run of one of the "
            f"tasks {', '.join(TRAINED)}"
        )
    return config


def pretraining_config_of(run_dir: Path, field: str) -> RunConfig:
    """`config_of` for a pre-training with a decoder. Raises UserError that names `field` for another task."""
    config = trained_config_of(run_dir, field)
    if not config.traits.decoder:
        raise UserError(f"{field}={run_dir} is a run of task {config.task}; name a run of task {' or '.join(DECODING)}")
    return config
