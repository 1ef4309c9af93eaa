"""The version."""

import pytest

from mae_jax.__main__ import main


def test_the_command_in_this_process(capsys):
    with pytest.raises(SystemExit) as end:
        main(["version"])
    assert end.value.code == 0 and capsys.readouterr().out == "mae_jax 0.1.0\n"
