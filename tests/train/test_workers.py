"""Worker processes of the loader when the training process is killed, or all get a signal."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mae_jax.rundir import contents
from mae_jax.runtime.errors import EXIT_STOPPED

ROOT = Path(__file__).parents[2]
# Shared memory gets a unique name, so that other processes on this machine do not interfere.
TRAINING = """
import multiprocessing, os, time
import numpy as np
from multiprocessing import resource_tracker, shared_memory
from mae_jax.data import loaders, sources

def named(data, rng):
    shared_memory._SHM_NAME_PREFIX = "/{name}"
    return data

if __name__ == "__main__":
    source = sources.synthetic("Train", 20, 32, 0)
    batches = loaders.train_batches([source], None, [named], batch_size=4, seed=0, workers=2, threads=2)
    held = [next(batches) for _ in range(3)]
    pids = [child.pid for child in multiprocessing.active_children()]
    print(*pids, resource_tracker._resource_tracker._pid, flush=True)
    time.sleep(120)
"""


def messages_in(errors: str) -> list[str]:
    """The lines without those that TensorFlow prints at its import when there is no GPU driver."""
    return [line for line in errors.splitlines() if "cuda drivers" not in line and "InitializeLog" not in line]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="looks for shared memory where Linux shows it")
def test_workers_end_when_their_parent_is_killed(tmp_path):
    name = f"w{os.getpid() % 1_000_000}"  # of 9 characters at most
    script = tmp_path / "training.py"
    script.write_text(TRAINING.replace("{name}", name))
    parent = subprocess.Popen(
        [sys.executable, str(script)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )

    def segments() -> list[Path]:
        return list(Path("/dev/shm").glob(f"{name}*"))

    with parent.stdout:
        pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 3 and all(map(alive, pids)) and segments()
    parent.kill()
    parent.wait(10)
    end = time.monotonic() + 10
    while (any(map(alive, pids)) or segments()) and time.monotonic() < end:
        time.sleep(0.1)
    left = [pid for pid in pids if alive(pid)]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left and not segments()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_process_group_saves_and_the_run_resumes(tmp_path, environment, number):
    """Ctrl-C and batch systems also signal the worker processes."""
    command = [sys.executable, "-m", "mae_jax.main", "--config=configs/demo.py:smoke=true"]
    command = [*command, "--config.pretrain.data.workers=2", "--config.pretrain.train.steps=300"]
    options = {"env": environment, "cwd": ROOT, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    stopped = subprocess.Popen([*command, f"--workdir={tmp_path}"], start_new_session=True, **options)
    log = tmp_path / "pretrain" / contents.METRICS
    while stopped.poll() is None and not (log.exists() and log.stat().st_size):
        time.sleep(0.05)
    os.killpg(stopped.pid, number)
    text, errors = stopped.communicate(timeout=30)
    assert stopped.returncode == EXIT_STOPPED, text + errors
    assert len(messages_in(errors)) == 1 and "step" in errors and "is saved; rerun the same command to resume" in errors
    again = subprocess.Popen([*command, f"--workdir={tmp_path}"], start_new_session=True, **options)
    for line in again.stdout:
        if "resuming from step" in line:
            break
    os.killpg(again.pid, number)
    text, errors = again.communicate(timeout=30)
    assert again.returncode == EXIT_STOPPED and len(messages_in(errors)) == 1, text + errors


@pytest.mark.slow
def test_an_error_in_a_worker_is_one_line(tmp_path, environment):
    """Shared memory of batches in progress is released without a message."""
    rng = np.random.default_rng(0)
    for i in range(40):
        for split in ("Train", "TestA"):
            path = tmp_path / split / "ab"[i % 2] / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8)).save(path)
    tiny = {"size": "custom", "image_size": 16, "patch_size": 8, "width": 16, "depth": 1, "heads": 2}
    fields = {f"model.{k}": v for k, v in tiny.items()} | {"data.dir": tmp_path, "data.workers": 2, "train.steps": 5000}
    fields |= {"train.batch_size": 8, "log.every_steps": 1, "log.tensorboard": False}
    command = [sys.executable, "-m", "mae_jax.main", "--config=configs/finetune.py:data=folder,frac=1.0"]
    command += [f"--workdir={tmp_path / 'run'}", *(f"--config.{k}={v}" for k, v in fields.items())]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, **pipes)
    log = tmp_path / "run" / contents.METRICS
    while process.poll() is None and not (log.exists() and log.stat().st_size):
        time.sleep(0.05)
    for path in (tmp_path / "Train" / "a").iterdir():
        path.unlink()
    _, errors = process.communicate(timeout=100)
    assert process.returncode == 2 and len(messages_in(errors)) == 1, errors
    assert ".png cannot be read (No such file or directory)" in errors
