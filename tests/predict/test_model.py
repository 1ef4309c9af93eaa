"""Finished runs classify and embed new images exactly as they did their own test images."""

import csv
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import mae_jax
from mae_jax.predict.model import Model, Result
from mae_jax.rundir import contents
from mae_jax.runtime.errors import UserError

CLASSES = ("Eosinophil", "Lymphocyte")


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def as_written(probabilities):
    return [[f"{p:.9g}" for p in row] for row in probabilities]


@pytest.mark.slow
@pytest.mark.parametrize("task", ["finetune", "linear_probe", "lbfgs", "knn"])
def test_predictions_of_the_runs_own_test_images_are_bit_identical(predict_dir, task):
    model = mae_jax.load(predict_dir / task)
    rows = rows_of(predict_dir / task / contents.PREDICTIONS)
    files = [str(predict_dir / "cells" / row["image"]) for row in rows]
    result = model.predict(files)
    assert as_written(result.probabilities) == [[row[f"p_{c}"] for c in CLASSES] for row in rows]
    assert result.predictions == [row["prediction"] for row in rows]
    assert model.classes == CLASSES and result.names == tuple(files) and not result.skipped
    arrays = [np.asarray(Image.open(file)) for file in files]
    np.testing.assert_array_equal(model.predict(arrays).probabilities, result.probabilities)
    assert model.temperature and repr(model).startswith("<Model of") and "13 images" in repr(result)


def result(temperature=2.0):
    p = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
    return Result(("a", "b", "c"), CLASSES, p, temperature, {"d": "d is empty"})


def test_a_result_is_read_off_its_probabilities():
    actual = result()
    assert actual.indices.tolist() == [0, 1, 0] and actual.predictions == [CLASSES[0], CLASSES[1], CLASSES[0]]
    assert actual.confidence.tolist() == [0.9, 0.8, 0.6] and len(actual) == 3
    soft = np.sqrt(actual.probabilities)
    np.testing.assert_allclose(actual.calibrated, soft / soft.sum(1, keepdims=True))
    assert repr(actual) == "<Result: 3 images: Eosinophil 2, Lymphocyte 1; 1 skipped>"
    with pytest.raises(UserError, match="calibrated: the temperature is not known"):
        _ = result(None).calibrated
    empty = Result((), CLASSES, np.zeros((0, 2)), None, {})
    assert repr(empty) == "<Result: 0 images>" and empty.predictions == [] and empty.confidence.shape == (0,)


@pytest.mark.parametrize(
    ("head", "pool", "expected"), [("cls", "", "cls"), ("cls", "both", "both"), ("mean", "", "mean")]
)
def test_pooling_is_that_of_the_head_unless_another_is_asked_for(head, pool, expected):
    model = Model("here", "", SimpleNamespace(shape=SimpleNamespace(pool=head, width=16)), {})
    assert model.pooling(pool) == expected and model.width(pool) == (32 if expected == "both" else 16)


def test_pooling_that_a_network_has_no_norm_for_is_refused():
    model = Model("here", "", SimpleNamespace(shape=SimpleNamespace(pool="mean", width=16)), {})
    with pytest.raises(UserError, match="pool=cls: here was trained on the mean of the patch tokens"):
        model.pooling("cls")
    with pytest.raises(UserError, match="pool='max' is not allowed; use one of cls, mean, both"):
        model.pooling("max")
    with pytest.raises(UserError, match="here has no classifier, only an encoder; use embed"):
        next(model.batches(None))
