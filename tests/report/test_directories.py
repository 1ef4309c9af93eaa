"""A study's directory in place of run directories."""

import json
import subprocess
import sys

import pytest

from mae_jax.report.__main__ import main
from mae_jax.report.directories import expand, study_settings
from mae_jax.runtime.errors import UserError


@pytest.fixture
def study(make, tmp_path):
    """Two cells, one that is not finished, and a pre-training."""
    place = tmp_path / "study"
    for init in ("scratch", "mae"):
        make.run(place / "cells" / f"10pct-{init}-seed0", init, 0.1, rows=60)
    late = make.run(place / "cells" / "50pct-mae-seed0", "mae", 0.5, rows=60)
    (late / "predictions.csv").unlink()
    (place / "pretrain").mkdir()
    (place / "pretrain" / "run.json").write_text(json.dumps({"task": "pretrain"}))
    (place / "report" / "figures").mkdir(parents=True)
    return place


def test_a_study_is_all_of_its_finished_classifiers(study):
    found, notes = expand([study])
    assert [run.name for run in found] == ["10pct-mae-seed0", "10pct-scratch-seed0"]
    assert notes == ["not finished, and so left out: 50pct-mae-seed0"]


def test_run_directories_stay_as_they_are(study):
    runs = [study / "cells" / "50pct-mae-seed0", study / "nothing"]
    assert expand(runs) == (runs, [])


def test_a_study_without_classifiers_is_refused(study):
    for run in (study / "cells").iterdir():
        (run / "run.json").unlink()
    with pytest.raises(UserError, match="study: no classifier among its 1 run"):
        expand([study])


def test_the_command_takes_a_study(study, tmp_path, capsys):
    assert main([str(study), "--out", str(tmp_path / "out"), "--png"]) == 0
    said = capsys.readouterr()
    assert "| 10 %" in said.out and "not finished, and so left out: 50pct-mae-seed0" in said.err
    assert "not finished, and so left out: 50pct-mae-seed0".capitalize() in (tmp_path / "out/index.html").read_text()
    assert (tmp_path / "out" / "figures" / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_study_gives_its_title_its_target_and_whether_images_are_shown(study, tmp_path):
    config = {"title": "Few labels", "target": 0.7, "pictures": False, "seeds": [0]}
    (study / "study.json").write_text(json.dumps({"format": 2, "config": config}))
    assert study_settings([study]) == {"title": "Few labels", "target": 0.7, "pictures": False}
    assert study_settings([study, tmp_path]) == {"pictures": False}  # several studies have no common title
    (study / "study.json").write_text(json.dumps({"config": {"title": 3, "target": 70, "pictures": "no"}}))
    assert study_settings([study]) == study_settings([tmp_path]) == {}


@pytest.mark.parametrize("fraction", ["0", "1.5", "nan"])
def test_a_value_that_is_not_a_fraction_is_refused(study, tmp_path, fraction, capsys):
    assert main([str(study), "--out", str(tmp_path / "out"), "--fraction", fraction]) == 2
    assert f"--fraction={fraction}: must be above 0 and at most 1" in capsys.readouterr().err


@pytest.mark.parametrize("module", ["mae_jax.report", "mae_jax.report.sweep"])
def test_help_loads_no_library(module):
    code = (
        "import sys, runpy\n"
        f"sys.argv = ['-m', '--help']\n"
        "try:\n"
        f"    runpy.run_module({module!r}, run_name='__main__')\n"
        "except SystemExit as end:\n"
        "    assert end.code == 0\n"
        "heavy = {'numpy', 'scipy', 'matplotlib', 'PIL', 'jinja2', 'jax'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and "DIR" in done.stdout, done.stderr
