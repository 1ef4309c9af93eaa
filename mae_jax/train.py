"""The one training loop: any task, from its first step or from a checkpoint."""

import contextlib
import dataclasses
import math
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from mae_jax import rundir, sharding, tasks
from mae_jax.checkpoints import Checkpoints
from mae_jax.config import hparams, source_label, validate
from mae_jax.data import loaders
from mae_jax.errors import Stopped, UserError
from mae_jax.optim import learning_rate
from mae_jax.progress import Progress
from mae_jax.state import TrainState, abstract_state, init_state, train_step
from mae_jax.tasks import Task
from mae_jax.writers import Writers


def run(
    config: ConfigDict, workdir: Path, progress: Progress | None = None, opened: dict | None = None
) -> dict[str, Any]:
    """Trains, evaluates and writes the results of one run; goes on where an earlier start ended.

    `progress` and `opened` are shared by the cells of a study. Returns what results.json says. Raises
    UserError for a mistake of the user, and `errors.Stopped` after a signal, with the state saved.
    """
    validate(config)
    leader = jax.process_index() == 0  # of several processes the one that writes and speaks
    progress = progress or Progress(config.log.progress_seconds, quiet=not leader)
    with rundir.held(workdir, leader):
        compile_cache()
        mesh = sharding.make_mesh(config.sharding.fsdp)
        task = tasks.build(config, mesh, checking(progress), opened)
        resolved = dataclasses.asdict(task.resolved)
        rundir.keep_config(workdir, config, resolved, leader)
        if (workdir / rundir.RESULTS).exists():
            progress.say(f"{workdir}: finished before; {rundir.RESULTS} is there")
            return rundir.read_json(workdir / rundir.RESULTS)
        return Loop(task, workdir, progress).run()


