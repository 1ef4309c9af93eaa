"""Logs scalars and pictures of a run to metrics.jsonl, TensorBoard event files (through CLU) and trackers.

CLU imports TensorFlow, which is slow, so it is imported at the first write and only in process 0.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mae_jax.rundir import contents, hparams_table, metrics_rows
from mae_jax.rundir.trackers import Trackers
from mae_jax.runtime import files
from mae_jax.runtime.disk import entries, os_error


class MetricsLog:
    """Logs the scalars, pictures and hyperparameters of one run. Does nothing in processes other than the first."""

    def __init__(
        self,
        workdir: Path,
        *,
        first_step: int,
        evaluated: bool,
        steps: int,
        tensorboard: bool,
        profile: bool,
        trackers: Trackers | None = None,
    ):
        """Closes `trackers` in the end.

        `first_step`: the step from which training resumes. Later rows are dropped, and also the evaluation row of
        `first_step` unless it is `evaluated`. Raises UserError and OSError.
        """
        self.workdir, self.first_step, self.steps, self.profile = workdir, first_step, steps, profile
        self.active = jax.process_index() == 0
        self.tensorboard = tensorboard and self.active
        self.trackers = trackers
        self._clu, self._hooks, self._hparams = None, [], {}
        if self.active:
            metrics_rows.truncate(workdir / contents.METRICS, first_step, evaluated)
            self._file = open(workdir / contents.METRICS, "a", encoding="utf-8")

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """One row of metrics.jsonl; a point in TensorBoard and the trackers for each value but the epoch."""
        if not self.active:
            return
        try:
            self._file.write(json.dumps({"step": step, **values}) + "\n")
            self._file.flush()
        except OSError as error:
            error.filename = error.filename or self._file.name  # a failed write does not name its file
            raise
        charts = {name: value for name, value in values.items() if name != "epoch"}
        self._chart(step, charts)
        if self.trackers and charts:
            self.trackers.scalars(step, charts)

    def results(self, step: int, values: dict[str, Any]) -> None:
        """The scores of results.json: metrics of TensorBoard's table of hyperparameters, results of the trackers."""
        if self.active:
            scores = hparams_table.test_scores(values)
            self._chart(step, scores)
            if self.trackers:
                self.trackers.results(step, scores)

    def _chart(self, step: int, values: dict[str, float]) -> None:
        if self.tensorboard and values:
            with self._written():
                self._writer().write_scalars(step, values)

    def images(self, step: int, name: str, images: np.ndarray) -> None:
        """Logs pictures of shape (n, h, w, 3) with values in 0..1 as one PNG file in `images/`, and to TensorBoard."""
        if not self.active:
            return
        from PIL import Image

        sheet = np.concatenate(list(images), axis=0)
        folder = self.workdir / "images"
        folder.mkdir(exist_ok=True)
        picture = Image.fromarray((sheet * 255).round().astype(np.uint8))
        files.save_picture(folder / f"{name}-{step:07}.png", picture)
        if self.tensorboard:
            with self._written():
                self._writer().write_images(step, {name: images})

    def hparams(self, values: dict[str, Any]) -> None:
        """Sets the hyperparameters for TensorBoard's table."""
        self._hparams = values

    def after_step(self, step: int) -> None:
        """Lets CLU log steps per second and take its profile."""
        if self.tensorboard and (self.profile or self._clu is not None):
            with self._written():
                self._writer()
                for hook in self._hooks:
                    hook(step)

    def _writer(self):
        if self._clu is None:
            import tensorflow as tf

            tf.config.set_visible_devices([], "GPU")  # leave the GPU to JAX
            from clu import metric_writers, periodic_actions

            self._forget_later()
            self._clu = metric_writers.AsyncMultiWriter([metric_writers.SummaryWriter(str(self.workdir))])
            self._clu.write_hparams(self._hparams)
            tag, metadata = hparams_table.announcement(self._hparams)
            self._clu.write_summaries(0, {tag: np.zeros(0, np.float32)}, {tag: metadata})
            self._hooks: list[Any] = [
                periodic_actions.ReportProgress(num_train_steps=self.steps, writer=self._clu, every_secs=30.0)
            ]
            if self.profile:
                self._hooks.append(periodic_actions.Profile(logdir=str(self.workdir), num_profile_steps=5))
        return self._clu

    def _forget_later(self) -> None:
        """Makes TensorBoard drop earlier points after `first_step`, because they are written again."""
        before = [p.name.split(".")[3] for p in entries(self.workdir) if p.name.startswith("events.out.tfevents.")]
        if not before:
            return
        import tensorflow as tf
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue]

        # TensorBoard reads event files in the order of their names, which start with the time in seconds. Within the
        # same second, the "-" in this name sorts before the number in the name of the next file.
        if max(before) == f"{int(time.time()):010d}":
            time.sleep(1)
        now = time.time()
        name = f"events.out.tfevents.{int(now):010d}.{socket.gethostname()}.{os.getpid()}.-again"
        again = Event(wall_time=now, step=self.first_step + 1, session_log=SessionLog(status=SessionLog.START))
        with tf.io.TFRecordWriter(str(self.workdir / name)) as file:
            file.write(Event(wall_time=now, file_version="brain.Event:2").SerializeToString())
            for _ in range(2):  # TensorBoard takes the first one for the start of the run
                file.write(again.SerializeToString())

    @contextlib.contextmanager
    def _written(self) -> Iterator[None]:
        """Converts TensorFlow's errors, for example for a full disk, to OSError."""
        try:
            yield
        except Exception as error:
            fault = os_error(error)  # the writer runs in a thread, so the OSError may be the cause of `error`
            if fault is None:
                raise
            raise OSError(fault.errno, fault.strerror, str(self.workdir / "events.out.tfevents")) from None

    def close(self) -> None:
        """Flushes everything to disk and closes the files. Raises OSError."""
        clu, self._clu = self._clu, None
        if self.active:
            self._file.close()
        if self.trackers:
            self.trackers.close()
        if clu is not None:
            with self._written():
                clu.flush()
                clu.close()

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: Any) -> None:
        """Closes the files. An exception that is already raised takes precedence."""
        try:
            self.close()
        except Exception:
            if error is None:
                raise
