"""Classifiers on frozen features, compared with other solvers and brute force, and as runs."""

import csv
import dataclasses
import math

import numpy as np
import pytest
from scipy import optimize, special
from threadpoolctl import threadpool_info, threadpool_limits

from mae_jax.data.splits import DataCache
from mae_jax.evaluation import classification_scores, per_image, probes
from mae_jax.rundir import contents
from mae_jax.runtime.errors import UserError
from mae_jax.train import loop


@pytest.fixture(scope="module")
def blobs():
    """Training and validation features of three overlapping classes of unequal size."""
    rng = np.random.default_rng(0)
    centres = rng.normal(0, 1, (3, 6))

    def draw(n):
        labels = rng.choice(3, n, p=(0.6, 0.3, 0.1))
        return (centres[labels] + rng.normal(0, 1.2, (n, 6))).astype(np.float32), labels

    return draw(150), draw(80)


def test_logistic_regression_is_at_its_optimum(blobs):
    """Another solver, started elsewhere, reaches the same loss and probabilities with an objective written here."""
    (x, labels), _ = blobs
    wide = x.astype(np.float64)

    def objective(flat, l2):
        both = flat.reshape(7, 3)
        p = special.softmax(wide @ both[:-1] + both[-1], axis=1)
        return -np.log(p[np.arange(150), labels]).mean() + l2 / 2 * (both[:-1] ** 2).sum()

    for l2 in (1e-3, 0.3):
        both, reached = probes.logistic_regression(x, labels, 3, l2)
        start = np.random.default_rng(1).normal(size=21)
        other = optimize.minimize(objective, start, args=(l2,), method="BFGS", options={"gtol": 1e-6})
        assert reached and objective(both.ravel(), l2) == pytest.approx(other.fun, abs=1e-9)
        slope = optimize.approx_fprime(both.ravel(), objective, 1e-7, l2)
        assert np.abs(slope).max() < 1e-5
        np.testing.assert_allclose(both[:-1], other.x.reshape(7, 3)[:-1], atol=1e-3)
    # With uninformative features, the bias gives the class frequencies.
    both, _ = probes.logistic_regression(np.zeros((150, 6)), labels, 3, 0.1)
    np.testing.assert_allclose(special.softmax(both[-1]), np.bincount(labels) / 150, atol=1e-5)
    assert not both[:-1].any()


def test_the_penalty_is_chosen_on_validation_images_alone(blobs):
    (x, labels), (v, v_labels) = blobs
    result, chosen = probes.fit_logistic(x, labels, 3, (1e-4, 1e-2, 1.0, 100.0), probes.Apart(v, v_labels))
    scores = {}
    for l2 in (1e-4, 1e-2, 1.0, 100.0):
        one, _ = probes.fit_logistic(x, labels, 3, (l2,), probes.Apart(v, v_labels))
        p = one.probabilities(v)
        scores[l2] = (p.argmax(1) == v_labels).mean(), np.log(p[np.arange(80), v_labels]).mean()
    assert chosen["l2"] == max(scores, key=scores.get) and chosen["converged"]
    assert (chosen["val_accuracy"], -chosen["val_loss"]) == pytest.approx(scores[chosen["l2"]], abs=1e-4)
    _, other = probes.fit_logistic(x, labels, 3, (1e-4, 100.0), probes.Apart(v, np.zeros_like(v_labels)))
    assert other["l2"] == 100.0  # where only the most common class is right
    # Rescaling a feature changes only the last digits.
    scaled, _ = probes.fit_logistic(x * 1000, labels, 3, (chosen["l2"],), probes.Apart(v * 1000, v_labels))
    np.testing.assert_allclose(scaled.probabilities(v * 1000), result.probabilities(v), atol=1e-3)


NONE = probes.Apart(np.zeros((0, 2)), np.zeros(0, int))


def fixed(*p):
    """A classifier that gives the three images, whose features are the unit vectors, these probabilities."""
    return probes.Logistic(np.zeros(3), np.ones(3), np.log(p), np.zeros(2))


def chosen(candidates, x, labels):
    """The choice among candidates on validation images."""
    return probes.choose(lambda *_: candidates, np.zeros((1, 3)), np.zeros(1, int), probes.Apart(x, labels))


