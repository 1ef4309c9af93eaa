"""One run of a study: it trains or resumes, and keeps what the study asks for."""

from pathlib import Path

import jax

from mae_jax.checkpoints import cleaning
from mae_jax.config.fields import RunConfig
from mae_jax.data.splits import DataCache
from mae_jax.rundir import contents
from mae_jax.runtime.disk import disk_line, exists
from mae_jax.runtime.errors import UserError
from mae_jax.runtime.progress import Progress
from mae_jax.study.results import summary
from mae_jax.train import loop


def attempt(directory: Path, config: RunConfig, progress: Progress, cache: DataCache, clean: bool) -> str:
    """Runs or resumes one run, or reads the results of a finished one. Returns its scores in words.

    `clean`: a run that finishes now keeps only its weights. Raises what `loop.run` raises.
    """
    new = not exists(directory / contents.RESULTS)
    outcome = summary(loop.run(config, directory, progress, cache))
    if new and clean and jax.process_index() == 0:
        _keep_weights(directory, progress)
    return outcome


def _keep_weights(directory: Path, progress: Progress) -> None:
    """Removes the optimizer state of a finished classifier. If that fails, prints the reason."""
    try:
        cleaning.keep_weights(directory)
    except (UserError, OSError) as error:
        why = disk_line(error) if isinstance(error, OSError) else error
        progress.say(f"note: {directory} keeps its optimizer state: {why}")
