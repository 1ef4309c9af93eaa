"""Layers: dropped paths and dropout, and the epsilon of the norms."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mae_jax import models
from mae_jax.models import layers, vit
from mae_jax.models.layers import LayerNorm
from mae_jax.models.mae import MAE
from mae_jax.models.vit import ViT, ViTConfig

SHAPE = ViTConfig(16, 4, 16, 2, 2, decoder_width=8, decoder_depth=1, decoder_heads=2, n_classes=3)


def test_dropout_follows_the_embedding_and_each_linear_layer_but_the_attention_inputs():
    """Dosovitskiy et al. 2021, appendix B.1. Every place must drop its rate of elements and rescale the others."""
    dropped = []

    def recorded(x, key, rate):
        dropped.append((x.shape[-1], rate, np.asarray(jax.random.key_data(key)).tolist()))
        return computed(x, key, rate)

    computed = layers.dropout
    shape = dataclasses.replace(SHAPE, n_classes=3, dropout=0.25)
    network = ViT(shape, rngs=nnx.Rngs(0))
    images = jnp.ones((4, 16, 16, 3))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layers, "dropout", recorded)
        patch.setattr(vit, "dropout", recorded)
        network(images)
        assert not dropped  # evaluation is deterministic
        network(images, jax.random.key(0))
    hidden = int(shape.width * shape.mlp_ratio)
    places = [shape.width, *[shape.width, hidden, shape.width] * shape.depth]
    assert [width for width, *_ in dropped] == places and {rate for _, rate, _ in dropped} == {0.25}
    assert len({tuple(key) for *_, key in dropped}) == len(places)  # no two places share their random numbers
    result = np.asarray(layers.dropout(jnp.full((1000, 100), 3.0), jax.random.key(1), 0.25))
    assert set(np.unique(result)) == {0.0, 4.0} and abs((result == 0).mean() - 0.25) < 0.01
    still = ViT(dataclasses.replace(shape, frozen_blocks=shape.depth), rngs=nnx.Rngs(0))
    np.testing.assert_array_equal(still(images, jax.random.key(0)), still(images))


def test_drop_path_keeps_the_mean_of_a_branch():
    """A branch is dropped for a whole image with probability `rate`, and divided by 1 - rate otherwise."""
    branch = jax.random.normal(jax.random.key(0), (4000, 2, 3))
    result = np.asarray(layers.drop_path(branch, jax.random.key(1), 0.25))
    kept = np.abs(result).max((1, 2)) > 0
    assert abs(kept.mean() - 0.75) < 0.03
    np.testing.assert_allclose(result[kept], np.asarray(branch)[kept] / 0.75, rtol=1e-6)


def test_each_branch_and_block_drops_other_images():
    """With a rate of 1/2, two branches that share their random numbers agree for every image."""
    dropped = []
    shape = dataclasses.replace(SHAPE, depth=3, drop_path=0.5)
    params = models.init("encoder", shape, jax.random.key(0))
    images = jnp.zeros((64, shape.image_size, shape.image_size, 3))

    def record(branch, key, rate):
        dropped.append(np.asarray(jax.random.bernoulli(key, 0.5, (64,))))
        return branch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layers, "drop_path", record)
        models.apply("encoder", shape, params, images, key=jax.random.key(3))
    assert len(dropped) == 4  # two branches in each block but the first
    for one, other in itertools.combinations(dropped, 2):
        assert 0.2 < (one == other).mean() < 0.8


def test_the_epsilon_reaches_every_norm():
    shape = dataclasses.replace(SHAPE, norm_eps=1e-12)
    for network in (MAE(shape, rngs=nnx.Rngs(0)), ViT(dataclasses.replace(shape, pool="mean"), rngs=nnx.Rngs(0))):
        norms = [m for _, m in nnx.iter_graph(network) if isinstance(m, LayerNorm)]
        assert len(norms) >= 5 and {m.epsilon for m in norms} == {1e-12}
