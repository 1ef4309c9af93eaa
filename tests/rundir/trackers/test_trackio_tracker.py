"""What the tracker of trackio is told: by a package that records it, and by the package where it is installed."""

import importlib
import re
import sys
from types import ModuleType, SimpleNamespace

import pytest


@pytest.fixture
def started(monkeypatch):
    """`start`, with a package that records. Returns it and the record."""
    kept = []
    package = ModuleType("trackio")

    def init(project, **options):
        print("advice")
        kept.append((project, options))
        return SimpleNamespace(name=options["name"], log=lambda values, step: kept.append((step, values)))

    def finish():
        print("more advice")
        kept.append("finished")

    package.init, package.finish = init, finish
    monkeypatch.setitem(sys.modules, "trackio", package)
    monkeypatch.delitem(sys.modules, "mae_jax.rundir.trackers.trackio_tracker", raising=False)
    monkeypatch.delenv("TRACKIO_PROJECT", raising=False)
    yield importlib.import_module("mae_jax.rundir.trackers.trackio_tracker").start, kept
    sys.modules.pop("mae_jax.rundir.trackers.trackio_tracker")  # it holds the recorder; monkeypatch would put it back


def test_a_new_run_has_a_name_of_its_own_and_a_resumed_one_keeps_it(started, tmp_path, capsys):
    start, kept = started
    workdir = tmp_path / "study" / "cells" / "one"
    names = [start(workdir, "", {"seed": 1}).id for _ in range(2)]
    assert all(re.fullmatch("one-[0-9a-f]{6}", name) for name in names) and names[0] != names[1]
    project, options = kept[0]
    assert project == "mae_jax" and options["group"] == "study" and options["config"] == {"seed": 1}
    assert options["resume"] == "allow" and not options["auto_log_gpu"] and not options["auto_log_cpu"]
    tracker = start(workdir, names[0], {})
    assert tracker.id == names[0]
    tracker.scalars(3, {"train/loss": 0.5})
    tracker.results(4, {"test/accuracy": 0.75})
    tracker.close()
    assert kept[-3:] == [(3, {"train/loss": 0.5}), (4, {"test/accuracy": 0.75}), "finished"]
    assert capsys.readouterr().out == ""  # the package's own lines are held back
    assert tracker.place == f"run {names[0]}; to look at it: trackio show --project mae_jax"


def test_another_project_may_be_named(started, tmp_path, monkeypatch):
    start, kept = started
    monkeypatch.setenv("TRACKIO_PROJECT", "mine")
    assert start(tmp_path, "", {}).place.endswith("--project mine") and kept[0][0] == "mine"


@pytest.mark.filterwarnings("ignore")
def test_trackio(tmp_path, monkeypatch, log_twice):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip("trackio")
    from trackio.sqlite_storage import SQLiteStorage

    name = log_twice(tmp_path, "trackio")
    logs = SQLiteStorage.get_logs("mae_jax", name)
    losses = {row["step"]: row["train/loss"] for row in logs if "train/loss" in row}
    assert losses == {step: 1.0 / step for step in (1, 2, 3, 4)}
    assert [row["test/accuracy"] for row in logs if "test/accuracy" in row] == [0.75]
