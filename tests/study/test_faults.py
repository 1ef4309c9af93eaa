"""Studies with runs that are killed, refused or diverge: the others finish, and a rerun does only the missing ones."""

import csv
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mae_jax.checkpoints.steps import committed_steps
from mae_jax.config.fields import changed, study_defaults
from mae_jax.config.loading import load
from mae_jax.rundir import contents
from mae_jax.runtime.errors import UserError
from mae_jax.study import cells, label_study
from mae_jax.study.validation import validate_study
from mae_jax.train import loop

ROOT = Path(__file__).parents[2]


@pytest.fixture
def config(tiny_config):
    study = study_defaults(tiny_config("pretrain"), tiny_config("finetune"))
    study.fractions = (1.0,)
    return study


@pytest.fixture
def ran(monkeypatch) -> list[str]:
    """The names of the runs that really run."""
    collected = []
    original = loop.Loop.run
    monkeypatch.setattr(loop.Loop, "run", lambda self: collected.append(self.label) or original(self))
    return collected


def inits_in_report(workdir: Path) -> list[str]:
    with open(workdir / "report" / "table.csv") as file:
        return [row["init"] for row in csv.DictReader(file)]


@pytest.mark.slow
def test_a_refused_run_does_not_stop_the_others(config, tmp_path, ran, capsys):
    ((place, pretraining),) = cells.pretrainings(validate_study(config), tmp_path)
    loop.run(pretraining, place)
    victim = place / "checkpoints" / str(committed_steps(place / "checkpoints")[0]) / "params" / "_METADATA"
    undamaged = victim.read_bytes()
    victim.write_bytes(undamaged[:40] + bytes([undamaged[40] ^ 1]) + undamaged[41:])
    with pytest.raises(UserError, match=r"1 of 3 runs is missing: finetune 100 % mae \(.*only the missing ones"):
        label_study.run(config, tmp_path)
    assert "[3/3] finetune 100 % mae: missing: init_from: checkpoint" in capsys.readouterr().out
    assert inits_in_report(tmp_path) == ["scratch"]
    text = "not finished, so not in this report: finetune 100 % mae"
    assert all(text in (tmp_path / "report" / name).read_text().lower() for name in ("index.html", "table.md"))
    victim.write_bytes(undamaged)
    ran.clear()
    label_study.run(config, tmp_path)
    assert ran == ["finetune 100 % mae"] and inits_in_report(tmp_path) == ["scratch", "mae"]


@pytest.mark.slow
def test_no_run_starts_from_a_diverged_pretraining(config, tmp_path, ran):
    config.pretrain.optim.base_lr = config.pretrain.optim.weight_decay = 1e3
    config.pretrain.checkpoint.every_epochs = 0.01
    with pytest.raises(UserError, match=r"2 of 3 runs are missing: pre-training \(.*finetune 100 % mae \("):
        label_study.run(config, tmp_path)
    assert ran == ["pre-training", "finetune 100 % scratch"] and inits_in_report(tmp_path) == ["scratch"]


