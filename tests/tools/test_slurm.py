"""The syntax of the job files, and a study's runs by number. `tools/slurm/README.md` describes a test on real Slurm."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "tools" / "slurm"


def cell(environment, *arguments):
    command = [sys.executable, str(FOLDER / "cell.py"), *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)


@pytest.mark.slow
def test_the_runs_of_a_study_are_counted_and_started_by_number(environment, tmp_path):
    study = ("--config=configs/demo.py:smoke=true", f"--workdir={tmp_path / 'study'}", "--config.fractions=(0.1,1.0)")
    done = cell(environment, *study, "--count", "--config.inits=('scratch','mae')", "--config.seeds=(0,)")
    assert (done.stdout, done.returncode) == ("4\n", 0), done.stderr
    assert [p.name for p in (tmp_path / "study").iterdir()] == ["study.json"]
    done = cell(environment, *study, "--stage=pretrain", "--number=7", "--config.seeds=(0,)")
    line = "error: --number=7 is out of range; the study has 1 run in stage pretrain, counted from 0\n"
    assert (done.stderr, done.returncode) == (line, 2)


@pytest.mark.slow
def test_no_run_starts_from_an_unfinished_pre_training(environment, tmp_path):
    """A stopped or diverged pre-training may have left a checkpoint."""
    study = ("--config=configs/demo.py:smoke=true", f"--workdir={tmp_path / 'study'}", "--config.fractions=(1.0,)")
    assert cell(environment, *study, "--count").stdout == "2\n"
    (tmp_path / "study" / "pretrain" / "checkpoints").mkdir(parents=True)
    done = cell(environment, *study, "--number=1")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert (
        "finetune 100 % mae would start from" in done.stderr and "study/pretrain, which is not finished" in done.stderr
    )
    assert not (tmp_path / "study" / "cells").exists()


def test_bash_can_parse_the_job_files():
    for path in sorted(FOLDER.glob("*.s*h")):
        done = subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, ""), path
    assert len(list(FOLDER.glob("*.sbatch"))) == 2
