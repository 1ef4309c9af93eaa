"""Evaluation steps: masks, losses and embeddings of known networks."""

import jax
import jax.numpy as jnp
import numpy as np

from mae_jax import models
from mae_jax.step import eval_step, state
from mae_jax.step.batches import to_float
from mae_jax.step.objectives.reconstruction import predict_removed
from tests.step.small import batch_of, mesh_of, spec_of


def test_evaluation_masks_depend_on_the_image_alone():
    spec = spec_of("pretrain", mesh_of(1))
    params = state.init_state(spec, 0).params
    batch = batch_of(0, 8)
    values = eval_step.eval_step(spec, params, batch, np.int32(0))["loss"]
    turned = {k: v[::-1].copy() for k, v in batch.items()}
    np.testing.assert_allclose(eval_step.eval_step(spec, params, turned, np.int32(0))["loss"][::-1], values, rtol=1e-5)
    # Each image has a mask of its own, and another one with another seed.
    predict, index = jax.jit(predict_removed, static_argnums=0), jnp.array([0, 1, 2, 3, 0, 1])
    images = jnp.zeros((6, 16, 16, 3))
    one, other = (np.asarray(predict(spec, params, images, index, jnp.int32(seed))[1]) for seed in (0, 1))
    assert (one[:2] == one[4:]).all() and len({row.tobytes() for row in one}) == 4
    assert (one != other).any(1).all() and (one.sum(1) == 8).all()


def test_validation_loss_is_not_smoothed():
    spec = spec_of("finetune", mesh_of(1), label_smoothing=0.4)
    batch = batch_of(0, 8)
    result = eval_step.eval_step(spec, state.init_state(spec, 0).params, batch, np.int32(0))
    right = np.asarray(result["probabilities"])[np.arange(8), batch["label"]]
    np.testing.assert_allclose(result["loss"], -np.log(right), rtol=1e-5)


def test_patch_repetition_is_reported():
    spec = spec_of("pretrain", mesh_of(1))
    params = state.init_state(spec, 0).params
    result = eval_step.eval_step(spec, params, batch_of(0, 8), np.int32(0))["spam"]
    assert result.shape == (8,) and ((result >= 0) & (result <= 1)).all()
    # A network that ignores its input predicts the same patch everywhere.
    params["decoder"]["pred"]["kernel"] = jnp.zeros_like(params["decoder"]["pred"]["kernel"])
    params["decoder"]["pred"]["bias"] = jax.random.normal(jax.random.key(0), params["decoder"]["pred"]["bias"].shape)
    result = eval_step.eval_step(spec, params, batch_of(0, 8), np.int32(0))["spam"]
    np.testing.assert_allclose(result, 1, atol=1e-4)


def test_embeddings_are_the_class_token_the_mean_of_the_patches_or_both():
    spec = spec_of("finetune", mesh_of(1))
    params, batch = state.init_state(spec, 0).params, batch_of(0, 8)
    images = to_float(jnp.asarray(batch["image"]), spec.mean, spec.std)
    tokens = np.asarray(models.apply("encoder", spec.shape, params["encoder"], images))
    parts = {"cls": tokens[:, 0], "mean": tokens[:, 1:].mean(1)}
    parts["both"] = np.concatenate([parts["cls"], parts["mean"]], 1)
    for pool, expected in parts.items():
        np.testing.assert_allclose(eval_step.embed_step(spec, params, batch, pool), expected, rtol=1e-4, atol=1e-5)
    features = eval_step.feature_step(spec, params, batch, np.int32(0))["features"]
    np.testing.assert_allclose(features, parts["cls"], rtol=1e-4, atol=1e-5)  # what the head of this network gets


def test_one_number_that_is_not_finite_is_found_in_a_tree():
    tree = {"a": jnp.ones(3), "b": [jnp.zeros((2, 2)), jnp.int32(3)]}
    assert eval_step.all_finite(tree)
    for bad in (jnp.nan, jnp.inf, -jnp.inf):
        assert not eval_step.all_finite(tree | {"c": jnp.array([1.0, bad])})
