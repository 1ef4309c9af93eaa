"""Probes of frozen encoders: a section of their own, and the reference of random weights in every row."""

import csv
import dataclasses

import numpy as np
import pytest

from mae_jax.report import analysis, comparisons, drawing, findings, frozen_encoders, panels, tables
from mae_jax.report.page import write_report
from mae_jax.report.runs import read_runs
from mae_jax.runtime.errors import UserError

KNOWS = {"scratch": 0.2, "mae": 0.9}


def rows_of(file):
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


def probes(make, path, evaluation, *, seeds=3, rows=150, fraction=0.1, **extra):
    return [
        make.run(
            path / f"{evaluation}-{init}-{seed}", init, fraction, seed=seed, rows=rows, knows=knows,
            evaluation=evaluation, **extra,
        )
        for init, knows in KNOWS.items()
        for seed in range(seeds)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def dirs(make, tmp_path_factory):
    path = tmp_path_factory.mktemp("frozen")
    usual = make.study(path / "usual", rows=150)[:4]  # 1 % and 10 %
    return usual, {kind: probes(make, path, kind) for kind in ("knn", "lbfgs", "linear_probe")}


def test_probes_are_separate_from_fine_tuned_models(dirs, tmp_path):
    usual, probed = dirs
    report = write_report([*usual, *probed["knn"], *probed["lbfgs"]], tmp_path)
    alone = write_report(usual, tmp_path / "alone")
    same = [{k: v for k, v in row.items() if not k.startswith("random_probe")} for row in report.rows]
    assert same == [{k: v for k, v in row.items() if not k.startswith("random_probe")} for row in alone.rows]
    assert report.paired == alone.paired
    assert "frozen" not in alone.paths and "frozen features" not in alone.paths["page"].read_text().lower()
    with open(report.paths["frozen"]) as file:
        rows = list(csv.DictReader(file))
    assert [(row["evaluation"], row["init"]) for row in rows] == [
        ("lbfgs", "scratch"), ("lbfgs", "mae"), ("knn", "scratch"), ("knn", "mae")
    ]  # fmt: skip
    runs = {run.path: run for run in read_runs(probed["lbfgs"])[0]}
    accuracy = np.mean([runs[d].test.right.mean() for d in probed["lbfgs"][3:]])
    assert float(rows[1]["accuracy"]) == pytest.approx(accuracy)
    base = np.mean([runs[d].test.right.mean() for d in probed["lbfgs"][:3]])
    assert float(rows[1]["difference"]) == pytest.approx(accuracy - base) and rows[1]["verdict"] == "higher"
    assert float(rows[1]["low"]) < accuracy - base < float(rows[1]["high"])
    assert rows[0]["verdict"] == rows[0]["difference"] == ""
    page = report.paths["page"].read_text()
    assert '<h2 id="frozen">' in page and "Nearest neighbors on frozen features of mae: " in page
    assert "logistic regression" in report.frozen and "higher" in report.frozen
    assert report.frozen in report.paths["table_md"].read_text()
    assert report.paths["frozen_curves"].is_file()


def test_a_probe_of_random_weights_is_a_reference_in_every_row(dirs):
    usual, probed = dirs
    runs, apart = frozen_encoders.separate(read_runs([*usual, *probed["knn"], *probed["linear_probe"]])[0])
    assert {run.evaluation for run in runs} == {"finetune"} and list(apart) == ["linear_probe", "knn"]
    rows = tables.rows(analysis.analyze(runs, frozen_encoders.random_probes(apart)))
    accuracy = np.mean([run.test.right.mean() for run in apart["linear_probe"] if run.init == "scratch"])
    known = [row["random_probe_accuracy"] for row in rows]
    assert known == [None, None, pytest.approx(accuracy), pytest.approx(accuracy)]
    assert tables.reference_text(rows).endswith(
        f"A linear probe on random weights scores {100 * accuracy:.1f} % with 10 % of the labels."
    )
    # Each fraction has the probe of its own labels.
    probed_runs = frozen_encoders.random_probes(apart)
    perfect = [
        dataclasses.replace(r, fraction=0.01, test=dataclasses.replace(r.test, predictions=r.test.labels))
        for r in probed_runs
    ]
    rows = tables.rows(analysis.analyze(runs, [*probed_runs, *perfect]))
    assert [row["random_probe_accuracy"] for row in rows] == [1, 1, pytest.approx(accuracy), pytest.approx(accuracy)]
    # Probes that were solved are preferred to probes that were trained.
    _, more = frozen_encoders.separate(read_runs([*usual, *probed["lbfgs"], *probed["linear_probe"]])[0])
    assert {run.evaluation for run in frozen_encoders.random_probes(more)} == {"lbfgs"}


def test_an_interval_of_equal_seeds_is_that_of_the_images(make, tmp_path):
    """The same features and labels give the same answers for every seed, which adds no certainty."""
    runs = [
        make.run(tmp_path / f"{init}{seed}", init, 1.0, seed=seed, rows=100, knows=0.6, evaluation="knn")
        for init in KNOWS
        for seed in (0, 1)
    ]
    for init in KNOWS:
        for name in ("predictions.csv", "predictions_val.csv"):
            (tmp_path / f"{init}1" / name).write_bytes((tmp_path / f"{init}0" / name).read_bytes())
    _, apart = frozen_encoders.separate(read_runs([make.run(tmp_path / "usual", "mae", 1.0, rows=100), *runs])[0])
    (result,) = frozen_encoders.analyze(apart)
    assert all(row["accuracy_high"] - row["accuracy_low"] > 0.1 for row in result.rows)


def test_seeds_of_probes_without_a_partner_are_named(make, tmp_path):
    runs = [make.run(tmp_path / "usual", "scratch", 0.1, rows=60)]
    for init, seed in (("scratch", 0), ("mae", 0), ("mae", 1)):
        runs.append(make.run(tmp_path / f"{init}{seed}", init, 0.1, seed=seed, rows=60, evaluation="knn"))
    text = "nearest neighbors: mae at 10 %: 1 seed has a matching scratch run; only these are compared"
    assert text in write_report(runs, tmp_path / "report").notes


def test_probes_alone_are_reported_as_what_they_are(dirs, tmp_path):
    _, probed = dirs
    report = write_report([*probed["knn"], *probed["lbfgs"]], tmp_path)
    assert [row["init"] for row in report.rows] == ["scratch", "mae"]  # those of lbfgs
    assert "nearest neighbors" in report.frozen and "linear probe" not in report.frozen
    with pytest.raises(UserError, match=r"the cell \(mae, 10 %, seed 0, knn\) is also in"):
        write_report([*probed["knn"], probed["knn"][3]], tmp_path / "twice")


def test_a_report_of_probes_alone_says_so_and_keeps_its_reference(make, tmp_path):
    runs = [
        make.run(tmp_path / f"{e}{i}{f}", i, f, rows=60, knows=k, evaluation=e)
        for e in ("lbfgs", "knn")
        for i, k in (("scratch", 0.4), ("mae", 0.8))
        for f in (0.1, 0.5)
    ]
    report = write_report(runs, tmp_path / "out")
    page = report.paths["page"].read_text()
    assert "<p>This pre-trained model is better than that from scratch, each trained once, by " in page
    assert "All models here are linear probes on frozen encoders.</p>" in page
    assert "All models here are linear probes on frozen encoders: the encoder was not trained." in page
    assert all(row["random_probe_accuracy"] is not None for row in report.rows)
    assert "A linear probe on random weights scores" in report.paths["table_md"].read_text()


def test_a_collapsed_probe_is_called_so(make, tmp_path):
    runs = [make.run(tmp_path / "usual", "scratch", 0.1, rows=60)]
    runs.append(make.run(tmp_path / "probe", "scratch", 0.1, rows=60, knows=0.0, evaluation="knn"))
    report = write_report(runs, tmp_path / "report")
    assert "collapsed" in report.frozen
    assert report.paths["page"].read_text().count("collapsed") > 0


def test_each_curve_says_which_evaluation_it_is_of(dirs):
    usual, probed = dirs
    with panels.style():
        drawn = {d.name: d for d in drawing.draw(findings.find([*usual, *probed["knn"], *probed["lbfgs"]]))}
    axes = drawn["frozen_curves"].figure.axes
    assert [ax.get_title("left") for ax in axes] == ["Logistic regression", "Nearest neighbors"]
    assert axes[0].get_ylim() == axes[1].get_ylim()
    assert {row["panel"] for row in drawn["frozen_curves"].numbers} == {
        "Logistic regression",
        "Nearest neighbors",
    }


def test_a_foreign_evaluation_names_no_file_elsewhere(make, tmp_path):
    names = ["x/../../../evil/owned", "/abs", "a/b", "a b", "A_b", "v1.2", "é" * 90]
    runs = [make.run(tmp_path / "usual", "scratch", 0.1, rows=60)]
    runs += [make.run(tmp_path / f"probe{i}", "scratch", 0.1, rows=60, evaluation=name) for i, name in enumerate(names)]
    before = {file for run in runs for file in run.rglob("*")} | {*runs}
    out = tmp_path / "deep" / "report"
    write_report(runs, out)
    outside = {file for file in tmp_path.rglob("*") if not file.is_relative_to(out)}
    assert outside == before | {out.parent}
    assert {path.name for path in out.rglob("*frozen*")} == {"frozen.csv", "frozen_curves.csv", "frozen_curves.svg"}
    panel_names = {row["panel"] for row in rows_of(out / "figures" / "frozen_curves.csv")}
    assert len(panel_names) == len(names)


def test_a_probe_of_which_one_seed_collapsed_is_not_called_collapsed(make, tmp_path):
    runs = [make.run(tmp_path / "usual", "scratch", 0.1, rows=60)]
    for seed in range(3):
        knows = 0.6 if seed else 0.0
        runs.append(make.run(tmp_path / f"p{seed}", "scratch", 0.1, seed=seed, rows=60, knows=knows, evaluation="knn"))
    assert "| collapsed: 1 of 3 " in write_report(runs, tmp_path / "report").frozen


def test_the_first_kind_of_probe_may_lack_an_encoder(dirs, tmp_path):
    """Random weights are probed by L-BFGS even where the encoders are probed by nearest neighbors alone."""
    usual, probed = dirs
    report = write_report([*usual, *probed["lbfgs"][:3], *probed["knn"]], tmp_path)
    with open(report.paths["frozen"]) as file:
        rows = [(row["evaluation"], row["init"]) for row in csv.DictReader(file)]
    assert rows == [("lbfgs", "scratch"), ("knn", "scratch"), ("knn", "mae")]
    assert (tmp_path / "figures" / "frozen_curves.svg").exists()


@pytest.mark.parametrize(
    ("ours", "base", "who"), [(0.9, 0.0, "random weights"), (0.0, 0.9, "mae"), (0.0, 0.0, "random weights and mae")]
)
def test_the_sentence_says_whose_models_collapsed(make, tmp_path, ours, base, who):
    dirs = make.study(tmp_path / "usual", rows=150)[:2]
    for fraction in (0.1, 1.0):
        for init, knows in (("scratch", base), ("mae", ours)) if fraction == 0.1 else KNOWS.items():
            where = tmp_path / f"{init}{fraction}"
            dirs.append(make.run(where, init, fraction, rows=150, knows=knows, evaluation="knn"))
    (line,) = frozen_encoders.words(frozen_encoders.analyze(frozen_encoders.separate(read_runs(dirs)[0])[1]))
    assert f" % at 10 % ({who} collapsed: nothing to compare), " in line


def test_a_sentence_names_only_models_of_which_every_seed_collapsed():
    level = {"fraction": 0.1, "arm": "", "label_count": 0, "baseline": "scratch", "verdict": comparisons.COLLAPSED}
    ours = level | {"init": "mae", "collapsed": 1, "seeds": 3}
    base = level | {"init": "scratch", "collapsed": 3, "seeds": 3}
    assert frozen_encoders._compared(ours, [base, ours]) == f"random weights {comparisons.COLLAPSED}"
