"""`python -m mae_jax`: which command runs, and its exit code."""

import subprocess
import sys
from types import SimpleNamespace

import pytest

from mae_jax import __main__ as entry
from mae_jax import commands
from mae_jax.runtime.errors import EXIT_USER_ERROR, UserError


def test_as_a_process_it_lists_every_command():
    done = subprocess.run([sys.executable, "-m", "mae_jax", "--help"], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0 and not done.stderr
    listed = [line.split()[0] for line in done.stdout.splitlines() if line.startswith("  ")]
    assert listed == list(commands.VERBS)


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (0, 0), (1, 1), (75, 75)])
def test_the_exit_code_is_what_the_command_returns(monkeypatch, returned, code):
    seen = []
    module = SimpleNamespace(run_argv=lambda argv: seen.append(argv) or returned)
    monkeypatch.setattr(commands, "load", lambda verb: module)
    assert entry.dispatch(["run", "--a", "b"]) == code and seen == [["--a", "b"]]
    parsed = SimpleNamespace(
        __doc__="A command.", add_arguments=lambda parser: parser.add_argument("--n", type=int, required=True),
        main=lambda options: seen.append(options.n) or returned,
    )  # fmt: skip
    monkeypatch.setattr(commands, "load", lambda verb: parsed)
    assert entry.dispatch(["check", "--n=3"]) == code and seen[-1] == 3


def test_a_command_without_arguments_that_needs_some_shows_its_help(monkeypatch, capsys):
    parsed = SimpleNamespace(
        __doc__="A command.", add_arguments=lambda parser: parser.add_argument("place", metavar="PLACE"),
        main=lambda options: pytest.fail("called"),
    )  # fmt: skip
    monkeypatch.setattr(commands, "load", lambda verb: parsed)
    with pytest.raises(UserError, match="mae-jax check needs PLACE"):
        entry.dispatch(["check"])
    assert "usage: mae-jax check" in capsys.readouterr().err


def test_a_bare_call_is_a_mistake_and_an_unknown_command_gets_a_hint(capsys):
    assert entry.dispatch([]) == EXIT_USER_ERROR and "usage: mae-jax COMMAND" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"'reprot' is not a command of mae-jax \(did you mean report\?\)"):
        entry.dispatch(["reprot"])
