"""Run directories that earlier versions wrote still resume, answer, report and export."""

import csv
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict

import mae_jax
from mae_jax import main
from mae_jax.config.fields import DataFields
from mae_jax.config.loading import with_defaults
from mae_jax.config.validation import typed
from mae_jax.data import splits
from mae_jax.predict import exporting
from mae_jax.report.directories import expand
from mae_jax.report.page import write_report
from mae_jax.rundir import contents
from mae_jax.weights import reader

SAMPLES = Path(__file__).with_name("samples")
VERSIONS = sorted(path.parent.name for path in SAMPLES.glob("*/runs.tar.xz"))


@pytest.fixture(scope="module", params=VERSIONS)
def unpacked(request, tmp_path_factory) -> Path:
    """The runs of one version, in another place than they were written in."""
    folder = tmp_path_factory.mktemp(request.param)
    with tarfile.open(SAMPLES / request.param / "runs.tar.xz") as tar:
        tar.extractall(folder, filter="data")
    return folder


@pytest.fixture
def runs(unpacked, tmp_path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(unpacked, tmp_path / "runs"))


def config_of(directory: Path) -> ConfigDict:
    """The config that the same command gives today."""
    name = contents.STUDY if (directory / contents.STUDY).exists() else contents.CONFIG
    config = ConfigDict(with_defaults(json.loads((directory / name).read_text())["config"]))
    if config.get("init") == "mae":
        config.init_from = str(directory.parent / "pretrain")
    return config


def probabilities(file: Path) -> dict[str, list[float]]:
    with open(file, newline="") as stream:
        return {
            row["image"]: [float(v) for name, v in row.items() if name.startswith("p_")]
            for row in csv.DictReader(stream)
        }


def changes_in(directory: Path) -> dict[Path, int]:
    files = (path for path in directory.rglob("*") if path.is_file() and path.name != ".lock")
    return {path: path.stat().st_mtime_ns for path in files}


def test_there_are_samples():
    assert VERSIONS == ["v1"]


def test_every_format_before_todays_has_a_sample(unpacked):
    assert len(VERSIONS) == contents.FORMAT - 1
    assert all("format" not in json.loads(path.read_text()) for path in unpacked.rglob("config.json"))


@pytest.mark.slow
def test_a_stopped_run_resumes_and_ends_as_if_it_had_not_been_stopped(runs, capsys):
    results = main.run(config_of(runs / "stopped"), runs / "stopped")
    assert "from step 5 of 12" in capsys.readouterr().out
    ours, theirs = map(probabilities, (runs / "stopped/predictions.csv", runs / "stopped_predictions_at_the_end.csv"))
    assert results["n"] == len(ours) == 20 and ours.keys() == theirs.keys()
    for image, values in ours.items():
        np.testing.assert_allclose(values, theirs[image], rtol=1e-3, atol=1e-4)
    info = json.loads((runs / "stopped" / contents.RUN).read_text())
    assert json.loads((runs / "stopped" / contents.CONFIG).read_text())["format"] == contents.FORMAT
    assert info["steps"] == 12 and info["select"] == "best"


@pytest.mark.parametrize("name", ["pretrain", "finetune"])
def test_a_finished_run_answers_with_the_results_it_wrote(runs, name):
    written = (runs / name / contents.RESULTS).read_text()
    before = changes_in(runs / name)
    assert main.run(config_of(runs / name), runs / name) == json.loads(written)
    assert changes_in(runs / name) == before


def test_a_finished_study_answers_and_writes_its_report(runs):
    wanted = {path.parent.name: json.loads(path.read_text()) for path in runs.glob("study/cells/*/results.json")}
    rows = main.run(config_of(runs / "study"), runs / "study")["rows"]
    assert len(wanted) == 8
    result = {(row["fraction"], row["init"]): row["accuracy"] for row in rows}
    for fraction, percent in ((0.5, "50pct"), (1.0, "100pct")):
        for init in ("scratch", "mae"):
            assert result[fraction, init] == wanted[f"{percent}-{init}-seed0"]["accuracy"]
    assert (runs / "study/report/index.html").stat().st_size > 10_000


def test_the_report_reads_a_study_of_an_earlier_version(runs, tmp_path):
    directories, notes = expand([runs / "study"])
    report = write_report(directories, tmp_path / "out", notes=notes)
    assert {row["n_train"] for row in report.rows} == {17, 34}


@pytest.mark.parametrize("name", ["pretrain", "finetune"])
def test_a_run_of_an_earlier_version_is_exported(runs, tmp_path, name):
    exporting.export(runs / name, tmp_path / "out", "hf")
    weights = reader.read(str(tmp_path / "out"), "init_from")
    assert weights.shape.width == 8 and weights.shape.depth == 2
    assert weights.kind == ("mae" if name == "pretrain" else "vit")


@pytest.mark.parametrize("name", ["finetune", "study/cells/50pct-scratch-seed0"])
def test_a_classifier_of_an_earlier_version_predicts(runs, name):
    config = config_of(runs / name)
    test = splits.labeled(typed(config.data, DataFields)).test
    written = probabilities(runs / name / contents.PREDICTIONS)
    result = mae_jax.load(runs / name).predict([test[i]["image"] for i in range(len(test))])
    assert set(written) == set(test.names)
    for image, values in zip(test.names, result.probabilities, strict=True):
        np.testing.assert_allclose(values, written[image], rtol=1e-3, atol=1e-4)


def test_a_fine_tuning_starts_from_a_pre_training_of_an_earlier_version(runs):
    config = config_of(runs / "finetune")
    results = main.run(config, runs / "again")
    ours, theirs = (probabilities(runs / name / "predictions.csv") for name in ("again", "finetune"))
    assert results["n"] == 20
    for image, values in ours.items():
        np.testing.assert_allclose(values, theirs[image], rtol=1e-3, atol=1e-4)
