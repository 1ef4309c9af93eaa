"""Processes that watch one another without JAX: what each says when another one ends, is killed or sleeps."""

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mae_jax.runtime import peers
from mae_jax.runtime.errors import UserError

ROOT = Path(__file__).parents[2]

# A process and what it does; the key-value store is a file, and no module of JAX is imported.
PROCESS = """
import sys, time
from pathlib import Path
from mae_jax.runtime import peers
from mae_jax.runtime.command import call_computing
from mae_jax.runtime.errors import Stopped, UserError

store, me, count, doing = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]

class Client:
    def key_value_set(self, key, value):
        store.with_suffix(".new").write_text(value)
        store.with_suffix(".new").rename(store)

    def blocking_key_value_get(self, key, milliseconds):
        while not store.exists():
            time.sleep(0.01)
        return store.read_text()

def command():
    with peers.joining(1.5 if doing == "alone" else 60):
        peers.watch(me, count, "127.0.0.1", Client(), 6)
    if doing == "saved":
        peers.last_step = lambda: 12
    if doing == "unreadable":
        peers.last_step = lambda: Path("/nowhere").stat()
    print("watching", flush=True)
    if doing == "refused":
        raise UserError("this machine lacks a file")
    if doing == "bug":
        raise AssertionError("a bug")
    if doing == "stopped":
        raise Stopped("stopped by SIGTERM")
    if doing == "done":
        return
    if doing == "collective":
        time.sleep(1)
        raise RuntimeError("Gloo AllGather failed")
    time.sleep(5 if doing == "briefly" else 60)

call_computing(command)
"""


@pytest.fixture
def begin(tmp_path, environment):
    """Starts processes and waits until they watch one another."""
    started: list[subprocess.Popen] = []

    def start(*doing: str) -> list[subprocess.Popen]:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        for i, what in enumerate(doing):
            arguments = [sys.executable, "-c", PROCESS, str(tmp_path / "store"), str(i), str(len(doing)), what]
            started.append(subprocess.Popen(arguments, cwd=ROOT, env=environment, **pipes))
        for process in started:
            assert process.stdout.readline() == "watching\n"
        return started

    yield start
    for process in started:
        process.kill()
        process.communicate()


def end(process: subprocess.Popen, within: float = 30.0) -> tuple[int, str]:
    _, printed = process.communicate(timeout=within)
    return process.returncode, printed


@pytest.mark.parametrize("lost", [0, 1, 2])
@pytest.mark.slow
def test_a_killed_process_ends_all_others_at_once(begin, lost):
    processes = begin("work", "work", "work")
    processes[lost].kill()
    for other in processes[:lost] + processes[lost + 1 :]:
        code, line = end(other)
        assert code == 2
        # Process 2 may learn of the end of 0 before it learns of the end of 1.
        assert re.fullmatch(r"error: process \d is gone; the same command resumes from what is saved\n", line)
        if other is processes[0]:
            assert f"process {lost} is gone" in line


@pytest.mark.parametrize("asleep", [0, 1])
@pytest.mark.slow
def test_a_sleeping_process_ends_the_other_after_the_limit(begin, asleep):
    processes = begin("saved", "saved")
    processes[asleep].send_signal(signal.SIGSTOP)
    code, line = end(processes[1 - asleep])
    assert code == 2
    assert line == (
        f"error: process {asleep} has not answered for 6 s (MAE_JAX_PEER_TIMEOUT); the same command resumes from "
        f"step 12\n"
    )
    processes[asleep].send_signal(signal.SIGCONT)  # when it wakes, it ends too
    assert end(processes[asleep]) == (
        2, f"error: process {1 - asleep} is gone; the same command resumes from step 12\n"
    )  # fmt: skip


