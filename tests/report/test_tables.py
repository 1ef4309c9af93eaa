"""Tables and sentences: what a study of known outcome must say."""

import csv
import dataclasses
import json
import math

import numpy as np
import pytest

from mae_jax.report import analysis, comparisons, stats, tables, words
from mae_jax.report.findings import find
from mae_jax.report.page import render, write_report
from mae_jax.report.runs import Level, percent, read_runs


@pytest.fixture(scope="module")
def study(make, tmp_path_factory):
    """Scratch collapses at 1 %; mae is far ahead at 10 % and level above."""
    runs, _ = read_runs(make.study(tmp_path_factory.mktemp("study"), rows=600))
    return analysis.analyze(runs)


@pytest.fixture(scope="module")
def seeds(make, tmp_path_factory):
    runs, _ = read_runs(make.study(tmp_path_factory.mktemp("seeds"), rows=300, seeds=3))
    return analysis.analyze(runs)


def test_rows_hold_every_metric_between_its_bounds(study):
    rows = tables.rows(study)
    assert [(row["fraction"], row["init"]) for row in rows[:3]] == [
        (0.01, "scratch"),
        (0.01, "mae"),
        (0.1, "scratch"),
    ]
    assert list(rows[0])[:9] == [
        *("fraction", "init", "seeds", "n_train", "n_test"),
        *("accuracy", "precision", "recall", "f1"),
    ]
    for row in rows:
        for m in ("accuracy", "precision", "recall", "f1", "balanced_accuracy", "nll", "brier"):
            assert row[f"{m}_low"] <= row[m] <= row[f"{m}_high"], (row["fraction"], m)
        assert 0 <= row["ece_low"] <= row["ece"] <= row["ece_high"] <= 1
        assert row["temperature"] > 0 and row["nll_scaled"] > 0
    assert rows[0]["interval"] == "over 40 groups of test images alone (one seed)"
    first = study.runs[0].test
    assert rows[0]["accuracy"] == pytest.approx(first.right.mean())
    assert rows[0]["majority_rate"] == pytest.approx((first.labels == 4).mean())
    assert rows[0]["n_train"] == 80 and rows[0]["n_test"] == 600


def test_paired_rows(study):
    rows, notes = tables.paired(study)
    assert notes == []
    accuracy = {row["fraction"]: row for row in rows if row["metric"] == "accuracy"}
    assert list(rows[0])[:8] == ["fraction", "metric", "difference", "low", "high", "p", "holm_p", "mcnemar_p"]
    assert tuple(rows[0]) == tables.PAIRED
    assert accuracy[0.1]["verdict"] == "higher, each trained once" and accuracy[0.1]["holm_p"] < 0.001
    for fraction in (0.5, 1.0):
        assert accuracy[fraction]["low"] < 0 < accuracy[fraction]["high"] and accuracy[fraction]["p"] > 0.05
        assert accuracy[fraction]["verdict"] == "no difference shown"
    for metric in ("accuracy", "f1"):
        init_rows = [row for row in rows if row["metric"] == metric and row["p"] is not None]
        assert len(init_rows) == 3  # scratch collapsed at 1 %
        assert [row["holm_p"] for row in init_rows] == pytest.approx(stats.holm([row["p"] for row in init_rows]))
    right = [study.runs[i].test.right for i in (3, 2)]
    assert accuracy[0.1]["mcnemar_p"] == stats.mcnemar(*right) < 1e-6
    assert all(row["mcnemar_p"] is None for row in rows if row["metric"] != "accuracy")


def test_a_collapsed_side_is_not_compared(study):
    rows = [row for row in tables.paired(study)[0] if row["fraction"] == 0.01]
    assert len(rows) == len(stats.METRICS + stats.SCORES)
    for row in rows:
        assert row["verdict"] == "collapsed: nothing to compare"
        numbers = [row[k] for k in ("difference", "low", "high", "p", "holm_p", "mcnemar_p")]
        assert numbers == [None] * 6


def test_holm_counts_the_comparisons_of_every_arm_and_initialization(make):
    cells = {("", f, i): [0.8] for f in (0.1, 1.0) for i in ("scratch", "mae", "other")} | {("", 1.0, "mae"): [0.87]}
    cells |= {(ARM, 0.1, i): [0.8] for i in ("scratch", "mae", "other")}
    rows = [row for row in tables.paired(make.in_memory(cells))[0] if row["metric"] == "accuracy"]
    assert len(rows) == 6
    least = min(rows, key=lambda row: row["p"])
    assert least["holm_p"] == pytest.approx(6 * least["p"]) and least["holm_p"] < 0.9
    assert all(row["holm_p"] >= row["p"] for row in rows)


