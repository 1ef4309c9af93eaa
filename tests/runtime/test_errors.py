"""Errors that a user sees as one line."""

import sys

import pytest

from mae_jax.runtime import errors
from mae_jax.runtime.errors import UNUSABLE, Stopped, StorageError, UserError, printable


def test_control_characters_do_not_reach_the_terminal():
    assert printable("a\x1b[2Jb\u202ec é\n") == "a\\x1b[2Jb\\u202ec é\n"


def test_ipython_shows_a_mistake_as_one_line(capsys):
    shells = pytest.importorskip("IPython.core.interactiveshell", reason="needs IPython")
    shell = shells.InteractiveShell.instance()
    try:
        shell.run_cell("from mae_jax.runtime.errors import UserError\nraise UserError('field x is wrong')")
    finally:
        shells.InteractiveShell.clear_instance()
    printed = "".join(capsys.readouterr())
    assert printed.strip().splitlines() == ["error: field x is wrong"]


def test_a_mistake_is_one_line_whatever_the_names_in_it_hold():
    error = UserError("a\nb\x1b[2J\u2028c\ud800 is not there")
    assert "\n" not in str(error) and str(error) == "a\\nb\\x1b[2J\\u2028c\\ud800 is not there"
    assert isinstance(error, ValueError) and issubclass(StorageError, UserError)
    assert printable("a\n\tb\r", keep="\n\t") == "a\n\tb\\r" and printable("日本 ü") == "日本 ü"


def test_code_that_handles_damaged_files_does_not_catch_a_stop():
    with pytest.raises(Stopped, match="saved"):
        try:
            raise Stopped("saved")
        except Exception:
            pytest.fail("caught")
    assert Stopped("saved")._render_traceback_() == ["saved"] and UserError("x")._render_traceback_() == ["error: x"]


@pytest.mark.parametrize("text", ["a\0b", "a\nb", "\x7f", "\x9f", "\u2028", "\ud800"])
def test_names_that_no_file_should_have(text):
    assert UNUSABLE.search(text) and not UNUSABLE.search("a b-c_ü日.png")


def test_a_script_ends_as_the_commands_do_and_other_exceptions_are_shown_as_before(monkeypatch, capsys):
    shown = []
    monkeypatch.setattr(errors, "_shown_before", None)
    monkeypatch.setattr(sys, "excepthook", lambda *error: shown.append(error))
    errors.end_scripts_in_one_line()
    errors.end_scripts_in_one_line()  # once
    mistake = UserError("x=1 is not allowed")
    for error, code, line in ((mistake, 2, "error: x=1 is not allowed\n"), (Stopped("saved"), 75, "saved\n")):
        with pytest.raises(SystemExit) as end:
            sys.excepthook(type(error), error, None)
        assert end.value.code == code and capsys.readouterr().err == line
    fault = KeyError("a")
    sys.excepthook(KeyError, fault, None)
    assert shown == [(KeyError, fault, None)]
