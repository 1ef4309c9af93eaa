"""The objective of classifiers: sums over real rows, class weights and smoothing, by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from mae_jax.models.vit import ViTConfig
from mae_jax.step import sharding
from mae_jax.step.objectives.classification import Classification
from mae_jax.step.optimizer import Optimizer
from mae_jax.step.spec import StepSpec

LOGITS = jnp.log(jnp.array([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6]]))


def batch(mask=(1, 1, 1)):
    return {"label": jnp.array([0, 2, 2]), "mask": jnp.array(mask, jnp.float32)}


def test_loss_and_right_answers_are_summed_over_real_rows():
    total, metrics = Classification().of_logits(LOGITS, batch())
    assert float(total) == pytest.approx(-np.log([0.5, 0.1, 0.6]).sum(), rel=1e-6) == float(metrics["loss"])
    assert float(metrics["accuracy"]) == 2
    total, metrics = Classification().of_logits(LOGITS, batch((1, 1, 0)))
    assert float(total) == pytest.approx(-np.log([0.5, 0.1]).sum(), rel=1e-6) and float(metrics["accuracy"]) == 1


def test_weights_multiply_the_loss_of_their_class_and_smoothing_shares_it():
    total, _ = Classification(class_weights=(2.0, 1.0, 0.5)).of_logits(LOGITS, batch())
    assert float(total) == pytest.approx(-(2 * np.log(0.5) + 0.5 * np.log(0.1) + 0.5 * np.log(0.6)), rel=1e-6)
    smooth, _ = Classification(label_smoothing=0.3).of_logits(LOGITS, batch((1, 0, 0)))
    assert float(smooth) == pytest.approx(-(0.8 * np.log(0.5) + 0.1 * np.log(0.25) * 2), rel=1e-5)


def test_without_mixing_a_batch_is_left_as_it_is():
    rows = batch()
    spec = StepSpec(
        Classification(), ViTConfig(16, 8, 16, 1, 2), Optimizer(0.9, 0.95, 0.1, "", 0.0, 1.0), (0.5,) * 3, (0.25,) * 3,
        3, 1, sharding.make_mesh(1),
    )  # fmt: skip
    assert Classification().prepare(spec, {}, rows, jnp.int32(0), jnp.int32(0), {}) == ({}, rows, None)
    assert Classification(mixup=0.8) != Classification() == Classification()