def test_two_seeds_give_an_interval_over_the_images_alone(make):
    # gains of 10 and 40 points: over seeds, Student's interval would be -166 to 216
    study = make.in_memory({("", 0.1, "scratch"): [0.5, 0.5], ("", 0.1, "mae"): [0.6, 0.9]})
    (row,) = [row for row in tables.paired(study)[0] if row["metric"] == "accuracy"]
    assert row["verdict"] == "higher, each trained twice"
    assert row["interval"] == "over 400 test images alone (two seeds)"
    assert 0.2 < row["low"] < row["difference"] < row["high"] < 0.3
    assert row["p"] < 0.001 and row["mcnemar_p"] is None


def test_labels_that_chose_the_epoch_are_counted(make):
    cells = {("", 0.1, "scratch"): [0.5], ("", 0.1, "mae"): [0.6]}
    chosen, last = (tables.rows(make.in_memory(cells, choosing=n, labels=1000))[0] for n in (30, 0))
    assert (chosen["n_train"], chosen["n_choosing"]) == (100, 30) and last["n_choosing"] == 0
    study = make.in_memory(cells, choosing=30)
    log = [{"step": step, "val/accuracy": score} for step, score in ((5, 0.7), (10, 0.8), (20, 0.75))]
    run = dataclasses.replace(study.runs[0], log=tuple(log))
    result = tables.choice([run])
    assert (result["validation_accuracy"], result["validation_accuracy_last"]) == (0.8, 0.75)
    folds = dataclasses.replace(run, info={"folds": 5}, evaluation="lbfgs")
    assert tables.choice([folds])["n_choosing"] == 0  # cross-validation needs no further labels
    refit = dataclasses.replace(run, info={"folds": 5, "select": "macro_f1"}, evaluation="finetune")
    assert refit.cross_validated and not folds.cross_validated  # whose validation images are others
    chosen = tables.choice([refit])
    assert (chosen["n_choosing"], chosen["n_temperature"], chosen["folds"], chosen["chosen"]) == (0, 0, 5, "")
    unknown = dataclasses.replace(run, info={}, evaluation="finetune")
    assert tables.choice([unknown])["n_choosing"] is None


def test_what_validation_images_chose_is_a_list(make):
    (run,) = make.in_memory({("", 1.0, "mae"): [0.8]}, choosing=30).runs
    shares = np.full((30, len(run.classes)), 1 / len(run.classes))
    run = dataclasses.replace(run, validation=dataclasses.replace(run.validation, probabilities=shares))
    tuned = dataclasses.replace(run, info=run.info | {"config": {"tuned": "optim.base_lr=4e-3"}})
    probe = dataclasses.replace(run, evaluation="knn")
    assert [tables.choice([each])["chosen"] for each in (run, tuned, probe)] == [
        "epoch and temperature",
        "settings, epoch and temperature",
        "number of neighbors and temperature",
    ]


def test_pairing_narrows_the_interval(study):
    rows, _ = tables.paired(study)
    paired = next(r for r in rows if (r["fraction"], r["metric"]) == (1.0, "accuracy"))
    a, b = (study.draws["accuracy"][i] for i in (6, 7))
    unpaired = np.quantile(b - np.roll(a, 1), [0.025, 0.975])
    assert paired["high"] - paired["low"] < unpaired[1] - unpaired[0]


def test_several_seeds(seeds):
    rows = tables.rows(seeds)
    values = seeds.estimates["accuracy"][seeds.of(Level("", 0.1), "mae")]
    row = rows[3]
    assert (row["seeds"], row["interval"]) == (3, "over 40 groups of test images and 3 seeds")
    assert row["accuracy"] == pytest.approx(values.mean())
    over_seeds = 4.30265 * values.std(ddof=1) / math.sqrt(3)
    one = seeds.draws["accuracy"][seeds.of(Level("", 0.1), "mae")].mean(0)
    over_images = np.ptp(np.quantile(one, [0.025, 0.975])) / 2
    half = (row["accuracy_high"] - row["accuracy_low"]) / 2
    assert max(over_seeds, over_images) < half < over_seeds + over_images
    paired, _ = tables.paired(seeds)
    assert {row["seeds"] for row in paired} == {3}
    text = {row["verdict"].partition(",")[0] for row in paired}
    assert text <= {"higher", "lower", comparisons.NOTHING, comparisons.COLLAPSED}


ARM = "as many updates as 100 %"


def test_without_scratch_one_line_says_so(make, tmp_path):
    dirs = make.study(tmp_path, rows=60, inits=("mae",))
    for f in (0.1, 0.5):
        dirs.append(make.run(tmp_path / f"other{f}", "imported", f, rows=60, knows=0.5))
    paired, notes = tables.paired(analysis.analyze(read_runs(dirs)[0]))
    assert (paired, notes) == ([], ["no run from scratch: nothing is compared with it"])


