"""Trackio. Its environment variables apply, such as TRACKIO_DIR and TRACKIO_SPACE_ID."""

import contextlib
import io
import os
import uuid
from pathlib import Path
from typing import Any

import trackio  # pyright: ignore[reportMissingImports]

from mae_jax.rundir.trackers import PROJECT, title


class Trackio:
    """A run of Trackio, which knows runs by their names."""

    def __init__(self, run: Any, project: str):
        self.run, self.id = run, run.name
        self.place = f"run {run.name}; to look at it: trackio show --project {project}"

    def scalars(self, step: int, values: dict[str, float]) -> None:
        self.run.log(values, step=step)

    def results(self, step: int, values: dict[str, float]) -> None:
        self.run.log(values, step=step)

    def close(self) -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            trackio.finish()  # the run that is open; its own `finish` would be called again when Python exits


def start(workdir: Path, run_id: str, hyperparameters: dict[str, Any]) -> Trackio:
    """Opens a new run, or the run `run_id` again if that is not ""."""
    group, name = title(workdir)
    project = os.environ.get("TRACKIO_PROJECT", PROJECT)
    with contextlib.redirect_stdout(io.StringIO()):  # it prints several lines of advice
        run = trackio.init(
            project,
            name=run_id or f"{name}-{uuid.uuid4().hex[:6]}",
            group=group,
            config=hyperparameters,
            resume="allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )
    return Trackio(run, project)