@pytest.mark.slow
def test_a_pause_below_the_limit_does_no_harm(begin):
    processes = begin("briefly", "briefly")
    for process in processes:
        process.send_signal(signal.SIGSTOP)
        time.sleep(2)
        process.send_signal(signal.SIGCONT)
    assert [end(process) for process in processes] == [(0, ""), (0, "")]


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("doing", ["done", "stopped"])
@pytest.mark.slow
def test_a_process_that_ends_well_leaves_the_others_in_peace(begin, first, doing):
    processes = begin(*((doing, "briefly") if first == 0 else ("briefly", doing)))
    assert end(processes[first])[0] == (0 if doing == "done" else 75)
    assert end(processes[1 - first]) == (0, "")


@pytest.mark.parametrize("other", ["work", "collective"])
@pytest.mark.parametrize(("doing", "code", "expected_text"), [("refused", 2, "lacks a file\n"), ("bug", 1, "a bug\n")])
@pytest.mark.slow
def test_a_process_that_fails_alone_ends_the_others_with_a_hint(begin, doing, code, expected_text, other):
    one, two = begin(other, doing)
    assert end(one) == (
        2, f"error: process 1 ended with exit code {code}, see its message; the same command resumes from what is "
        "saved\n",
    )  # fmt: skip
    result, message = end(two)
    assert result == code and message.endswith(expected_text)


@pytest.mark.slow
def test_processes_that_fail_for_the_same_reason_show_their_own_message(begin):
    assert [end(process) for process in begin("refused", "refused")] == [(2, "error: this machine lacks a file\n")] * 2


@pytest.mark.slow
def test_an_error_of_a_process_whose_peers_are_well_keeps_its_stack_trace(begin):
    one, two = begin("collective", "work")
    code, text = end(one)
    assert code == 1 and text.endswith("RuntimeError: Gloo AllGather failed\n") and "Traceback" in text
    assert end(two)[0] == 2


@pytest.mark.slow
def test_an_error_that_a_sleeping_process_causes_waits_for_the_verdict(begin):
    one, two = begin("collective", "work")
    two.send_signal(signal.SIGSTOP)
    assert end(one) == (
        2, "error: process 1 has not answered for 6 s (MAE_JAX_PEER_TIMEOUT); the same command resumes from what is "
        "saved\n",
    )  # fmt: skip


@pytest.mark.slow
def test_storage_that_fails_too_does_not_prevent_the_line(begin):
    one, two = begin("unreadable", "work")
    two.kill()
    assert end(one) == (2, "error: process 1 is gone; the same command resumes from what is saved\n")


@pytest.mark.slow
def test_the_process_that_is_missing_is_named(tmp_path, environment):
    arguments = [sys.executable, "-c", PROCESS, str(tmp_path / "store"), "0", "3", "alone"]
    done = subprocess.run(arguments, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=20)
    assert done.returncode == 2
    assert done.stderr.startswith("error: process 1, 2 has not joined within 1.5 s (MAE_JAX_PEER_TIMEOUT); look at")


@pytest.mark.parametrize(("text", "seconds"), [("", 300.0), ("90", 90.0), ("1.5", 1.5)])
def test_the_limit_is_read_from_the_environment(monkeypatch, text, seconds):
    monkeypatch.setenv(peers.LIMIT, text)
    assert peers.limit() == seconds


@pytest.mark.parametrize("text", ["0", "-1", "soon", "nan", "inf"])
def test_an_impossible_limit_is_refused(monkeypatch, text):
    monkeypatch.setenv(peers.LIMIT, text)
    with pytest.raises(UserError, match=f"{peers.LIMIT}={text} is not a number of seconds"):
        peers.limit()


@pytest.mark.parametrize(
    ("environment", "several"),
    [
        ({}, False),
        ({"JAX_NUM_PROCESSES": "1"}, False),
        ({"SLURM_STEP_NUM_TASKS": "4"}, True),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, True),
        ({"JAX_NUM_PROCESSES": "two"}, False),
    ],
)
def test_several_processes_are_recognized(monkeypatch, environment, several):
    for name in peers._COUNTS:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert peers.expected() == several
