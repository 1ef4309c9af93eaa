"""`mae-jax runs`: a table, a comparison, and disk space that is freed only after a yes."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from mae_jax.__main__ import dispatch
from mae_jax.checkpoints import cleaning
from mae_jax.runtime.errors import UserError
from mae_jax.study import overview


@pytest.fixture
def entries(record, monkeypatch):
    """Three runs: one finished with 3 MiB to free, one finished without, one stopped. Returns the calls."""
    result = [SimpleNamespace(path=Path(name), state=state) for name, state in
             (("a", "finished"), ("b", "finished"), ("c", "stopped"))]  # fmt: skip
    calls = {"find": record(overview, "find", result), "table": record(overview, "table", "a table")}
    calls["drop"] = record(cleaning, "drop", 3 * 2**20)
    monkeypatch.setattr(cleaning, "droppable", lambda place: 3 * 2**20 if place == Path("a") else 0)
    return calls


def test_without_options_a_table_is_printed(entries, capsys):
    assert dispatch(["runs"]) == 0 and capsys.readouterr().out == "a table\n"
    assert entries["find"] == [((Path("runs"),), {})]
    dispatch(["runs", "other"])
    assert entries["find"][1] == ((Path("other"),), {}) and entries["drop"] == []


def test_two_runs_are_compared(record, capsys):
    calls = record(overview, "compare", ["seed: 0 -> 1", "equal"])
    dispatch(["runs", "--compare", "a", "b"])
    assert calls == [((Path("a"), Path("b")), {})] and capsys.readouterr().out == "seed: 0 -> 1\nequal\n"


@pytest.mark.parametrize(
    ("answer", "removed"), [("y", True), (" YES ", True), ("", False), ("n", False), (None, False)]
)
def test_only_a_yes_removes_optimizer_states_of_finished_runs(entries, monkeypatch, capsys, answer, removed):
    asked = []

    def question(text):
        asked.append(text)
        if answer is None:
            raise EOFError
        return answer

    monkeypatch.setattr("builtins.input", question)
    dispatch(["runs", "--clean"])
    out = capsys.readouterr().out.splitlines()
    assert asked == ["remove the optimizer states of 1 run (3.0 MiB)? [y/N] "]
    assert entries["drop"] == ([((Path("a"),), {})] if removed else [])
    assert out == ["   3.0 MiB  a", "removed: 3.0 MiB" if removed else "nothing was removed"]


def test_yes_asks_nothing_and_needs_clean(entries, monkeypatch, capsys):
    monkeypatch.setattr("builtins.input", lambda text: pytest.fail("asked"))
    dispatch(["runs", "--clean", "--yes"])
    assert len(entries["drop"]) == 1
    monkeypatch.setattr(cleaning, "droppable", lambda place: 0)
    dispatch(["runs", "--clean"])
    assert capsys.readouterr().out.endswith("no finished run has an optimizer state; nothing to remove\n")
    with pytest.raises(UserError, match="--yes works only with --clean; add --clean, or omit --yes"):
        dispatch(["runs", "--yes"])
