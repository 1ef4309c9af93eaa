import numpy as np
import pytest

from mae_jax.evaluation.classification_scores import classification, confusion


def test_worked_example():
    labels = np.array([0, 0, 0, 1, 1, 2])
    predictions = np.array([0, 0, 1, 1, 0, 1])
    np.testing.assert_array_equal(confusion(labels, predictions, 3), [[2, 1, 0], [1, 1, 0], [0, 1, 0]])
    scores = classification(labels, predictions, ["a", "b", "c"])
    assert scores["accuracy"] == pytest.approx(3 / 6)
    assert scores["precision"] == pytest.approx((2 / 3 + 1 / 3 + 0) / 3)
    assert scores["recall"] == scores["balanced_accuracy"] == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)
    assert scores["f1"] == pytest.approx((2 / 3 + 2 / 5 + 0) / 3)
    assert scores["majority_rate"] == 0.5 and not scores["collapsed"]
    assert scores["per_class"]["b"] == {
        "n": 2, "predicted": 3, "precision": pytest.approx(1 / 3), "recall": 0.5, "f1": pytest.approx(0.4)
    }  # fmt: skip


def test_published_majority_classifier():
    """At 1 % of the labels the study's MAE arm predicts one class: 1,059 of 1,728, in five classes."""
    labels = np.repeat([0, 1, 2, 3, 4], [100, 200, 269, 100, 1059])
    scores = classification(labels, np.full(1728, 4), list("abcde"))
    assert scores["accuracy"] == pytest.approx(0.61285, abs=1e-5)
    assert scores["precision"] == pytest.approx(0.12257, abs=1e-5)
    assert scores["recall"] == pytest.approx(0.2)
    assert scores["f1"] == pytest.approx(0.15199, abs=1e-5)
    assert scores["collapsed"]


def test_macro_is_over_the_classes_of_the_test_set():
    scores = classification(np.array([0, 0, 1]), np.array([0, 0, 1]), ["a", "b", "absent"])
    assert scores["f1"] == scores["recall"] == scores["precision"] == scores["balanced_accuracy"] == 1
    assert scores["per_class"]["absent"] == {"n": 0, "predicted": 0, "precision": 0, "recall": 0, "f1": 0}
