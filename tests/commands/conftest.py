"""What a command calls, recorded in place of being done."""

import pytest


@pytest.fixture
def record(monkeypatch):
    """Replaces functions by ones that keep their arguments, as (positions, names), and return `result`."""

    def record(module, name, result=None):
        calls = []
        monkeypatch.setattr(module, name, lambda *given, **named: calls.append((given, named)) or result)
        return calls

    return record
