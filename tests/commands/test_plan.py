"""`mae-jax plan`: the flags of `run` without its work, with or without measured times."""

import pytest

from mae_jax import main
from mae_jax.__main__ import dispatch


@pytest.mark.parametrize("timed", [True, False])
def test_flags_are_those_of_run_and_untimed_is_its_own(record, timed, capsys):
    calls = record(main, "cli")
    plans = record(main, "plan", ["two runs", "ten minutes"])
    arguments = ["--config=configs/demo.py", *([] if timed else ["--untimed"]), "--workdir=w"]
    assert dispatch(["plan", *arguments]) == 0
    (argv, verb, command, description, more), _ = calls[0]
    assert (argv, verb) == (["--config=configs/demo.py", "--workdir=w"], "plan")
    assert description.startswith("Print what `mae-jax run` would do") and more.startswith("--untimed ")
    command({"a": 1}, "w")
    assert plans == [(({"a": 1}, "w", timed), {})] and capsys.readouterr().out == "two runs\nten minutes\n"
