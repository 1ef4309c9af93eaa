"""Confidence when wrong: means, differences and sure mistakes that are known one by one."""

import json
import math

import numpy as np
import pytest

from mae_jax.report import analysis, certainty, stats
from mae_jax.report.comparisons import TOO_FEW
from mae_jax.report.runs import read_runs


def write(path, init, wrong, seed=0):
    """100 images of two alternating classes; `wrong` maps an image's number to the confidence of its mistake."""
    path.mkdir(parents=True)
    (path / "run.json").write_text(json.dumps({"init": init, "fraction": 0.1, "seed": seed, "classes": ["a", "b"]}))
    lines = ["image,label,prediction,confidence"]
    for i in range(100):
        label = "ab"[i % 2]
        prediction = "ba"[i % 2] if i in wrong else label
        lines.append(f"{i:03},{label},{prediction},{wrong.get(i, 0.99)}")
    (path / "predictions.csv").write_text("\n".join(lines) + "\n")
    return path


def test_confidence_when_wrong_is_compared_with_scratch(tmp_path):
    base = {i: 0.95 if i % 4 else 0.91 for i in range(0, 40, 2)}
    ours = {i: 0.6 + 0.01 * (i % 3) for i in range(0, 60, 3)}
    dirs = [write(tmp_path / "a", "scratch", base), write(tmp_path / "b", "mae", ours)]
    study = analysis.analyze(read_runs(dirs)[0])
    scratch, mae = certainty.analyze(study)
    assert {tuple(scratch), tuple(mae)} == {certainty.COLUMNS}
    assert (scratch["n_wrong"], mae["n_wrong"], mae["n_right"]) == (20, 20, 80)
    assert scratch["wrong_mean"] == pytest.approx(np.mean(list(base.values())))
    assert mae["difference"] == pytest.approx(np.mean(list(ours.values())) - np.mean(list(base.values())))
    assert mae["verdict"] == "lower, each trained once" and mae["difference_high"] < 0 and mae["p"] < 1e-6
    assert mae["holm_p"] == mae["p"]  # one fraction alone
    assert scratch["sure_wrong"] == pytest.approx(0.2) and mae["sure_wrong"] == 0
    assert 0.12 < scratch["sure_wrong_low"] < 0.2 < scratch["sure_wrong_high"] < 0.3
    assert scratch["difference"] is None and mae["wrong_q1"] <= mae["wrong"] <= mae["wrong_q3"]


def test_confident_mistakes_of_each_class(tmp_path):
    wrong = {i: 0.95 for i in range(0, 20, 2)} | {1: 0.5, 3: 0.95}
    study = analysis.analyze(read_runs([write(tmp_path / "a", "scratch", wrong)])[0])
    both, a, b = certainty.by_class(study)
    assert (both["class"], both["n"], both["sure_wrong"]) == ("all classes", 100, pytest.approx(11 / 100))
    assert (a["class"], a["n"], a["sure_wrong"]) == ("a", 50, pytest.approx(10 / 50))
    assert (b["class"], b["n"], b["sure_wrong"]) == ("b", 50, pytest.approx(1 / 50))
    assert tuple(a) == certainty.BY_CLASS


def test_confident_mistakes_are_compared_for_each_class(tmp_path):
    base, ours = {i: 0.95 for i in range(0, 60, 2)} | {1: 0.95}, {i: 0.95 for i in range(0, 8, 2)} | {3: 0.95}
    dirs = [write(tmp_path / "a", "scratch", base), write(tmp_path / "b", "mae", ours)]
    rows = certainty.by_class(analysis.analyze(read_runs(dirs)[0]))
    result = {row["class"]: row for row in rows if row["init"] == "mae"}
    assert result["a"]["difference"] == pytest.approx((4 - 30) / 50) and result["a"]["baseline"] == "scratch"
    assert result["a"]["verdict"] == "lower, each trained once" and result["b"]["verdict"] == "no difference shown"
    assert result["a"]["difference_low"] < -0.52 < result["a"]["difference_high"] < 0
    # Holm's correction is for the two classes and all images
    family = [result[name]["p"] for name in ("all classes", "a", "b")]
    assert [result[name]["holm_p"] for name in ("all classes", "a", "b")] == pytest.approx(stats.holm(family))
    assert all(row["difference"] is None for row in rows if row["init"] == "scratch")


