"""How a command ends: its line, its exit code, and where it may write."""

import os

import pytest

from mae_jax.runtime import command
from mae_jax.runtime.command import call
from mae_jax.runtime.errors import EXIT_STOPPED, Stopped, UserError


@pytest.mark.parametrize(
    "error, code, line",
    [
        (UserError("seed=-1 is out of range"), 2, "error: seed=-1 is out of range\n"),
        (Stopped("stopped by SIGTERM; saved"), EXIT_STOPPED, "stopped by SIGTERM; saved\n"),
        (UserError("\x1b]0;owned\x07.jpg"), 2, "error: \\x1b]0;owned\\x07.jpg\n"),
        (OSError(28, "No space left on device", "/tmp/x"), 2, "bytes free on its disk); make room"),
    ],
)
def test_a_command_ends_with_one_line_and_its_code(capsys, error, code, line):
    def command():
        raise error

    with pytest.raises(SystemExit) as end:
        call(command)
    printed = capsys.readouterr().err
    assert end.value.code == code and line in printed and printed.count("\n") == 1


def test_memory_that_python_lacks_is_one_line(capsys):
    with pytest.raises(SystemExit) as end:
        call(lambda: bytearray(1 << 60))
    line = capsys.readouterr().err
    assert end.value.code == 2 and line.startswith("error: out of memory") and line.count("\n") == 1


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (0, 0), (3, 3)])
def test_a_command_ends_with_the_number_that_it_returns(returned, code):
    seen = []
    with pytest.raises(SystemExit) as end:
        command.call(lambda *given: seen.append(given) or returned, 1, "a")
    assert end.value.code == code and seen == [(1, "a")]


def test_a_bug_keeps_its_stack_trace():
    with pytest.raises(ZeroDivisionError):
        command.call(lambda: 1 / 0)
    with pytest.raises(RuntimeError, match="other"):
        command.call(lambda: (_ for _ in ()).throw(RuntimeError("other")))


def test_memory_that_the_device_lacks_is_one_line(capsys):
    def fails():
        raise RuntimeError("RESOURCE_EXHAUSTED: 3 GB\nand a long table")

    with pytest.raises(SystemExit) as end:
        command.call(fails)
    printed = capsys.readouterr().err
    assert end.value.code == 2 and printed.startswith(
        "error: out of memory on the device (RESOURCE_EXHAUSTED: 3 GB); use"
    )
    assert printed.count("\n") == 1


def test_a_file_can_be_written_where_nothing_else_is(tmp_path):
    new = tmp_path / "a" / "b" / "out.csv"
    assert command.out_file(new, "--out") == new and new.parent.is_dir() and not new.exists()
    new.write_text("earlier")
    assert command.out_file(new, "--out") == new and new.read_text() == "earlier"
    with pytest.raises(UserError, match=f"--out={tmp_path} cannot be written: it is a folder; name a file"):
        command.out_file(tmp_path, "--out")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="it is not a regular file; name a file"):
        command.out_file(tmp_path / "pipe", "--out")
    with pytest.raises(UserError, match="--csv=.*cannot be written: (Not a directory|File exists)"):
        command.out_file(new / "below.csv", "--csv")


def test_a_line_has_no_control_characters(capsys):
    command.say("a\x1b[2Jb")
    assert capsys.readouterr().out == "a\\x1b[2Jb\n"
