"""Deletes the optimizer states of finished runs, which are needed only to train further.

A checkpoint without optimizer state contains the file no_optimizer. Reports, exports, predictions and runs that start
from its weights still work; resuming it raises UserError.
"""

import os
import shutil
from pathlib import Path

from mae_jax.checkpoints import digests
from mae_jax.checkpoints.steps import NO_OPTIMIZER, committed_steps
from mae_jax.rundir import contents, lock
from mae_jax.runtime.disk import is_dir, is_file


def droppable(run_dir: Path) -> int:
    """Bytes that `drop` would free; 0 for a run that is not finished."""
    if not _finished(run_dir):
        return 0
    return sum(_size(folder) for folder in _states(run_dir))


def drop(run_dir: Path) -> int:
    """Removes the optimizer states of a finished run; returns the bytes freed.

    If it is killed, all checkpoints can still be read. Raises UserError if the run is in use, and OSError.
    """
    freed = 0
    with lock.held(run_dir):
        if not droppable(run_dir):
            return 0
        for folder in _states(run_dir):
            size = _size(folder)
            (folder.parent / NO_OPTIMIZER).touch()  # first, so that a kill leaves a valid checkpoint
            digests.sync_directory(folder.parent)
            shutil.rmtree(folder)
            freed += size
    return freed


def keep_weights(run_dir: Path) -> int:
    """Removes what a finished run no longer needs: older checkpoints and all optimizer states; returns bytes freed.

    Raises as `drop`.
    """
    freed, directory = 0, run_dir / "checkpoints"
    with lock.held(run_dir):
        for step in committed_steps(directory)[1:] if _finished(run_dir) else []:
            freed += _size(directory / str(step))
            shutil.rmtree((directory / str(step)).rename(directory / f"{step}.saving-removed"))
    return freed + drop(run_dir)


def _finished(run_dir: Path) -> bool:
    return is_file(run_dir / contents.RESULTS) and is_file(run_dir / contents.RUN)


def _states(run_dir: Path) -> list[Path]:
    directory = run_dir / "checkpoints"
    folders = [directory / str(step) / "optimizer" for step in committed_steps(directory)]
    return [folder for folder in folders if is_dir(folder)]


def _size(folder: Path) -> int:
    return sum(os.lstat(os.path.join(top, name)).st_size for top, _, names in os.walk(folder) for name in names)
