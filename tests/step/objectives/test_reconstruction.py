"""The objective of masked autoencoding: which patches are removed, and what the loss counts."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mae_jax import models
from mae_jax.config.validation import validate
from mae_jax.models.patches import patchify
from mae_jax.models.vit import ViTConfig
from mae_jax.step import sharding
from mae_jax.step.batches import to_float
from mae_jax.step.objectives.classification import Classification
from mae_jax.step.objectives.reconstruction import Reconstruction, masked
from mae_jax.step.optimizer import Optimizer
from mae_jax.step.spec import StepSpec


def spec_of(objective):
    return StepSpec(
        objective, ViTConfig(16, 8, 16, 1, 2), Optimizer(0.9, 0.95, 0.1, "", 0.0, 1.0), (0.5,) * 3, (0.25,) * 3, 3, 1,
        sharding.make_mesh(1),
    )  # fmt: skip


def test_settings_are_those_of_the_config(tiny_config):
    config = validate(tiny_config("pretrain", **{"mae.mask_ratio": 0.5, "mae.visible_weight": 0.25}))
    assert Reconstruction.of(config) == Reconstruction(0.5, True, 0.25)
    assert masked(spec_of(Reconstruction(0.5, True))).mask_ratio == 0.5
    with pytest.raises(AssertionError):
        masked(spec_of(Classification()))


def test_noise_depends_on_seed_and_step_and_padding_has_none():
    spec, rows = spec_of(Reconstruction(0.5, True)), {"image": jnp.zeros((5, 16, 16, 3), jnp.uint8)}
    draw = lambda seed, step: np.asarray(  # noqa: E731
        spec.objective.prepare(spec, {}, rows, jnp.int32(seed), jnp.int32(step), {})[1]["noise"]
    )
    noise = draw(0, 0)
    assert noise.shape == (5, 4) and not noise[3:].any() and (noise[:3] > 0).all()
    np.testing.assert_array_equal(noise, draw(0, 0))
    assert (draw(1, 0)[:3] != noise[:3]).all() and (draw(0, 1)[:3] != noise[:3]).all()


def test_the_loss_is_that_of_removed_patches_and_visible_ones_count_by_their_weight(monkeypatch):
    """A prediction that is one standard deviation off on removed patches, and two on visible ones."""
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)
    patches = patchify(to_float(jnp.asarray(images), (0.5,) * 3, (0.25,) * 3), 8)
    mask = jnp.array([[1.0, 0, 1, 0]] * 3)
    pred = patches + jnp.where(mask[:, :, None] == 1, 1.0, 2.0)
    monkeypatch.setattr(models, "apply", lambda *arguments: (pred, mask))
    batch = {"image": jnp.asarray(images), "noise": jnp.zeros((3, 4)), "mask": jnp.array([1.0, 1, 0])}
    for weight in (0.0, 0.5):
        objective = Reconstruction(0.5, False, weight)
        spec = spec_of(objective)
        loss, metrics = objective.loss(spec, {}, batch, jax.random.key(0), None)
        assert float(metrics["loss"]) == pytest.approx(2, rel=1e-5)  # two real rows, each with an error of 1
        assert float(metrics["visible_loss"]) == pytest.approx(8, rel=1e-5)
        assert float(loss) == pytest.approx(2 + 8 * weight, rel=1e-5)
    assert dataclasses.replace(Reconstruction(0.5, False), target="original").target == "original"
