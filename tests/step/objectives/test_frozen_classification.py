"""The objective of a head on frozen features: batch norm over real rows, and running statistics."""

import jax.numpy as jnp
import numpy as np

from mae_jax import models
from mae_jax.models import layers
from mae_jax.models.vit import ViTConfig
from mae_jax.step import sharding
from mae_jax.step.objectives.frozen_classification import FrozenClassification
from mae_jax.step.optimizer import Optimizer
from mae_jax.step.spec import StepSpec


def test_statistics_are_those_of_real_rows_and_running_ones_move_a_tenth_of_the_way(monkeypatch):
    x = np.random.default_rng(0).normal(2, 3, (5, 4)).astype(np.float32)
    monkeypatch.setattr(models, "pooled", lambda shape, params, images: images[:, 0, 0] @ jnp.eye(3, 4) + 0)
    spec = StepSpec(
        FrozenClassification(), ViTConfig(16, 8, 4, 1, 2, n_classes=2, batch_norm=True),
        Optimizer(0.9, 0.95, 0.1, "", 0.0, 1.0), (0.0,) * 3, (1.0,) * 3, 4, 1, sharding.make_mesh(1),
    )  # fmt: skip
    images = np.zeros((5, 16, 16, 3), np.uint8)
    images[:, 0, 0] = np.round(np.abs(x[:, :3]) * 20)
    features = images[:4, 0, 0] / 255 @ np.eye(3, 4)  # the fifth row is padding
    running = {"mean": jnp.full(4, 1.0), "variance": jnp.full(4, 2.0)}
    rows = {"image": jnp.asarray(images), "label": jnp.arange(5), "mask": jnp.array([1.0, 1, 1, 1, 0])}
    replaced, batch, shared = FrozenClassification().prepare(
        spec, {"batch_norm": running}, rows, jnp.int32(0), jnp.int32(0), {}
    )
    assert shared is None and set(batch) == {"features", "label", "mask"}
    result = replaced["batch_norm"]
    np.testing.assert_allclose(result["mean"], 0.9 + 0.1 * features.mean(0), rtol=1e-5)
    np.testing.assert_allclose(result["variance"], 1.8 + 0.1 * features.var(0, ddof=1), rtol=1e-5)
    expected = (features - features.mean(0)) / np.sqrt(features.var(0) + layers.BATCH_NORM_EPSILON)
    np.testing.assert_allclose(batch["features"][:4], expected, rtol=1e-4, atol=1e-5)


def test_the_encoder_is_not_trained_and_a_batch_comes_in_one_piece():
    assert not FrozenClassification.accumulates and FrozenClassification() == FrozenClassification()
