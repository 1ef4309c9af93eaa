"""A run of two starts in a tracker, and packages that record what they are told."""

import pytest

from mae_jax.rundir import contents, trackers

HYPERPARAMETERS = {"task": "finetune", "seed": 3, "data.crop_scale": "[0.2, 1.0]"}


@pytest.fixture(autouse=True)
def forget(monkeypatch):
    monkeypatch.setattr(trackers, "_dropped", set())


def _log_twice(workdir, name):
    """A run of two starts; returns its id in the tracker `name`."""
    for first in (0, 2):
        lines = []
        used = trackers.Trackers((name,), workdir, HYPERPARAMETERS, lines.append)
        for step in (first + 1, first + 2):
            used.scalars(step, {"train/loss": 1.0 / step})
        if first:
            used.results(4, {"test/accuracy": 0.75})
        used.close()
        assert len(lines) == 1 and lines[0].startswith(f"{name}: "), lines
    return contents.read_json(workdir / contents.TRACKERS)[name]


@pytest.fixture
def log_twice():
    """Logs a run of two starts."""
    return _log_twice
