"""The numbers behind the figures on confidence are those counted image by image, and the figures show them."""

import numpy as np
import pytest
from matplotlib.collections import LineCollection

from mae_jax.report import confidence
from mae_jax.report.panels import style
from mae_jax.report.runs import Level

LEVEL = Level("", 1.0)


@pytest.fixture(scope="module")
def study(make):
    """Two seeds of each initialization, whose confidences, answers and numbers of mistakes all differ."""
    return make.in_memory({("", 1.0, "scratch"): [0.55, 0.65], ("", 1.0, "mae"): [0.8, 0.9]})


def answers(study, init):
    """(true class, predicted class, confidence) of every image and seed."""
    tests = [run.test for run in study.runs if run.init == init]
    assert len(tests) == 2
    return [
        row for t in tests for row in zip(t.labels.tolist(), t.predictions.tolist(), t.confidence.tolist(), strict=True)
    ]


def test_boxes_are_of_the_true_class_for_right_and_wrong_answers_of_all_seeds(study):
    with style():
        figure, rows = confidence.boxes(study, LEVEL)
    assert len(rows) == 5 * 2 * 2
    for row in rows:
        label = "abcde".index(row["class"])
        right = row["outcome"] == "right"
        confidences = [
            c for true, answer, c in answers(study, row["init"]) if true == label and (answer == true) == right
        ]
        assert row["n"] == len(confidences)
        if confidences:
            assert [row[k] for k in ("q1", "median", "q3")] == pytest.approx(np.percentile(confidences, (25, 50, 75)))
    medians = [c for c in figure.axes[0].collections if isinstance(c, LineCollection)][-1]
    drawn = sorted(float(part[0][1]) for part in medians.get_segments())
    assert drawn == pytest.approx(sorted(100 * row["median"] for row in rows if row["n"]))
    counts = [text.get_text() for text in figure.axes[0].get_xticklabels()]
    assert counts == [f"{row['n']:,}" for row in rows]


def test_reliability_counts_the_answers_of_all_seeds_in_bins_of_equal_width(study):
    with style():
        figure, rows = confidence.reliability(study, [""])
    for init in ("scratch", "mae"):
        bins = {row["bin"]: row for row in rows if row["init"] == init}
        seen = answers(study, init)
        assert sum(row["n"] for row in bins.values()) == len(seen) == 800
        for b in range(15):
            inside = [(true == answer, c) for true, answer, c in seen if b / 15 < c <= (b + 1) / 15]
            assert (b in bins) == bool(inside)
            if inside:
                row = bins[b]
                means = np.mean(inside, axis=0)
                assert (row["n"], row["accuracy"], row["confidence"]) == (len(inside), *map(pytest.approx, means))
    curves = [line for line in figure.axes[0].get_lines() if line.get_linestyle() == "-"]
    for line, init in zip(curves, ("scratch", "mae"), strict=True):
        bins = [row for row in rows if row["init"] == init]
        np.testing.assert_allclose(line.get_xdata(), [100 * row["confidence"] for row in bins])
        np.testing.assert_allclose(line.get_ydata(), [100 * row["accuracy"] for row in bins])


def test_risk_is_the_mean_over_seeds_of_the_errors_among_the_most_confident(study):
    with style():
        _, rows = confidence.risk_coverage(study, [""])
    for init in ("scratch", "mae"):
        init_rows = [row for row in rows if row["init"] == init]
        seeds = np.split(np.array(answers(study, init)), 2)
        ends = [(t[:, 0] != t[:, 1]).mean() for t in seeds]
        assert init_rows[-1]["coverage"] == 1 and init_rows[-1]["wrong"] == pytest.approx(np.mean(ends))
        for row in init_rows[:: len(init_rows) // 5]:
            kept, risks = round(row["coverage"] * 400), []
            for t in seeds:
                first = t[np.argsort(-t[:, 2], kind="stable")[:kept]]
                if np.isclose(first[-1, 2], 1) or (t[:, 2] == first[-1, 2]).sum() > 1:
                    break  # ties: the mean over their orders, which tests of `stats.risk_coverage` count
                risks.append((first[:, 0] != first[:, 1]).mean())
            else:
                assert row["wrong"] == pytest.approx(np.mean(risks))
        assert min(row["coverage"] for row in init_rows) >= 0.02


def test_the_bars_below_a_reliability_diagram_count_all_predictions(study):
    with style():
        figure, rows = confidence.reliability(study, [""])
    bars = [patch.get_data().values for ax in figure.axes for patch in ax.patches]
    for values, init in zip(bars, ("scratch", "mae"), strict=True):
        bins = {row["bin"]: row["n"] for row in rows if row["init"] == init}
        assert values.tolist() == [bins.get(b, 0) for b in range(15)] and sum(values) == 800


def test_of_many_classes_the_rarest_are_drawn_and_all_are_in_the_numbers(make, monkeypatch):
    monkeypatch.setattr(confidence, "MOST", 2)
    study = make.in_memory({("", 1.0, "mae"): [0.7]})  # the fourth class is rarer than the second and third
    with style():
        figure, rows = confidence.boxes(study, LEVEL)
    assert [text.get_text() for text in figure.axes[0].texts] == ["a", "d"]
    assert {row["class"] for row in rows} == set("abcde")