def test_the_spread_of_confidence_when_wrong_is_compared(tmp_path):
    base = {i: 0.75 + 0.1 * (i // 2 % 5 - 2) for i in range(0, 60, 2)}
    ours = {i: 0.75 + 0.01 * (i // 2 % 5 - 2) for i in range(0, 60, 2)}
    dirs = [write(tmp_path / "a", "scratch", base), write(tmp_path / "b", "mae", ours)]
    scratch, mae = certainty.analyze(analysis.analyze(read_runs(dirs)[0]))
    assert scratch["wrong_sd"] == pytest.approx(np.std(list(base.values()), ddof=1))
    assert mae["sd_difference"] == pytest.approx(mae["wrong_sd"] - scratch["wrong_sd"]) and mae["sd_p"] < 0.001
    assert mae["sd_difference_low"] < mae["sd_difference"] < mae["sd_difference_high"] < 0
    assert mae["sd_verdict"] == "lower, each trained once" and mae["verdict"] == "no difference shown"
    assert scratch["wrong_sd_low"] < scratch["wrong_sd"] < scratch["wrong_sd_high"] and scratch["sd_verdict"] is None


def test_confident_means_a_confidence_of_at_least_90_percent(tmp_path):
    dirs = [write(tmp_path / "a", "scratch", {4: 0.9, 5: 0.8999}), write(tmp_path / "b", "mae", {4: 0.8999})]
    assert [row["sure_wrong"] for row in certainty.analyze(analysis.analyze(read_runs(dirs)[0]))] == [0.01, 0.0]


def test_a_model_without_mistakes_has_no_mean(tmp_path):
    dirs = [write(tmp_path / "a", "scratch", {}), write(tmp_path / "b", "mae", {4: 0.7})]
    scratch, mae = certainty.analyze(analysis.analyze(read_runs(dirs)[0]))
    assert scratch["wrong_mean"] is scratch["wrong"] is None and scratch["sure_wrong"] == 0
    assert mae["wrong_mean"] == pytest.approx(0.7) and mae["difference"] is None


def test_few_mistakes_have_no_interval(tmp_path):
    wrong = {0: 0.6, 1: 0.9, 2: 0.7, 3: 0.95}
    dirs = [write(tmp_path / "a", "scratch", wrong), write(tmp_path / "b", "mae", dict.fromkeys(range(20), 0.7))]
    scratch, mae = certainty.analyze(analysis.analyze(read_runs(dirs)[0]))
    assert scratch["wrong_mean"] == pytest.approx(0.7875)
    assert scratch["wrong_mean_low"] is scratch["wrong_sd_high"] is mae["p"] is mae["sd_p"] is None
    assert mae["difference"] == pytest.approx(-0.0875) and mae["verdict"] == mae["sd_verdict"] == TOO_FEW
    assert mae["wrong_mean_low"] < 0.65 < 0.75 < mae["wrong_mean_high"] <= 1  # equal ones leave room for others


def test_intervals_end_at_what_is_possible(tmp_path):
    """Three seeds that contradict each other: Student's interval alone would go beyond 100 points."""
    dirs = []
    for seed, (ours, base) in enumerate([(0, 90), (90, 0), (0, 90)]):
        for init, n in (("mae", ours), ("scratch", base)):
            dirs.append(write(tmp_path / f"{init}{seed}", init, dict.fromkeys(range(n), 0.95), seed))
    study = analysis.analyze(read_runs(dirs)[0])
    mae = certainty.analyze(study)[1]
    row = next(row for row in certainty.by_class(study) if row["init"] == "mae")
    assert (row["difference_low"], row["difference_high"]) == (-1, 1) and 0 <= mae["sure_wrong_low"]
    for metric in ("accuracy", "f1", "brier"):
        each = study.difference(metric, *(study.of(study.levels[0], init) for init in ("mae", "scratch")))
        most = 2 if metric == "brier" else 1
        assert math.isnan(each.value) or (-most <= each.low and each.high <= most), metric
    assert study.difference("accuracy", study.of(study.levels[0], "mae"), [0, 1, 2]).low == -1
