"""ResNet-18 with group norm, compared with a convolution and a norm that are written out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy import signal

from mae_jax import models
from mae_jax.models import resnet
from mae_jax.models.params import map_paths
from mae_jax.models.vit import ViTConfig

SHAPE = ViTConfig(64, 1, resnet.WIDTH, resnet.DEPTH, 1, pool="mean", n_classes=3, head_std=0.02, family="resnet18")
IMAGES = np.random.default_rng(0).normal(size=(2, 64, 64, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def params():
    return models.init("vit", SHAPE, jax.random.key(0))


def test_it_has_the_parameters_of_resnet_18_without_those_of_batch_norm(params):
    sizes = {}
    map_paths(lambda path, leaf: sizes.setdefault(path, leaf.size), params)
    head = 512 * 3 + 3
    assert sum(sizes.values()) - head == 11_176_512  # torchvision's, of which 9,600 are scales and biases of its norms
    assert set(params["encoder"]) == {"stem", "stem_norm", *(f"block_{i:02d}" for i in range(8))}
    assert "shortcut" in params["encoder"]["block_02"] and "shortcut" not in params["encoder"]["block_01"]


def test_features_are_a_sixteenth_then_half_and_the_head_reads_their_mean(params):
    tokens = nnx.merge(*nnx.split(resnet.ResNet(SHAPE, rngs=nnx.Rngs(0))))
    assert tokens.encoder(jnp.asarray(IMAGES)).shape == (2, 2, 2, 512)
    pooled = models.pooled(SHAPE, params, jnp.asarray(IMAGES))
    logits = models.apply("vit", SHAPE, params, jnp.asarray(IMAGES))
    expected = pooled @ params["head"]["kernel"] + params["head"]["bias"]
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    alone = models.apply("vit", SHAPE, params, jnp.asarray(IMAGES[:1]))
    np.testing.assert_allclose(logits[:1], alone, atol=1e-5)  # an image does not depend on the others


def test_convolution_and_norm_are_those_of_their_definitions():
    conv = resnet.Conv(3, 2, 4, 2, dtype="float32", rngs=nnx.Rngs(0))
    x = np.random.default_rng(1).normal(size=(1, 7, 7, 2)).astype(np.float32)
    kernel = np.asarray(conv.kernel[...])
    padded = np.pad(x[0], ((1, 1), (1, 1), (0, 0)))
    full = np.stack(
        [sum(signal.correlate(padded[..., i], kernel[..., i, o], "valid") for i in range(2)) for o in range(4)], -1
    )
    np.testing.assert_allclose(conv(jnp.asarray(x))[0], full[::2, ::2], atol=1e-5)
    norm = resnet.GroupNorm(64)
    x = np.random.default_rng(2).normal(3, 2, (2, 5, 5, 64)).astype(np.float32)
    groups = x.reshape(2, 25, 32, 2)
    expected = (groups - groups.mean((1, 3), keepdims=True)) / np.sqrt(groups.var((1, 3), keepdims=True) + 1e-5)
    np.testing.assert_allclose(norm(jnp.asarray(x)), expected.reshape(x.shape), atol=1e-4)


def test_a_block_begins_as_its_shortcut():
    block = resnet.BasicBlock(64, 64, 1, dtype="float32", rngs=nnx.Rngs(0))
    x = jnp.asarray(np.random.default_rng(3).normal(size=(1, 8, 8, 64)), jnp.float32)
    np.testing.assert_allclose(block(x), jax.nn.relu(x), atol=1e-6)


@pytest.mark.parametrize(
    ("size", "height", "width", "stride"),
    [(3, 2, 2, 1), (3, 1, 1, 1), (3, 3, 3, 2), (3, 2, 9, 2), (7, 5, 6, 2), (1, 1, 1, 2)],
)
def test_a_kernel_as_large_as_the_features_gives_the_same_convolution_and_gradients(size, height, width, stride):
    """XLA's own convolution is the reference; `product` replaces it where it is slow."""
    conv = resnet.Conv(size, 4, 6, stride, dtype="float32", rngs=nnx.Rngs(0))
    x = jnp.asarray(np.random.default_rng(1).normal(size=(2, height, width, 4)), jnp.float32)

    def reference(x, kernel):
        around, layout = ((size // 2,) * 2,) * 2, ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, kernel, (stride, stride), around, dimension_numbers=layout)

    kernel = conv.kernel[...]
    np.testing.assert_allclose(conv(x), reference(x, kernel), atol=1e-5)
    expected = jax.grad(lambda *arrays: jnp.sum(reference(*arrays) ** 3), (0, 1))(x, kernel)
    actual = jax.grad(lambda *arrays: jnp.sum(conv.product(*arrays) ** 3), (0, 1))(x, kernel)
    for ours, theirs in zip(actual, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)