def test_accuracy_chooses_and_the_loss_decides_only_between_equal_accuracies():
    labels, x = np.array([0, 0, 1]), np.eye(3)
    right = fixed([0.51, 0.49], [0.51, 0.49], [0.49, 0.51])  # all right, barely: loss 0.67
    sure = fixed([0.99, 0.01], [0.99, 0.01], [0.51, 0.49])  # one wrong, but a loss of 0.24
    wrong = fixed([0.9, 0.1], [0.1, 0.9], [0.1, 0.9])  # one wrong, a loss of 0.84
    for order in ([right, sure], [sure, right]):
        best, about = chosen([(each, {}) for each in order], x, labels)
        assert best is right and about["val_accuracy"] == 1
        assert about["val_loss"] == pytest.approx(-math.log(0.51))
    for order in ([wrong, sure], [sure, wrong]):
        assert chosen([(each, {}) for each in order], x, labels)[0] is sure
    again = dataclasses.replace(sure)
    assert chosen([(sure, {}), (again, {})], x, labels)[0] is sure
    assert chosen([(wrong, {"l2": 1}), (sure, {})], x[:0], labels[:0]) == (wrong, {"l2": 1})


def test_the_length_of_a_feature_does_not_make_it_near():
    """The inner product would choose the long vector, which points in another direction."""
    train = np.array([[1.0, 0.1], [30.0, 40.0]], np.float32)
    result, _ = probes.fit_neighbours(train, np.array([0, 1]), 2, (1,), (0.1,), NONE)
    assert result.probabilities(np.array([[5.0, 0.0]], np.float32)).argmax() == 0
    both = dataclasses.replace(result, k=2).probabilities(np.array([[5.0, 0.0]]))[0]
    cosines = np.array([1 / math.sqrt(1.01), 0.6])
    np.testing.assert_allclose(both, np.exp(cosines / 0.1) / np.exp(cosines / 0.1).sum(), rtol=1e-6)


def test_cross_validation_predicts_each_image_from_the_other_folds_and_refits_on_all(blobs):
    (x, labels), (v, v_labels) = blobs
    x, labels, fold = x[:40], labels[:40], np.arange(40) % 4
    candidates, scores = (1e-3, 1e-1, 1e1), {}
    for l2 in candidates:
        p = np.zeros((40, 3))
        for number in range(4):
            rest, held = fold != number, fold == number
            p[held] = probes.fit_logistic(x[rest], labels[rest], 3, (l2,), probes.Apart(v, v_labels))[0].probabilities(
                x[held]
            )
        scores[l2] = (p.argmax(1) == labels).mean(), np.log(p[np.arange(40), labels]).mean()
    result, chosen = probes.fit_logistic(x, labels, 3, candidates, probes.Folds(fold))
    assert chosen["l2"] == max(scores, key=scores.get) and len(set(scores.values())) == 3
    assert (chosen["val_accuracy"], -chosen["val_loss"]) == pytest.approx(scores[chosen["l2"]], abs=1e-4)
    direct, _ = probes.fit_logistic(x, labels, 3, (chosen["l2"],), probes.Apart(v, v_labels))
    np.testing.assert_allclose(result.probabilities(v), direct.probabilities(v), atol=1e-4)
    near, chosen = probes.fit_neighbours(x, labels, 3, (3, 35), (0.07,), probes.Folds(fold))
    assert len(near.labels) == 40 and chosen["neighbours"] in (3, 35)  # a fold trains on 30 images


def test_nearest_neighbors_are_those_of_brute_force(blobs):
    (x, labels), (v, v_labels) = blobs
    for k, temperature in ((1, 0.07), (5, 0.07), (20, 0.5)):
        result = probes.Neighbours(probes.unit(x), labels, 3, k, temperature).probabilities(v)
        for row, query in zip(result, v.astype(float), strict=True):
            near = [float(t @ query / np.linalg.norm(t) / np.linalg.norm(query)) for t in x.astype(float)]
            votes = np.zeros(3)
            for i in sorted(range(150), key=lambda i: -near[i])[:k]:
                votes[labels[i]] += np.exp(near[i] / temperature)
            np.testing.assert_allclose(row, votes / votes.sum(), rtol=1e-6)
    chosen = probes.fit_neighbours(x, labels, 3, (1, 20, 500), (0.07,), probes.Apart(v, v_labels))[1]
    assert chosen["neighbours"] in (1, 20, 150)  # there are fewer than 500
    assert chosen["val_accuracy"] > 0.6


def test_equal_features_give_every_image_the_same_class(blobs):
    (x, labels), (v, v_labels) = blobs
    alike, others = np.ones_like(x), np.full_like(v, 1.01)
    for expected, _ in (
        probes.fit_logistic(alike, labels, 3, (1e-3,), probes.Apart(others, v_labels)),
        probes.fit_neighbours(alike, labels, 3, (150,), (0.07,), probes.Apart(others, v_labels)),
    ):
        scores = classification_scores.classification(
            v_labels, expected.probabilities(others).argmax(1), ("a", "b", "c")
        )
        assert scores["collapsed"] and scores["accuracy"] == (v_labels == 0).mean()


