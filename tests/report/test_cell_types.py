"""Cell types: confusion matrices, sensitivities and sentences, for predictions that are known one by one."""

import csv
import dataclasses
import json

import numpy as np
import pytest

from mae_jax.data import subsets
from mae_jax.data.sources import Source
from mae_jax.report import analysis, cell_types, certainty
from mae_jax.report.page import write_report
from mae_jax.report.runs import Level, read_runs
from mae_jax.rundir.predictions import Predictions

CLASSES = ["Lymphocyte", "Monocyte", "Neutrophil"]
COUNTS = {"Lymphocyte": 40, "Monocyte": 20, "Neutrophil": 60}


def write(path, init, fraction, wrong, seed=0, counts=None):
    """A run whose mistakes are `wrong`: {(label, prediction): how many}."""
    path.mkdir(parents=True)
    info = {"init": init, "fraction": fraction, "seed": seed, "classes": CLASSES, "n_train": round(1000 * fraction)}
    (path / "run.json").write_text(json.dumps(info))
    if counts:
        (path / "subset.json").write_text(json.dumps(subset_of(counts)))
    rows = []
    for label, n in COUNTS.items():
        predicted = [b for (a, b), k in wrong.items() if a == label for _ in range(k)]
        for i, prediction in enumerate(predicted + [label] * (n - len(predicted))):
            rows.append({"image": f"{label}/{i:03}", "label": label, "prediction": prediction, "confidence": 0.8})
    with (path / "predictions.csv").open("w", newline="") as stream:
        table = csv.DictWriter(stream, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return path


def subset_of(counts: dict[str, int]) -> dict:
    """subset.json as training writes it, of so many labels drawn from ten times as many."""
    labels = np.repeat(np.arange(len(CLASSES)), [10 * counts[name] for name in CLASSES]).astype(np.int32)
    names = tuple(f"{i}.png" for i in range(len(labels)))
    source = Source(names, labels, ("",) * len(labels), tuple(CLASSES), "f00", read=lambda i: b"")
    drawn = np.concatenate([np.flatnonzero(labels == i)[: counts[name]] for i, name in enumerate(CLASSES)])
    pool = np.arange(len(labels))
    return subsets.describe(source, pool, pool[:0], drawn, fraction=0.1, subset_seed=0, validation_seed=0)


@pytest.fixture
def dirs(tmp_path):
    few = {"Lymphocyte": 33, "Monocyte": 7, "Neutrophil": 60}
    return [
        write(tmp_path / "a", "scratch", 0.1, {("Monocyte", "Lymphocyte"): 16}, counts=few),
        write(tmp_path / "b", "mae", 0.1, {("Monocyte", "Lymphocyte"): 2}, counts=few),
        write(tmp_path / "c", "scratch", 1.0, {("Monocyte", "Lymphocyte"): 6, ("Monocyte", "Neutrophil"): 1}),
        write(tmp_path / "d", "mae", 1.0, {("Monocyte", "Lymphocyte"): 4, ("Lymphocyte", "Neutrophil"): 2}),
    ]


@pytest.fixture
def study(dirs):
    return analysis.analyze(read_runs(dirs)[0])


def test_the_best_model_is_the_one_with_the_highest_macro_f1(tmp_path):
    """mae is right more often, but never finds the rarest class."""
    wrong = {("Monocyte", "Neutrophil"): 20}, {("Neutrophil", "Lymphocyte"): 25}
    dirs = [write(tmp_path / i, i, 1.0, w) for i, w in zip(("mae", "scratch"), wrong, strict=True)]
    study = analysis.analyze(read_runs(dirs)[0])
    scores = {i: [study.mean(m, study.of(Level("", 1.0), i)) for m in ("accuracy", "f1")] for i in ("scratch", "mae")}
    assert scores["mae"][0] > scores["scratch"][0] and scores["mae"][1] < scores["scratch"][1]
    assert cell_types.best(study, Level("", 1.0)) == "scratch"


def test_sensitivity_and_precision_of_a_class(study):
    result = cell_types.analyze(study)
    assert {tuple(row) for row in result.rows} == {cell_types.COLUMNS}
    (row,) = [r for r in result.of(result.largest, "mae") if r["class"] == "Lymphocyte"]
    assert (row["n"], row["predicted"]) == (40, 42)
    assert row["sensitivity"] == pytest.approx(38 / 40) and row["precision"] == pytest.approx(38 / 42)
    assert row["sensitivity_low"] < 38 / 40 < row["sensitivity_high"] <= 1
    assert result.matrix(result.largest, "mae").counts.tolist() == [[38, 0, 2], [4, 16, 0], [0, 0, 60]]


def test_the_difference_from_scratch_is_paired_and_corrected(study):
    result = cell_types.analyze(study)
    rows = {row["class"]: row for row in result.of(result.chosen, "mae")}
    assert (
        rows["Monocyte"]["difference"] == pytest.approx(14 / 20)
        and rows["Monocyte"]["verdict"] == "higher, each trained once"
    )
    assert rows["Monocyte"]["holm_p"] == pytest.approx(6 * rows["Monocyte"]["p"])  # 3 classes, 2 shares
    assert rows["Monocyte"]["p"] < 1e-4
    assert rows["Neutrophil"]["difference"] == 0 and rows["Neutrophil"]["verdict"] == "no difference shown"
    assert all(row["difference"] is None for row in result.of(result.chosen, "scratch"))


def test_the_chosen_fraction_is_the_nearest(study):
    assert cell_types.analyze(study).chosen.fraction == 0.1
    assert cell_types.analyze(study, 0.9).chosen.fraction == 0.1  # the largest has its matrix anyway


def test_the_nearest_share_is_that_of_the_smallest_ratio(make):
    """1 % is a tenth of 10 % and 70 % seven times as much, although 1 % differs by less."""
    study = make.in_memory({("", fraction, "mae"): [0.8] for fraction in (0.01, 0.7, 1.0)}, images=100)
    assert cell_types.analyze(study).chosen.fraction == 0.7


def test_training_images_of_a_class_are_a_mean_over_the_seeds(make):
    study = make.in_memory({("", 1.0, "mae"): [0.8, 0.8]}, images=100)
    counts = [{name: n for name in "abcde"} for n in (4, 7)]
    runs = [dataclasses.replace(run, train_counts=each) for run, each in zip(study.runs, counts, strict=True)]
    rows = cell_types.analyze(dataclasses.replace(study, runs=runs)).rows
    assert {row["n_train"] for row in rows} == {5.5}


def test_confusions_are_sorted_by_their_number_and_not_by_their_share(tmp_path):
    wrong = {("Monocyte", "Lymphocyte"): 4, ("Neutrophil", "Lymphocyte"): 6}  # 20 % and 10 % of the class
    study = analysis.analyze(read_runs([write(tmp_path / "a", "mae", 1.0, wrong)])[0])
    first, second = cell_types.confusions(study, cell_types.analyze(study))
    assert first == "6 of 60 Neutrophil are classified as Lymphocyte." and second.startswith("4 of 20 Monocyte")


def test_models_that_collapsed_are_not_called_the_best(make):
    level = Level("", 1.0)
    one = make.in_memory({("", 1.0, "scratch"): ["collapsed"], ("", 1.0, "mae"): [0.2]}, images=100)
    assert one.mean("f1", one.of(level, "scratch")) > one.mean("f1", one.of(level, "mae")) - 0.1
    assert cell_types.best_in_words(one, level) == "the best model (mae)"
    none = make.in_memory({("", 1.0, i): ["collapsed"] for i in ("scratch", "mae")}, images=100)
    assert cell_types.best_in_words(none, level) == "scratch, which collapsed,"


def test_sentences(study):
    result = cell_types.analyze(study)
    assert cell_types.best(study, result.chosen) == "mae"
    text = cell_types.lines(study, result)
    assert text[0].startswith("Monocyte: 16 of 20 right (80 %, 56 to 94 %), 4 classified as Lymphocyte.")
    assert text[1].startswith("Lymphocyte: 38 of 40 right") and text[1].endswith(", 2 classified as Neutrophil.")
    assert text[2] == "Neutrophil: 60 of 60 right (100 %, 94 to 100 %)."
    assert cell_types.rarest(study, result) == (
        "The rarest cell type is Monocyte: 20 of 120 test images (16.7 %). "
        "Its training images: 7 with 10 % of the labels."
    )


def test_counts_are_means_over_the_seeds(tmp_path):
    dirs = [write(tmp_path / f"{s}", "mae", 1.0, {("Monocyte", "Lymphocyte"): s + 1}, seed=s) for s in (0, 1)]
    study = analysis.analyze(read_runs(dirs)[0])
    text = cell_types.lines(study, cell_types.analyze(study))
    assert text[0].startswith("Monocyte: 18.5 of 20 right (92 %") and text[0].endswith("1.5 classified as Lymphocyte.")


def test_the_page_has_matrices_and_files(dirs, tmp_path):
    report = write_report(dirs, tmp_path / "out")
    page = report.paths["page"].read_text()
    assert page.count('<table class="matrix">') == 4
    assert "Monocyte: 16 of 20 right (80 %, 56 to 94 %), 4 classified as Lymphocyte." in page
    with report.paths["confusion"].open(newline="") as stream:
        rows = [r for r in csv.DictReader(stream) if (r["fraction"], r["init"], r["label"]) == ("1", "mae", "Monocyte")]
    assert [(r["prediction"], r["mean_count"], r["share"]) for r in rows] == [
        *(("Lymphocyte", "4", "0.2"), ("Monocyte", "16", "0.8"))
    ]


def test_many_classes_are_listed_not_drawn(make, tmp_path):
    classes = [f"class {i:02}" for i in range(20)]
    dirs = [make.run(tmp_path / f"{f}", "scratch", f, rows=400, classes=classes) for f in (0.1, 1.0)]
    study = analysis.analyze(read_runs(dirs)[0])
    result = cell_types.analyze(study)
    counts = np.bincount(study.runs[0].test.labels, minlength=20)
    assert len(result.shown) == cell_types.MOST < len(result.names)
    assert max(counts[classes.index(c)] for c in result.shown) <= sorted(counts[counts > 0])[cell_types.MOST - 1]
    page = write_report(dirs, tmp_path / "out").paths["page"].read_text()
    assert 'class="matrix"' not in page and "are classified as class" in page and "The page shows the 12 rarest" in page


def test_training_images_of_each_class_are_on_the_page(dirs, tmp_path):
    study = analysis.analyze(read_runs(dirs)[0])
    ((level, counts),) = cell_types.trained_on(study, cell_types.analyze(study))
    assert str(level) == "10 %" and counts == [33.0, 7.0, 60.0]  # no run has them at 100 %
    page = write_report(dirs, tmp_path / "out").paths["page"].read_text()
    assert "<tr><td>10 %</td><td>33</td><td>7</td><td>60</td></tr>" in page
    assert "<td>test images</td><td>40</td><td>20</td><td>60</td></tr>" in page


def test_an_arm_with_the_same_training_images_is_not_listed_again(make):
    cells = {(arm, f, "mae"): [0.8] for arm, f in (("", 0.1), ("", 1.0), ("longer", 0.1), ("other", 0.1))}
    study = make.in_memory(cells, images=100)
    result = cell_types.analyze(study)
    counts = {"": 3.0, "longer": 3.0, "other": 4.0}
    rows = [row | {"n_train": counts[row["arm"]] * (10 if row["fraction"] == 1.0 else 1)} for row in result.rows]
    listed = cell_types.trained_on(study, dataclasses.replace(result, rows=rows))
    assert [str(level) for level, _ in listed] == ["10 %", "100 %", "10 %, other"]
    assert [images[0] for _, images in listed] == [3.0, 30.0, 4.0]


@pytest.mark.parametrize("patients", [None, 1], ids=["3 images", "1 patient"])
@pytest.mark.parametrize("seeds", [1, 3])
def test_a_class_with_few_images_or_patients_is_not_compared(make, patients, seeds):
    """mae is right on each of the 3 or 30 images of the rarest class, scratch on none."""
    rare = 3 if patients is None else 30
    labels = np.repeat([0, 1, 2], [rare, 50, 50])
    groups = None if patients is None else tuple(f"{max(0, i - 29)}" for i in range(130))
    runs = []
    for run in make.in_memory({("", 0.1, i): [0.9] * seeds for i in ("scratch", "mae")}, images=100).runs:
        given = labels.copy()
        given[:rare] = 0 if run.init == "mae" else 2
        given[rare : rare + 5] = 2
        names = tuple(f"{i:03}" for i in range(len(labels)))
        test = Predictions(names, labels, given, np.full(len(labels), 0.9), groups, None)
        runs.append(dataclasses.replace(run, test=test, classes=("a", "b", "c")))
    study = analysis.analyze(runs)
    row, *_ = [row for row in cell_types.analyze(study).rows if row["init"] == "mae"]
    assert (row["class"], row["sensitivity"], row["difference"]) == ("a", 1.0, 1.0)
    assert row["verdict"] == "too few images to compare"
    assert row["difference_low"] is row["difference_high"] is row["p"] is row["holm_p"] is None
    sure = {(row["init"], row["class"]): row for row in certainty.by_class(study)}
    assert sure["mae", "a"]["verdict"] == "too few images to compare" and sure["mae", "a"]["p"] is None


def test_the_second_matrix_is_of_the_strongest_arm(make):
    """Scratch learned at 10 % only with more updates; mae is stronger without them, and other collapsed everywhere."""
    longer = "as many updates as 100 %"
    cells = {("", 1.0, i): [0.9] for i in ("scratch", "mae", "other")}
    cells |= {("", 0.1, "scratch"): ["collapsed"], (longer, 0.1, "scratch"): [0.7]}
    cells |= {("", 0.1, "mae"): [0.8], (longer, 0.1, "mae"): [0.6]}
    cells |= {("", 0.1, "other"): ["collapsed"]}
    study = make.in_memory(cells)
    matrices = cell_types.shown_matrices(study, cell_types.analyze(study))
    assert [(m.init, m.level.labels_and_arm) for m in matrices] == [
        ("scratch", "100 % of the labels"), ("mae", "100 % of the labels"), ("other", "100 % of the labels"),
        ("scratch", f"10 % of the labels, {longer}"), ("mae", "10 % of the labels"), ("other", "10 % of the labels"),
    ]  # fmt: skip


def test_a_collapsed_matrix_is_named_so(make, tmp_path):
    dirs = make.study(tmp_path / "study", rows=60)[:4]  # scratch collapses at 1 %
    page = write_report(dirs, tmp_path / "out").paths["page"].read_text()
    assert "scratch (collapsed), 1 % of the labels: true cell types (rows)" in page
    assert "scratch, 10 % of the labels: true cell types (rows)" in page


def test_nearly_all_right_is_not_all(make):
    study = make.in_memory({("", 1.0, "scratch"): [0.999]}, images=1000)
    text = cell_types.lines(study, cell_types.analyze(study))
    (nearly,) = [line for line in text if " classified as " in line]
    assert "(100 %" not in nearly and "(99." in nearly
