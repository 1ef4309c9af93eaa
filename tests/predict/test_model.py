"""Finished runs classify and embed new images exactly as they did their own test images."""

import csv

import numpy as np
import pytest
from PIL import Image

import mae_jax
from mae_jax.rundir import contents

CLASSES = ("Eosinophil", "Lymphocyte")


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def as_written(probabilities):
    return [[f"{p:.9g}" for p in row] for row in probabilities]


@pytest.mark.slow
@pytest.mark.parametrize("task", ["finetune", "linear_probe", "lbfgs", "knn"])
def test_predictions_of_the_runs_own_test_images_are_bit_identical(made, task):
    model = mae_jax.load(made / task)
    rows = rows_of(made / task / contents.PREDICTIONS)
    files = [str(made / "cells" / row["image"]) for row in rows]
    result = model.predict(files)
    assert as_written(result.probabilities) == [[row[f"p_{c}"] for c in CLASSES] for row in rows]
    assert result.predictions == [row["prediction"] for row in rows]
    assert model.classes == CLASSES and result.names == tuple(files) and not result.skipped
    arrays = [np.asarray(Image.open(file)) for file in files]
    np.testing.assert_array_equal(model.predict(arrays).probabilities, result.probabilities)
    assert model.temperature and repr(model).startswith("<Model of") and "13 images" in repr(result)
