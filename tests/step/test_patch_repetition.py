"""The patch-repetition index on reconstructions whose index is known."""

import jax.numpy as jnp
import numpy as np
import pytest

from mae_jax.step.patch_repetition import MOST, of_removed, spam_index


def smooth(n=36, size=8, seed=0):
    """Structured patches: low frequencies with random phase; one patch in six is flat."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] / size
    out = []
    for i in range(n):
        fy, fx = rng.integers(0, 3, 2)
        wave = np.sin(2 * np.pi * (fy * y + fx * x) + rng.uniform(0, 6.3))[..., None] * rng.uniform(0.2, 1, 3)
        wave = wave if i % 6 else 0 * wave
        out.append((wave * rng.uniform(0.1, 1) + rng.uniform(-1, 1, 3) + rng.normal(0, 0.01, wave.shape)).ravel())
    return np.array(out, np.float32)[None]


PATCHES = smooth()
ONE = PATCHES[:, 7:8]  # a patch with texture
FLAT = np.zeros_like(ONE)
ODD = np.random.default_rng(5).normal(0, 1, ONE.shape).astype(np.float32)  # like no other


def index(pred, patches=PATCHES):
    return float(spam_index(jnp.asarray(pred, jnp.float32), jnp.asarray(patches))[0])


@pytest.mark.parametrize("one", [ONE, FLAT, ODD], ids=["texture", "flat", "odd"])
def test_the_index_is_0_for_originals_and_1_for_one_patch_everywhere(one):
    assert index(PATCHES) == 0
    assert index(one + np.zeros_like(PATCHES)) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("one", [ONE, ODD, PATCHES.mean(1, keepdims=True)], ids=["texture", "odd", "mean"])
def test_the_index_rises_as_patches_are_blended_into_one(one):
    values = [index((1 - t) * PATCHES + t * one) for t in np.linspace(0, 1, 11)]
    assert (np.diff(values) > 0).all() and values[0] == 0 and values[-1] == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("one", [ONE, FLAT, ODD], ids=["texture", "flat", "odd"])
def test_the_index_rises_with_the_fraction_of_repeated_patches(one):
    order = np.random.default_rng(1).permutation(PATCHES.shape[1])
    values = []
    for share in range(0, PATCHES.shape[1] + 1, 3):
        pred = PATCHES.copy()
        pred[:, order[:share]] = one
        values.append(index(pred))
    assert (np.diff(values) >= -1e-6).all() and 0.2 < values[len(values) // 2] < 0.6 < values[-2] < 1


def test_brightness_contrast_and_position_do_not_count_as_repetition():
    assert index(0.1 * PATCHES + 3) < 0.01
    assert index(PATCHES[:, ::-1]) < 1e-5
    assert index(smooth(seed=1)) < 0.15  # other patches of the same kind
    deviation = PATCHES.std(-1, keepdims=True)
    assert index((PATCHES - PATCHES.mean(-1, keepdims=True)) / deviation) < 1e-3  # what norm_pix_loss aims at


def test_the_index_is_0_for_an_image_of_equal_patches():
    assert index(ONE + np.zeros_like(PATCHES), ONE + np.zeros_like(PATCHES)) == 0
    assert index(ONE + np.zeros_like(PATCHES), FLAT + np.zeros_like(PATCHES)) == 0


def test_only_removed_patches_count():
    mask = np.zeros((1, 36), np.float32)
    mask[0, ::2] = 1
    pred = np.where(mask[..., None] == 1, PATCHES, ONE)
    assert float(of_removed(jnp.asarray(pred), jnp.asarray(PATCHES), jnp.asarray(mask), 18)[0]) == 0
    pred = np.where(mask[..., None] == 1, ONE, PATCHES)
    result = float(of_removed(jnp.asarray(pred), jnp.asarray(PATCHES), jnp.asarray(mask), 18)[0])
    assert result == pytest.approx(1, abs=1e-5)


def test_many_patches_are_sampled():
    many = smooth(n=MOST + 60)
    assert index(many, many) == 0
    assert index(many[:, 7:8] + np.zeros_like(many), many) == pytest.approx(1, abs=1e-5)
