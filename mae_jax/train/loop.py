"""The training loop of all tasks, from the first step or from a checkpoint."""

import contextlib
import dataclasses
import itertools
import math
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from mae_jax.checkpoints.best_epoch import BestEpoch
from mae_jax.checkpoints.saver import Checkpoints
from mae_jax.config.fields import RunConfig
from mae_jax.config.loading import hparams
from mae_jax.config.schedule import learning_rate
from mae_jax.config.validation import frozen
from mae_jax.data import loaders
from mae_jax.data.splits import DataCache
from mae_jax.rundir import contents, identity, lock
from mae_jax.rundir.metrics_log import MetricsLog
from mae_jax.rundir.trackers import Trackers, refuse_missing
from mae_jax.runtime import clock, machine, processes, signals
from mae_jax.runtime.errors import Stopped, UserError
from mae_jax.runtime.processes import at_once
from mae_jax.runtime.progress import Parts, Progress
from mae_jax.runtime.text import count
from mae_jax.step import sharding
from mae_jax.step.eval_step import all_finite
from mae_jax.step.state import TrainState, unpadded
from mae_jax.step.train_step import train_step
from mae_jax.train import cross_validation, record, resume
from mae_jax.train.build import build
from mae_jax.train.divergence import Diverged, RateReductions
from mae_jax.train.task import Task


def run(
    config: ConfigDict | RunConfig, workdir: Path, progress: Progress | None = None, cache: DataCache | None = None
) -> dict[str, Any]:
    """Trains, evaluates and writes the results of one run. Resumes an interrupted run.

    The cells of a study share `progress` and `cache`. Returns the content of results.json. Raises UserError for a
    mistake of the user, and `errors.Stopped` after a signal, once the state is saved.
    """
    config = frozen(config)
    leader = jax.process_index() == 0  # the process that writes and prints
    alone = progress is None
    progress = progress or Progress(config.log.progress_seconds, quiet=not leader)
    spent = clock.Clock()
    with contextlib.ExitStack() as stack:
        signals_received = stack.enter_context(signals.collect_signals())
        refused, task = None, None
        try:
            stack.enter_context(lock.held(workdir, leader))
            if (results := resume.finished(workdir, config, progress.say)) is not None:
                return results
            refuse_missing(config.log.trackers)
            for line in machine.devices() if alone else []:
                progress.say(line)
            machine.keep_compiled()
            mesh = sharding.make_mesh(config.sharding.fsdp)
            batched, line = resume.with_saved_batch(workdir, config, mesh.size)
            if line:
                progress.say(f"{workdir}: {line}")
            with at_once("nothing was changed", hard=True), spent.part("start"):
                task = build(batched, mesh, checking(progress), cache)
            cross_validation.refuse_other_steps(workdir, task.resolved)
            identity.keep_config(
                workdir, config, dataclasses.asdict(task.resolved) | {"dtype": task.spec.shape.dtype}, leader
            )
        except UserError as error:
            refused = error
        if processes.any_process(refused is not None):
            raise refused or UserError("another process failed to start; its message says why")
        assert task is not None  # else this process was refused
        parts = Parts(progress, task.folds + 1) if task.folds else progress
        loop = Loop(task, workdir, parts, signals_received, spent)  # its time includes that of the folds
        if isinstance(parts, Parts):
            _train_folds(task, workdir, parts, signals_received, spent, cache)
        results = loop.run()
        if alone:
            progress.say(f"time: {clock.in_words(spent.seconds)}")
        return results


def _train_folds(
    task: Task, workdir: Path, progress: Parts, signals_received: list[int], spent: clock.Clock, cache: DataCache | None
) -> None:
    """Trains or resumes the models of a cross-validation, each without one fold. Of each, its predictions remain."""
    leader = jax.process_index() == 0
    left = [fold for fold in range(task.folds) if not cross_validation.is_finished(workdir, fold)]
    if left:
        progress.say(
            f"{task.config.name or task.config.task}: {task.folds}-fold cross-validation chooses the epoch; "
            f"{count(len(left), 'model')} to train before the one of all {task.resolved.n_train} images"
        )
    for fold in range(task.folds):
        place = cross_validation.directory_of(workdir, fold)
        if fold not in left:
            progress.skip()
        else:
            config = cross_validation.config_of(task.config, fold, task.folds)
            with at_once(f"{fold} of {task.folds} folds are finished", hard=True), spent.part("start"):
                part = build(config, task.spec.mesh, cache=cache, fold=fold)
            if leader:
                place.mkdir(parents=True, exist_ok=True)
            identity.keep_config(place, config, dataclasses.asdict(part.resolved), leader)
            Loop(part, place, progress, signals_received, spent).run()
        processes.any_process(False)  # all wait until its predictions are written
        if leader:
            shutil.rmtree(place, ignore_errors=True)


