"""The cursor reads what it wrote, and what earlier versions wrote."""

import json
from types import SimpleNamespace

import pytest

from mae_jax.rundir.metrics_log import MetricsLog
from mae_jax.train.cursor import Cursor
from mae_jax.train.loop import Loop

FULL = Cursor(
    step=7,
    data={"next_batch": 7, "files": "ab"},
    pending=[{"loss": 1.5}],
    seconds=12.5,
    parts={"training": 10.0, "compiling": 2.5},
    best={"step": 4, "score": [0.5, -1.0]},
    evaluation_owed=True,
    rate_reductions=[{"back_to": 3, "rate_factor": 0.5, "diverged_at": 5}],
)


def test_it_survives_json():
    assert Cursor.from_json(json.loads(json.dumps(FULL.to_json()))) == FULL


def test_it_has_the_keys_of_earlier_checkpoints():
    assert set(FULL.to_json()) == {"data", "pending", "seconds", "parts", "best", "owed", "lowered"}


@pytest.mark.parametrize(("key", "value"), [("lowered", []), ("owed", False), ("best", None)])
def test_a_newer_field_has_its_default(key, value):
    saved = FULL.to_json()
    del saved[key]
    assert Cursor.from_json(saved).to_json()[key] == value


def test_a_row_of_the_log_is_the_mean_over_the_updates_since_the_last_row():
    """Also over those before a checkpoint, which the cursor holds."""
    rows = []

    class Recorded(MetricsLog):
        def __init__(self):
            pass

        def scalars(self, step, values):
            rows.append({"step": step} | values)

    run = object.__new__(Loop)
    run.waiting, run.resolved = {"loss": 6.0, "accuracy": 0.5}, SimpleNamespace(steps_per_epoch=4)
    run.checkpoints = SimpleNamespace(proven=0)
    run.cursor = Cursor(step=6, pending=[{"loss": 1.0, "accuracy": 0.0}, {"loss": 2.0, "accuracy": 1.0}])
    run.log(6, 0.25, Recorded())
    assert rows == [{"step": 6, "epoch": 1.5, "train/loss": 3.0, "train/accuracy": 0.5, "learning_rate": 0.25}]
    assert run.cursor.pending == [] and run.waiting is None
