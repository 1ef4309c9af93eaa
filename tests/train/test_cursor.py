"""The cursor reads what it wrote, and what earlier versions wrote."""

import json

import pytest

from mae_jax.train.cursor import Cursor

FULL = Cursor(
    step=7,
    data={"next_batch": 7, "files": "ab"},
    pending=[{"loss": 1.5}],
    seconds=12.5,
    best={"step": 4, "score": [0.5, -1.0]},
    evaluation_owed=True,
    rate_reductions=[{"back_to": 3, "rate_factor": 0.5, "diverged_at": 5}],
)


def test_it_survives_json():
    assert Cursor.from_json(json.loads(json.dumps(FULL.to_json()))) == FULL


def test_it_has_the_keys_of_earlier_checkpoints():
    assert set(FULL.to_json()) == {"data", "pending", "seconds", "best", "owed", "lowered"}


@pytest.mark.parametrize(("key", "value"), [("lowered", []), ("owed", False), ("best", None)])
def test_a_newer_field_has_its_default(key, value):
    saved = FULL.to_json()
    del saved[key]
    assert Cursor.from_json(saved).to_json()[key] == value
