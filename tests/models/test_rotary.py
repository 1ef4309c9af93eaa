"""Rotary positions, and an encoder that has them, with masked patches and recomputed blocks."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mae_jax import models
from mae_jax.models import rotary
from mae_jax.models.vit import ViTConfig

SHAPE = ViTConfig(
    24, 8, 16, 2, 2, 2.0, decoder_width=8, decoder_depth=1, decoder_heads=2, n_classes=3, positions="rotary",
    registers=1, mlp="quick_gelu", pre_norm=True,
)  # fmt: skip
IMAGES = jax.random.normal(jax.random.key(0), (2, 24, 24, 3))


@pytest.fixture(scope="module")
def params():
    return models.init("vit", SHAPE, jax.random.key(0))


def test_scores_depend_on_the_distance_between_patches_alone():
    angles = rotary.angles(4, 8)
    assert angles.shape == (16, 4)
    np.testing.assert_allclose(angles[0], -2 * np.pi * 0.75 * np.array([1, 100**-0.5, 1, 100**-0.5]), rtol=1e-6)
    rng = np.random.default_rng(0)
    qkv = jnp.asarray(np.broadcast_to(rng.normal(size=(1, 1, 3, 1, 8)), (1, 16, 3, 1, 8)), jnp.float32)
    turned = rotary.rotate(qkv, jnp.asarray(angles)[None])
    np.testing.assert_array_equal(turned[:, :, 2], qkv[:, :, 2])
    scores = np.einsum("bqhf,bkhf->bqk", turned[:, :, 0], turned[:, :, 1])[0].reshape(4, 4, 4, 4)
    np.testing.assert_allclose(scores[0, 0, 1, 2], scores[2, 1, 3, 3], rtol=1e-4)
    assert abs(scores[0, 0, 1, 2] - scores[0, 0, 2, 1]) > 1e-3  # rows are not columns


def test_kept_patches_have_their_own_angles(params):
    ids = jnp.asarray([[4, 0, 7], [8, 1, 2]])
    angles = rotary.angles_of_tokens(3, 8, 2, ids)
    assert angles.shape == (2, 5, 4) and not np.any(angles[:, :2])
    np.testing.assert_array_equal(angles[0, 2:], rotary.angles(3, 8)[[4, 0, 7]])
    everything = jnp.broadcast_to(jnp.arange(9), (2, 9))
    tokens = models.features(SHAPE, params["encoder"], IMAGES)[0]
    np.testing.assert_allclose(
        models.features(SHAPE, params["encoder"], IMAGES, (-1,), everything)[0], tokens, atol=1e-5
    )
    mixed = models.features(SHAPE, params["encoder"], IMAGES, (-1,), everything[:, ::-1])[0]
    np.testing.assert_allclose(mixed[:, 1:][:, ::-1], tokens[:, 1:], atol=1e-5)
    other = dataclasses.replace(SHAPE, positions="fixed")
    assert np.abs(models.features(other, params["encoder"], IMAGES)[0] - tokens).max() > 1e-2


def test_recomputed_blocks_have_the_same_gradient(params):
    def loss(params, shape):
        return jnp.square(models.apply("vit", shape, params, IMAGES)).sum()

    differentiate = jax.jit(jax.grad(loss), static_argnums=1)
    one, two = (differentiate(params, dataclasses.replace(SHAPE, remat=remat)) for remat in (False, True))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), one, two)
    assert np.any(one["encoder"]["norm_pre"]["scale"])


def test_attention_maps_are_those_of_rotated_queries_and_keys(params):
    maps = models.attention(SHAPE, params["encoder"], IMAGES)
    plain = models.attention(dataclasses.replace(SHAPE, positions="fixed"), params["encoder"], IMAGES)
    assert maps.shape == (2, 2, 11, 11) and np.abs(maps - plain).max() > 1e-3
    np.testing.assert_allclose(maps.sum(-1), 1, rtol=1e-5)


def test_an_autoencoder_may_have_them():
    params = models.init("mae", SHAPE, jax.random.key(1))
    assert "pos_embed" not in params["encoder"]
    noise = jax.random.uniform(jax.random.key(2), (2, 9))
    prediction, mask = models.apply("mae", SHAPE, params, IMAGES, noise, 3)
    assert prediction.shape == (2, 9, 192) and mask.sum() == 12
