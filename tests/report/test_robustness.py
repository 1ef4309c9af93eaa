"""Scores, flips and differences on changed test images, from predictions made by hand."""

import csv
import dataclasses

import numpy as np
import pytest

from mae_jax.report import robustness
from mae_jax.report.runs import read_runs
from mae_jax.rundir.predictions import write_predictions
from mae_jax.runtime.errors import UserError


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


@pytest.fixture
def external(runs, tmp_path):
    """A set of half of the images, which the first classifier of each kind has not seen; a tenth of it is wrong."""
    tested = [run for run in runs if run.seed > 0]
    here = [half(run, tmp_path / f"half-{k}.csv", 15) for k, run in enumerate(tested)]
    dark = [half(run, tmp_path / f"half-dark-{k}.csv", 45) for k, run in enumerate(tested)]
    return robustness.ExternalTest(
        "clinic", tested, here, [robustness.Change("gamma", "gamma; above 1 is darker", 1.0, 2.0, dark)]
    )


def half(run, place, flipped):
    """Writes the run's predictions for its first 150 images, with `flipped` of them moved to the next class."""
    test = run.test
    probabilities = np.array(test.probabilities[:150])
    probabilities[:flipped] = np.roll(probabilities[:flipped], 1, axis=1)
    write_predictions(place, test.images[:150], [""] * 150, test.labels[:150], probabilities, run.raw_classes)
    return place


def test_an_external_set_has_its_own_scores_flips_and_pairs(runs, changes, external):
    rows = robustness.rows(runs, changes, [external])
    mine = {(row["change"], row["init"]): row for row in rows if row["test_set"] == "clinic"}
    assert list(mine) == [(change, init) for change in ("unchanged", "gamma") for init in ("scratch", "mae")]
    for (change, init), row in mine.items():
        assert row["seeds"] == 2 and row["ece_low"] <= row["ece"] <= row["ece_high"]
        moved = 15 if change == "unchanged" else 45
        tests = [run.test for run in external.runs if run.init == init]
        wanted = []
        for test in tests:
            probabilities = np.array(test.probabilities[:150])
            probabilities[:moved] = np.roll(probabilities[:moved], 1, axis=1)
            wanted.append(np.mean(probabilities.argmax(1) == test.labels[:150]))
        assert row["accuracy"] == pytest.approx(np.mean(wanted))
    assert mine["unchanged", "mae"]["flipped"] is None
    assert mine["gamma", "mae"]["flipped"] == pytest.approx(30 / 150)  # not 45: against its own unchanged images
    ours = mine["unchanged", "mae"]
    assert ours["difference"] == pytest.approx(ours["f1"] - mine["unchanged", "scratch"]["f1"])
    assert ours["low"] < ours["difference"] < ours["high"] and ours["verdict"]
    main_rows = [row for row in rows if not row["test_set"]]
    alone = robustness.rows(runs, changes)
    names = [name for name in robustness.COLUMNS if name not in ("holm_p", "verdict")]
    assert [[row[n] for n in names] for row in main_rows] == [[row[n] for n in names] for row in alone]
    assert main_rows[1]["holm_p"] >= alone[1]["holm_p"]  # one correction for all test sets


def test_external_sets_are_in_the_text_and_the_figure(runs, changes, external, tmp_path):
    table, paths = robustness.write(tmp_path / "out", runs, changes, external=[external])
    text = paths[1].read_text()
    main_rows, clinic = text.split("## External test set clinic")
    assert main_rows.count("| gamma |") == 4 and clinic.count("| gamma |") == 2 and "calibration error" in main_rows
    _, drawn = robustness.figure(runs, table, changes, runs[0].level)
    points = [point for point in drawn if point["panel"] == "external test sets"]
    assert [(p["init"], p["test_set"]) for p in points] == [
        (init, name) for init in ("scratch", "mae") for name in ("", "clinic")
    ]
    assert "clinic" in paths[2].read_text()


def test_an_external_set_with_other_images_in_one_run_is_refused(runs, changes, external, tmp_path):
    write_predictions(
        external.unchanged[-1], ["other"], [""], np.array([0]), np.eye(len(runs[0].classes))[:1], runs[0].raw_classes
    )
    with pytest.raises(UserError, match="1 test images, not the same 150"):
        robustness.rows(runs, changes, [external])
