"""Where scalars and pictures go: metrics.jsonl always, TensorBoard's event files through CLU.

CLU imports TensorFlow, which is slow: it is loaded at the first write, in process 0 alone.
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

from mae_jax.rundir import contents
from mae_jax.runtime import files
from mae_jax.runtime.disk import os_error
from mae_jax.runtime.errors import UserError
from mae_jax.runtime.files import replacing


class MetricsLog:
    """Writes one run's scalars, pictures and hyperparameters; does nothing in other processes."""

    def __init__(
        self, workdir: Path, *, first_step: int, evaluated: bool, steps: int, tensorboard: bool, profile: bool
    ):
        """`first_step`: the step that training resumes from. Rows after it are dropped, and the row of its
        evaluation unless it is `evaluated`. Raises UserError, OSError."""
        self.workdir, self.first_step, self.steps, self.profile = workdir, first_step, steps, profile
        self.active = jax.process_index() == 0
        self.tensorboard = tensorboard and self.active
        self._clu, self._hooks, self._hparams = None, [], {}
        if self.active:
            truncate_metrics(workdir / contents.METRICS, first_step, evaluated)
            self._file = open(workdir / contents.METRICS, "a", encoding="utf-8")

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """One row of metrics.jsonl, and one point in TensorBoard for each value."""
        if not self.active:
            return
        try:
            self._file.write(json.dumps({"step": step, **values}) + "\n")
            self._file.flush()
        except OSError as error:
            error.filename = error.filename or self._file.name  # a write that failed names no file
            raise
        if self.tensorboard:
            with self._written():
                self._writer().write_scalars(step, values)

    def images(self, step: int, name: str, images: np.ndarray) -> None:
        """Pictures (n h w 3, values 0..1) for TensorBoard, and as a PNG file in the run directory."""
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
        """The run's hyperparameters, for TensorBoard's table."""
        self._hparams = values

    def after_step(self, step: int) -> None:
        """Lets CLU report its rate and take its profile."""
        if self.tensorboard and (self.profile or self._clu is not None):
            with self._written():
                self._writer()
                for hook in self._hooks:
                    hook(step)

    def _writer(self):
        if self._clu is None:
            import tensorflow as tf

            tf.config.set_visible_devices([], "GPU")  # the accelerator is JAX's alone
            from clu import metric_writers, periodic_actions

            self._forget_later()
            self._clu = metric_writers.AsyncMultiWriter([metric_writers.SummaryWriter(str(self.workdir))])
            self._clu.write_hparams(self._hparams)
            self._hooks = [
                periodic_actions.ReportProgress(num_train_steps=self.steps, writer=self._clu, every_secs=30.0)
            ]
            if self.profile:
                self._hooks.append(periodic_actions.Profile(logdir=str(self.workdir), num_profile_steps=5))
        return self._clu

    def _forget_later(self) -> None:
        """Lets TensorBoard drop the points after the step that is gone on from: they are written again."""
        before = [path.name.split(".")[3] for path in self.workdir.glob("events.out.tfevents.*")]
        if not before:
            return
        import tensorflow as tf
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog

        # Files are read in the order of their names, which begin with the second that they are of; within one, "-"
        # stands before the number that follows in the next file's name.
        if max(before) == f"{int(time.time()):010d}":
            time.sleep(1)
        now = time.time()
        name = f"events.out.tfevents.{int(now):010d}.{socket.gethostname()}.{os.getpid()}.-again"
        again = Event(wall_time=now, step=self.first_step + 1, session_log=SessionLog(status=SessionLog.START))
        with tf.io.TFRecordWriter(str(self.workdir / name)) as file:
            file.write(Event(wall_time=now, file_version="brain.Event:2").SerializeToString())
            for _ in range(2):  # TensorBoard takes the first of a run for its beginning
                file.write(again.SerializeToString())

    @contextlib.contextmanager
    def _written(self) -> Iterator[None]:
        """Makes of TensorFlow's own error for a full disk the one that all other files have."""
        try:
            yield
        except Exception as error:
            fault = os_error(error)  # the writer works in a thread, so it may be what `error` comes from
            if fault is None:
                raise
            raise OSError(fault.errno, fault.strerror, str(self.workdir / "events.out.tfevents")) from None

    def close(self) -> None:
        """Everything on disk."""
        clu, self._clu = self._clu, None
        if self.active:
            self._file.close()
        if clu is not None:
            with self._written():
                clu.flush()
                clu.close()

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: Any) -> None:
        """Closes; an error that is already on its way is the one to be seen."""
        try:
            self.close()
        except Exception:
            if error is None:
                raise


def broken_rows(path: Path) -> str:
    """What is damaged of metrics.jsonl, in words; "" where nothing is. The last row of a killed run may be cut."""
    if not path.is_file():
        return ""
    broken = 0
    for text in path.read_bytes().split(b"\n")[:-1]:
        try:
            broken += not isinstance(json.loads(text)["step"], int)
        except (ValueError, KeyError, TypeError, RecursionError):
            broken += 1
    return f"{broken} rows that cannot be read" if broken else ""


def truncate_metrics(path: Path, step: int, evaluated: bool = True) -> None:
    """Drops the rows after `step`: a resumed run writes them again, and so it does those that tell at `step` of a
    lowered rate. Not `evaluated`: also its evaluation's row."""
    if not path.exists():
        return
    if not path.is_file():
        raise UserError(f"{path} is not a regular file; restore it, or remove it: the run continues without its rows")
    kept = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(text)
            again = "rate_factor" in row or not (evaluated or "learning_rate" in row)
            if row["step"] < step or (row["step"] == step and not again):
                kept.append(text + "\n")
        except (ValueError, KeyError, TypeError, RecursionError):
            continue  # the last row of a killed run may be cut
    with replacing(path) as file:
        file.writelines(kept)