def test_fractions_are_not_shown_to_six_digits():
    assert [percent(f) for f in (1 / 3, 0.005, 0.0001, 1.0, 0.125)] == ["33.33 %", "0.5 %", "0.01 %", "100 %", "12.5 %"]


def test_seeds_without_a_partner_are_left_out(make, tmp_path):
    dirs = make.study(tmp_path, rows=60, seeds=2)
    runs, _ = read_runs([d for d in dirs if d.name != "mae_0.1_1"])
    paired, notes = tables.paired(analysis.analyze(runs))
    assert len(notes) == 1 and "mae at 10 %" in notes[0]
    assert {r["seeds"] for r in paired if r["fraction"] == 0.1} == {1}


def test_pairs_are_of_equal_seeds_where_the_first_seed_of_a_side_is_missing(make):
    study = make.in_memory({("", 0.1, "scratch"): [0.2, 0.5, 0.6], ("", 0.1, "mae"): [0.55, 0.7]})
    runs = [dataclasses.replace(r, seed=r.seed + 1) if r.init == "mae" else r for r in study.runs]
    study = dataclasses.replace(study, runs=runs)
    (row,) = [row for row in tables.paired(study)[0] if row["metric"] == "accuracy"]
    gains = [0.55 - 0.5, 0.7 - 0.6]  # seeds 1 and 2; scratch of seed 0 has no partner
    assert row["seeds"] == 2 and row["difference"] == pytest.approx(sum(gains) / 2, abs=1e-9)


def test_the_last_epochs_scores_are_in_the_table_where_every_run_has_them(tmp_path):
    runs = [by_hand(tmp_path, f"{i}{f}", i, f, share(30)) for i in ("scratch", "mae") for f in (0.1, 1.0)]
    for run, accuracy in zip(runs[:3], (0.5, 0.625, 0.75), strict=True):
        last = {"step": 40, "accuracy": accuracy, "f1": accuracy - 0.125}
        (run / "results.json").write_text(json.dumps({"accuracy": 0.75, "last_epoch": last}))
    (runs[3] / "results.json").write_text(json.dumps({"accuracy": 0.75}))  # of a run that tested its last epoch
    rows = {(r["fraction"], r["init"]): r for r in tables.rows(analysis.analyze(read_runs(runs)[0]))}
    assert [rows[f, "scratch"]["accuracy_last_epoch"] for f in (0.1, 1.0)] == [0.5, 0.625]
    assert rows[0.1, "mae"]["f1_last_epoch"] == 0.625 and rows[1.0, "mae"]["f1_last_epoch"] is None
    assert "last epoch: 62.5<" in render(find(runs), [], [])


def by_hand(tmp_path, name, init, fraction, right, **extra):
    """A run of two classes whose answers on 40 images are given; True is right."""
    run = tmp_path / name
    run.mkdir()
    info = {"init": init, "fraction": fraction, "seed": 0, "classes": ["a", "b"], "n_train": round(1000 * fraction)}
    (run / "run.json").write_text(json.dumps(info))
    lines = ["image,group,label,prediction,confidence"]
    for i, ok in enumerate(right):
        label = "ab"[i % 2]
        text = label if ok else "ba"[i % 2]
        lines.append(f"{i:03},{extra.get('group', lambda i: '')(i)},{label},{text},0.9")
    (run / "predictions.csv").write_text("\n".join(lines) + "\n")
    return run


def share(n, of=40):
    return [i < n for i in range(of)]


def test_images_of_one_class_show_no_collapse(tmp_path):
    runs = [by_hand(tmp_path, f"{i}{f}", i, f, share(40)) for i in ("scratch", "mae") for f in (0.1, 1.0)]
    for run in runs:
        file = run / "predictions.csv"
        file.write_text(file.read_text().replace(",b,b,", ",a,a,"))
    study = analysis.analyze(read_runs(runs)[0])
    rows = tables.rows(study)
    assert [row["collapsed"] for row in rows] == [0] * 4 and rows[0]["top_class_share"] == 1
    text = words.answer(study, rows, tables.paired(study)[0], [])
    assert "ollapsed" not in str(text)


@pytest.mark.parametrize(("groups", "units"), [(1, "40 test images"), (4, "4 groups of test images")])
def test_few_groups_are_warned_of_and_one_is_not_redrawn(tmp_path, groups, units):
    group = lambda i: f"slide {i * groups // 40}"  # noqa: E731
    cells = (("scratch", 20), ("mae", 28))
    runs, _ = read_runs([by_hand(tmp_path, i, i, 0.1, share(n), group=group) for i, n in cells])
    study = analysis.analyze(runs)
    (row,) = [row for row in tables.paired(study)[0] if row["metric"] == "accuracy"]
    assert study.units == units and row["low"] < row["difference"] < row["high"]
    (text,) = study.warnings
    assert ("all come from one group" if groups == 1 else "only 4 groups") in text
    assert text in words.answer(study, tables.rows(study), tables.paired(study)[0], [])["warnings"]