def checking(progress: Progress) -> Callable[[int, int], None]:
    """A callback that shows how many image files have been checked."""
    return progress.counting("checking images")


class Loop:
    """One run: its state and its open files."""

    def __init__(self, task: Task, workdir: Path, progress: Progress, signals_received: list[int], spent: clock.Clock):
        """`signals_received`: the list of `signals.collect_signals`. `spent` has counted the start of the run."""
        self.task, self.workdir, self.progress, self.signals_received = task, workdir, progress, signals_received
        self.config, self.spec, self.resolved = task.config, task.spec, task.resolved
        self.spent = spent
        self.label = self.config.name or self.config.task
        self.began = time.monotonic()  # start of training, shifted so that pauses before a resume do not count
        self.reductions = RateReductions(workdir, self.config, jax.process_index() == 0)

    def run(self) -> dict[str, Any]:
        """Runs from the first step or the last checkpoint to the results. Raises UserError and Stopped."""
        config = contents.read_config(self.workdir / contents.CONFIG)
        with Checkpoints(self.workdir, self.config.checkpoint.keep, config, self.progress.say) as self.checkpoints:
            for number in itertools.count():
                try:
                    return self.attempt(number)
                except Diverged as error:
                    diverged = error.with_traceback(None)  # the traceback would keep the state in memory
                self.progress.say(self.reductions.roll_back(diverged, self.checkpoints, self.label))
        raise AssertionError("the attempts have no end")

    def attempt(self, number: int) -> dict[str, Any]:
        """Attempt `number`, counted from 0; each rollback starts another. Raises Diverged if a number is not finite."""
        with contextlib.ExitStack() as stack:
            with self.spent.part("start"):
                state = self.start()
            first = self.cursor.step
            if not number:
                self.spent.add(self.cursor.parts)
                lines = record.announce(self.task, self.label, self.workdir, unpadded(self.spec, state))
                self.progress.describe(self.config.task if self.config.traits.labeled else self.label, lines)
                self.progress.start(self.label, self.resolved.steps, first, self.resolved.batch_size)
            self.progress.back(first)
            metrics = MetricsLog(
                self.workdir,
                first_step=first,
                evaluated=not self.cursor.evaluation_owed,
                steps=self.resolved.steps,
                tensorboard=self.config.log.tensorboard,
                profile=self.config.log.profile,
                trackers=self.trackers(),
            )
            stack.enter_context(metrics)
            metrics.hparams(hparams(self.config))
            with contextlib.closing(self.task.batches(first)) as batches:  # lazy: reads nothing before next()
                with self.spent.part("training"):
                    state = self.train(state, batches, metrics)
            with self.spent.part("checkpoints"):
                self.checkpoints.wait()
            results = self.results(state, metrics)
            if self.signals_received:
                raise signals.stopped(self.signals_received, f"{self.label} is finished")
            return results

    def trackers(self) -> Trackers | None:
        """The run's trackers, open in one process; None without any."""
        if not self.config.log.trackers or jax.process_index():
            return None
        return Trackers(self.config.log.trackers, self.workdir, hparams(self.config), self.progress.say)

    def start(self) -> TrainState:
        """The padded state of the newest checkpoint, or an initial one; also sets the cursor."""
        self.waiting: dict[str, jax.Array] | None = None  # metrics of the last update, on the device
        self.loss = math.nan  # of the last update whose metrics were fetched
        self.ended = self.resolved.steps  # the last step; smaller if `train.patience` stops the run early
        select = self.config.train.select
        self.best = BestEpoch(self.workdir, self.config.checkpoint.keep, select) if select != "last" else None
        state, self.cursor = resume.start(self.task, self.checkpoints, self.reductions)
        if self.best:
            self.best.resume(self.cursor.best)
        if self.cursor.data:
            self.began = min(self.began, time.monotonic() - self.cursor.seconds)
            self.progress.say(f"resuming from step {self.cursor.step} of {self.resolved.steps} in {self.workdir}")
        return state

    def train(self, state: TrainState, batches: Iterator[loaders.Batch], metrics: MetricsLog) -> TrainState:
        """Trains until the last step.

        The order within a step is fixed: evaluate, save, next batch, update, log. A step is dispatched before the
        metrics of the previous one are fetched. A checkpoint is complete: all rows up to it are written, and it
        contains the metrics that are not in a row yet.
        """
        first, steps, seed = self.cursor.step, self.resolved.steps, np.int32(self.config.seed)
        for step in range(first, steps + 1):
            self.cursor.step = step
            last, stop = step == steps, self.asked_to_stop(step)
            kept = f"step {step} of {steps} is saved" if step else "no step was done"
            if (step > first or self.cursor.evaluation_owed) and (last or step % self.resolved.eval_every == 0):
                with self.spent.part("validation"):
                    self.evaluate_or_save(state, metrics, fresh=step > first, last=last)
            last = last or self.exhausted(step)
            if step > first and (last or stop or step % self.resolved.save_every == 0):
                self.save(state)
            if last:
                break
            if stop:
                self.checkpoints.wait()
                raise signals.stopped(self.signals_received, kept)
            for row in self.reductions.rows(step):
                metrics.scalars(step, row)
            with self.spent.part("images"):
                rows = next(batches)
            batch = sharding.put_batch(rows, self.spec.mesh)
            rate = self.rate(step)
            with at_once(kept, hard=True) if step == first else contextlib.nullcontext():  # compiles
                state, values = train_step(self.spec, state, batch, seed, np.float32(rate))
            self.fetch(step)
            if jax.process_count() == 1:  # several processes check together, at the next save
                self.checkpoints.check()
            self.waiting = values
            done = step + 1
            if done % self.config.log.every_steps == 0:
                self.log(done, rate, metrics)
            metrics.after_step(done)
            self.progress.update(done, "compiled" if math.isnan(self.loss) else f"loss {self.loss:.4f}")
        return state

    def save(self, state: TrainState) -> None:
        """Starts saving a checkpoint. Raises Diverged if the state is not finite."""
        cursor = self.cursor
        self.fetch(cursor.step)
        with self.spent.part("checkpoints"):
            for what, tree in (("a parameter", state.params), ("the optimizer state", state.opt_state)):
                if not all_finite(tree):
                    raise Diverged(what, math.nan, cursor.step, unsound=cursor.step)
            cursor.data = self.task.position(cursor.step)
            cursor.seconds, cursor.parts = time.monotonic() - self.began, dict(self.spent.seconds)
            cursor.best = self.best.position() if self.best else None
            cursor.rate_reductions = self.reductions.entries
            self.checkpoints.save(cursor.step, unpadded(self.spec, state), cursor.to_json())

    def exhausted(self, step: int) -> bool:
        """Whether none of the last `train.patience` evaluations, including that of `step`, was better. Logs it."""
        patience, best = self.config.train.patience, self.best
        if not patience or best is None or not best.step or self.cursor.evaluation_owed or step >= self.resolved.steps:
            return False
        if step - best.step < patience * self.resolved.eval_every:
            return False
        self.ended = step
        score = self.config.train.select + ("" if self.config.train.select == "loss" else " or, at a tie, a lower loss")
        self.progress.say(
            f"{self.label}: stopped early at step {step} of {self.resolved.steps}; no evaluation since step "
            f"{best.step} has a better {score} (train.patience={patience})"
        )
        return True

    def asked_to_stop(self, step: int) -> bool:
        """Whether any process received a signal. Several processes compare only every 8 steps."""
        if jax.process_count() > 1 and step % 8:
            return False
        return processes.any_process(bool(self.signals_received))

    def rate(self, step: int) -> float:
        """The learning rate of update `step`, counted from 0."""
        o = self.config.optim
        return learning_rate(step, o.schedule, self.resolved, o.min_lr) * self.reductions.factor(step)

    def fetch(self, step: int) -> None:
        """Fetches the metrics of update `step` from the device. Raises Diverged if they are not finite."""
        if self.waiting is None:
            return
        values = {name: float(value) for name, value in self.waiting.items()}
        self.waiting = None
        self.cursor.pending.append(values)
        self.loss = values["loss"]
        for name, value in values.items():
            if not math.isfinite(value):  # computed with the parameters before that update
                raise Diverged(name, value, step, unsound=step - 1)
        self.checkpoints.proven = step - 1

    def log(self, step: int, rate: float, metrics: MetricsLog) -> None:
        """Logs one row of metrics: means over the updates since the last row."""
        self.fetch(step)
        pending, self.cursor.pending = self.cursor.pending, []
        row = {f"train/{k}": sum(p[k] for p in pending) / len(pending) for k in pending[0]}
        metrics.scalars(step, {"epoch": step / self.resolved.steps_per_epoch, **row, "learning_rate": rate})

    def evaluate_or_save(self, state: TrainState, metrics: MetricsLog, *, fresh: bool, last: bool) -> None:
        """Evaluates. If a signal interrupts this, saves a `fresh` state, notes that its evaluation is due, and stops.

        A state is `fresh` if it was updated since the last checkpoint was restored.
        """
        self.cursor.evaluation_owed = True
        try:
            self.evaluate(state, self.cursor.step, metrics, last)
            self.cursor.evaluation_owed = False
        except Stopped:
            if fresh:
                self.save(state)
                self.checkpoints.wait()
            raise

    def evaluate(self, state: TrainState, step: int, metrics: MetricsLog, last: bool) -> None:
        """Logs validation scores and pictures, after the row of training metrics that is due."""
        if self.cursor.pending or self.waiting is not None:
            self.log(step, self.rate(step - 1), metrics)
        params = unpadded(self.spec, state).params
        with at_once(f"step {step} of {self.resolved.steps} is saved"):
            values = dict(self.task.evaluate(params, step, self.workdir))
        if not math.isfinite(values.get("val/loss", 0.0)):
            raise Diverged("val/loss", values["val/loss"], step, unsound=step)
        images = self.task.epoch_images(step)
        if values or images:
            metrics.scalars(step, {"epoch": step / self.resolved.steps_per_epoch, **values, **images})
            if self.best and values:
                self.best.offer(step, values, params)
        # Pictures are large, and ten are enough to see the run learn.
        between = max(1, self.resolved.steps // self.resolved.eval_every // 10) * self.resolved.eval_every
        if last or step % between == 0:
            with at_once(f"step {step} of {self.resolved.steps} is saved"):
                self.task.show(params, step, metrics)

    def last_epoch(self, scores: dict[str, Any]) -> dict[str, Any]:
        """Test scores after the last update, to compare with those of the epoch that validation images chose."""
        return {"step": self.ended} | {key: scores[key] for key in ("accuracy", "f1")}

    def results(self, state: TrainState, metrics: MetricsLog) -> dict[str, Any]:
        """Writes the final files. results.json is the last one, so its presence means that the run is finished."""
        last = unpadded(self.spec, state).params
        selected = self.best.step if self.best and self.best.step else self.ended
        chosen = self.best.load(last) if self.best and self.best.step else last
        with at_once("the last step is saved", hard=True), self.spent.part("test"):
            results = self.task.finish(chosen, selected, self.workdir)
            if self.best and self.task.score:
                results |= {"last_epoch": self.last_epoch(results if selected == self.ended else self.task.score(last))}
        if jax.process_index() == 0:
            info = record.run_info(
                self.task,
                self.workdir,
                ended=self.ended,
                selected_step=selected,
                seconds=time.monotonic() - self.began,
                parts=self.spent.seconds,
                rate_reductions=self.reductions.entries,
            )
            contents.write_json(self.workdir / contents.RUN, info)
            metrics.results(self.ended, results)
            contents.write_json(self.workdir / contents.RESULTS, results)
        self.checkpoints.proven = self.ended
        self.checkpoints.rotate()
        self.progress.finish()
        return results
