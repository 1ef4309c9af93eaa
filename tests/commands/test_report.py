"""`mae-jax report`: a sweep has a report of its own, everything else that of classifiers."""

import json

import pytest

from mae_jax.__main__ import dispatch
from mae_jax.report import __main__ as report
from mae_jax.report.sweep import __main__ as sweep


@pytest.fixture
def calls(record):
    return record(report, "run", 0), record(sweep, "main", 3)


def place(tmp_path, text):
    tmp_path.mkdir(exist_ok=True)
    (tmp_path / "study.json").write_text(text)
    return str(tmp_path)


def test_a_sweep_is_told_by_its_study_json(calls, tmp_path):
    usual, of_sweep = calls
    here = place(tmp_path, json.dumps({"config": {"task": "sweep"}}))
    assert dispatch(["report", here]) == 3  # its exit code
    assert of_sweep[0][0][0] == [here, f"--out={here}/report"]
    (tmp_path / "reconstructions.png").write_bytes(b"")
    dispatch(["report", here, "--out=there", "--title=Masks", "--png"])
    assert of_sweep[1][0][0] == [
        here, "--out=there", "--title=Masks", f"--pictures={here}/reconstructions.png", "--png"
    ]  # fmt: skip
    assert usual == []


@pytest.mark.parametrize("text", ['{"config": {"task": "study"}}', "{", "[1]", '{"config": 3}', "{}"])
def test_a_study_a_run_and_a_damaged_file_have_the_usual_report(calls, tmp_path, text):
    usual, of_sweep = calls
    assert dispatch(["report", place(tmp_path, text), "--png"]) == 0
    (options,), _ = usual[0]
    assert options.png and [str(p) for p in options.run_dirs] == [str(tmp_path)] and of_sweep == []


def test_several_directories_are_no_sweep(calls, tmp_path):
    usual, of_sweep = calls
    places = [place(tmp_path / name, '{"config": {"task": "sweep"}}') for name in "ab"]
    dispatch(["report", *places, "--out=o"])
    assert len(usual) == 1 and of_sweep == []
