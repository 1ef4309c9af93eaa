"""Pixel values that use nothing of the patches they replace."""

import jax.numpy as jnp
import numpy as np

from mae_jax.evaluation.pixel_space import BORROWED, neighbours, no_network, to_pixels
from mae_jax.step.losses import normalize_patches

RNG = np.random.default_rng(0)
PATCHES = jnp.asarray(RNG.uniform(0, 1, (2, 9, 12)), jnp.float32)
MASK = jnp.array([[0, 0, 0, 0, 1, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1, 1, 1, 0]], jnp.float32)


def test_neighbors_are_weighted_by_the_cube_of_their_distance():
    values = jnp.arange(9, dtype=jnp.float32).reshape(1, 9, 1)
    near = np.array([2**-1.5, 1, 2**-1.5, 1, 0, 1, 2**-1.5, 1, 2**-1.5])
    result = neighbours(values.at[0, 4].set(100), MASK[:1])  # its own value does not count
    np.testing.assert_allclose(result[0, 4, 0], (near * np.arange(9)).sum() / near.sum(), rtol=1e-5)
    only = neighbours(jnp.concatenate([values, values]), MASK)[1, :8, 0]
    np.testing.assert_allclose(only, 8, rtol=1e-6)  # one visible patch: its value everywhere


def test_no_pixel_of_a_removed_patch_is_read():
    other = jnp.where(MASK[..., None] == 1, 1 - PATCHES, PATCHES)
    pred = jnp.asarray(RNG.normal(0, 1, PATCHES.shape), jnp.float32)
    for function in (to_pixels, lambda pred, patches, mask: no_network(patches, mask)):
        np.testing.assert_array_equal(function(pred, PATCHES, MASK), function(pred, other, MASK))
    assert np.abs(to_pixels(pred, PATCHES, MASK, BORROWED) - to_pixels(pred, other, MASK, BORROWED)).max() > 0.01


def test_a_perfect_prediction_restores_visible_patches_and_borrowed_ones():
    pred = normalize_patches(PATCHES)
    np.testing.assert_allclose(to_pixels(pred, PATCHES, MASK, BORROWED), PATCHES, atol=1e-5)
    result, kept = to_pixels(pred, PATCHES, MASK), MASK == 0
    np.testing.assert_allclose(result[kept], PATCHES[kept], atol=1e-5)
    assert np.abs(result[~kept] - PATCHES[~kept]).max() > 0.05
    alike = jnp.broadcast_to(PATCHES[:, :1], PATCHES.shape)  # all patches have the same statistics
    pred = normalize_patches(alike)
    np.testing.assert_allclose(to_pixels(pred, alike, MASK), alike, atol=1e-5)


def test_without_a_network_a_removed_patch_has_one_color():
    result, patches = (np.asarray(p).reshape(2, 9, 4, 3) for p in (no_network(PATCHES, MASK), PATCHES))
    removed = np.asarray(MASK) == 1
    np.testing.assert_array_equal(result[~removed], patches[~removed])
    assert np.ptp(result[removed], axis=1).max() < 1e-6
    np.testing.assert_allclose(result[1, 0, 0], patches[1, 8].mean(0), rtol=1e-5)


def test_a_constant_image_stays_constant():
    flat = jnp.full((1, 9, 12), 0.25)
    np.testing.assert_allclose(to_pixels(jnp.zeros_like(flat), flat, MASK[:1]), flat, rtol=1e-5)
