"""The plan of a sequence of runs: what each does, and the total time, estimated from a few measured steps."""

import dataclasses
import math
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mae_jax.config import schedule
from mae_jax.config.fields import DataFields, RunConfig, changed
from mae_jax.config.naming import arm_of
from mae_jax.config.schedule import Schedule
from mae_jax.data import labeled_sets, splits
from mae_jax.rundir import contents
from mae_jax.runtime import machine
from mae_jax.runtime.disk import exists, readable
from mae_jax.runtime.progress import rough
from mae_jax.runtime.text import count
from mae_jax.step import sharding
from mae_jax.step.from_config import spec_of
from mae_jax.step.spec import StepSpec
from mae_jax.step.state import abstract_state, init_state
from mae_jax.step.train_step import train_step
from mae_jax.study.cells import TRIED, Run
from mae_jax.train import build, finetune, probe, resume

STEPS, SECONDS = 4, 2.0  # limits of the timing: number of steps, and seconds
RUN_SECONDS = 3.0  # overhead of a run: opening data, checkpoints, final files
COMPILED = 1.0  # seconds of compiling evaluations and results, for each second of compiling the training step


@dataclasses.dataclass(frozen=True)
class Timing:
    """The time of the training step of a run."""

    update: float  # seconds per update, including data loading by threads
    compiling: float  # seconds before the first update: initial state and compilation


@dataclasses.dataclass
class Planned:
    """One run, before it starts."""

    directory: Path
    config: RunConfig
    resolved: Schedule
    validation: int  # images
    test: int  # images
    done: bool
    folds: int = 0  # of its cross-validation; each is one more training
    step_seconds: float = 0.0
    seconds: float = 0.0  # expected time; 0 if it is done
    weights: int = 0  # bytes of one copy of the parameters; 0 for a probe without updates
    optimizer: int = 0  # bytes of one optimizer state
    cleaned: bool = False  # only its weights remain at the end, see `cleaned_when_finished`

    @property
    def running_bytes(self) -> int:
        """Checkpoints on disk at the end of training, with those of the best epoch."""
        r = self.resolved
        kept = min(self.config.checkpoint.keep, math.ceil(r.steps / r.save_every))
        best = 0 if self.config.train.select == "last" else self.weights
        return kept * (self.weights + self.optimizer) + best

    @property
    def final_bytes(self) -> int:
        """Checkpoints that the finished run leaves on disk."""
        best = 0 if self.config.train.select == "last" else self.weights
        return self.weights + best if self.cleaned else self.running_bytes


def cleaned_when_finished(config: RunConfig) -> bool:
    """Whether a study keeps only the weights of this run when it is finished. Pre-training may still be extended."""
    return config.traits.labeled and not config.checkpoint.keep_optimizer


