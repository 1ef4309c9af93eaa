"""The autoencoder: what it sees, and where it predicts."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mae_jax import models
from mae_jax.models.mae import MAE
from mae_jax.models.patches import patchify, random_masking
from mae_jax.models.vit import ViTConfig

init = partial(jax.jit, static_argnums=(0, 1))(models.init)


apply = partial(jax.jit, static_argnums=(0, 1, 5))(models.apply)


SHAPE = ViTConfig(16, 4, 16, 2, 2, decoder_width=8, decoder_depth=1, decoder_heads=2, n_classes=3)


def test_prediction_does_not_see_removed_pixels():
    params = init("mae", SHAPE, jax.random.key(0))
    noise = jax.random.uniform(jax.random.key(1), (2, 16))
    images = jax.random.normal(jax.random.key(2), (2, 16, 16, 3))
    _, _, mask = random_masking(noise, 4)
    removed = jnp.repeat(jnp.repeat(mask.reshape(2, 4, 4), 4, 1), 4, 2)[..., None]
    other = images + removed * 7
    first, same_mask = apply("mae", SHAPE, params, images, noise, 4)
    second, _ = apply("mae", SHAPE, params, other, noise, 4)
    np.testing.assert_array_equal(mask, same_mask)
    np.testing.assert_allclose(first, second, rtol=1e-6)
    changed = apply("mae", SHAPE, params, images + (1 - removed), noise, 4)[0]
    assert np.abs(first - changed).max() > 1e-4


def test_removed_patches_are_told_apart_by_their_positions():
    """All removed patches are the same mask token, so without positions the decoder would predict one patch for all."""
    params = init("mae", SHAPE, jax.random.key(0))
    noise = jnp.asarray(np.random.default_rng(0).permutation(16)[None], jnp.float32)
    pred, mask = apply("mae", SHAPE, params, jnp.zeros((1, 16, 16, 3)), noise, 4)
    removed = np.asarray(pred)[0][np.asarray(mask)[0] == 1]
    assert len(removed) == 12
    for one, other in itertools.combinations(removed, 2):
        assert np.abs(one - other).max() > 1e-3


def test_decoder_predicts_each_patch_at_its_place():
    """In an untrained network, a change in one visible patch changes its own prediction most."""
    params = init("mae", SHAPE, jax.random.key(0))
    noise = jnp.linspace(0, 1, 16)[None, ::-1]  # the last patches are kept
    images = jax.random.normal(jax.random.key(2), (1, 16, 16, 3))
    place = 14
    bump = jnp.zeros((1, 16, 48)).at[0, place].set(3.0)
    bump = bump.reshape(1, 4, 4, 4, 4, 3).transpose(0, 1, 3, 2, 4, 5).reshape(1, 16, 16, 3)
    assert float(jnp.abs(patchify(bump, 4)[0, place]).min()) == 3
    before, mask = apply("mae", SHAPE, params, images, noise, 4)
    after, _ = apply("mae", SHAPE, params, images + bump, noise, 4)
    assert mask[0, place] == 0
    assert int(jnp.abs(after - before).sum(-1).argmax()) == place


def test_a_prediction_is_read_from_the_norm_after_the_last_block():
    params = init("mae", SHAPE, jax.random.key(0))
    params["decoder"]["norm"] = jax.tree.map(jnp.zeros_like, params["decoder"]["norm"])
    params["decoder"]["pred"]["bias"] += jnp.arange(48) / 48
    images = jax.random.normal(jax.random.key(2), (1, 16, 16, 3))
    predicted, _ = apply("mae", SHAPE, params, images, jnp.linspace(0, 1, 16)[None], 4)
    assert jnp.allclose(predicted, params["decoder"]["pred"]["bias"])


def test_an_autoencoder_is_an_encoder_a_mask_token_and_a_decoder_that_ends_in_pixels():
    graph = nnx.eval_shape(lambda: MAE(SHAPE, rngs=nnx.Rngs(0)))
    shapes = jax.tree.map(lambda leaf: leaf.shape, nnx.to_pure_dict(nnx.state(graph, nnx.Param)))
    assert set(shapes) == {"encoder", "decoder"}
    decoder = shapes["decoder"]
    assert decoder["pred"]["kernel"] == (SHAPE.decoder_width, 3 * SHAPE.patch_size**2)
    assert decoder["embed"]["kernel"] == (SHAPE.width, SHAPE.decoder_width)
    assert [name for name in decoder if name.startswith("block_")] == [
        f"block_{i:02d}" for i in range(SHAPE.decoder_depth)
    ]
