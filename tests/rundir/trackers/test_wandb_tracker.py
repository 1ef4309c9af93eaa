"""What the tracker of wandb is told: by a package that records it, and by the package where it is installed."""

import importlib
import os
import sys
from types import ModuleType

import pytest


class Run:
    """A run of wandb, which keeps what it is told."""

    def __init__(self, options, offline=False):
        self.options, self.offline, self.calls, self.summary = options, offline, [], {}
        self.id, self.dir, self.url = options.get("id", "new"), "/runs/wandb/offline-run-1/files", "https://wandb.ai/x"

    def define_metric(self, *names, **options):
        self.calls.append(("metric", names, options))

    def log(self, values):
        self.calls.append(values)

    def finish(self):
        self.calls.append("finished")


@pytest.fixture
def start(monkeypatch):
    """`start`, with a package that records."""
    package = ModuleType("wandb")
    package.init = lambda **options: Run(options, os.environ.get("WANDB_MODE") == "offline")
    package.Settings = lambda **options: options
    monkeypatch.setitem(sys.modules, "wandb", package)
    monkeypatch.delitem(sys.modules, "mae_jax.rundir.trackers.wandb_tracker", raising=False)
    for name in ("WANDB_MODE", "WANDB_PROJECT", "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)
    yield importlib.import_module("mae_jax.rundir.trackers.wandb_tracker").start
    sys.modules.pop("mae_jax.rundir.trackers.wandb_tracker")  # it holds the recorder; monkeypatch would put it back


def test_the_step_is_a_value_of_its_own_and_results_are_the_summary(start, tmp_path):
    workdir = tmp_path / "study" / "cells" / "one"
    tracker = start(workdir, "", {"seed": 1})
    run = tracker.run
    assert run.calls == [("metric", ("step",), {}), ("metric", ("*",), {"step_metric": "step"})]
    assert (run.options["project"], run.options["group"], run.options["name"]) == ("mae_jax", "study", "one")
    assert run.options["config"] == {"seed": 1} and run.options["dir"] == str(workdir) and "id" not in run.options
    assert (tracker.id, tracker.place) == ("new", "https://wandb.ai/x")
    tracker.scalars(3, {"train/loss": 0.5})
    tracker.results(4, {"test/accuracy": 0.75})
    tracker.close()
    assert run.calls[2:] == [{"step": 3, "train/loss": 0.5}, "finished"]
    assert run.summary == {"step": 4, "test/accuracy": 0.75}


def test_a_run_continues_under_its_id(start, tmp_path, monkeypatch):
    online = start(tmp_path, "id0", {}).run.options
    assert (online["id"], online["resume"]) == ("id0", "allow")
    monkeypatch.setenv("WANDB_MODE", "offline")
    offline = start(tmp_path, "id0", {})
    assert offline.run.options["id"] == "id0" and "resume" not in offline.run.options
    assert offline.place == "offline; later: wandb sync /runs/wandb/offline-run-1"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_wandb_offline(tmp_path, monkeypatch, log_twice):
    monkeypatch.setenv("WANDB_MODE", "offline")
    pytest.importorskip("wandb")
    run_id = log_twice(tmp_path, "wandb")
    files = sorted((tmp_path / "wandb").glob(f"offline-run-*-{run_id}/*.wandb"))
    assert len(files) == 2  # `wandb sync` joins them
    written = b"".join(file.read_bytes() for file in files)
    assert all(text in written for text in (b"train/loss", b"test/accuracy", b"data.crop_scale"))
