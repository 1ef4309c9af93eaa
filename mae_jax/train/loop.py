"""The one training loop: any task, from its first step or from a checkpoint."""

import contextlib
import dataclasses
import itertools
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from mae_jax.checkpoints.best_epoch import Best
from mae_jax.checkpoints.saver import Checkpoints
from mae_jax.config.fields import RunConfig
from mae_jax.config.loading import hparams
from mae_jax.config.naming import arm_of, source_label
from mae_jax.config.schedule import learning_rate
from mae_jax.config.validation import frozen
from mae_jax.data import loaders
from mae_jax.models.params import part
from mae_jax.rundir import contents, identity, lock
from mae_jax.rundir.metrics_log import Writers
from mae_jax.runtime import files, machine, processes, signals
from mae_jax.runtime.errors import Stopped, UserError
from mae_jax.runtime.processes import at_once
from mae_jax.runtime.progress import Progress
from mae_jax.step import sharding
from mae_jax.step.eval_step import all_finite
from mae_jax.step.state import TrainState, abstract_state, init_state, spread, whole
from mae_jax.step.train_step import train_step
from mae_jax.train.build import build
from mae_jax.train.divergence import Diverged, Lowered
from mae_jax.train.record import jsonable
from mae_jax.train.resume import finished
from mae_jax.train.task import Task


def run(
    config: ConfigDict | RunConfig, workdir: Path, progress: Progress | None = None, opened: dict | None = None
) -> dict[str, Any]:
    """Trains, evaluates and writes the results of one run; goes on where an earlier start ended.

    `progress` and `opened` are shared by the cells of a study. Returns what results.json says. Raises
    UserError for a mistake of the user, and `errors.Stopped` after a signal, with the state saved.
    """
    config = frozen(config)
    leader = jax.process_index() == 0  # of several processes the one that writes and speaks
    progress = progress or Progress(config.log.progress_seconds, quiet=not leader)
    with contextlib.ExitStack() as stack:
        got = stack.enter_context(signals.watched())
        refused = None
        try:
            stack.enter_context(lock.held(workdir, leader))
            if (results := finished(workdir, config, progress.say)) is not None:
                return results
            machine.keep_compiled()
            mesh = sharding.make_mesh(config.sharding.fsdp)
            with at_once("nothing was changed", hard=True):
                task = build(config, mesh, checking(progress), opened)
            identity.keep_config(
                workdir, config, dataclasses.asdict(task.resolved) | {"dtype": task.spec.shape.dtype}, leader
            )
        except UserError as error:
            refused = error
        if processes.any_process(refused is not None):
            raise refused or UserError("another process was refused; its message says why")
        return Loop(task, workdir, progress, got).run()


def checking(progress: Progress) -> Callable[[int, int], None]:
    """A callback that shows how many image files are checked."""
    return progress.counting("checking images")


