"""Values per image in the order asked for, whatever the batch size, and their means."""

import numpy as np
import pytest

from mae_jax.data import sources
from mae_jax.evaluation.per_image import classifier, means, per_image
from mae_jax.models.vit import ViTConfig
from mae_jax.step import sharding
from mae_jax.step.objectives.classification import Classification
from mae_jax.step.optimizer import Optimizer
from mae_jax.step.spec import StepSpec


@pytest.fixture(scope="module")
def spec():
    """On five devices, so that a batch has a multiple of five rows."""
    return StepSpec(
        Classification(), ViTConfig(16, 8, 16, 1, 2), Optimizer(0.9, 0.95, 0.1, "", 0.0, 1.0),
        (0.5, 0.4, 0.6), (0.25, 0.2, 0.3), 8, 1, sharding.make_mesh(1),
    )  # fmt: skip


@pytest.mark.parametrize(("batch_size", "rows"), [(1, [5, 5]), (3, [5, 5]), (6, [10]), (100, [100])])
def test_values_have_the_order_of_the_indices_and_padding_is_dropped(spec, batch_size, rows):
    seen = []

    def step(spec, params, batch, seed):
        seen.append(len(batch["index"]))
        index = np.asarray(batch["index"], np.float32)
        return {"twice": 2 * index, "pair": np.stack([index, index + seed], 1)}

    source = sources.synthetic("Train", 12, 16, 0)
    indices = np.array([7, 0, 3, 11, 2, 9])
    values = per_image(spec, {}, source, indices, batch_size=batch_size, threads=1, seed=4, step=step)
    assert seen == rows
    np.testing.assert_array_equal(values["twice"], 2 * indices)
    np.testing.assert_array_equal(values["pair"], np.stack([indices, indices + 4], 1))
    values = per_image(spec, {}, source, None, batch_size=5, threads=2, seed=0, step=step)
    np.testing.assert_array_equal(values["twice"], 2 * np.arange(12))


def test_images_are_those_of_the_source_at_the_size_of_the_network(spec):
    def step(spec, params, batch, seed):
        return {"mean": np.asarray(batch["image"], np.float32).mean((1, 2, 3)), "label": np.asarray(batch["label"])}

    source = sources.synthetic("Train", 4, 16, 0)
    values = per_image(spec, {}, source, np.array([2, 1]), batch_size=2, threads=1, seed=0, step=step)
    np.testing.assert_allclose(values["mean"], [source[i]["image"].mean() for i in (2, 1)], rtol=1e-6)
    np.testing.assert_array_equal(values["label"], source.labels[[2, 1]])


def test_scores_of_a_classifier_by_hand():
    p = np.array([[0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.5, 0.4, 0.1], [0.1, 0.8, 0.1]])
    labels = np.array([0, 1, 1, 1])
    result = dict(classifier({"probabilities": p, "loss": np.array([1, 2, 3, 6], np.float32)}, labels))
    # class 0: precision 1/2, recall 1; class 1: precision 1, recall 2/3; class 2 does not occur
    assert result == {"loss": 3.0, "accuracy": 0.75, "f1": pytest.approx((2 / 3 + 4 / 5) / 2)}


def test_means_of_an_autoencoder_are_summed_in_double_precision():
    values = {
        "loss": np.full(3000, 0.1, np.float32),
        "visible_loss": np.array([1.0, 2.0]),
        "spam": np.array([0.5, 0.0]),
    }
    result = dict(means(values, ("loss", "visible_loss", "spam")))
    assert list(result) == ["loss", "visible_loss", "spam"]
    assert result["loss"] == pytest.approx(float(np.float32(0.1)), abs=1e-12)
    assert (result["visible_loss"], result["spam"]) == (1.5, 0.25)
