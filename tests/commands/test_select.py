"""`mae-jax select`: its options reach the selection, and its methods are those there are."""

import pytest

from mae_jax.__main__ import dispatch
from mae_jax.commands import select
from mae_jax.evaluation import selection
from mae_jax.predict import selecting
from mae_jax.runtime import machine
from mae_jax.runtime.errors import UserError


def test_options_are_passed_on(record):
    for name in ("keep_memory", "keep_compiled"):
        record(machine, name)
    calls = record(selecting, "select", [])
    given = ["select", "run", "--images=x", "--budget=5", "--out=c.csv"]
    assert dispatch(given) == 0
    (place, images, budget, out), named = calls[0]
    assert (place, images, budget, str(out)) == ("run", "x", 5, "c.csv")
    assert named == {
        "method": "typical",
        "labeled": "",
        "seed": 0,
        "columns": "",
        "bad_images": "stop",
        "directory": "",
    }
    dispatch(
        [*given, "--method=coreset", "--labeled=l.csv", "--seed=3", "--columns=path=f", "--bad_images=skip", "--dir=d"]
    )
    assert calls[1][1] == {
        "method": "coreset", "labeled": "l.csv", "seed": 3, "columns": "path=f", "bad_images": "skip",
        "directory": "d",
    }  # fmt: skip


def test_methods_are_those_of_the_selection_and_a_seed_is_not_negative(record):
    assert set(select.METHODS) == set(selection.METHODS)
    calls = record(selecting, "select", [])
    with pytest.raises(UserError, match="--seed=-1 is out of range; allowed: 0 to 2147483647"):
        dispatch(["select", "run", "--images=x", "--budget=5", "--out=c.csv", "--seed=-1"])
    with pytest.raises(UserError, match="invalid choice: 'best'"):
        dispatch(["select", "run", "--images=x", "--budget=5", "--out=c.csv", "--method=best"])
    assert calls == []