def make(
    runs: Sequence[Run],
    cache: splits.DataCache,
    on_progress: labeled_sets.OnProgress | None = None,
    timed: bool = True,
) -> list[Planned]:
    """Opens the images of every run. If `timed`, also times a few steps of each kind of unfinished run.

    `cache` keeps the images for the runs themselves. Raises UserError for a run that cannot work.
    """
    planned = [_planned(directory, cell, cache, on_progress) for directory, cell in runs]
    for run in planned:
        run.cleaned = len(planned) > 1 and cleaned_when_finished(run.config)
    if not timed:
        return planned
    machine.keep_compiled()  # workers and later processes need not compile the step again
    timings: dict[StepSpec, Timing] = {}
    forward = 0.0  # seconds of a forward pass per image, of the last kind measured
    for run in planned:
        if not run.done and run.config.traits.updates:
            before = len(timings)
            timing = time_step(run.config, cache, timings)
            run.step_seconds = timing.update
            validated = run.resolved.n_train if run.folds else run.validation
            evaluated = validated * (run.resolved.steps // run.resolved.eval_every + 1) + run.test
            forward = run.step_seconds / run.resolved.batch_size / 3  # a third of a training step
            trained = (run.folds + 1) * (RUN_SECONDS + run.resolved.steps * run.step_seconds)
            run.seconds = trained + evaluated * forward
            if len(timings) > before:  # the first run with this step
                run.seconds += COMPILED * timing.compiling
    _quick_seconds([run for run in planned if not run.done], forward)
    return planned


def _quick_seconds(runs: Sequence[Planned], forward: float) -> None:
    """Sets the expected seconds of lbfgs and knn runs. Only the first run of each encoder computes the features."""
    seen: dict[str | int, int] = {}
    for run in runs:
        if not run.config.traits.updates:
            c, images = run.config, run.resolved.n_train + run.validation + run.test
            images = images if c.has_network else 0
            encoder = c.init_from or c.seed
            run.seconds = RUN_SECONDS + max(0, images - seen.get(encoder, 0)) * forward
            seen[encoder] = max(images, seen.get(encoder, 0))


def _planned(
    directory: Path, config: RunConfig, cache: splits.DataCache, on_progress: labeled_sets.OnProgress | None
) -> Planned:
    done = exists(directory / contents.RESULTS)
    config, _ = resume.with_saved_batch(directory, config, jax.device_count())
    if not config.traits.labeled:
        held = splits.unlabeled(config.data, on_progress, cache)
        resolved = schedule.resolve(
            config, sum(map(len, held.train_idx)), jax.device_count(), config.train.epoch_images or held.available
        )
        return Planned(directory, config, resolved, sum(map(len, held.val_idx)), 0, done, **_sizes(config, resolved, 0))
    data = splits.labeled(config.data, on_progress, cache)
    if not config.has_network and not done:
        probe.of_images(config, data, cache)
    resolved = finetune.resolve_finetune(config, data, jax.device_count())
    sizes = _sizes(config, resolved, len(data.train.classes))
    return Planned(directory, config, resolved, len(data.val_idx), len(data.test), done, data.folds, **sizes)


def _sizes(config: RunConfig, resolved: Schedule, n_classes: int) -> dict[str, Any]:
    """Bytes of the parameters and of the optimizer state, as a checkpoint holds them."""
    if not config.traits.updates:
        return {}
    state = abstract_state(spec_of(config, resolved, sharding.make_mesh(config.sharding.fsdp), n_classes))
    parts = {"weights": state.params, "optimizer": state.opt_state}
    return {
        name: sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
        for name, tree in parts.items()
    }


def step_seconds(config: RunConfig, cache: splits.DataCache) -> float:
    """Seconds per update, including data loading by threads."""
    return time_step(config, cache, {}).update


def time_step(config: RunConfig, cache: splits.DataCache, timings: dict[StepSpec, Timing]) -> Timing:
    """Compiles the training step, which the run need not do again, and times a few updates.

    `timings` keeps the times of equal steps for further calls.
    """
    # Initial weights do not affect the time, and may not exist yet.
    config = changed(config, {"init": "scratch", "init_from": "", "data.workers": 0})
    task = build.build(config, sharding.make_mesh(config.sharding.fsdp), cache=cache)
    if task.spec not in timings:
        started = time.monotonic()
        state, batches, times = init_state(task.spec, 0), task.batches(0), []
        while len(times) <= STEPS and sum(times[1:]) < SECONDS:
            began = time.monotonic()
            batch = sharding.put_batch(next(batches), task.spec.mesh)
            state, metrics = train_step(task.spec, state, batch, np.int32(0), np.float32(0))
            jax.block_until_ready(metrics)
            times.append(time.monotonic() - began)
        update = float(np.median(times[1:]))
        before = time.monotonic() - started - sum(times[1:])
        timings[task.spec] = Timing(update, max(0.0, before - update))
    return timings[task.spec]


def describe(planned: Sequence[Planned]) -> list[str]:
    """The plan as lines of text: the pre-training runs, the evaluations per number of labels, and the expected time."""
    done = sum(run.done for run in planned)
    lines = [f"plan: {count(len(planned), 'run')}" + (f", {done} of them finished" if done else "")]
    groups: dict[tuple, list[Planned]] = {}
    for run in planned:
        c, r = run.config, run.resolved
        labels = (c.data.label_count, c.data.fraction)
        key = (labels, arm_of(c), c.task, r.n_train, r.steps, c.tuned == TRIED) if c.traits.labeled else (c.name,)
        groups.setdefault(key, []).append(run)
    for runs in groups.values():
        c, r = runs[0].config, runs[0].resolved
        what = c.name or c.task
        if c.traits.labeled:
            arm = f", {arm_of(c)}" if arm_of(c) else ""
            names = ", ".join(dict.fromkeys(run.config.init_name or run.config.init for run in runs))
            seeds = ", ".join(dict.fromkeys(str(run.config.seed) for run in runs))
            arm = (f", {c.traits.words}" if c.traits.frozen else "") + arm + (", tuning" if c.tuned == TRIED else "")
            what = f"{labels_of(c.data)}{arm}: {count(len(runs), 'run')} ({names}; seeds {seeds})"
        if not c.traits.updates:
            lines.append(f"  {what}: {count(r.n_train, 'image')}, frozen features")
            continue
        epochs, updates = count(r.steps / r.steps_per_epoch, "epoch"), count(r.steps, "update")
        if not c.traits.labeled and c.train.epoch_images and not c.train.steps:
            epochs = f"{count(c.train.epochs, 'epoch')} of {count(c.train.epoch_images, 'image')}"
        folds = f", after {runs[0].folds} without one fold each" if runs[0].folds else ""
        lines.append(f"  {what}: {count(r.n_train, 'image')}, {epochs}, {updates} of {r.batch_size}{folds}")
    lines += _test_line(planned)
    left = sum(run.seconds for run in planned)
    if left:
        names = {run.config.traits.words: run.step_seconds for run in planned if run.step_seconds}
        speed = ", ".join(f"{seconds:.2g} s per update ({task})" for task, seconds in names.items())
        lines.append(f"  about {rough(left)} to finish" + (f", at {speed}, measured now" if speed else ""))
    return lines + _disk_lines(planned)


def _disk_lines(planned: Sequence[Planned]) -> list[str]:
    """The disk space that checkpoints of unfinished runs will take, and a warning if the disk has less room."""
    to_do = [run for run in planned if not run.done and run.weights]
    if not to_do:
        return []
    left = sum(run.final_bytes for run in to_do)
    most = left + max(run.running_bytes - run.final_bytes for run in to_do)
    place = to_do[0].directory.absolute()
    free = shutil.disk_usage(next(above for above in (place, *place.parents) if exists(above))).free
    line = f"  checkpoints will take about {readable(left)} in the end ({readable(free)} are free now)"
    if any(run.cleaned for run in to_do):
        line += "; for finished classifiers only weights are kept (checkpoint.keep_optimizer=True keeps all)"
    if most > free:
        return [
            line,
            f"  warning: up to {readable(most)} are needed during training; make room, or use another --workdir",
        ]
    return [line]


def labels_of(data: DataFields) -> str:
    """The labels in words, such as "10 % of the labels" or "50 labels"."""
    return count(data.label_count, "label") if data.label_count else f"{data.fraction * 100:g} % of the labels"


def _test_line(planned: Sequence[Planned]) -> list[str]:
    tested = next((run for run in planned if run.test), None)
    if tested is None:
        return []
    validation = f"{tested.validation} validation and {count(tested.test, 'test image')}, the same for all"
    if tested.config.data.val_of == "fraction":
        validation = f"validation images are among the labels; {count(tested.test, 'test image')}"
    select = tested.config.train.select
    by = {"best": "accuracy", "macro_f1": "macro F1"}.get(select, select)
    chosen = "the last epoch" if select == "last" else f"the epoch with the best validation {by}"
    return [f"  {validation}; {chosen} is tested"]
