"""Stain and color changes against scikit-image, and their randomness."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from skimage import color

from mae_jax.step import stain

SKIMAGE = -np.log(1e-6)  # the unit of optical density in scikit-image


@pytest.fixture(scope="module")
def tissue() -> np.ndarray:
    """Two images of positive stains, so that scikit-image clips nothing."""
    stains = np.random.default_rng(0).uniform(0.02, 1.2, (2, 8, 9, 3))
    return np.exp(-stains @ stain.RGB_FROM_HED).astype(np.float32)


@pytest.fixture(scope="module")
def colors() -> np.ndarray:
    """Random colors with black, white, grays and primary colors."""
    images = np.random.default_rng(1).uniform(size=(3, 8, 8, 3))
    images[0, 0, :6] = [[0, 0, 0], [1, 1, 1], [0.5, 0.5, 0.5], [1, 0, 0], [0, 1, 0], [0, 0, 1]]
    images[0, 1, :2] = [[0.02, 0.01, 0.03], [0.3, 0.3, 0.1]]
    return images.astype(np.float32)


def test_stains_equal_those_of_scikit_image(tissue):
    ours = stain.hed(jnp.array(tissue)) / SKIMAGE
    assert np.abs(ours - color.rgb2hed(tissue)).max() < 1e-5
    assert np.abs(stain.rgb_from_hed(stain.hed(jnp.array(tissue))) - tissue).max() < 1e-5


def test_hed_scales_and_shifts_the_amounts(tissue):
    key = jax.random.key(3)
    scale, shift = np.asarray(jax.random.uniform(key, (2, 2, 1, 1, 3), minval=-1.0, maxval=1.0))
    wanted = color.hed2rgb(color.rgb2hed(tissue) * (1 + 0.1 * scale) + 0.02 * shift / SKIMAGE)
    result = stain.Hed()(jnp.array(tissue), key)
    assert np.abs(result - wanted).max() < 1e-5
    assert np.abs(result - tissue).max() > 0.01


def test_lab_equals_that_of_scikit_image(colors):
    ours = np.asarray(stain.lab(jnp.array(colors)))
    assert np.abs(ours - color.rgb2lab(colors)).max() < 1e-3  # of 100, in float32
    assert np.abs(ours - color.rgb2lab(colors)).mean() < 1e-5 * 100
    assert np.abs(stain.rgb_from_lab(jnp.array(ours)) - colors).max() < 1e-5
    far = np.array([[[[60.0, 90.0, -110.0], [2.0, -60.0, 30.0]]]], np.float32)  # colors that sRGB lacks
    assert np.abs(stain.rgb_from_lab(jnp.array(far)) - color.lab2rgb(far)).max() < 1e-5


def test_randstainna_gives_each_image_the_drawn_mean_and_deviation(tissue):
    fields = stain.statistics(jnp.array(tissue))
    lab = color.rgb2lab(tissue)
    assert np.allclose(fields[0], lab.mean((1, 2)).mean(0), atol=1e-3)
    assert np.allclose(fields[1], lab.mean((1, 2)).std(0), atol=1e-3)
    assert np.allclose(fields[2], lab.std((1, 2)).mean(0), atol=1e-3)
    assert np.allclose(fields[3], lab.std((1, 2)).std(0), atol=1e-3)
    gentle = stain.RandStainNA((60.0, 15.0, -8.0), (2.0, 1.0, 1.0), (4.0, 2.0, 2.0), (0.5, 0.2, 0.2), strength=0.5)
    key = jax.random.key(5)
    draws = 0.5 * np.asarray(jax.random.normal(key, (2, 2, 1, 1, 3)))
    result = color.rgb2lab(np.asarray(gentle(jnp.array(tissue), key)))
    assert np.allclose(
        result.mean((1, 2)), (np.array(gentle.mean) + np.array(gentle.mean_spread) * draws[0])[:, 0, 0], atol=1e-2
    )
    wanted = (np.array(gentle.deviation) + np.array(gentle.deviation_spread) * draws[1])[:, 0, 0]
    assert np.allclose(result.std((1, 2)), wanted, atol=1e-2)


def test_a_negative_deviation_is_clipped_above_zero():
    wild = stain.RandStainNA((50.0, 0.0, 0.0), (0.0,) * 3, (1.0,) * 3, (1e6,) * 3)
    image = jax.random.uniform(jax.random.key(9), (1, 4, 4, 3))
    for seed in range(4):
        moved = stain.normalized(
            stain.lab(image), jnp.zeros((1, 1, 1, 3)), jnp.maximum(jnp.full((1, 1, 1, 3), -5.0), stain.LEAST_DEVIATION)
        )
        assert np.allclose(moved.std((1, 2)), stain.LEAST_DEVIATION, rtol=1e-3)
        assert np.isfinite(wild(image, jax.random.key(seed))).all()
    flat = stain.normalized(jnp.full((1, 4, 4, 3), 7.0), jnp.full((1, 1, 1, 3), 3.0), jnp.full((1, 1, 1, 3), 9.0))
    assert np.allclose(flat, 3.0)  # not noise made large


def test_a_drawn_deviation_below_zero_does_not_mirror_the_colors():
    """Half of such draws are negative: contrast then nearly vanishes, and light does not become dark."""
    wild = stain.RandStainNA((50.0, 0.0, 0.0), (0.0,) * 3, (1.0, 0.1, 0.1), (20.0, 0.0, 0.0))
    image = jnp.linspace(0.2, 0.8, 16)[None, :, None, None] * jnp.ones((1, 16, 2, 3))
    lightness = [np.asarray(stain.lab(wild(image, jax.random.key(seed))))[0, :, 0, 0] for seed in range(8)]
    rise = np.array([values[-1] - values[0] for values in lightness])
    assert (rise > -1e-3).all() and (rise < 1).any() and (rise > 10).any()


@pytest.mark.parametrize("turn", [0.0, 0.15, -0.15, 0.5])
def test_the_hue_turns_as_in_scikit_image(colors, turn):
    hsv = color.rgb2hsv(colors)
    hsv[..., 0] = (hsv[..., 0] + turn) % 1.0
    result = stain.turned(jnp.array(colors), jnp.full((3, 1, 1), turn))
    assert np.abs(result - color.hsv2rgb(hsv)).max() < 1e-5


def test_jitter_is_brightness_then_contrast_then_saturation_then_hue(colors):
    key = jax.random.key(2)
    u = np.asarray(jax.random.uniform(key, (4, 3, 1, 1, 1), minval=-1.0, maxval=1.0))
    images = np.clip(colors * (1 + 0.2 * u[0]), 0, 1)
    mean = (images @ stain.GRAY).mean((1, 2))[:, None, None, None]
    images = np.clip(mean + (1 + 0.25 * u[1]) * (images - mean), 0, 1)
    gray = (images @ stain.GRAY)[..., None]
    images = np.clip(gray + (1 + 0.25 * u[2]) * (images - gray), 0, 1)
    hsv = color.rgb2hsv(images)
    hsv[..., 0] = (hsv[..., 0] + 0.15 * u[3][..., 0]) % 1.0
    assert np.abs(stain.Jitter()(jnp.array(colors), key) - color.hsv2rgb(hsv)).max() < 1e-5


@pytest.mark.parametrize("kind", [stain.Hed(), stain.Jitter()])
def test_images_are_rounded_to_bytes_and_each_has_its_own_draw(kind):
    images = jnp.full((3, 4, 4, 3), 130, jnp.uint8).at[..., 1].set(60)
    changed = stain.apply(kind, images, jax.random.key(0))
    assert changed.dtype == jnp.uint8
    assert len({bytes(np.asarray(image)) for image in changed}) == 3
    still = stain.apply(type(kind)(*(0.0,) * len(kind.__dataclass_fields__)), images, jax.random.key(0))
    assert (still == images).all()
