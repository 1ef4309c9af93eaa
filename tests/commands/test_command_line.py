"""Every command without arguments, with --help and with nonsense; nothing heavy is imported to find a mistake."""

import subprocess
import sys
from pathlib import Path

import pytest

from mae_jax import commands

ROOT = Path(__file__).parents[2]
WITHOUT_ARGUMENTS = {"doctor", "version", "runs"}  # commands that need none
HEAVY = ("jax", "flax", "tensorflow", "matplotlib", "orbax", "numpy", "scipy", "PIL")
WRONG_FIELD = ["--config=configs/demo.py", "--config.seeds=(0,0)"]
SCRIPT = """
import contextlib, io, json, sys
from mae_jax.__main__ import main

ends = {}
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["mae-jax", *arguments]  # where ml_collections looks for the fields that are set
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(arguments)
        except SystemExit as end:
            code = end.code
    ends[" ".join(arguments)] = code, out.getvalue(), err.getvalue()
print(json.dumps([ends, [name for name in HEAVY if name in sys.modules]]))
"""


@pytest.fixture(scope="module")
def ends():
    """Exit code and output of each call, all of one process; {arguments: (code, out, err)}."""
    import json

    calls = [[], ["--help"], ["-h"], ["help"], ["nonsense"], ["--nonsense"], ["chek"], ["--version"]]
    for verb in commands.VERBS:
        calls += [[verb, "--help"], [verb, "--nonsense=1"], [verb, "-h"]]
        calls += [] if verb in WITHOUT_ARGUMENTS else [[verb]]
    calls += [["run", *WRONG_FIELD]]  # the last, since absl reads the fields of a config once a process
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.replace("HEAVY", repr(HEAVY)), json.dumps(calls)],
        capture_output=True, text=True, cwd=ROOT, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    ends, heavy = json.loads(done.stdout)
    assert heavy == []
    return ends


def test_a_bare_call_lists_the_commands(ends):
    code, out, err = ends[""]
    assert code == 2 and not out
    assert all(f"  {verb} " in err and commands.load(verb).SUMMARY in err for verb in commands.VERBS)
    for help_ in ("--help", "-h", "help"):
        assert ends[help_] == [0, err, ""]


def test_a_command_that_does_not_exist(ends):
    assert ends["nonsense"] == [2, "", "error: 'nonsense' is not a command of mae-jax; mae-jax --help lists them\n"]
    assert (
        ends["chek"][2]
        == "error: 'chek' is not a command of mae-jax (did you mean check?); mae-jax --help lists them\n"
    )
    assert ends["--nonsense"][0] == 2 and "is not a command" in ends["--nonsense"][2]
    assert ends["--version"][0] == 0 and ends["--version"][1].startswith("mae_jax 0.")


@pytest.mark.parametrize("verb", commands.VERBS)
def test_each_command_without_arguments_with_help_and_with_nonsense(ends, verb):
    code, out, err = ends[f"{verb} --help"]
    assert code == 0 and "usage: " in out and not err
    assert ends[f"{verb} -h"] == [0, out, ""]
    if verb not in WITHOUT_ARGUMENTS:
        code, out, err = ends[verb]
        *help_, line = err.strip().splitlines()
        assert code == 2 and not out and line.startswith("error: ") and any("usage: " in row for row in help_), err
    code, out, err = ends[f"{verb} --nonsense=1"]
    assert code == 2 and not out and err.startswith("error: ") and "nonsense" in err and err.count("\n") == 1, err


def test_a_wrong_field_is_found_before_anything_heavy_is_imported(ends):
    code, out, err = ends[" ".join(["run", *WRONG_FIELD])]
    assert (code, out) == (2, "") and err == "error: seeds=(0, 0) is not allowed; use at least one value, each once\n"


def test_each_command_documents_itself():
    for verb in commands.VERBS:
        command = commands.load(verb)
        assert command.__doc__ and command.SUMMARY and command.SUMMARY[0].islower() and "\n" not in command.SUMMARY
