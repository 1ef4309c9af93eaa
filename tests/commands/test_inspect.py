"""`mae-jax inspect`: arguments are checked before the run is loaded, and reach the drawing."""

from pathlib import Path

import pytest

from mae_jax.__main__ import dispatch
from mae_jax.evaluation import inspect_run
from mae_jax.runtime.errors import UserError


def test_options_are_passed_on_and_the_picture_is_named(record, tmp_path, capsys):
    calls = record(inspect_run, "run", Path("there.png"))
    assert dispatch(["inspect", "run"]) == 0 and capsys.readouterr().out == "written: there.png\n"
    assert calls[0] == ((Path("run"), None), {"directory": "", "n": 8, "block": -1})
    out = tmp_path / "a.PNG"
    dispatch(["inspect", "run", "--n=64", "--block=0", "--images=images", f"--out={out}"])
    assert calls[1] == ((Path("run"), out), {"directory": "images", "n": 64, "block": 0})


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        *[(f"--n={n}", rf"--n={n} is out of range; allowed: 1 to 64") for n in (0, 65)],
        ("--out=a.jpg", "--out=a.jpg is not allowed; name a file ending in .png"),
    ],
)
def test_what_cannot_be_drawn_is_refused_first(record, argument, message):
    calls = record(inspect_run, "run")
    with pytest.raises(UserError, match=message):
        dispatch(["inspect", "run", argument])
    assert calls == []
