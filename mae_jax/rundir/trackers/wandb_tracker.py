"""Weights & Biases (package wandb). Its environment variables apply, such as WANDB_MODE=offline and WANDB_PROJECT."""

import os
from pathlib import Path
from typing import Any

import wandb  # pyright: ignore[reportMissingImports]

from mae_jax.rundir.trackers import PROJECT, title


class Wandb:
    """A run of Weights & Biases. The step is a value of its own, since wandb drops steps that come twice."""

    def __init__(self, run: Any):
        self.run, self.id = run, run.id
        self.place = f"offline; later: wandb sync {Path(run.dir).parent}" if run.offline else run.url
        run.define_metric("step")
        run.define_metric("*", step_metric="step")

    def scalars(self, step: int, values: dict[str, float]) -> None:
        self.run.log({"step": step, **values})

    def results(self, step: int, values: dict[str, float]) -> None:
        self.run.summary.update({"step": step, **values})

    def close(self) -> None:
        self.run.finish()


def start(workdir: Path, run_id: str, hyperparameters: dict[str, Any]) -> Wandb:
    """Opens a new run, or the run `run_id` again if that is not ""."""
    group, name = title(workdir)
    again = {"id": run_id, "resume": "allow"} if run_id else {}
    if run_id and os.environ.get("WANDB_MODE") == "offline":
        del again["resume"]  # wandb warns about it, and joins runs of one id when they are synced
    return Wandb(
        wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            group=group,
            name=name,
            config=hyperparameters,
            dir=os.environ.get("WANDB_DIR", str(workdir)),
            settings=wandb.Settings(console="off", silent=True),
            **again,
        )
    )
