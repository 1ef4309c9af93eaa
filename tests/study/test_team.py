"""Workers: what each may use, and studies whose workers or parent are killed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mae_jax.checkpoints.steps import committed_steps
from mae_jax.data import synthetic
from mae_jax.rundir import contents
from mae_jax.runtime.errors import EXIT_STOPPED, EXIT_USER_ERROR
from mae_jax.study import team
from mae_jax.study.team import Place, shares

ROOT = Path(__file__).parents[2]
FILES = ("predictions.csv", "predictions_val.csv", "results.json", "metrics.jsonl")
TINY = {
    "model": {"size": "custom", "image_size": 16, "patch_size": 8, "width": 16, "depth": 2, "heads": 2,
              "decoder_width": 8, "decoder_depth": 1, "decoder_heads": 2},
    "data": {"synthetic_train": 60, "synthetic_test": 23, "synthetic_size": 32, "synthetic_unlabelled": 40,
             "threads": 1},
    "train": {"batch_size": 16, "batch_per_device": 0, "accumulation": 1, "steps": 6},
    "log": {"every_steps": 3, "tensorboard": False, "progress_seconds": 0.0},
    "eval": {"every_epochs": 4.0, "images": 2},
}  # fmt: skip


def test_cores_are_shared_without_overlap():
    assert shares([0, 1], 2) == [Place((0,)), Place((1,))]
    assert shares([4, 5, 6, 7, 8], 2) == [Place((4, 5)), Place((6, 7))]
    assert shares([3], 2) == [Place((3,)), Place((3,))]  # more workers than cores
    assert str(Place((4, 5))) == "cores 4, 5" and str(Place(gpus="1")) == "GPU 1"


@pytest.mark.parametrize(
    ("environment", "plugin", "expected"),
    [
        ({}, True, ["0", "1", "2"]),
        ({"CUDA_VISIBLE_DEVICES": "2,GPU-5a"}, True, ["2", "GPU-5a"]),
        ({"CUDA_VISIBLE_DEVICES": ""}, True, []),
        ({"JAX_PLATFORMS": "cpu"}, True, []),
        ({"JAX_PLATFORMS": "cuda,cpu"}, True, ["0", "1", "2"]),
        ({}, False, []),
    ],
)
def test_the_gpus_are_those_that_jax_would_use(monkeypatch, environment, plugin, expected):
    for name in ("CUDA_VISIBLE_DEVICES", "JAX_PLATFORMS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(team.importlib.util, "find_spec", lambda name: plugin and name == "jax_cuda12_plugin")
    monkeypatch.setattr(team.hardware, "nvidia_gpus", lambda: [f"/dev/nvidia{k}" for k in range(3)])
    assert team.gpu_names() == expected


GRID = ("--config.fractions=(0.5,1.0)", "--config.evaluations=('finetune','knn')")
LONG = ("--config.finetune.train.steps=400", "--config.fractions=(1.0,)", "--config.evaluations=('finetune',)")


def command(workdir: Path, *more: str, data: str = "synthetic") -> list[str]:
    start = ["-m", "mae_jax.main", f"--config=configs/study.py:data={data},protocol=paper,scale=laptop"]
    fields = [
        f"--config.{part}.{group}.{name}={value}"
        for part in ("pretrain", "finetune")
        for group, values in TINY.items()
        for name, value in values.items()
        if data in name or "synthetic" not in name
    ]
    return [
        sys.executable, *start, *fields, f"--workdir={workdir}", "--config.inits=('scratch','mae')",
        "--config.random_probe=False", *more,
    ]  # fmt: skip


def start(workdir: Path, environment: dict[str, str], *more: str, data: str = "synthetic") -> subprocess.Popen[str]:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "cwd": ROOT, "env": environment}
    return subprocess.Popen(command(workdir, *more, data=data), **pipes)


def results_of(workdir: Path) -> dict[str, str]:
    """The content of all files that must not depend on how the cells were run."""
    places = sorted(path.parent for path in workdir.glob(f"cells/*/{contents.RESULTS}"))
    return {
        f"{place.name}/{name}": "\n".join(
            line for line in (place / name).read_text().splitlines() if "seconds" not in line
        )
        for place in places
        for name in FILES
        if (place / name).exists()
    }


def workers_of(parent: int) -> list[int]:
    result = subprocess.run(["ps", "-o", "pid=,args=", "--ppid", str(parent)], capture_output=True, text=True).stdout
    return [int(line.split()[0]) for line in result.splitlines() if "mae_jax.study.worker" in line]


@pytest.fixture(scope="module")
def serial(tmp_path_factory, quick_xla) -> Path:
    """A study that ran on one core, one cell after the other."""
    workdir = tmp_path_factory.mktemp("serial") / "study"
    run = start(workdir, os.environ | {"XLA_FLAGS": quick_xla}, "--config.parallel=1", *GRID)
    os.sched_setaffinity(run.pid, {min(os.sched_getaffinity(0))})
    text, _ = run.communicate()
    assert run.returncode == 0, text
    return workdir


@pytest.mark.slow
def test_cells_side_by_side_equal_those_of_a_serial_study_to_the_bit(serial, tmp_path, environment):
    run = start(tmp_path / "study", environment, "--config.parallel=2", *GRID)
    text, _ = run.communicate()
    assert run.returncode == 0 and "2 runs at once" in text, text
    assert len(results_of(serial)) >= 3 * 8
    assert results_of(tmp_path / "study") == results_of(serial)
    tables = [(place / "report" / "table.csv").read_text() for place in (serial, tmp_path / "study")]
    assert tables[0] == tables[1]


@pytest.mark.slow
def test_workers_find_test_images_that_the_pre_training_has_seen(tmp_path, environment):
    """The images are in folders, and the unlabeled ones hold a test image."""
    cells = tmp_path / "cells"
    for part, count in (("Train", 40), ("TestA", 10)):
        for i in range(count):
            label = i % 2
            place = cells / part / synthetic.CLASSES[label]
            place.mkdir(parents=True, exist_ok=True)
            image = synthetic.draw_cell(np.random.default_rng((count, i)), label, 32)
            Image.fromarray(image).save(place / f"{i:02}.png")
    (tmp_path / "unlabeled").mkdir()
    for i in range(30):
        image = synthetic.draw_cell(np.random.default_rng((1, i)), i % 5, 32)
        Image.fromarray(image).save(tmp_path / "unlabeled" / f"{i:02}.png")
    shutil.copy(cells / "TestA" / synthetic.CLASSES[0] / "04.png", tmp_path / "unlabeled" / "30.png")
    folders = [f"--config.finetune.data.dir={cells}", f"--config.pretrain.data.dir={tmp_path / 'unlabeled'}"]
    run = start(tmp_path / "study", environment, "--config.parallel=2", *folders, *GRID, data="folder")
    text, _ = run.communicate()
    assert run.returncode == 0 and "2 runs at once" in text, text
    for name in ("100pct-mae-seed0", "knn-50pct-mae-seed0"):
        info = contents.read_json(tmp_path / "study" / "cells" / name / contents.RUN)
        assert info["seen_before"]["TestA"]["identical"] == 1, info["seen_before"]


def until(condition, seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.slow
def test_a_killed_worker_costs_one_cell_and_a_rerun_trains_it(tmp_path, environment):
    run = start(tmp_path, environment, "--config.parallel=2", *LONG)
    begun = read_until(run, "finetune 100 % mae · step")
    number = next(worker for worker in workers_of(run.pid) if holds(worker, tmp_path / "cells/100pct-mae-seed0"))
    os.kill(number, signal.SIGKILL)
    text = begun + run.communicate()[0]
    assert run.returncode == EXIT_USER_ERROR, text
    assert f"finetune 100 % mae: missing: its process {number} was killed by SIGKILL" in text
    assert "1 of 3 runs is missing: finetune 100 % mae" in text
    assert [path.parent.name for path in tmp_path.glob(f"cells/*/{contents.RESULTS}")] == ["100pct-scratch-seed0"]
    again = start(tmp_path, environment, "--config.parallel=2", *LONG)
    text, _ = again.communicate()
    assert again.returncode == 0, text
    assert len(list(tmp_path.glob(f"cells/*/{contents.RESULTS}"))) == 2


@pytest.mark.slow
def test_a_worker_that_is_stopped_alone_saves_its_run_which_is_then_missing(tmp_path, environment):
    run = start(tmp_path, environment, "--config.parallel=2", *LONG)
    begun = read_until(run, "finetune 100 % mae · step")
    os.kill(
        next(worker for worker in workers_of(run.pid) if holds(worker, tmp_path / "cells/100pct-mae-seed0")),
        signal.SIGTERM,
    )
    text = begun + run.communicate()[0]
    assert run.returncode == EXIT_USER_ERROR, text
    assert "finetune 100 % mae: missing: its process was stopped by a signal; step " in text, text
    assert "1 of 3 runs is missing: finetune 100 % mae" in text
    assert committed_steps(tmp_path / "cells/100pct-mae-seed0/checkpoints")


def read_until(run: subprocess.Popen[str], words: str) -> str:
    lines = []
    assert run.stdout
    for line in run.stdout:
        lines.append(line)
        if words in line:
            break
    assert any(words in line for line in lines), "".join(lines)
    return "".join(lines)


def holds(process: int, directory: Path) -> bool:
    """Whether the process has locked the run directory."""
    return (directory / ".lock").read_text().startswith(f"{process} on ")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_parent_leaves_saved_cells_and_no_process(tmp_path, environment, number):
    run = start(tmp_path, environment, "--config.parallel=2", *LONG)
    begun = read_until(run, "finetune 100 % mae · step") + read_until(run, "finetune 100 % scratch · step")
    workers = workers_of(run.pid)
    assert len(workers) == 2, begun
    run.send_signal(number)
    text = begun + run.communicate()[0]
    if number == signal.SIGKILL:
        until(lambda: not any(os.path.exists(f"/proc/{worker}") for worker in workers))
    else:
        assert run.returncode == EXIT_STOPPED, text
        assert f"stopped by {number.name}; 1 of 3 runs is finished; rerun the same command to resume" in text, text
        assert not any(os.path.exists(f"/proc/{worker}") for worker in workers)
    for init in ("mae", "scratch"):
        place = tmp_path / "cells" / f"100pct-{init}-seed0"
        assert not (place / contents.RESULTS).exists()
        (step, *_) = committed_steps(place / "checkpoints")
        assert 0 < step < 400
    assert json.loads((tmp_path / contents.STUDY).read_text())
    again = start(tmp_path, environment, "--config.parallel=2", *LONG)
    text, _ = again.communicate()
    assert again.returncode == 0 and "resuming from step" in text, text
