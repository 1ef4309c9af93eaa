"""What the tracker of mlflow is told: by a package that records it, and by the package where it is installed."""

import importlib
import sys
from types import ModuleType, SimpleNamespace
from typing import ClassVar

import pytest

HYPERPARAMETERS = {"task": "finetune", "seed": 3, "data.crop_scale": "[0.2, 1.0]"}


class Recorded:
    """MLflow's client, which keeps what it is told."""

    tracking_uri = "file:///tracked"
    kept: ClassVar[list] = []
    experiments: ClassVar[dict] = {}

    def get_experiment_by_name(self, name):
        return self.experiments.get(name)

    def create_experiment(self, name):
        self.experiments[name] = SimpleNamespace(experiment_id=f"of {name}")
        return f"of {name}"

    def create_run(self, experiment, run_name, tags):
        self.kept.append(("create", experiment, run_name, tags))
        return SimpleNamespace(info=SimpleNamespace(run_id="id1"))

    def log_batch(self, run_id, metrics=(), params=()):
        self.kept.append((run_id, [(m.key, m.value, m.step) for m in metrics], [(p.key, p.value) for p in params]))

    def update_run(self, run_id, status):
        self.kept.append((run_id, status))

    set_terminated = update_run


@pytest.fixture
def started(monkeypatch):
    """`start`, with a package that records. Returns it and the record."""
    package, entities = ModuleType("mlflow"), ModuleType("mlflow.entities")
    package.MlflowClient, package.entities = Recorded, entities
    entities.Metric = lambda key, value, timestamp, step: SimpleNamespace(key=key, value=value, step=step)
    entities.Param = lambda key, value: SimpleNamespace(key=key, value=value)
    for name, module in (("mlflow", package), ("mlflow.entities", entities)):
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "mae_jax.rundir.trackers.mlflow_tracker", raising=False)
    monkeypatch.setattr(Recorded, "kept", [])
    monkeypatch.setattr(Recorded, "experiments", {})
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    yield importlib.import_module("mae_jax.rundir.trackers.mlflow_tracker").start, Recorded.kept
    sys.modules.pop("mae_jax.rundir.trackers.mlflow_tracker")  # it holds the recorder; monkeypatch would put it back


def test_parameters_are_sent_in_batches_and_a_finished_run_is_named_so(started, tmp_path):
    start, kept = started
    workdir = tmp_path / "study" / "cells" / "one"
    tracker = start(workdir, "", {f"p{i}": i for i in range(250)})
    assert kept[0] == ("create", "of mae_jax", "one", {"group": "study"})
    assert [len(params) for _, _, params in kept[1:]] == [100, 100, 50] and kept[3][2][-1] == ("p249", "249")
    assert (tracker.id, tracker.place) == ("id1", "run id1 in file:///tracked")
    tracker.scalars(7, {"train/loss": 0.5, "val/loss": 0.25})
    assert kept[-1] == ("id1", [("train/loss", 0.5, 7), ("val/loss", 0.25, 7)], [])
    tracker.close()
    assert kept[-1] == ("id1", "KILLED")
    tracker.results(9, {"test/accuracy": 0.75})
    tracker.close()
    assert kept[-2:] == [("id1", [("test/accuracy", 0.75, 9)], []), ("id1", "FINISHED")]


def test_a_run_continues_under_its_id_and_another_experiment_may_be_named(started, tmp_path, monkeypatch):
    start, kept = started
    assert start(tmp_path, "id0", {"seed": 1}).id == "id0" and kept == [("id0", "RUNNING")]
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    start(tmp_path, "", {})
    start(tmp_path, "", {})
    assert [call[1] for call in kept[1:]] == ["of mine", "of mine"] and list(Recorded.experiments) == ["mine"]


@pytest.mark.filterwarnings("ignore")
def test_mlflow(tmp_path, monkeypatch, log_twice):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow = pytest.importorskip("mlflow")
    workdir = tmp_path / "study" / "cells" / "one"
    workdir.mkdir(parents=True)
    run_id = log_twice(workdir, "mlflow")
    client = mlflow.MlflowClient()
    run = client.get_run(run_id)
    assert run.info.run_name == "one" and run.data.tags["group"] == "study" and run.info.status == "FINISHED"
    assert run.data.params == {key: str(value) for key, value in HYPERPARAMETERS.items()}
    history = [(m.step, m.value) for m in client.get_metric_history(run_id, "train/loss")]
    assert sorted(history) == [(step, 1.0 / step) for step in (1, 2, 3, 4)]
    assert run.data.metrics["test/accuracy"] == 0.75
