"""Prediction sets: thresholds, coverage on images of the same source, and where it breaks."""

import json

import numpy as np
import pytest

from mae_jax.report import analysis, external_tests, prediction_sets
from mae_jax.report.page import write_report
from mae_jax.report.runs import read_runs


def analyzed(dirs):
    runs = read_runs(dirs)[0]
    study = analysis.analyze(runs)
    others, _ = external_tests.read(runs)
    return study, prediction_sets.analyze(study, [(other.name, other.study) for other in others])


def test_thresholds_are_those_of_split_conformal_prediction(make, tmp_path):
    study, _ = analyzed([make.run(tmp_path / "a", "mae", 1.0, rows=1000)])
    (run,) = study.runs
    for label, threshold in enumerate(prediction_sets._thresholds(run)):
        scores = 1 - run.validation.probabilities[run.validation.labels == label, label]
        rank = -(-9 * (len(scores) + 1) // 10)  # (n + 1) 0.9, rounded up
        assert 1 - threshold == pytest.approx(np.sort(scores)[rank - 1])


def test_every_class_is_covered_on_images_of_the_same_source(make, tmp_path):
    dirs = [make.run(tmp_path / f"{s}", "mae", 0.1, seed=s, rows=3000) for s in (0, 1, 2)]
    study, result = analyzed(dirs)
    assert result.refused == [] and {tuple(row) for row in result.rows} == {prediction_sets.COLUMNS}
    rows = result.of("", study.levels[0], "mae")
    assert [row["class"] for row in rows] == [prediction_sets.ALL, *make.classes]
    assert rows[0]["n"] == sum(row["n"] for row in rows[1:]) == 3000
    for row in rows:
        assert row["coverage"] == pytest.approx(0.9, abs=0.05) and not row["broken"]
    sizes = [(run.test.probabilities >= prediction_sets._thresholds(run)).sum(1) for run in study.runs]
    assert rows[0]["size"] == pytest.approx(np.mean(sizes))
    assert rows[0]["single"] == pytest.approx(np.mean([size == 1 for size in sizes]))
    assert rows[0]["empty"] == pytest.approx(np.mean([size == 0 for size in sizes]))


def test_a_rare_class_refuses_them(make, tmp_path):
    run = make.run(tmp_path / "a", "mae", 1.0, rows=150)
    study, result = analyzed([run])
    counts = np.bincount(study.runs[0].validation.labels)
    rare = make.classes[counts.argmin()]
    assert counts.min() < 20 and result.rows == []
    line = f"they need at least 20 validation images of every class, and {rare} has {counts.min()}"
    assert len(result.refused) == 1 and result.refused[0].endswith(line)
    report = write_report([run], tmp_path / "out")
    assert line in report.paths["page"].read_text()


def test_a_shifted_test_set_is_shown_broken(make, tmp_path):
    run = make.run(tmp_path / "a", "mae", 1.0, rows=1500)
    make.external(run, "elsewhere", make.classes, rows=400)
    file = run / "external" / "elsewhere" / "predictions.csv"
    header, *lines = file.read_text().splitlines()
    names = header.split(",")
    at = [names.index(f"p_{c}") for c in make.classes]
    shifted = []
    for line in lines:  # the probabilities of the classes change places
        cells = line.split(",")
        values = [cells[i] for i in at]
        for i, value in zip(at, values[1:] + values[:1], strict=True):
            cells[i] = value
        shifted.append(",".join(cells))
    file.write_text("\n".join([header, *shifted]) + "\n")
    study, result = analyzed([run])
    (here, *_), (there, *_) = (result.of(name, study.levels[0], "mae") for name in ("", "elsewhere"))
    assert not here["broken"] and there["broken"] and there["coverage"] < 0.5
    page = write_report([run], tmp_path / "out").paths["page"].read_text()
    assert (
        page.count(">broken<") == 1 + len(make.classes)
        and "not shown to be broken" in page
        and "not broken" not in page
    )
    assert "A prediction set is meant to hold the true cell type of 90 %" in page
    _, _, folded = page.partition("<summary>Each cell type of the other test sets</summary>")
    for name in make.classes:
        assert f'<td class="text">elsewhere</td><td class="text">{name}</td>' in folded.partition("</details>")[0]


def test_without_probabilities_they_are_left_out(make, tmp_path):
    run = make.run(tmp_path / "a", "mae", 1.0, rows=60, columns=list(make.required))
    _, result = analyzed([run])
    assert result.rows == [] and "need class probabilities" in result.refused[0]
    assert json.loads((run / "run.json").read_text())["init"] == "mae"


def test_cells_without_sets_are_named_as_they_are_spelled(make, tmp_path):
    """One of two runs is cross-validated, so that its validation images are those of other models."""
    folds = make.run(tmp_path / "a", "mae", 0.1, rows=1500, folds=5)
    usual = make.run(tmp_path / "b", "mae", 1.0, rows=1500)
    line = (
        "rediction sets are not shown for mae at 10 %: they need validation images, but the predictions of a "
        "cross-validation are those of other models"
    )
    assert analyzed([folds, usual])[1].refused == [f"p{line}"]
    assert f"<p>P{line}.</p>" in write_report([folds, usual], tmp_path / "out").paths["page"].read_text()
