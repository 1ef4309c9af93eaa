import importlib
import json
import sys
import types

import pytest

from mae_jax.config.validation import validate
from mae_jax.rundir import contents, trackers
from mae_jax.rundir.metrics_log import MetricsLog
from mae_jax.runtime.errors import UserError
from mae_jax.train import loop

OPTIONS = {"first_step": 0, "evaluated": False, "steps": 4, "tensorboard": False, "profile": False}
HYPERPARAMETERS = {"task": "finetune", "seed": 3, "data.crop_scale": "[0.2, 1.0]"}


@pytest.fixture(autouse=True)
def forget(monkeypatch):
    monkeypatch.setattr(trackers, "_dropped", set())


class Recorder:
    """A tracker that keeps what it receives, and fails at step `fails`."""

    def __init__(self, number, fails=None):
        self.id, self.place, self.calls, self.fails = f"run-{number}", "here", [], fails

    def scalars(self, step, values):
        if step == self.fails:
            raise ConnectionError("no route to host\nand a second line")
        self.calls.append((step, values))

    def results(self, step, values):
        self.calls.append(("results", step, values))

    def close(self):
        self.calls.append("closed")


@pytest.fixture
def recorded(monkeypatch):
    """Replaces wandb with a Recorder. Returns the recorders that were started, and their arguments."""
    started = []

    def start(workdir, run_id, hyperparameters):
        started.append((Recorder(len(started), start.fails), run_id, hyperparameters))
        return started[-1][0]

    start.fails = None
    module = types.ModuleType("wandb_tracker")
    module.start = start
    monkeypatch.setitem(sys.modules, "mae_jax.rundir.trackers.wandb_tracker", module)
    monkeypatch.setattr(trackers, "refuse_missing", lambda names: None)
    monkeypatch.setattr(loop, "refuse_missing", lambda names: None)
    return started, start


def test_a_run_gives_its_scalars_and_results_and_a_resumed_run_continues(tmp_path, tiny_config, recorded):
    started, _ = recorded
    config = tiny_config("finetune", **{"train.steps": 4, "log.every_steps": 1})
    config.log.trackers = ("wandb",)
    results = loop.run(config, tmp_path)
    tracker, run_id, hyperparameters = started[0]
    assert run_id == "" and hyperparameters["train.steps"] == 4 and "log.every_steps" not in hyperparameters
    rows = [json.loads(text) for text in (tmp_path / contents.METRICS).read_text().splitlines()]
    expected = [(row.pop("step"), {k: v for k, v in row.items() if k != "epoch"}) for row in rows]
    scores = {"test/accuracy": results["accuracy"], "test/macro_f1": results["f1"]}
    assert tracker.calls == [*expected, ("results", 4, scores), "closed"]
    assert contents.read_json(tmp_path / contents.TRACKERS) == {"wandb": "run-0"}
    (tmp_path / contents.RESULTS).unlink()
    loop.run(config, tmp_path)
    assert started[1][1] == "run-0"


def test_a_tracker_that_fails_stops_nothing_and_is_named_once(tmp_path, recorded):
    started, start = recorded
    start.fails = 2
    lines = []
    for _ in range(2):  # the second run of the process does not try it again
        used = trackers.Trackers(("wandb",), tmp_path, HYPERPARAMETERS, lines.append)
        with MetricsLog(tmp_path, **OPTIONS, trackers=used) as metrics:
            for step in range(1, 5):
                metrics.scalars(step, {"epoch": 1.0, "train/loss": 1.0 / step})
    assert len(started) == 1 and started[0][0].calls == [(1, {"train/loss": 1.0})]
    assert lines == ["wandb: here", "warning: wandb failed; this process does not use it again: no route to host"]
    assert len((tmp_path / contents.METRICS).read_text().splitlines()) == 4


def test_a_missing_package_names_its_extra_and_a_folder_is_not_the_package(tmp_path, monkeypatch):
    (tmp_path / "trackio").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.setattr(sys, "modules", {k: v for k, v in sys.modules.items() if k.split(".")[0] != "trackio"})
    importlib.invalidate_caches()
    with pytest.raises(UserError, match=r"trackio is not installed; python -m pip install 'mae_jax\[trackio\]'"):
        trackers.refuse_missing(("trackio",))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (("tensorboard",), "log.trackers: each=tensorboard is not allowed; use one of wandb, mlflow, trackio"),
        (("wandb", "wandb"), "use each value once"),
        ("wandb", "has the wrong type; allowed: several of wandb, mlflow, trackio"),
    ],
)
def test_only_known_trackers_are_taken(tiny_config, value, message):
    config = tiny_config()
    with config.ignore_type():
        config.log.trackers = value
    with pytest.raises(UserError, match=message):
        validate(config)
