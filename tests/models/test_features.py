"""Features from any block, attention weights, and masks given by the caller."""

import dataclasses
from functools import partial

import jax
import numpy as np
import pytest
from scipy import special

from mae_jax import models
from mae_jax.models.layers import Block
from mae_jax.models.patches import given_mask, patchify, unpatchify
from mae_jax.models.vit import ViTConfig
from mae_jax.runtime.errors import UserError

SHAPE = ViTConfig(16, 4, 16, 2, 2, decoder_width=8, decoder_depth=1, decoder_heads=2, registers=3)
IMAGES = np.random.default_rng(0).normal(size=(3, 16, 16, 3)).astype(np.float32)
apply = jax.jit(models.apply, static_argnums=(0, 1, 5))
features = jax.jit(models.features, static_argnums=(0, 3))
attention = jax.jit(models.attention, static_argnums=(0, 3))


@pytest.fixture(scope="module")
def params():
    drawn = jax.jit(partial(models.init, "mae", SHAPE))(jax.random.key(0))
    rng = np.random.default_rng(1)  # positions, biases and scales that are not all alike
    return jax.tree.map(lambda leaf: leaf + rng.normal(0, 0.3, leaf.shape).astype(np.float32), drawn)


@pytest.mark.slow
def test_the_last_block_through_the_last_norm_is_the_encoder(params):
    encoder = params["encoder"]
    first, last = features(SHAPE, encoder, IMAGES, (0, -1))
    encoded = apply("encoder", SHAPE, encoder, IMAGES)
    assert first.shape == last.shape == encoded.shape == (3, 17, 16)
    centred = last - last.mean(-1, keepdims=True)
    normal = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + SHAPE.norm_eps)
    np.testing.assert_allclose(
        normal * encoder["norm"]["scale"] + encoder["norm"]["bias"], encoded, rtol=1e-4, atol=1e-5
    )
    assert np.abs(first - last).max() > 0.1
    shorter = {name: part for name, part in encoder.items() if name != "norm"}  # a classifier on mean features
    np.testing.assert_array_equal(features(SHAPE, shorter, IMAGES, (0, -1))[1], last)


def test_mean_pooling_is_over_the_patches_alone(params):
    """Without the class token and the registers; the norm comes after the mean."""
    shape = dataclasses.replace(SHAPE, pool="mean", n_classes=2)
    rng = np.random.default_rng(3)
    scale, bias = (rng.normal(size=16).astype(np.float32) for _ in range(2))
    encoder = {name: part for name, part in params["encoder"].items() if name != "norm"}
    head = {"kernel": np.zeros((16, 2), np.float32), "bias": np.zeros(2, np.float32)}
    network = {"encoder": encoder, "fc_norm": {"scale": jax.numpy.asarray(scale), "bias": jax.numpy.asarray(bias)}}
    result = models.pooled(shape, network | {"head": head}, jax.numpy.asarray(IMAGES))
    mean = np.asarray(features(SHAPE, encoder, IMAGES, (-1,))[0])[:, 1:].mean(1)  # without registers
    normal = (mean - mean.mean(-1, keepdims=True)) / np.sqrt(mean.var(-1, keepdims=True) + SHAPE.norm_eps)
    np.testing.assert_allclose(result, normal * scale + bias, rtol=1e-3, atol=1e-4)


def test_without_masks_nothing_is_random_and_no_patch_is_missing(params):
    encode = partial(apply, "encoder", SHAPE, params["encoder"], IMAGES)
    undamaged = encode()
    np.testing.assert_array_equal(undamaged, encode())
    order = np.random.default_rng(2).permuted(np.tile(np.arange(16), (3, 1)), axis=1)
    kept = encode(order)
    np.testing.assert_allclose(kept[:, 0], undamaged[:, 0], rtol=1e-4, atol=1e-5)
    picked = np.take_along_axis(np.asarray(undamaged[:, 1:]), order[:, :, None], axis=1)
    np.testing.assert_allclose(kept[:, 1:], picked, rtol=1e-4, atol=1e-5)


def _all_tokens(params):
    """Input and output of the last block for all tokens, registers included."""
    seen = []
    call = Block.__call__

    def record(self, tokens, *rest, **kwargs):
        out = call(self, tokens, *rest, **kwargs)
        seen.append((tokens, out))
        return out

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Block, "__call__", record)
        models.apply("encoder", SHAPE, params["encoder"], jax.numpy.asarray(IMAGES))
    return seen[-1]


def test_attention_weights_are_those_of_the_forward_pass(params):
    encoder = params["encoder"]
    weights = np.asarray(attention(SHAPE, encoder, IMAGES, -1))
    assert weights.shape == (3, 2, 20, 20) and weights.dtype == np.float32
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)
    block = encoder["block_01"]
    # The block's output for every token, computed with these weights, is the one that the next layer gets.
    part = jax.tree.map(np.asarray, block)
    before, after = (np.asarray(tokens, np.float64) for tokens in _all_tokens(params))

    def norm(x, name):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + SHAPE.norm_eps)
        return x * part[name]["scale"] + part[name]["bias"]

    def linear(x, layer):
        return x @ layer["kernel"] + layer["bias"]

    v = linear(norm(before, "norm1"), part["attn"]["qkv"])[..., 32:].reshape(3, 20, 2, 8)
    mixed = np.einsum("bhqk,bkhe->bqhe", weights, v).reshape(3, 20, 16)
    tokens = before + linear(mixed, part["attn"]["proj"])
    hidden = linear(norm(tokens, "norm2"), part["mlp"]["fc1"])
    hidden = hidden * special.ndtr(hidden)
    np.testing.assert_allclose(tokens + linear(hidden, part["mlp"]["fc2"]), after, rtol=1e-3, atol=1e-4)
    assert np.abs(np.asarray(attention(SHAPE, encoder, IMAGES, 0)) - weights).max() > 0.05  # of another block
    silent = jax.tree.map(np.asarray, encoder)
    kernel, bias = (np.array(block["attn"]["qkv"][name]) for name in ("kernel", "bias"))
    kernel[..., :16], bias[:16] = 0, 0  # a query of 0: all tokens get equal attention
    silent["block_01"] = block | {"attn": block["attn"] | {"qkv": {"kernel": kernel, "bias": bias}}}
    np.testing.assert_allclose(attention(SHAPE, silent, IMAGES, -1), 1 / 20, rtol=1e-5)
    with pytest.raises(UserError, match=r"^block=2 is out of range; the network has 2 blocks, so use 0 to 1, or -1"):
        attention(SHAPE, encoder, IMAGES, 2)


def test_a_given_mask_is_the_mask_that_is_used(params):
    mask = np.zeros((3, 16), np.float32)
    for row, removed in enumerate(([0, 1, 2], [13, 14, 15], [3, 7, 11])):
        mask[row, removed] = 1
    pred, used = apply("mae", SHAPE, params, IMAGES, *given_mask(mask))
    np.testing.assert_array_equal(used, mask)
    hidden = patchify(jax.numpy.asarray(IMAGES), 4) * (1 - mask[:, :, None])  # removed patches have no effect
    again, _ = apply("mae", SHAPE, params, unpatchify(hidden, 4), *given_mask(mask.astype(bool)))
    np.testing.assert_array_equal(again, pred)
    other, _ = apply("mae", SHAPE, params, IMAGES, *given_mask(mask[::-1]))
    assert np.abs(np.asarray(other) - pred).max() > 1e-3
    for bad in (mask * 2, np.ones((2, 16)), np.tri(2, 16), mask[0]):
        with pytest.raises(UserError, match="mask has shape .* use rows of 0"):
            given_mask(bad)
