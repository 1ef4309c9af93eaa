"""`mae-jax predict`: its options reach the writer of predictions."""

import pytest

from mae_jax.__main__ import dispatch
from mae_jax.predict import files
from mae_jax.runtime import machine
from mae_jax.runtime.errors import UserError


def test_options_are_passed_on(record):
    prepared = [record(machine, name) for name in ("keep_memory", "keep_compiled")]
    calls = record(files, "predict", {"written": 1, "skipped": 0})
    assert dispatch(["predict", "run", "--images=x", "--out=p.csv"]) == 0
    (place, images, out, options), _ = calls[0]
    assert (place, images, str(out), options) == ("run", "x", "p.csv", files.Options()) and all(prepared)
    options = ["--columns=path=f", "--bad_images=skip", "--embeddings", "--calibrated", "--all"]
    dispatch(["predict", "study", "--images=x", "--out=p.csv", *options])
    assert calls[1][0][3] == files.Options("path=f", "skip", embeddings=True, calibrated=True, every_run=True)
    for flag, name in (("--embeddings", "embeddings"), ("--calibrated", "calibrated"), ("--all", "every_run")):
        dispatch(["predict", "study" if flag == "--all" else "run", "--images=x", "--out=p.csv", flag])
        assert calls[-1][0][3] == files.Options(**{name: True})


def test_images_and_an_output_are_needed():
    with pytest.raises(UserError, match="the following arguments are required: --images, --out"):
        dispatch(["predict", "run"])
