"""`mae-jax embed`: its options reach the writer of embeddings."""

import pytest

from mae_jax.__main__ import dispatch
from mae_jax.predict import files
from mae_jax.runtime import machine
from mae_jax.runtime.errors import UserError


def test_options_are_passed_on(record):
    prepared = [record(machine, name) for name in ("keep_memory", "keep_compiled")]
    calls = record(files, "embed", {"written": 1, "skipped": 0})
    assert dispatch(["embed", "run", "--images=x", "--out=e.npz"]) == 0
    (place, images, out), named = calls[0]
    assert (place, images, str(out)) == ("run", "x", "e.npz") and all(prepared)
    assert named == {"pool": "", "columns": "", "bad_images": "stop", "directory": ""}
    dispatch(
        ["embed", "run", "--images=x", "--out=e.h5", "--pool=both", "--columns=path=f", "--bad_images=skip", "--dir=d"]
    )
    assert calls[1][1] == {"pool": "both", "columns": "path=f", "bad_images": "skip", "directory": "d"}
    with pytest.raises(UserError, match="argument --pool: invalid choice: 'max'"):
        dispatch(["embed", "run", "--images=x", "--out=e.h5", "--pool=max"])
