"""Scores without the test images that may be known from training or pre-training."""

import csv
import json

import pytest

from mae_jax.report import analysis, without_leaked
from mae_jax.report.page import write_report
from mae_jax.report.runs import read_runs

NAMES = [f"{i:03}" for i in range(100)]


def write(path, init, wrong, seed=0, **info):
    """100 images of two alternating classes; those in `wrong` are misclassified."""
    path.mkdir(parents=True)
    about = {"init": init, "fraction": 0.1, "seed": seed, "classes": ["a", "b"], "test_split": "TestA", "n_train": 50}
    (path / "run.json").write_text(json.dumps(about | info))
    lines = ["image,label,prediction,confidence"]
    for i, name in enumerate(NAMES):
        lines.append(f"{name},{'ab'[i % 2]},{'ba'[i % 2] if i in wrong else 'ab'[i % 2]},0.9")
    (path / "predictions.csv").write_text("\n".join(lines) + "\n")
    return path


def shares(images) -> dict:
    return {"TestA": {"images": images, "identical": len(images)}, "TestB": {"images": NAMES}}


@pytest.fixture
def dirs(tmp_path):
    """Training saw images 0 to 9, which both get right, and the pre-training 10 to 14, which mae gets wrong."""
    return [
        write(tmp_path / "a", "scratch", range(50, 80), leaks=shares(NAMES[:10])),
        write(tmp_path / "b", "mae", range(10, 20), leaks=shares(NAMES[:10]), seen_before=shares(NAMES[10:15])),
    ]


def test_all_models_are_scored_without_the_images_that_any_of_them_saw(dirs):
    scratch, mae = without_leaked.rows(analysis.analyze(read_runs(dirs)[0]))
    assert (scratch["leaked"], scratch["n"]) == (mae["leaked"], mae["n"]) == (15, 85)
    assert scratch["accuracy"] == pytest.approx(0.7) and scratch["accuracy_without"] == pytest.approx(55 / 85)
    assert mae["accuracy"] == pytest.approx(0.9) and mae["accuracy_without"] == pytest.approx(80 / 85)
    right, labels = {"a": 40, "b": 40}, {"a": 42, "b": 43}  # mae of 15 to 99: 15 17 19 are b, 16 18 are a
    f1 = [2 * right[c] / (labels[c] + predicted) for c, predicted in (("a", 43), ("b", 42))]
    assert mae["f1_without"] == pytest.approx(sum(f1) / 2)


def test_the_page_has_them_next_to_the_others(dirs, tmp_path):
    write_report(dirs, tmp_path / "report")
    page = (tmp_path / "report" / "index.html").read_text()
    assert (
        "Without the 15 test images that may be known from training or pre-training, accuracy changes by at most -5.3"
        in page
    )
    assert "<td>70.0</td><td>64.7</td>" in page
    with open(tmp_path / "report" / "without_leaked.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["init"] for row in rows] == ["scratch", "mae"] and tuple(rows[0]) == without_leaked.COLUMNS


def test_without_leaks_there_is_nothing_to_say(tmp_path):
    study = analysis.analyze(read_runs([write(tmp_path / "a", "scratch", (), leaks=shares([]))])[0])
    assert without_leaked.rows(study) == [] and without_leaked.lines(study) == []
    study = analysis.analyze(read_runs([write(tmp_path / "b", "scratch", (), leaks=shares(NAMES))])[0])
    assert without_leaked.rows(study) == []
    assert without_leaked.lines(study)[0].startswith("All 100 test images may be known from training or pre-training")