class Loop:
    """One run: its state, and what is open while it runs."""

    def __init__(self, task: Task, workdir: Path, progress: Progress, got: list[int]):
        """`got`: signals so far, see `signals.watched`."""
        self.task, self.workdir, self.progress, self.got = task, workdir, progress, got
        self.config, self.spec, self.resolved = task.config, task.spec, task.resolved
        self.label = self.config.name or self.config.task
        self.began = time.monotonic()  # of training, as if all starts followed upon one another
        self.lowered = Lowered(workdir, self.config, jax.process_index() == 0)

    def run(self) -> dict[str, Any]:
        """From the first step, or the last checkpoint, to the results."""
        config = contents.read_config(self.workdir / contents.CONFIG)
        with Checkpoints(self.workdir, self.config.checkpoint.keep, config, self.progress.say) as self.checkpoints:
            for number in itertools.count():
                try:
                    return self.attempt(number)
                except Diverged as error:
                    diverged = error.with_traceback(None)  # it would hold the state
                self.progress.say(self.lowered.go_back(diverged, self.checkpoints, self.label))

    def attempt(self, number: int) -> dict[str, Any]:
        """The same, until numbers are not finite: raises Diverged. `number` from 0."""
        with contextlib.ExitStack() as stack:
            state, first = self.start()
            if not number:
                self.announce(whole(self.spec, state))
                self.progress.start(self.label, self.resolved.steps, first, self.resolved.batch_size)
            self.progress.back(first)
            writers = Writers(
                self.workdir,
                first_step=first,
                evaluated=not self.owed,
                steps=self.resolved.steps,
                tensorboard=self.config.log.tensorboard,
                profile=self.config.log.profile,
            )
            stack.enter_context(writers)
            writers.hparams(hparams(self.config))
            with contextlib.closing(self.task.batches(first)) as batches:  # none is made before the first is asked for
                state = self.train(state, first, batches, writers)
            self.checkpoints.wait()
            results = self.results(state)
            if self.got:
                raise signals.stopped(self.got, "this run is finished")
            return results

    def start(self) -> tuple[TrainState, int]:
        """The newest checkpoint's state and step, or a new state and 0."""
        self.pending: list[dict[str, float]] = []  # metrics of steps not yet in a row
        self.waiting: dict[str, jax.Array] | None = None  # metrics of the last step, on the device
        self.loss = math.nan  # of the last step that was fetched
        self.owed = False  # whether a signal cut off the evaluation of the step that is saved
        self.ended = self.resolved.steps  # the last update: an earlier one where `train.patience` stops the run
        select = self.config.train.select
        self.best = Best(self.workdir, self.config.checkpoint.keep, select) if select != "last" else None
        found = self.checkpoints.restore(abstract_state(self.spec))
        while found and (back := self.lowered.resume(int(found[0].step), found[1]["lowered"])) is not None:
            self.checkpoints.drop(back + 1)  # the run was killed before it could
            found = self.checkpoints.restore(abstract_state(self.spec))
        if self.best:
            self.best.resume(found and found[1]["best"])
        if found is None:
            drawn = init_state(self.spec, self.config.seed)
            return spread(self.spec, self.task.initialise(whole(self.spec, drawn))), 0
        state, position = spread(self.spec, found[0]), found[1]
        step = position["data"]["next_batch"]
        loaders.check_position(position["data"], jsonable(self.task.position(step)))
        self.pending, self.owed = position["pending"], position["owed"]
        self.began = min(self.began, time.monotonic() - position["seconds"])
        self.progress.say(f"going on from step {step} of {self.resolved.steps} in {self.workdir}")
        return state, step

    def train(self, state: TrainState, first: int, batches: Iterator[loaders.Batch], writers: Writers) -> TrainState:
        """Updates until the last step.

        The order at each step is fixed: evaluate, save, next batch, update, log. A step is dispatched
        before the metrics of the one before it are fetched. What a checkpoint holds is complete: the
        rows up to it are written, and metrics not yet in a row are part of it.
        """
        r = self.resolved
        seed = np.int32(self.config.seed)
        for step in range(first, r.steps + 1):
            last, stop = step == r.steps, self.asked_to_stop(step)
            kept = f"step {step} of {r.steps} is saved" if step else "no step was done"
            if (step > first or self.owed) and (last or step % r.eval_every == 0):
                self.owed = True
                try:
                    self.evaluate(state, step, writers, last)
                    self.owed = False
                except Stopped:
                    if step > first:
                        self.save(step, state)
                        self.checkpoints.wait()
                    raise
            if not last and self.exhausted(step):
                last, self.ended = True, step
                self.progress.say(
                    f"{self.label}: stopped early at step {step} of {r.steps}; no validation since step "
                    f"{self.best.step} was better (train.patience={self.config.train.patience})"
                )
            if step > first and (last or stop or step % r.save_every == 0):
                self.save(step, state)
            if last:
                break
            if stop:
                self.checkpoints.wait()
                raise signals.stopped(self.got, kept)
            for row in self.lowered.rows(step):
                writers.scalars(step, row)
            batch = sharding.put_batch(next(batches), self.spec.mesh)
            rate = self.rate(step)
            with at_once(kept, hard=True) if step == first else contextlib.nullcontext():  # the first step is compiled
                state, metrics = train_step(self.spec, state, batch, seed, np.float32(rate))
            self.fetch(step)
            if jax.process_count() == 1:  # several learn it together, at the next save
                self.checkpoints.check()
            self.waiting = metrics
            done = step + 1
            if done % self.config.log.every_steps == 0:
                self.log(done, rate, writers)
            writers.after_step(done)
            self.progress.update(done, "compiled" if math.isnan(self.loss) else f"loss {self.loss:.4f}")
        return state

    def save(self, step: int, state: TrainState) -> None:
        """Starts a checkpoint of a state that is sound."""
        self.fetch(step)
        for what, tree in (("a parameter", state.params), ("the optimiser's state", state.opt_state)):
            if not all_finite(tree):
                raise Diverged(what, math.nan, step, unsound=step)
        self.checkpoints.save(step, whole(self.spec, state), self.position(step))

    def exhausted(self, step: int) -> bool:
        """Whether the last `train.patience` evaluations, that of `step` included, brought no gain."""
        patience = self.config.train.patience
        return bool(
            patience
            and self.best
            and self.best.step
            and not self.owed
            and step - self.best.step >= patience * self.resolved.eval_every
        )

    def asked_to_stop(self, step: int) -> bool:
        """Whether a signal came to any process; several ask one another every few steps."""
        if jax.process_count() > 1 and step % 8:
            return False
        return processes.any_process(bool(self.got))

    def rate(self, step: int) -> float:
        """The learning rate of update number `step`, from 0."""
        o = self.config.optim
        return learning_rate(step, o.schedule, self.resolved, o.min_lr) * self.lowered.factor(step)

    def fetch(self, step: int) -> None:
        """Takes the metrics of update number `step` from the device; stops where they are not finite."""
        if self.waiting is None:
            return
        values = {name: float(value) for name, value in self.waiting.items()}
        self.waiting = None
        self.pending.append(values)
        self.loss = values["loss"]
        for name, value in values.items():
            if not math.isfinite(value):  # it was computed before the update
                raise Diverged(name, value, step, unsound=step - 1)
        self.checkpoints.proven = step - 1

    def log(self, step: int, rate: float, writers: Writers) -> None:
        """One row: means over the steps since the last."""
        self.fetch(step)
        row = {f"train/{k}": sum(p[k] for p in self.pending) / len(self.pending) for k in self.pending[0]}
        self.pending = []
        writers.scalars(step, {"epoch": step / self.resolved.steps_per_epoch, **row, "learning_rate": rate})

    def evaluate(self, state: TrainState, step: int, writers: Writers, last: bool) -> None:
        """One row of validation, and pictures; the row of training that is due comes first."""
        if self.pending or self.waiting is not None:
            self.log(step, self.rate(step - 1), writers)
        params = whole(self.spec, state).params
        with at_once(f"step {step} of {self.resolved.steps} is saved"):
            values = dict(self.task.evaluate(params))
        if not math.isfinite(values.get("val/loss", 0.0)):
            raise Diverged("val/loss", values["val/loss"], step, unsound=step)
        images = self.task.epoch_images(step)
        if values or images:
            writers.scalars(step, {"epoch": step / self.resolved.steps_per_epoch, **values, **images})
            if self.best and values:
                self.best.offer(step, values, params)
        # Pictures are large: ten over the run are enough to see it learn.
        spread = max(1, self.resolved.steps // self.resolved.eval_every // 10) * self.resolved.eval_every
        if last or step % spread == 0:
            with at_once(f"step {step} of {self.resolved.steps} is saved"):
                self.task.show(params, step, writers)

    def position(self, step: int) -> dict[str, Any]:
        """What a checkpoint holds beside the state."""
        return {
            "data": self.task.position(step),
            "pending": self.pending,
            "seconds": time.monotonic() - self.began,
            "best": self.best.position() if self.best else None,
            "owed": self.owed,
            "lowered": self.lowered.entries,
        }

    def announce(self, state: TrainState) -> None:
        """Says what the config came to, and writes what is known before the first step."""
        import clu.parameter_overview as overview

        r, say = self.resolved, self.progress.say
        count = sum(x.size for x in jax.tree.leaves(state.params))
        say(f"{self.label} in {self.workdir}")
        for name, value in self.task.about.items():
            say(f"  {name}: {value}")
        filled = f", {r.rows - r.batch_size} of them padding" if r.rows > r.batch_size else ""
        per_device = r.rows // r.devices // self.config.train.accumulation
        devices = f"{r.devices} device{'s' * (r.devices > 1)}"
        steps = (
            f"  {r.steps} steps of {r.batch_size} images ({devices} x {per_device} rows x "
            f"{self.config.train.accumulation} accumulated{filled}), {r.steps_per_epoch} an epoch; peak learning rate "
            f"{r.peak_lr:.3g} after {r.warmup_steps} steps, {self.config.optim.schedule}"
        )
        say(steps if r.steps else "  no steps: features of the frozen encoder")
        trained = sum(x.size for x in jax.tree.leaves(part(state.params, self.spec.trained)[0]))
        some = f", {trained:,} parameters trained" if r.steps and trained < count else ""
        say(f"  {count / 1e6:.2f} M parameters{some}, {self.spec.shape.dtype}, {jax.devices()[0].device_kind}")
        if jax.process_index() == 0:
            table = overview.get_parameter_overview(state.params, include_stats=False)
            with files.replacing(self.workdir / "parameters.txt") as file:
                file.write(table + "\n")
            if self.task.subset:
                contents.write_json(self.workdir / contents.SUBSET, self.task.subset)

    def results(self, state: TrainState) -> dict[str, Any]:
        """The run's last files; results.json comes last and says that all are there."""
        last = whole(self.spec, state).params
        chosen = self.best.load(last) if self.best and self.best.step else last
        with at_once("the last step is saved", hard=True):
            results = self.task.finish(chosen, self.workdir)
        if jax.process_index() == 0:
            contents.write_json(self.workdir / contents.RUN, self.about_run())
            contents.write_json(self.workdir / contents.RESULTS, results)
        self.checkpoints.proven = self.ended
        self.checkpoints.rotate()
        self.progress.finish()
        return results

    def about_run(self) -> dict[str, Any]:
        """run.json: what this run was."""
        c = self.config
        return {
            "task": c.task,
            "evaluation": c.task if self.task.classes else "",
            "init": c.init_name or c.init,
            "init_from": c.init_from,
            "fraction": c.data.fraction,
            "arm": arm_of(c),
            "match_fraction": c.train.match_fraction,
            "seed": c.seed,
            "subset_seed": c.data.subset_seed,
            "classes": list(self.task.classes),
            "data": c.data.source,
            "data_name": source_label(c.data),
            "data_dir": c.data.dir,
            "test_split": c.data.test_split,
            "leaks": self.task.leaks,
            "seen_before": self.task.seen_before,
            "passed_over": self.task.passed_over(),
            "assumed": self.task.assumed(),
            **self.task.facts,
            "n_train": self.resolved.n_train,
            "epochs": self.ended / self.resolved.steps_per_epoch,
            "steps": self.ended,
            "stopped_early": self.ended < self.resolved.steps,
            "select": c.train.select,
            "rate_lowered": self.lowered.entries,
            "selected_step": self.best.step if self.best and self.best.step else self.ended,
            "wall_seconds": round(time.monotonic() - self.began, 1),
            "devices": f"{self.resolved.devices} x {jax.devices()[0].device_kind}",
            "commit": identity.commit(),
            "versions": identity.versions(),
            "config": contents.read_json(self.workdir / contents.CONFIG)["config"],
        }
