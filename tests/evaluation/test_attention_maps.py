"""Pictures of attention and components, from arrays and from a run directory."""

import jax
import numpy as np
import pytest

from mae_jax import models
from mae_jax.evaluation import attention_maps
from mae_jax.models import kernels
from mae_jax.models.vit import ViTConfig
from mae_jax.weights import export
from mae_jax.weights.reader import Weights


def test_maps_are_the_class_tokens_attention_of_a_forward_pass_on_normalized_images():
    """Registers and the class token come before the patches; mean and standard deviation are the network's."""
    shape = ViTConfig(16, 4, 16, 2, 2, registers=3)
    params = models.init("encoder", shape, jax.random.key(0))
    rng = np.random.default_rng(1)  # weights large enough for attention that is not even
    params = jax.tree.map(lambda leaf: leaf + rng.normal(0, 0.3, leaf.shape).astype(np.float32), params)
    mean, std = (0.2, 0.5, 0.7), (0.1, 0.2, 0.4)
    network = Weights({"encoder": params}, shape, "vit", "drawn", mean, std)
    images = rng.integers(0, 256, (2, 16, 16, 3), np.uint8)
    seen = []
    score = kernels._softmax_scores

    def record(q, k):
        seen.append(score(q, k))
        return seen[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "_softmax_scores", record)
        scaled = jax.numpy.asarray((images / 255 - np.array(mean)) / np.array(std), jax.numpy.float32)
        models.apply("encoder", shape, params, scaled)
    assert len(seen) == 2
    for block in (0, 1, -1):
        expected = np.asarray(seen[block])[:, :, 0, 4:].reshape(2, 2, 4, 4)
        np.testing.assert_allclose(attention_maps.attention(network, images, block), expected, rtol=1e-3, atol=1e-5)
    assert np.abs(seen[0] - seen[1]).max() > 0.05


@pytest.mark.slow
def test_maps_have_the_grid_of_the_patches(finished):
    network, _ = export.load(finished)
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)
    maps = attention_maps.attention(network, images)
    assert maps.shape == (3, 2, 2, 2) and (0 < maps.sum((2, 3))).all() and (maps.sum((2, 3)) < 1).all()
    one, two = attention_maps.features(network, images, (0, 1))
    assert one.shape == two.shape == (3, 5, 16) and (one != two).any()
    # An image has the same attention alone or in a batch.
    np.testing.assert_allclose(attention_maps.attention(network, images[1:2]), maps[1:2], rtol=1e-5)


@pytest.mark.slow
def test_components_are_shared_by_all_images_and_keep_their_sign(finished, monkeypatch):
    rng = np.random.default_rng(3)
    truth = rng.normal(size=(2 * 4, 3)) * (9.0, 3.0, 1.0)
    axes = np.linalg.qr(rng.normal(size=(16, 3)))[0]
    axes *= np.sign(axes[np.abs(axes).argmax(0), range(3)])
    network, _ = export.load(finished)
    tokens = np.concatenate([np.zeros((2, 1, 16)), (truth @ axes.T + 5).reshape(2, 4, 16)], axis=1)
    monkeypatch.setattr(attention_maps, "features", lambda *_: (tokens.astype(np.float32),))
    result = attention_maps.components(network, np.zeros((2, 16, 16, 3), np.uint8)).reshape(8, 3)
    assert result.min() == 0 and result.max() == 1
    ours = np.corrcoef(result.T, (truth - truth.mean(0)).T)[:3, 3:]
    assert ours[0, 0] > 0.9  # the direction of largest variance is red, with the sign of its largest entry


def test_a_map_lies_over_its_image_the_right_way_round():
    patches = np.zeros((4, 4), np.float32)
    patches[0, 3] = 1
    result = attention_maps.over_image(np.zeros((16, 16, 3), np.uint8), patches).sum(-1)
    assert result[:4, 12:].mean() > 5 * result[8:, :8].mean() and 0 <= result.min() and result.max() <= 3
