"""How labels were drawn: draws that miss a class, and the chance of it."""

import itertools
import json

import pytest

from mae_jax.report import label_draws
from mae_jax.report.page import write_report

POOL = {"Basophil": 2, "Eosinophil": 8, "Lymphocyte": 24, "Monocyte": 6, "Neutrophil": 60}


def test_the_chance_to_miss_a_class_is_that_of_counting():
    counts = [1, 2, 3]
    images = [c for c, n in enumerate(counts) for _ in range(n)]
    draws = list(itertools.combinations(images, 4))
    exact = sum(len(set(draw)) < 3 for draw in draws) / len(draws)
    assert label_draws.chance(counts, 4) == pytest.approx(exact, abs=0.02)
    assert label_draws.chance(counts, 6) == label_draws.chance([0, 5], 2) == 0
    assert label_draws.chance(counts, 2) == 1


@pytest.fixture
def dirs(make, tmp_path):
    """Two arms with three seeds; those of `random` have two different draws, and one misses basophils."""
    places = []
    for init, seed in itertools.product(("scratch", "random"), range(3)):
        run = make.run(tmp_path / f"{init}{seed}", init, 0.1, seed=seed, rows=60, knows=0.5)
        misses = init == "random" and seed
        actual = {name: 0 if misses and name == "Basophil" else 2 for name in POOL}
        saved = {"actual": actual, "train": POOL, "subset_sha256": f"{init}{min(seed, 1)}"}
        (run / "subset.json").write_text(json.dumps(saved | ({"method": "random"} if init == "random" else {})))
        places.append(run)
    return places


def test_different_draws_are_counted_and_the_missing_class_is_named(make, dirs, tmp_path):
    report = write_report(dirs, tmp_path / "out")
    text = report.paths["label_draws"].read_text().splitlines()
    assert text[0] == ",".join(label_draws.COLUMNS) and len(text) == 3
    stratified, random = (line.split(",") for line in text[1:])
    assert stratified[3:9] == ["scratch", "stratified", "10", "2", "0", "0"]
    assert random[3:9] == ["random", "random", "9", "2", "1", "0.5"] and random[10] == "Basophil"
    assert float(random[9]) > 0.7  # 9 of 100 images rarely have all five classes
    page = report.paths["page"].read_text()
    assert "Which images were labeled" in page and "That takes labels to draw" in page


def test_a_study_with_stratified_draws_alone_has_no_table(make, dirs, tmp_path):
    report = write_report(dirs[:3], tmp_path / "out")
    assert "label_draws" not in report.paths
    (dirs[3] / "subset.json").write_text('{"method": "random", "actual": {}}')  # damaged: left out
    assert "label_draws" not in write_report(dirs[:4], tmp_path / "other").paths
