"""Scores, flips and differences on changed test images, from predictions made by hand."""

import csv
import dataclasses

import numpy as np
import pytest

from mae_jax.report import robustness
from mae_jax.report.runs import read_runs
from mae_jax.rundir.predictions import write_predictions


@pytest.fixture(scope="module")
def runs(make, tmp_path_factory):
    path = tmp_path_factory.mktemp("robustness")
    result = [
        make.run(path / f"{init}-{seed}", init, 1.0, seed=seed, rows=300, knows=knows)
        for init, knows in (("scratch", 0.5), ("mae", 0.9))
        for seed in range(3)
    ]
    return read_runs(result)[0]


def changed(run, place, flipped):
    """Writes the run's predictions with the first `flipped` images moved to the next class."""
    test, classes = run.test, run.raw_classes
    probabilities = np.array(test.probabilities)
    probabilities[:flipped] = np.roll(probabilities[:flipped], 1, axis=1)
    place.parent.mkdir(parents=True, exist_ok=True)
    groups = list(test.groups or [""] * len(test.images))
    write_predictions(place, list(test.images), groups, np.asarray(test.labels), probabilities, classes)
    return place


@pytest.fixture
def changes(runs, tmp_path):
    """Half of the images flip for each model at level 2, none at level 0.5."""
    return [
        robustness.Change(
            "gamma", "gamma; above 1 is darker", 1.0, level,
            [changed(run, tmp_path / f"{k}-{level}.csv", flipped) for k, run in enumerate(runs)],
        )
        for level, flipped in ((0.5, 0), (2.0, 150))
    ]  # fmt: skip


def test_flips_and_scores_are_those_of_the_changed_images(runs, changes):
    rows = {(row["change"], row["level"], row["init"]): row for row in robustness.rows(runs, changes)}
    assert len(rows) == 3 * 2
    for init in ("scratch", "mae"):
        keys = ("unchanged", None, init), ("gamma", 0.5, init), ("gamma", 2.0, init)
        usual, same, wrong = (rows[key] for key in keys)
        assert usual["flipped"] is None and same["flipped"] == 0 and wrong["flipped"] == pytest.approx(0.5)
        assert wrong["flipped_low"] < 0.5 < wrong["flipped_high"]
        assert same["f1"] == usual["f1"] and wrong["f1"] < usual["f1"] - 0.1
        tests = [run.test for run in runs if run.init == init]
        moved = [np.roll(test.probabilities[:150], 1, 1).argmax(1) == test.labels[:150] for test in tests]
        right = np.mean([first.sum() + test.right[150:].sum() for first, test in zip(moved, tests, strict=True)])
        assert wrong["accuracy"] == pytest.approx(right / 300)


def test_arms_are_compared_on_the_same_changed_images(runs, changes):
    rows = robustness.rows(runs, changes)
    ours = [row for row in rows if row["init"] == "mae"]
    base = {(row["change"], row["level"]): row["f1"] for row in rows if row["init"] == "scratch"}
    for row in ours:
        assert row["baseline"] == "scratch"
        assert row["difference"] == pytest.approx(row["f1"] - base[row["change"], row["level"]])
        assert row["low"] < row["difference"] < row["high"] and row["holm_p"] >= row["p"]
    assert ours[0]["verdict"] == "higher"
    assert not any(row["verdict"] or row["baseline"] for row in rows if row["init"] == "scratch")


def test_the_files_say_what_they_are(runs, changes, tmp_path):
    _, paths = robustness.write(tmp_path / "out", runs, changes)
    assert [path.name for path in paths] == ["robustness.csv", "robustness.md", "robustness.svg", "robustness.png"]
    with open(paths[0], newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["level"] for row in rows] == ["", "", "0.5", "0.5", "2", "2"]
    text = paths[1].read_text()
    assert text.startswith("Tested with 100 %, in percent.") and "| gamma | 2 | mae |" in text
    svg = paths[2].read_text()
    assert all(words in svg for words in ("gamma; above 1 is darker", "unchanged", "macro F1, %", "scratch", "mae"))


def test_the_unchanged_image_stands_at_its_own_strength(runs, changes):
    rows = robustness.rows(runs, changes)
    _, drawn = robustness.figure(runs, rows, changes, runs[0].level)
    assert [point["level"] for point in drawn if point["init"] == "mae"] == [0.5, 1.0, 2.0]


def test_predictions_for_other_images_are_refused(runs, changes):
    wrong = dataclasses.replace(changes[0], files=[*changes[0].files[:-1], runs[0].path / "nothing.csv"])
    with pytest.raises(ValueError, match=r"nothing\.csv"):
        robustness.rows(runs, [wrong])