# Kills itself after five updates: a test that waits for the line of the fifth may read it when the run has ended.
KILLED = """
import os, runpy, signal, sys
from mae_jax.runtime.progress import Progress

update = Progress.update

def killing(self, step, *rest):
    update(self, step, *rest)
    if step == 5:
        os.kill(os.getpid(), signal.SIGKILL)

Progress.update = killing
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.slow
def test_a_killed_run_of_two_in_parallel_is_then_finished(tmp_path, environment, ran):
    """Two processes as in a job array; SIGKILL for one of them, then the normal command of the study."""
    workdir = tmp_path / "study"
    fields = {"inits": ("scratch",), "fractions": (0.5, 1.0), "evaluations": ("finetune",), "random_probe": False}
    command = [str(ROOT / "tools/slurm/cell.py"), f"--workdir={workdir}"]
    command += ["--config=configs/demo.py:smoke=true", *(f"--config.{k}={v}" for k, v in fields.items())]
    command += ["--config.finetune.log.progress_seconds=0.0", "--config.finetune.train.steps=30"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "cwd": ROOT, "env": environment}
    counted = subprocess.run(
        [sys.executable, *command, "--count"], capture_output=True, text=True, cwd=ROOT, env=environment
    )
    assert counted.stdout == "2\n", counted.stderr
    killed = subprocess.Popen([sys.executable, "-c", KILLED, *command, "--number=0"], **pipes)
    other = subprocess.Popen([sys.executable, *command, "--number=1"], **pipes)
    text, _ = killed.communicate()
    assert killed.returncode == -signal.SIGKILL and "step 5/30" in text and "step 6/30" not in text, text
    text, _ = other.communicate()
    assert other.returncode == 0, text
    assert [path.parent.name for path in workdir.glob(f"cells/*/{contents.RESULTS}")] == ["100pct-scratch-seed0"]

    config = load(ROOT / "configs/demo.py", "smoke=true")
    config.update(fields)
    config.finetune.log.progress_seconds, config.finetune.train.steps = 0.0, 30
    label_study.run(config, workdir)
    assert ran == ["finetune 50 % scratch"]
    assert len(list(workdir.glob(f"cells/*/{contents.RESULTS}"))) == 2


@pytest.mark.slow
def test_a_moved_study_resumes(config, tmp_path, ran):
    config.inits = ("mae",)
    label_study.run(config, tmp_path / "here")
    shutil.move(tmp_path / "here", tmp_path / "there")
    cell = tmp_path / "there" / "cells" / "100pct-mae-seed0"
    (cell / contents.RESULTS).unlink()
    ran.clear()
    label_study.run(config, tmp_path / "there")
    assert ran == ["finetune 100 % mae"]
    saved = json.loads((cell / contents.CONFIG).read_text())["config"]
    assert saved["init_from"] == str(tmp_path / "there" / "pretrain")
    shutil.copytree(tmp_path / "there" / "pretrain", tmp_path / "there" / "other")
    single = load_cell(config, tmp_path / "there")
    single = changed(single, {"init_from": str(tmp_path / "there" / "other")})
    with pytest.raises(UserError, match="another config .init_from"):
        loop.run(single, cell)


def load_cell(config, workdir: Path):
    return dict(cells.cells(validate_study(config), workdir))[workdir / "cells" / "100pct-mae-seed0"]


def test_finished_runs_without_checkpoint_are_reported(config, tmp_path, capsys):
    single = config.finetune
    single.train.select = "best"
    loop.run(single, tmp_path)
    loop.run(single, tmp_path)
    assert "is missing" not in capsys.readouterr().out
    shutil.rmtree(tmp_path / "checkpoints")
    (chosen,) = (tmp_path / "best").glob("*.npz")
    chosen.unlink()
    loop.run(single, tmp_path)
    steps = contents.read_json(tmp_path / contents.RUN)["steps"]
    printed = capsys.readouterr().out
    assert f"already finished, but its checkpoint of step {steps} and best/{chosen.name}" in printed


@pytest.mark.slow
def test_a_damaged_finished_run_does_not_stop_the_others(config, tmp_path, ran, capsys):
    config.inits = ("scratch",)
    config.fractions = (0.5, 1.0)
    label_study.run(config, tmp_path)
    one, other = (place for place, _ in cells.cells(validate_study(config), tmp_path))
    undamaged = (one / contents.RESULTS).read_text()
    for wrong in (
        undamaged.replace('"collapsed"', '"collapsec"'),  # a bit is flipped
        undamaged.replace('"accuracy"', '"accuracx"', 1),
        undamaged.replace('"f1": 0', '"f1": [0], "g1": 0', 1),
    ):
        assert wrong != undamaged
        (one / contents.RESULTS).write_text(wrong)
        (other / contents.RESULTS).unlink()
        ran.clear()
        with pytest.raises(UserError, match=r"1 of 2 runs is missing: finetune 50 % scratch \("):
            label_study.run(config, tmp_path)
        assert "does not hold the results of a run; restore it, or remove it" in capsys.readouterr().out
        assert ran == ["finetune 100 % scratch"]
    (one / contents.RESULTS).unlink()
    (one / contents.SUBSET).unlink()
    (one / contents.SUBSET).mkdir()
    (other / contents.RESULTS).unlink()
    with pytest.raises(UserError, match=r"1 of 2 runs is missing: finetune 50 % scratch \("):
        label_study.run(config, tmp_path)
    assert f"missing: {one / contents.SUBSET}: Is a directory" in capsys.readouterr().out
    (one / contents.SUBSET).rmdir()
    ran.clear()
    label_study.run(config, tmp_path)
    assert ran == ["finetune 50 % scratch"] and (one / contents.RESULTS).read_text() == undamaged


@pytest.mark.slow
def test_a_missing_run_json_is_written_again(config, tmp_path, ran, capsys):
    config.inits = ("scratch",)
    label_study.run(config, tmp_path)
    ((cell, _),) = cells.cells(validate_study(config), tmp_path)
    before = contents.read_json(cell / contents.RUN)
    predicted = (cell / contents.PREDICTIONS).read_bytes()
    (cell / contents.RUN).unlink()
    ran.clear()
    label_study.run(config, tmp_path)
    assert "already finished, but run.json is missing; restored from the last checkpoint" in capsys.readouterr().out
    assert ran == ["finetune 100 % scratch"] and (cell / contents.PREDICTIONS).read_bytes() == predicted
    assert contents.read_json(cell / contents.RUN).keys() == before.keys()
    text = (cell / contents.RUN).read_text()
    (cell / contents.RUN).write_text(text.replace('"wall_seconds"', '"wall_secondr"'))  # a bit is flipped
    label_study.run(config, tmp_path)
