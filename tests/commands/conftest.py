"""What a command calls, recorded in place of being done."""

import pytest


@pytest.fixture(autouse=True)
def places(tmp_path_factory, monkeypatch):
    """The current folder is a new one with the places that commands are called with, since paths must exist."""
    folder = tmp_path_factory.mktemp("places")
    monkeypatch.chdir(folder)
    for name in ("a", "b", "c", "images", "one", "two", "other", "run", "runs", "runs/cells"):
        (folder / name).mkdir()
    for name in ("src.pth", "x", "l.csv"):
        (folder / name).write_bytes(b"")


@pytest.fixture
def record(monkeypatch):
    """Replaces functions by ones that keep their arguments, as (positions, names), and return `result`."""

    def record(module, name, result=None):
        calls = []
        monkeypatch.setattr(module, name, lambda *given, **named: calls.append((given, named)) or result)
        return calls

    return record