def compile_cache() -> None:
    """Keeps compiled functions on disk, so that the next start of the same config is quick."""
    if not jax.config.jax_compilation_cache_dir:
        jax.config.update("jax_compilation_cache_dir", str(Path.home() / ".cache" / "mae_jax" / "xla"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)


def checking(progress: Progress):
    """A callback that tells of the check of the image files, now and then."""
    last = [time.monotonic()]

    def report(done: int, total: int) -> None:
        if time.monotonic() - last[0] > 5:
            last[0] = time.monotonic()
            progress.say(f"checking images: {done}/{total}")

    return report


@contextlib.contextmanager
def signals() -> Iterator[list[int]]:
    """Collects SIGTERM and SIGINT in a list; the loop saves and ends. A second one ends at once."""
    got: list[int] = []

    def note(number, frame) -> None:
        if got:
            signal.default_int_handler(number, frame)
        got.append(number)

    try:
        old = {n: signal.signal(n, note) for n in (signal.SIGTERM, signal.SIGINT)}
    except ValueError:  # not in the main thread, as in some notebooks
        yield got
        return
    try:
        yield got
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


class Loop:
    """One run: its state, and what is open while it runs."""

    def __init__(self, task: Task, workdir: Path, progress: Progress):
        self.task, self.workdir, self.progress = task, workdir, progress
        self.config, self.spec, self.resolved = task.config, task.spec, task.resolved
        self.label = self.config.name or self.config.task
        self.pending: list[dict[str, float]] = []  # metrics of steps not yet in a row
        self.waiting: dict[str, jax.Array] | None = None  # metrics of the last step, on the device
        self.loss = math.nan  # of the last step that was fetched
        self.seconds = 0.0  # of training, over all starts

    def run(self) -> dict[str, Any]:
        """From the first step, or the last checkpoint, to the results."""
        with contextlib.ExitStack() as stack:
            checkpoints = Checkpoints(self.workdir, self.config.checkpoint.keep)
            stack.callback(checkpoints.close)
            state, first = self.start(checkpoints)
            self.announce(state, first)
            writers = Writers(
                self.workdir,
                first_step=first,
                steps=self.resolved.steps,
                tensorboard=self.config.log.tensorboard,
                profile=self.config.log.profile,
            )
            stack.callback(writers.close)
            writers.hparams(hparams(self.config))
            self.progress.start(self.label, self.resolved.steps, first, self.resolved.batch_size)
            got = stack.enter_context(signals())
            began = time.monotonic() - self.seconds
            state = self.train(state, first, checkpoints, writers, got, began)
            checkpoints.wait()
            return self.results(state, began)

    def start(self, checkpoints: Checkpoints) -> tuple[TrainState, int]:
        """The newest checkpoint's state and step, or a new state and 0."""
        found = checkpoints.restore(abstract_state(self.spec), self.progress.say)
        if found is None:
            return self.task.initialise(init_state(self.spec, self.config.seed)), 0
        state, position = found
        step = position["data"]["next_batch"]
        loaders.check_position(position["data"], jsonable(self.task.position(step)))
        self.pending, self.seconds = position["pending"], position["seconds"]
        self.progress.say(f"going on from step {step} of {self.resolved.steps} in {self.workdir}")
        return state, step

    def train(
        self,
        state: TrainState,
        first: int,
        checkpoints: Checkpoints,
        writers: Writers,
        got: list[int],
        began: float,
    ) -> TrainState:
        """Updates until the last step.

        The order at each step is fixed: evaluate, save, next batch, update, log. A step is dispatched
        before the metrics of the one before it are fetched. What a checkpoint holds is complete: the
        rows up to it are written, and metrics not yet in a row are part of it.
        """
        r, o = self.resolved, self.config.optim
        batches = None
        seed = np.int32(self.config.seed)
        for step in range(first, r.steps + 1):
            last = step == r.steps
            if step > first:
                if last or step % r.eval_every == 0:
                    self.evaluate(state, step, writers, last)
                if last or got or step % r.save_every == 0:
                    self.fetch(step)
                    seconds = time.monotonic() - began
                    checkpoints.save(step, state, self.position(step, seconds))
            if last:
                break
            if got:
                checkpoints.wait()
                raise Stopped(f"stopped by signal {got[0]} after step {step}; the same command goes on from there")
            batches = batches or self.task.batches(step)
            batch = sharding.put_batch(next(batches), self.spec.mesh)
            rate = learning_rate(step, o.schedule, r, o.min_lr)
            state, metrics = train_step(self.spec, state, batch, seed, np.float32(rate))
            self.fetch(step)
            self.waiting = metrics
            done = step + 1
            if done % self.config.log.every_steps == 0:
                self.log(done, rate, writers)
            writers.after_step(done)
            self.progress.update(done, f"loss {self.loss:.4f}")
        return state

    def fetch(self, step: int) -> None:
        """Takes the metrics of update number `step` from the device; stops where they are not finite."""
        if self.waiting is None:
            return
        values = {name: float(value) for name, value in self.waiting.items()}
        self.waiting = None
        self.pending.append(values)
        self.loss = values["loss"]
        bad = [name for name, value in values.items() if not math.isfinite(value)]
        if bad:
            raise UserError(
                f"{self.label}: {bad[0]} is {values[bad[0]]} at step {step} of {self.resolved.steps}; the "
                f"checkpoints in {self.workdir}/checkpoints are from before. What usually helps: a lower "
                f"optim.base_lr (now {self.config.optim.base_lr:g}), optim.clip_norm=1, a longer "
                f"optim.warmup_epochs, model.dtype=float32"
            )

    def log(self, step: int, rate: float, writers: Writers) -> None:
        """One row: means over the steps since the last."""
        self.fetch(step)
        row = {f"train/{k}": sum(p[k] for p in self.pending) / len(self.pending) for k in self.pending[0]}
        self.pending = []
        writers.scalars(step, {"epoch": step / self.resolved.steps_per_epoch, **row, "learning_rate": rate})

    def evaluate(self, state: TrainState, step: int, writers: Writers, last: bool) -> None:
        """One row of validation, and pictures; the row of training that is due comes first."""
        if self.pending or self.waiting is not None:
            o = self.config.optim
            self.log(step, learning_rate(step - 1, o.schedule, self.resolved, o.min_lr), writers)
        values = dict(self.task.evaluate(state.params))
        if values:
            writers.scalars(step, {"epoch": step / self.resolved.steps_per_epoch, **values})
        # Pictures are large: ten over the run are enough to see it learn.
        spread = max(1, self.resolved.steps // self.resolved.eval_every // 10) * self.resolved.eval_every
        if last or step % spread == 0:
            self.task.show(state.params, step, writers)

    def position(self, step: int, seconds: float) -> dict[str, Any]:
        """What a checkpoint holds beside the state."""
        return {"data": self.task.position(step), "pending": self.pending, "seconds": seconds}

    def announce(self, state: TrainState, first: int) -> None:
        """Says what the config came to, and writes what is known before the first step."""
        import clu.parameter_overview as overview

        r, say = self.resolved, self.progress.say
        count = sum(x.size for x in jax.tree.leaves(state.params))
        say(f"{self.label} in {self.workdir}")
        for name, value in self.task.about.items():
            say(f"  {name}: {value}")
        per_device = r.rows // r.devices // self.config.train.accumulation
        say(
            f"  {r.steps} steps of {r.batch_size} images ({r.devices} devices x {per_device} x "
            f"{self.config.train.accumulation} accumulated), {r.steps_per_epoch} an epoch; peak learning rate "
            f"{r.peak_lr:.3g} after {r.warmup_steps} steps, {self.config.optim.schedule}"
        )
        say(f"  {count / 1e6:.2f} M parameters, {self.config.model.dtype}, {jax.devices()[0].device_kind}")
        if jax.process_index() == 0:
            table = overview.get_parameter_overview(state.params, include_stats=False)
            (self.workdir / "parameters.txt").write_text(table + "\n")
            if self.task.subset:
                rundir.write_json(self.workdir / rundir.SUBSET, self.task.subset)

    def results(self, state: TrainState, began: float) -> dict[str, Any]:
        """The run's last files; results.json comes last and says that all are there."""
        results = self.task.finish(state.params, self.workdir)
        seconds = time.monotonic() - began
        if jax.process_index() == 0:
            rundir.write_json(self.workdir / rundir.RUN, self.about_run(seconds))
            rundir.write_json(self.workdir / rundir.RESULTS, results)
        self.progress.finish()
        return results

    def about_run(self, seconds: float) -> dict[str, Any]:
        """run.json: what this run was."""
        c = self.config
        return {
            "task": c.task,
            "init": c.init,
            "init_from": c.init_from,
            "fraction": c.data.fraction,
            "seed": c.seed,
            "subset_seed": c.data.subset_seed,
            "classes": list(self.task.classes),
            "data": c.data.source,
            "data_name": source_label(c.data),
            "data_dir": c.data.dir,
            "test_split": c.data.test_split,
            "n_train": self.resolved.n_train,
            "epochs": self.resolved.steps / self.resolved.steps_per_epoch,
            "steps": self.resolved.steps,
            "wall_seconds": round(seconds, 1),
            "devices": f"{self.resolved.devices} x {jax.devices()[0].device_kind}",
            "commit": rundir.commit(),
            "versions": rundir.versions(),
            "config": rundir.read_json(self.workdir / rundir.CONFIG)["config"],
        }


def jsonable(value: Any) -> Any:
    """As it comes back from JSON: tuples as lists."""
    if isinstance(value, dict):
        return {str(k): jsonable(v) for k, v in value.items()}
    return [jsonable(v) for v in value] if isinstance(value, list | tuple) else value
