"""Encoder and classifier: published sizes, initialization, dropped paths by depth, and what the head gets."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mae_jax import models
from mae_jax.models import vit
from mae_jax.models.vit import ViTConfig

init = partial(jax.jit, static_argnums=(0, 1))(models.init)
apply = partial(jax.jit, static_argnums=(0, 1, 5))(models.apply)
SHAPE = ViTConfig(16, 4, 16, 2, 2, decoder_width=8, decoder_depth=1, decoder_heads=2, n_classes=3)


def count(params):
    return sum(x.size for x in jax.tree.leaves(params))


def shapes_of(kind, shape):
    return jax.eval_shape(lambda key: init(kind, shape, key), jax.random.key(0))


def test_parameter_counts_are_those_of_the_published_networks():
    base = ViTConfig(224, 16, *vit.SIZES["base"], n_classes=1000)
    # timm's vit_base_patch16_224 has 86,567,656 parameters, 197 x 768 of them learned positions; here
    # positions are fixed.
    assert count(shapes_of("vit", base)) == 86_567_656 - 197 * 768
    # mae_vit_base_patch16 of the paper's code: 111,907,840 with its fixed positions (197 x (768 + 512)).
    assert count(shapes_of("mae", base)) == 111_907_840 - 197 * (768 + 512)


@pytest.mark.slow
@pytest.mark.parametrize("remat", [False, True])
def test_a_last_block_for_the_class_token_alone_changes_no_number(images, remat):
    shape = dataclasses.replace(SHAPE, registers=2, drop_path=0.5, remat=remat)
    params, key = init("vit", shape, jax.random.key(0)), jax.random.key(1)

    def class_token(params, alone):
        tokens = models.apply("encoder", shape, params, jnp.float32(images / 255), key=key, class_token_only=alone)
        assert tokens.shape[1] == (1 if alone else 17)
        return jnp.sin(tokens[:, 0]).sum()

    results = [jax.jit(jax.value_and_grad(partial(class_token, alone=a)))(params["encoder"]) for a in (True, False)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), *results)


def test_the_drop_path_rate_rises_from_zero_to_the_rate_in_the_last_block():
    shape = dataclasses.replace(SHAPE, depth=4, drop_path=0.3)
    for frozen, expected in ((0, [0, 0.1, 0.2, 0.3]), (2, [0, 0, 0.2, 0.3])):
        frozen_shape = dataclasses.replace(shape, frozen_blocks=frozen)
        encoder = nnx.eval_shape(lambda s=frozen_shape: vit.Encoder(s, rngs=nnx.Rngs(0)))
        rates = [getattr(encoder, f"block_{i:02d}").rate for i in range(4)]
        np.testing.assert_allclose(rates, expected, atol=1e-9)


def test_initialization_is_that_of_the_paper():
    params = init("mae", SHAPE, jax.random.key(0))["encoder"]
    kernel = params["block_00"]["attn"]["qkv"]["kernel"]
    limit = (6 / (16 + 48)) ** 0.5  # Xavier-uniform
    assert 0.95 * limit < float(jnp.abs(kernel).max()) <= limit
    assert not params["block_00"]["attn"]["qkv"]["bias"].any()
    assert (params["norm"]["scale"] == 1).all()
    assert 0.01 < float(params["cls_token"].std()) < 0.03


@pytest.mark.slow
@pytest.mark.parametrize("pool", ["cls", "mean"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_classifier_gives_finite_float32_logits(pool, dtype):
    shape = ViTConfig(16, 4, 16, 2, 2, pool=pool, n_classes=3, dtype=dtype, drop_path=0.5)
    params = init("vit", shape, jax.random.key(0))
    images = jax.random.normal(jax.random.key(1), (2, 16, 16, 3))
    logits = apply("vit", shape, params, images)
    assert logits.shape == (2, 3) and logits.dtype == jnp.float32 and jnp.isfinite(logits).all()
    assert ("norm" in params["encoder"]) == (pool == "cls")
    np.testing.assert_array_equal(logits, apply("vit", shape, params, images))
    dropped = apply("vit", shape, params, images, key=jax.random.key(3))
    assert np.abs(logits - dropped).max() > 1e-4


def test_both_pools_are_the_class_token_and_the_mean_of_the_normalized_patches():
    shape = ViTConfig(16, 8, 16, 1, 2, n_classes=3, pool="both", registers=2, batch_norm=True)
    params = models.init("vit", shape, jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (2, 16, 16, 3))
    tokens = models.apply("encoder", shape, params["encoder"], x)
    assert tokens.shape == (2, 5, 16)
    features = models.pooled(shape, params, x)
    np.testing.assert_allclose(features, jnp.concatenate([tokens[:, 0], tokens[:, 1:].mean(1)], 1), atol=1e-6)
    assert params["head"]["kernel"].shape == (32, 3) and params["batch_norm"]["mean"].shape == (32,)
    assert models.apply("vit", shape, params, x).shape == (2, 3)


def test_any_image_size_that_is_a_multiple_of_the_patch():
    params = init("vit", SHAPE, jax.random.key(0))
    larger = ViTConfig(24, 4, 16, 2, 2, n_classes=3)
    assert apply("vit", larger, params, jnp.zeros((1, 24, 24, 3))).shape == (1, 3)
