"""Each change of test images does what its name says, and its neutral level does nothing."""

import jax.numpy as jnp
import numpy as np
import pytest

from mae_jax.evaluation import perturbations
from mae_jax.step import stain

BY_NAME = {each.name: each for each in perturbations.ALL}


@pytest.fixture(scope="module")
def tissue() -> np.ndarray:
    """Three images of positive stains, uint8."""
    stains = np.random.default_rng(0).uniform(0.05, 0.8, (3, 12, 12, 3))
    return np.rint(255 * np.exp(-stains @ stain.RGB_FROM_HED)).astype(np.uint8)


@pytest.mark.parametrize("name", [name for name in BY_NAME if name != "jpeg"])
def test_the_neutral_level_changes_nothing(tissue, name):
    each = BY_NAME[name]
    assert np.abs(each.change(tissue, each.neutral).astype(int) - tissue).max() <= 1  # of 255, rounding
    assert all(np.abs(each.change(tissue, level).astype(int) - tissue).max() > 3 for level in each.levels)


@pytest.mark.parametrize(("name", "number"), [("hematoxylin", 0), ("eosin", 1)])
def test_a_gain_multiplies_one_stain(tissue, name, number):
    before = np.asarray(stain.hed(jnp.asarray(tissue, jnp.float32) / 255))
    after = np.asarray(stain.hed(jnp.asarray(BY_NAME[name].change(tissue, 1.5), jnp.float32) / 255))
    factors = np.ones(3)
    factors[number] = 1.5
    assert np.allclose(after, before * factors, atol=0.06)  # images are rounded to bytes


def test_gamma_blur_and_jpeg_have_known_values():
    flat = np.full((2, 8, 8, 3), 64, np.uint8)
    assert (BY_NAME["gamma"].change(flat, 2.0) == 16).all()  # 255 * (64 / 255)^2 = 16.06
    assert (BY_NAME["blur"].change(flat, 2.0) == 64).all()
    point = np.zeros((1, 9, 9, 3), np.uint8)
    point[0, 4, 4, 1] = 255
    blurred = BY_NAME["blur"].change(point, 1.0)
    assert blurred[0, 4, 4].tolist() == [0, 41, 0]  # 255 / (2 pi) = 40.6, and nothing in the other channels
    noise = np.random.default_rng(0).integers(0, 256, (1, 16, 16, 3), np.uint8)
    errors = [np.abs(BY_NAME["jpeg"].change(noise, q).astype(int) - noise).mean() for q in (80.0, 50.0, 20.0)]
    assert errors == sorted(errors) and errors[0] > 1


def test_many_images_are_changed_in_parts(tissue, monkeypatch):
    at_once = BY_NAME["hue"].change(tissue, 0.1)
    monkeypatch.setattr(perturbations, "PART", 2)
    assert (BY_NAME["hue"].change(tissue, 0.1) == at_once).all()
