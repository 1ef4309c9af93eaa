"""The robustness index: counted by hand, its ends, its value by chance, and the tables."""

import csv

import numpy as np
import pytest

from mae_jax.report import robustness_index
from mae_jax.report.robustness_index import Neighborhood, NotKnown


def hood(labels, center, near, apart=None, name="mae"):
    n = len(labels)
    alone = np.arange(n)
    return Neighborhood(
        "data sets", tuple(f"set {i}" for i in range(max(center) + 1)), np.array(labels), np.array(center),
        alone if apart is None else np.array(apart), alone, {name: [np.array(near)]},
    )  # fmt: skip


def test_counts_are_those_by_hand():
    """Neighbors of image 0: the same class elsewhere, another class here, both the same, both others, none."""
    labels, center = [0, 0, 1, 0, 1], [0, 1, 0, 0, 1]
    near = np.array([[1, 2, 3, 4, -1]] + [[-1] * 5] * 4)
    same, other = robustness_index.counted(near, np.array(labels), np.array(center))
    assert same[0].tolist() == [True, False, False, False, False] and not same[1:].any()
    assert other[0].tolist() == [False, True, False, False, False] and not other[1:].any()
    part = hood(labels, center, near)
    at = [robustness_index.index_at(part.neighbors["mae"], part, k).estimate for k in (1, 2, 5)]
    assert at == [1.0, 0.5, 0.5]
    nothing = hood(labels, center, [[3, -1, -1, -1, -1]] + [[-1] * 5] * 4)
    assert robustness_index.index_at(nothing.neighbors["mae"], nothing, 5) is None


def drawn(by_class: float, by_center: float, seed: int = 0, n: int = 240):
    """The neighborhood in features that carry the class and the center with these strengths."""
    rng = np.random.default_rng(seed)
    labels, center = rng.integers(0, 2, n), rng.integers(0, 2, n)
    x = rng.normal(size=(n, 6))
    x[:, 0] += by_class * (2 * labels - 1)
    x[:, 1] += by_center * (2 * center - 1)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    similarity = x @ x.T
    np.fill_diagonal(similarity, -np.inf)
    return hood(labels, center, np.argsort(-similarity, axis=1)[:, :101])


@pytest.mark.parametrize(("by_class", "by_center", "low", "high"), [(9, 0, 0.95, 1), (0, 9, 0, 0.05), (2, 2, 0.4, 0.6)])
def test_the_index_is_1_for_the_class_and_0_for_the_center(by_class, by_center, low, high):
    part = drawn(by_class, by_center)
    (row,) = robustness_index.rows([part])
    assert low <= row["index"] <= high and row["low"] <= row["index"] <= row["high"]
    assert row["by_chance"] == pytest.approx(0.5, abs=0.05)
    assert row["balanced_accuracy"] > 0.9 if by_class else row["balanced_accuracy"] < 0.7


def test_chance_is_the_index_of_all_images_that_may_be_neighbors():
    """Three classes in two sets, one image each: one of the same class elsewhere, two of others here."""
    labels, center = [0, 1, 2] * 2, [0] * 3 + [1] * 3
    assert robustness_index.by_chance(hood(labels, center, np.zeros((6, 1), int))) == pytest.approx(1 / 3)
    together = [0, 0, 1, 2, 3, 4]  # the first two are of one slide, so neither counts for the other
    assert robustness_index.by_chance(hood(labels, center, np.zeros((6, 1), int), together)) == pytest.approx(6 / 16)


def test_k_has_the_best_balanced_accuracy_and_is_the_median_over_encoders():
    labels = np.array([0, 0, 0, 1, 1, 1])
    right = np.array([np.roll([j for j in range(6) if labels[j] == labels[i] and j != i] * 2, 0)[:3] for i in range(6)])
    wrong_first = np.stack([(np.arange(6) + 3) % 6, right[:, 0], right[:, 1]], axis=1)
    part = hood(labels, [0, 1, 0, 1, 0, 1], right)
    assert robustness_index.balanced_accuracy(right, labels, 1) == 1
    assert robustness_index.balanced_accuracy(wrong_first, labels, 1) == 0
    assert robustness_index.balanced_accuracy(wrong_first, labels, 3) == 1
    assert robustness_index.chosen_k(part) == 1
    part.neighbors["other"] = [wrong_first, wrong_first]
    assert robustness_index.chosen_k(part) == 3


def test_encoders_are_compared_with_random_weights_on_the_same_images():
    good, random = drawn(1.5, 0.5), drawn(0, 3)
    assert (good.labels == random.labels).all()
    good.neighbors["scratch"] = random.neighbors["mae"]
    rows = {row["encoder"]: row for row in robustness_index.rows([good])}
    mae, base = rows["mae"], rows["scratch"]
    assert mae["difference"] == pytest.approx(mae["index"] - base["index"]) and mae["verdict"].startswith("higher")
    assert mae["difference_low"] < mae["difference"] < mae["difference_high"] and mae["baseline"] == "scratch"
    assert base["difference"] is None and mae["k"] == base["k"]


def test_a_mean_over_encoders_has_the_interval_of_these_encoders():
    part, other = drawn(2, 2), drawn(2, 2)
    one = robustness_index.rows([part])[0]
    part.neighbors["mae"] += other.neighbors["mae"] * 2
    several = robustness_index.rows([part])[0]
    assert several["encoders"] == 3 and several["index"] == pytest.approx(one["index"])
    assert (several["low"], several["high"]) == pytest.approx((one["low"], one["high"]))


def test_the_text_says_what_is_not_known(tmp_path):
    parts = [drawn(9, 0), NotKnown("groups", "the groups of the test images are not known")]
    text, path = robustness_index.write(tmp_path / "out", parts)
    assert "**groups**: not known: the groups of the test images are not known." in text
    assert "**data sets**: 240 images in 2 data sets" in text and "arXiv:2507.17845" in text and "| mae | " in text
    with open(path, newline="") as file:
        table = list(csv.DictReader(file))
    assert list(table[0]) == list(robustness_index.COLUMNS) == list(table[1])
    assert table[1]["verdict"].startswith("not known") and table[1]["index"] == ""
