"""MLflow (package mlflow or mlflow-skinny). Its environment variables apply, such as MLFLOW_TRACKING_URI."""

import os
import time
from pathlib import Path
from typing import Any

# A server that does not answer must not hold up training: by default MLflow tries for many minutes.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")

from mlflow import MlflowClient  # pyright: ignore[reportMissingImports]
from mlflow.entities import Metric, Param  # pyright: ignore[reportMissingImports]

from mae_jax.rundir.trackers import PROJECT, title

BATCH = 100  # parameters in one request, MLflow's limit


class Mlflow:
    """A run of MLflow."""

    def __init__(self, client: MlflowClient, run_id: str):
        self.client, self.id = client, run_id
        self.finished = False
        self.place = f"run {run_id} in {client.tracking_uri}"

    def scalars(self, step: int, values: dict[str, float]) -> None:
        now = int(1000 * time.time())
        self.client.log_batch(self.id, metrics=[Metric(name, value, now, step) for name, value in values.items()])

    def results(self, step: int, values: dict[str, float]) -> None:
        self.scalars(step, values)
        self.finished = True

    def close(self) -> None:
        self.client.set_terminated(self.id, "FINISHED" if self.finished else "KILLED")


def start(workdir: Path, run_id: str, hyperparameters: dict[str, Any]) -> Mlflow:
    """Opens a new run, or the run `run_id` again if that is not ""."""
    client = MlflowClient()
    if run_id:
        client.update_run(run_id, status="RUNNING")
        return Mlflow(client, run_id)
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
    existing = client.get_experiment_by_name(name)
    experiment = existing.experiment_id if existing else client.create_experiment(name)
    group, run_name = title(workdir)
    run = client.create_run(experiment, run_name=run_name, tags={"group": group})
    params = [Param(key, str(value)) for key, value in hyperparameters.items()]
    for first in range(0, len(params), BATCH):
        client.log_batch(run.info.run_id, params=params[first : first + BATCH])
    return Mlflow(client, run.info.run_id)
