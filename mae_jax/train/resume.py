"""Decides how a run starts: already finished, from its newest checkpoint, or from initial weights."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from mae_jax.checkpoints.saver import Checkpoints
from mae_jax.checkpoints.steps import committed_steps, refuse_cleaned
from mae_jax.config.fields import RunConfig, changed
from mae_jax.data import loaders
from mae_jax.rundir import contents, identity, predictions
from mae_jax.runtime.disk import exists, is_file
from mae_jax.runtime.errors import UserError
from mae_jax.runtime.text import count
from mae_jax.step.from_config import objective_of
from mae_jax.step.state import TrainState, abstract_state, init_state, padded, unpadded
from mae_jax.train.cursor import Cursor
from mae_jax.train.divergence import RateReductions
from mae_jax.train.record import jsonable
from mae_jax.train.task import Task


def start(task: Task, checkpoints: Checkpoints, reductions: RateReductions) -> tuple[TrainState, Cursor]:
    """The padded state and the cursor of the newest checkpoint, or an initial state and a new cursor.

    Raises UserError if no checkpoint can be used, or if the data has changed since the checkpoint.
    """
    like = abstract_state(task.spec)
    while (restored := checkpoints.restore(like, task.resolved.steps)) is not None:
        cursor = Cursor.from_json(restored[1])
        back = reductions.resume(cursor.step, cursor.rate_reductions)
        if back is None:
            loaders.check_position(cursor.data, jsonable(task.position(cursor.step)))
            return padded(task.spec, restored[0]), cursor
        checkpoints.drop(back + 1)  # the run was killed during this rollback
    initial = init_state(task.spec, task.config.seed)
    return padded(task.spec, task.initialize(unpadded(task.spec, initial))), Cursor()


def with_saved_batch(workdir: Path, config: RunConfig, devices: int) -> tuple[RunConfig, str]:
    """The config with the batch that the run in `workdir` began with, and a line if it began on other devices.

    Unless `train.batch_size` is set, the batch follows from the number of devices; a run that is resumed on other
    devices keeps its batch, and with it the learning rate and the number of updates.
    """
    if not exists(workdir / contents.CONFIG):
        return config, ""
    began = contents.read_config(workdir / contents.CONFIG).get("resolved", {})
    before, batch = began.get("devices"), began.get("batch_size")
    if before in (None, devices) or type(batch) is not int:
        return config, ""
    line = f"began on {count(before, 'device')}, continues on {devices} with the same {batch} images per update"
    return changed(config, {"train.batch_size": batch}), line


def finished(workdir: Path, config: RunConfig, log: Callable[[str], None]) -> dict[str, Any] | None:
    """The results of a finished run, or None if there is something left to do. If there are results, logs which.

    A missing run.json and missing or truncated predictions are restored from the last checkpoint. Raises UserError if
    the directory holds a run with another config.
    """
    if not exists(workdir / contents.RESULTS):
        return None
    if identity.refuse_difference(workdir, workdir / contents.CONFIG, config):
        directory = workdir / "checkpoints"
        for step in committed_steps(directory)[:1]:
            refuse_cleaned(directory / str(step))
        t = config.train
        length = f"train.steps={t.steps}" if t.steps else f"train.epochs={t.epochs:g}"
        log(f"{workdir}: already finished; training continues to {length}")
        return None
    results = contents.read_object(workdir / contents.RESULTS)
    if not _complete(results, config):
        raise UserError(
            f"{workdir / contents.RESULTS} does not hold the results of a run; restore it, or remove it to compute "
            f"them again"
        )
    lost, cut = gone(workdir), predictions.cut_predictions(workdir, results)
    if lost == contents.RUN:
        log(f"{workdir}: already finished, but {lost} is missing; restored from the last checkpoint")
        return None
    if cut and not lost:
        log(f"{workdir}: already finished, but {cut}; computed again from the last checkpoint")
        return None
    more = f", but {lost} is missing: no other run can start from this network" if lost else ""
    more += f"; {cut}: restore it from a backup" if cut else ""
    log(f"{workdir}: already finished{more}")
    return results


def _complete(results: dict[str, Any], config: RunConfig) -> bool:
    """Whether results.json holds the scores of a finished run."""
    if config.traits.labeled:
        names: tuple[str, ...] = ("n", "accuracy", "f1")
    else:
        held_out = tuple(f"val/{name}" for name in objective_of(config).measures)
        names = held_out if set(held_out) & results.keys() else ()  # none if no images were held out
    numbers = all(type(results.get(name)) in (int, float) for name in names)
    return bool(results) and numbers and (not config.traits.labeled or isinstance(results.get("collapsed"), bool))


def gone(workdir: Path) -> str:
    """Which files of a finished run are missing, in words; "" if none is."""
    file = workdir / contents.RUN
    if not exists(file):
        return contents.RUN
    info = contents.read_object(file)
    steps, chosen = info.get("steps"), info.get("selected_step")
    lost = []
    if steps != 0 and steps not in committed_steps(workdir / "checkpoints"):  # a probe without steps has none
        lost.append(f"its checkpoint of step {steps}")
    if info.get("select", "last") != "last" and not is_file(workdir / "best" / f"{chosen}.npz"):
        lost.append(f"best/{chosen}.npz, the weights that were tested,")
    return " and ".join(lost)
