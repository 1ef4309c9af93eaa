"""What a command calls, recorded in place of being done."""

import json

import pytest

from mae_jax.config.fields import defaults
from mae_jax.config.loading import as_json
from mae_jax.config.validation import validate
from mae_jax.rundir import contents


@pytest.fixture(autouse=True)
def places(tmp_path_factory, monkeypatch):
    """The current folder is a new one with the places that commands are called with, since these must exist.

    run/ is a finished run by its files, and study/ a study with one.
    """
    folder = tmp_path_factory.mktemp("places")
    monkeypatch.chdir(folder)
    for name in ("a", "b", "c", "images", "one", "two", "other", "run", "runs", "runs/cells"):
        (folder / name).mkdir()
    for name in ("src.pth", "x", "l.csv"):
        (folder / name).write_bytes(b"")
    config = json.dumps(contents.stamped({"config": as_json(validate(defaults("finetune")))}))
    for run in (folder / "run", folder / "study" / "cells" / "one"):
        run.mkdir(parents=True, exist_ok=True)
        for name in (contents.RUN, contents.RESULTS, contents.PREDICTIONS):
            (run / name).write_text("{}")
        (run / contents.CONFIG).write_text(config)


@pytest.fixture
def record(monkeypatch):
    """Replaces functions by ones that keep their arguments, as (positions, names), and return `result`."""

    def record(module, name, result=None):
        calls = []
        monkeypatch.setattr(module, name, lambda *given, **named: calls.append((given, named)) or result)
        return calls

    return record
