"""Two processes on one machine, joined by jax.distributed: the result of one."""

import json
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
FIELDS = [
    "--config.data.synthetic_train=40", "--config.data.synthetic_test=13", "--config.data.synthetic_size=32",
    "--config.model.size=custom", "--config.model.image_size=16", "--config.model.patch_size=8",
    "--config.model.width=16", "--config.model.depth=1", "--config.model.heads=2", "--config.train.batch_size=6",
    "--config.train.steps=24", "--config.log.tensorboard=False", "--config.log.every_steps=1",
    "--config.log.progress_seconds=0.0",
    # Each image is mixed with one of the other process.
    "--config.train.mixup=0.8", "--config.train.cutmix=1.0", "--config.data.randaugment=9.0",
]  # fmt: skip


def command(workdir: Path, *more: str) -> list[str]:
    config = "--config=configs/finetune.py:data=synthetic,frac=0.5"
    return [sys.executable, "-m", "mae_jax.main", config, f"--workdir={workdir}", *FIELDS, *more]


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def start(workdir: Path, environment: dict[str, str], count: int, *more: str) -> list[subprocess.Popen]:
    joined = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{free_port()}", "JAX_NUM_PROCESSES": str(count)}
    return [
        subprocess.Popen(
            command(workdir, *more),
            cwd=ROOT,
            env=environment | (joined | {"JAX_PROCESS_ID": str(i)} if count > 1 else {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for i in range(count)
    ]


def stop_at(step: int, started: list[subprocess.Popen]) -> None:
    """Sends SIGTERM to the last of the processes when the first reports `step`; all must end as stopped."""
    for line in started[0].stdout:
        if f"step {step}/24" in line:
            started[-1].send_signal(signal.SIGTERM)
            break
    finish(started, 75)


def finish(started: list[subprocess.Popen], code: int) -> None:
    for process in started:
        text, _ = process.communicate(timeout=300)
        assert process.returncode == code, text


def losses(workdir: Path) -> dict[tuple[int, str], float]:
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {(r["step"], k): v for r in rows for k, v in r.items() if k.endswith("loss")}


@pytest.mark.slow
def test_two_processes_give_the_result_of_one(tmp_path, environment):
    one, two = tmp_path / "one", tmp_path / "two"
    finish(start(one, environment, 1), 0)
    # A signal to one of them stops both at the same step. One process resumes what two saved with sharded parameters,
    # and two processes resume what one saved.
    stop_at(3, start(two, environment, 2, "--config.sharding.fsdp=2"))
    stop_at(11, start(two, environment, 1))
    finish(start(two, environment, 2), 0)
    expected, values = losses(one), losses(two)
    assert expected.keys() == values.keys() and len(expected) > 8
    for key, value in expected.items():
        assert values[key] == pytest.approx(value, rel=1e-5), key
    read = [
        np.genfromtxt(d / "predictions.csv", delimiter=",", names=True, dtype=None, encoding=None) for d in (one, two)
    ]
    assert read[0]["image"].tolist() == read[1]["image"].tolist()
    np.testing.assert_allclose(read[0]["confidence"], read[1]["confidence"], rtol=1e-4)


LIMIT = 8  # seconds


@pytest.fixture
def two(tmp_path, environment):
    """Two processes that have saved a checkpoint and would train for long; they are killed at the end."""
    environment |= {"MAE_JAX_PEER_TIMEOUT": str(LIMIT)}
    del environment["TF_CPP_MIN_LOG_LEVEL"]  # set for tests; here the command chooses
    started = start(tmp_path / "run", environment, 2, "--config.train.steps=100000", "--config.eval.every_epochs=1000")
    try:
        for line in started[0].stdout:
            if "step 8/" in line:
                break
        yield started
    finally:
        for process in started:
            process.kill()
            process.communicate()


def ends_with_one_line(process: subprocess.Popen, within: float) -> str:
    """The only line that is not about progress. The exit code is 2."""
    text, _ = process.communicate(timeout=within)
    assert process.returncode == 2, text
    lines = [line for line in text.splitlines() if " · step " not in line and "[Gloo]" not in line]
    assert len(lines) == 1, text
    return lines[0]


@pytest.mark.slow
@pytest.mark.parametrize("lost", [0, 1])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_lost_process_ends_the_other_with_one_line(two, lost, number):
    began = time.monotonic()
    two[lost].send_signal(number)
    line = ends_with_one_line(two[1 - lost], LIMIT + 15)
    if number == signal.SIGKILL:
        assert re.fullmatch(rf"error: process {lost} is gone; the same command resumes from step \d+", line)
        assert time.monotonic() - began < LIMIT
    else:
        expected = rf"error: process {lost} has not answered for {LIMIT} s \(MAE_JAX_PEER_TIMEOUT\); the same command "
        assert re.fullmatch(expected + r"resumes from step \d+", line)
        assert time.monotonic() - began > LIMIT - 2


@pytest.mark.slow
def test_a_pause_below_the_limit_does_no_harm(two):
    two[1].send_signal(signal.SIGSTOP)
    time.sleep(LIMIT - 3)
    two[1].send_signal(signal.SIGCONT)
    time.sleep(LIMIT)
    assert two[0].poll() is None and two[1].poll() is None
    two[1].send_signal(signal.SIGTERM)
    finish(two, 75)


@pytest.mark.slow
@pytest.mark.parametrize("present", [0, 1])
def test_a_process_that_does_not_join_ends_the_other_with_one_line(tmp_path, environment, present):
    joined = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{free_port()}", "JAX_NUM_PROCESSES": "2"}
    environment |= joined | {"JAX_PROCESS_ID": str(present), "MAE_JAX_PEER_TIMEOUT": "3"}
    del environment["TF_CPP_MIN_LOG_LEVEL"]
    done = subprocess.run(
        command(tmp_path / "run"), cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "error: not all processes have joined within 3 s (MAE_JAX_PEER_TIMEOUT); look at the messages of the other "
        "processes, then run the same command again\n"
    )
    assert not (tmp_path / "run").exists()
