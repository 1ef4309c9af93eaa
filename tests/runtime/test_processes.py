"""Several JAX processes: their rows of a batch, and what their environment must say."""

import pytest

from mae_jax.runtime import processes
from mae_jax.runtime.errors import UserError


def test_each_process_loads_the_next_block_of_rows(monkeypatch):
    monkeypatch.setattr(processes.jax, "process_count", lambda: 3)
    parts = []
    for number in range(3):
        monkeypatch.setattr(processes.jax, "process_index", lambda number=number: number)
        parts.append(list(range(12))[processes.local_rows(12)])
    assert parts == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"JAX_NUM_PROCESSES": "2"}, "JAX_NUM_PROCESSES=2 is set, but JAX_COORDINATOR_ADDRESS is not"),
        (
            {"JAX_NUM_PROCESSES": "2", "JAX_COORDINATOR_ADDRESS": "a:1"},
            "JAX_NUM_PROCESSES=2 is set, but JAX_PROCESS_ID is not",
        ),
        (
            {"JAX_NUM_PROCESSES": "two", "JAX_COORDINATOR_ADDRESS": "a:1", "JAX_PROCESS_ID": "0"},
            "JAX_NUM_PROCESSES=two or JAX_PROCESS_ID is not a number",
        ),
    ],
)
def test_what_the_environment_must_say(monkeypatch, environment, message):
    for name in ("JAX_NUM_PROCESSES", "JAX_COORDINATOR_ADDRESS", "JAX_PROCESS_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError) as error:
        processes.start_processes()
    assert message in str(error.value)


def test_a_process_alone_agrees_with_itself_and_the_first_one_prints(monkeypatch, capsys):
    assert processes.any_process(True) and not processes.any_process(False)
    processes.note("said")
    monkeypatch.setattr(processes.jax, "process_index", lambda: 1)
    processes.note("not said")
    assert capsys.readouterr().out == "said\n"
