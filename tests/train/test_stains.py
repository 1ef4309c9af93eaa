"""From `data.stain` to an augmentation: ranges, and the colors of the training images alone."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from mae_jax.config.validation import validate
from mae_jax.data import sources
from mae_jax.step import stain
from mae_jax.train import stains


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """40 smooth images, dark to bright."""
    base = np.random.default_rng(0).uniform(0.3, 0.7, (40, 1, 1, 3)) * np.linspace(0.5, 1.4, 40)[:, None, None, None]
    slope = np.linspace(-0.1, 0.1, 16)[None, :, None, None]
    return np.clip(255 * (base + slope) * np.ones((1, 16, 16, 1)), 0, 255).astype(np.uint8)


@pytest.fixture
def source(images):
    return sources.Source(
        names=[str(k) for k in range(40)], labels=np.full(40, -1, np.int32), groups=("",) * 40, classes=(),
        fingerprint="", read=lambda i: images[i],
    )  # fmt: skip


def config(tiny_config, **fields):
    return validate(tiny_config("pretrain", **{f"data.{name}": value for name, value in fields.items()}))


def test_strength_scales_the_published_ranges(tiny_config):
    def stain_of(**fields):
        return stains.augmentation(config(tiny_config, **fields), (), ())

    assert stain_of() is None
    assert stain_of(stain="hed") == stain.Hed(0.1, 0.02)
    assert stain_of(stain="hed", stain_strength=2.0) == stain.Hed(0.2, 0.04)
    assert stain_of(stain="jitter") == stain.Jitter(0.2, 0.25, 0.25, 0.15)
    assert stain_of(stain="jitter", stain_strength=8.0).hue == 0.5  # half a turn reaches every hue


def test_randstainna_measures_only_training_images(tiny_config, source, images):
    chosen = np.arange(0, 30)
    result = stains.augmentation(config(tiny_config, stain="randstainna"), (source,), (chosen,))
    wanted = stain.statistics(jnp.asarray(images[:30], jnp.float32) / 255)
    assert isinstance(result, stain.RandStainNA)
    assert np.allclose(dataclasses.astuple(result)[:4], wanted, atol=1e-4)
    everything = stain.statistics(jnp.asarray(images, jnp.float32) / 255)
    assert abs(everything[0][0] - result.mean[0]) > 1


def test_many_images_are_sampled_evenly_from_all_sources(tiny_config, source, images, monkeypatch):
    monkeypatch.setattr(stains, "SAMPLED", 5)
    result = stains._sample(config(tiny_config, stain="randstainna"), (source, source), (np.arange(4), np.arange(40)))
    wanted = np.concatenate([images[[0]], images[[7, 18, 28, 39]]])  # places 0, 10.75, 21.5, 32.25, 43 of 44
    assert np.allclose(255 * result, wanted)