@pytest.mark.slow
@pytest.mark.parametrize("task", ["lbfgs", "knn"])
def test_a_quick_probe_leaves_the_files_of_a_run(tmp_path, tiny_config, monkeypatch, capsys, task):
    calls = []
    original = per_image.per_image
    monkeypatch.setattr(per_image, "per_image", lambda *rest, **more: calls.append(1) or original(*rest, **more))
    cache = DataCache()
    config = tiny_config(task, **{"data.external": "TestB", "data.fraction": 0.5})
    results = loop.run(config, tmp_path / "run", cache=cache)
    assert len(calls) == 4  # training, validation, test, the further test set
    about = contents.read_json(tmp_path / "run" / contents.RUN)
    assert (about["evaluation"], about["steps"], about["init"], about["fraction"]) == (task, 0, "scratch", 0.5)
    subset = contents.read_json(tmp_path / "run" / contents.SUBSET)
    assert sum(subset["actual"].values()) == results["n_train"] == about["n_train"]
    names = (contents.PREDICTIONS, contents.VALIDATION, f"{contents.EXTERNAL}/TestB/{contents.PREDICTIONS}")
    for name, n in zip(names, (23, sum(subset["validation"].values()), 23), strict=True):
        with open(tmp_path / "run" / name) as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == n
    assert results["chosen"]["val_accuracy"] >= 0
    kept = (tmp_path / "run" / contents.PREDICTIONS).read_bytes()
    assert loop.run(config, tmp_path / "run") == results and len(calls) == 4
    printed = capsys.readouterr().out.splitlines()[-1]
    assert "already finished" in printed and "missing" not in printed
    # Cached features are not computed again, whether the label seed or the fraction changes.
    config.data.fraction = 0.2
    loop.run(config, tmp_path / "other", cache=cache)
    assert len(calls) == 4
    config.data.fraction = 0.5
    loop.run(config, tmp_path / "again")
    assert (tmp_path / "again" / contents.PREDICTIONS).read_bytes() == kept
    # Another seed draws another encoder, whose features are its own.
    config.seed = 1
    loop.run(config, tmp_path / "seed", cache=cache)
    assert len(calls) == 12
    loop.run(config, tmp_path / "alone")
    shared, alone = ((tmp_path / name / contents.PREDICTIONS).read_bytes() for name in ("seed", "alone"))
    assert shared == alone != kept


@pytest.mark.parametrize(
    ("task", "fields", "message"),
    [
        ("lbfgs", {"data.val_fraction": 0.0}, "is selected on validation images, but data.val_fraction=0"),
        ("knn", {"probe.neighbours": (0, 5)}, "probe.neighbours=(0, 5) is not allowed; use whole numbers above 0"),
        ("knn", {"probe.temperature": ()}, "probe.temperature=() is not allowed"),
        ("knn", {"probe.folds": 1}, "probe.folds=1 leaves nothing to train on; use 0 for none, or 2 and more"),
        ("lbfgs", {"train.select": "best"}, "lbfgs has none"),
        ("knn", {"train.match_fraction": 1.0}, "train.match_fraction=1.0"),
        ("linear_probe", {"train.mixup": 0.8}, "train.mixup=0.8 mixes labels and is only for fine-tuning"),
    ],
)
def test_probes_that_cannot_work_are_refused(tmp_path, tiny_config, task, fields, message):
    with pytest.raises(UserError) as error:
        loop.run(tiny_config(task, **fields), tmp_path / "run")
    assert message in str(error.value)


def test_a_probe_without_validation_images_takes_the_one_value(tmp_path, tiny_config):
    config = tiny_config("knn", **{"data.val_fraction": 0.0, "probe.neighbours": (3,)})
    assert loop.run(config, tmp_path / "run")["chosen"] == {"neighbours": 3, "temperature": 0.07}


@pytest.mark.parametrize("task", ["lbfgs", "knn"])
def test_a_cross_validated_probe_needs_no_validation_images(tmp_path, tiny_config, task):
    config = tiny_config(task, **{"data.val_fraction": 0.0, "probe.folds": 3})
    chosen = loop.run(config, tmp_path / "run")["chosen"]
    info = contents.read_json(tmp_path / "run" / contents.RUN)
    assert 0 <= chosen["val_accuracy"] <= 1 and info["folds"] == 3
    assert not (tmp_path / "run" / contents.VALIDATION).exists()


def test_the_solver_uses_one_thread_so_that_bits_do_not_depend_on_the_cores(blobs, monkeypatch):
    (x, labels), _ = blobs
    seen = []
    minimize = optimize.minimize

    def watched(*args, **kwargs):
        seen.extend(pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas")
        return minimize(*args, **kwargs)

    monkeypatch.setattr(probes.optimize, "minimize", watched)
    with threadpool_limits(2, "blas"):
        probes.logistic_regression(x, labels, 3, 0.1)
    assert seen and set(seen) == {1}