def test_identical_predictions_show_no_difference(tmp_path):
    runs, _ = read_runs([by_hand(tmp_path, i, i, 0.1, share(25)) for i in ("scratch", "mae")])
    for row in tables.paired(analysis.analyze(runs))[0]:
        assert [row[k] for k in ("difference", "low", "high", "p", "verdict")] == [0, 0, 0, 1, comparisons.NOTHING]
        assert row["mcnemar_p"] == (1 if row["metric"] == "accuracy" else None)


def test_the_published_table_is_captioned_for_what_it_is():
    assert "1,728 images (36, 126, 412, 95, 1,059 basophils" in tables.PUBLISHED_CAPTION
    assert "17 % of Raabin-WBC's folder Train, not its folder TestA" in tables.PUBLISHED_CAPTION
    majority = [row for row in tables.PUBLISHED if row["fraction"] == 0.01 and row["init"] == "mae"]
    assert majority[0]["accuracy"] == pytest.approx(1059 / sum(tables.PUBLISHED_IMAGES), abs=5e-6)


def test_table_for_a_terminal(study):
    lines = tables.table_text(tables.rows(study)).splitlines()
    assert len(lines) == 6 and len({len(line) for line in lines}) == 1
    ten = [cell.strip() for cell in lines[3].split("|")[1:-1]]
    assert ten[0] == "10 %"
    assert float(ten[2]) - float(ten[1]) == pytest.approx(float(ten[3]), abs=1.1e-4)
    published = tables.table_text(tables.PUBLISHED)
    assert "0.7315" in published and "+0.1696" in published


def test_csv_cells_are_not_formulas(tmp_path):
    rows = [{"name": "=1+1", "value": -0.5}, {"name": "@x", "value": None}]
    with tables.write_csv(tmp_path / "t.csv", rows).open(newline="") as stream:
        assert list(csv.reader(stream)) == [["name", "value"], ["'=1+1", "-0.5"], ["'@x", ""]]


def test_labels_for_choosing_are_those_that_chose_something(make, tmp_path):
    """Without predictions_val.csv, results.json says how many; a temperature changes neither accuracy nor macro F1."""
    runs = {}
    for name, select in (("epoch", "macro_f1"), ("silent", "macro_f1"), ("last", "last")):
        path = make.run(tmp_path / name, "scratch", 0.1, rows=60, select=select)
        if name != "last":
            (path / "predictions_val.csv").unlink()
        if name == "epoch":
            (path / "results.json").write_text('{"n_validation": 223}')
        runs[name] = path
    rows = {name: tables.rows(analysis.analyze(read_runs([path])[0]))[0] for name, path in runs.items()}
    further = {name: tables.further(row) for name, row in rows.items()}
    assert further == {"epoch": "+ 223 for choosing", "silent": "+ an unknown number for choosing", "last": ""}
    labels = {name: (tables.validation_labels(row), row["chosen"]) for name, row in rows.items()}
    assert labels["epoch"] == ("223", "epoch") and labels["silent"] == ("an unknown number", "epoch")
    assert labels["last"] == ("60", "temperature") and rows["last"]["n_temperature"] == 60
    text = {
        name: write_report([path], tmp_path / f"out {name}").paths["page"].read_text() for name, path in runs.items()
    }
    assert "800 labeled images (+ 223 for choosing) reach" in text["epoch"] and "+ 223 for epoch" in text["epoch"]
    assert "800 labeled images (+ an unknown number for choosing) reach" in text["silent"]
    assert "for choosing" not in text["last"] and "+ 60 for temperature" in text["last"]


def test_a_page_says_where_cross_validation_chose_on_the_same_labels(make, tmp_path):
    dirs = []
    for fraction, folds in ((0.1, 5), (1.0, 0)):
        for init in ("scratch", "mae"):
            info = {"folds": folds, "select": "macro_f1", "selected_step": 2}
            dirs.append(make.run(tmp_path / f"{init}{fraction}", init, fraction, rows=60, **info))
    rows = {row["fraction"]: row for row in tables.rows(analysis.analyze(read_runs(dirs)[0]))}
    assert (
        tables.further(rows[0.1]) == "5-fold cross-validation on the same labels"
        and tables.further(rows[1.0]) == "+ 60 for choosing"
    )
    written = write_report(dirs, tmp_path / "out")
    text = written.paths["page"].read_text()
    assert "5-fold cross-validation on the training images chose with 10 % of the labels; it took no further" in text
    assert "each other run used 60 of them to set the epoch" in text and "5-fold on the same labels</span>" in text
    assert "(800 images, 5-fold cross-validation on the same labels), mae against scratch" in text
    assert "are those of other models" in text  # no prediction sets
