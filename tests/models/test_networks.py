import dataclasses
import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mae_jax import models
from mae_jax.models import kernels, layers, vit
from mae_jax.models.kernels import LAYER_NORM_EPSILON, attend, layer_norm, product
from mae_jax.models.layers import LayerNorm
from mae_jax.models.mae import MAE
from mae_jax.models.patches import patchify, random_masking
from mae_jax.models.vit import ViT, ViTConfig

init = partial(jax.jit, static_argnums=(0, 1))(models.init)
apply = partial(jax.jit, static_argnums=(0, 1, 5))(models.apply)
SHAPE = ViTConfig(16, 4, 16, 2, 2, decoder_width=8, decoder_depth=1, decoder_heads=2, n_classes=3)


def count(params):
    return sum(x.size for x in jax.tree.leaves(params))


def shapes_of(kind, shape):
    return jax.eval_shape(lambda key: init(kind, shape, key), jax.random.key(0))


def test_parameter_counts_are_those_of_the_published_networks():
    base = ViTConfig(224, 16, *vit.SIZES["base"], n_classes=1000)
    # timm's vit_base_patch16_224 has 86,567,656 parameters, 197 x 768 of them learned positions; here
    # positions are fixed.
    assert count(shapes_of("vit", base)) == 86_567_656 - 197 * 768
    # mae_vit_base_patch16 of the paper's code: 111,907,840 with its fixed positions (197 x (768 + 512)).
    assert count(shapes_of("mae", base)) == 111_907_840 - 197 * (768 + 512)


@pytest.mark.parametrize("epsilon", [LAYER_NORM_EPSILON, 0.5])
def test_layer_norm_and_its_gradient_are_those_of_autodiff(epsilon):
    def plain(x, scale, bias):
        mean = x.mean(-1, keepdims=True)
        variance = jnp.square(x - mean).mean(-1, keepdims=True)
        return (x - mean) / jnp.sqrt(variance + epsilon) * scale + bias

    keys = jax.random.split(jax.random.key(0), 4)
    x = 3 + 2 * jax.random.normal(keys[0], (4, 5, 6))
    scale, bias, weight = (jax.random.normal(k, s) for k, s in zip(keys[1:], [(6,), (6,), (4, 5, 6)], strict=True))
    for ours, theirs in zip(
        jax.value_and_grad(lambda *a: (layer_norm(*a, epsilon) * weight).sum(), (0, 1, 2))(x, scale, bias),
        jax.value_and_grad(lambda *a: (plain(*a) * weight).sum(), (0, 1, 2))(x, scale, bias),
        strict=True,
    ):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), ours, theirs)


def agree(ours, theirs, *arguments):
    """Asserts equal values, and equal gradients of a randomly weighted sum of the result."""
    weight = jax.random.normal(jax.random.key(9), jax.eval_shape(ours, *arguments).shape)
    over = tuple(range(len(arguments)))
    results = [
        jax.jit(jax.value_and_grad(lambda *a, f=f: (f(*a) * weight).sum(), over))(*arguments) for f in (ours, theirs)
    ]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), *results)


@pytest.mark.parametrize("cached", [kernels.CACHED, 40])
@pytest.mark.parametrize(("n_in", "n_out"), [(6, 9), (9, 6)])
def test_a_product_and_its_gradients_are_those_of_autodiff(n_in, n_out, cached, monkeypatch):
    """Also when x is split into parts, as happens on a single CPU device."""
    monkeypatch.setattr(kernels, "CACHED", cached)
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    jax.clear_caches()
    x, kernel = jax.random.normal(jax.random.key(0), (4, 5, n_in)), jax.random.normal(jax.random.key(1), (n_in, n_out))
    assert ("scan" in str(jax.make_jaxpr(product)(x, kernel))) == (cached == 40)
    agree(product, lambda x, kernel: jnp.einsum("bni,io->bno", x, kernel), x, kernel)


@pytest.mark.parametrize("first", [1, 5])
def test_attention_and_its_gradient_are_those_of_autodiff(first):
    def plain(qkv):
        q, k, v = jnp.moveaxis(qkv, 2, 0)
        weights = jax.nn.softmax(jnp.einsum("bqhe,bkhe->bhqk", q, k) / jnp.sqrt(4.0), -1)
        return jnp.einsum("bhqk,bkhe->bqhe", weights, v).reshape(2, 5, 12)[:, :first]

    agree(lambda qkv: attend(qkv, first), plain, jax.random.normal(jax.random.key(0), (2, 5, 3, 3, 4)))


@pytest.mark.parametrize("first", [1, 5])
def test_the_fused_kernel_gets_equivalent_arguments(first, monkeypatch):
    """The arguments for cuDNN are passed to XLA's implementation, because this test has no GPU."""
    asked, computed = [], jax.nn.dot_product_attention

    def stand_in(q, k, v, *, implementation):
        asked.append(implementation)
        return computed(q, k, v, implementation="xla")

    monkeypatch.setattr(jax.nn, "dot_product_attention", stand_in)
    tokens = jax.random.normal(jax.random.key(0), (2, 5, 12))
    results = [
        layers.Attention(12, 3, dtype="float32", attention=kind, rngs=nnx.Rngs(0))(tokens, first)
        for kind in ("xla", "cudnn")
    ]
    np.testing.assert_allclose(*results, rtol=1e-5, atol=1e-6)
    assert asked == ["cudnn"]


@pytest.mark.slow
@pytest.mark.parametrize("remat", [False, True])
def test_a_last_block_for_the_class_token_alone_changes_no_number(images, remat):
    shape = dataclasses.replace(SHAPE, registers=2, drop_path=0.5, remat=remat)
    params, key = init("vit", shape, jax.random.key(0)), jax.random.key(1)

    def class_token(params, alone):
        tokens = models.apply("encoder", shape, params, jnp.float32(images / 255), key=key, class_token_only=alone)
        assert tokens.shape[1] == (1 if alone else 17)
        return jnp.sin(tokens[:, 0]).sum()

    results = [jax.jit(jax.value_and_grad(partial(class_token, alone=a)))(params["encoder"]) for a in (True, False)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), *results)


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
    found = np.asarray(layers.dropout(jnp.full((1000, 100), 3.0), jax.random.key(1), 0.25))
    assert set(np.unique(found)) == {0.0, 4.0} and abs((found == 0).mean() - 0.25) < 0.01
    still = ViT(dataclasses.replace(shape, frozen_blocks=shape.depth), rngs=nnx.Rngs(0))
    np.testing.assert_array_equal(still(images, jax.random.key(0)), still(images))


def test_gelu_and_its_gradient_are_exact():
    x = jnp.linspace(-4, 4, 41)
    theirs = jax.vmap(jax.value_and_grad(lambda v: jax.nn.gelu(v, approximate=False)))(x)
    ours = jax.vmap(jax.value_and_grad(lambda v: kernels.gelu(v[None])[0]))(x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), ours, theirs)


def test_drop_path_keeps_the_mean_of_a_branch():
    """A branch is dropped for a whole image with probability `rate`, and divided by 1 - rate otherwise."""
    branch = jax.random.normal(jax.random.key(0), (4000, 2, 3))
    found = np.asarray(layers.drop_path(branch, jax.random.key(1), 0.25))
    kept = np.abs(found).max((1, 2)) > 0
    assert abs(kept.mean() - 0.75) < 0.03
    np.testing.assert_allclose(found[kept], np.asarray(branch)[kept] / 0.75, rtol=1e-6)


def test_the_drop_path_rate_rises_from_zero_to_the_rate_in_the_last_block():
    shape = dataclasses.replace(SHAPE, depth=4, drop_path=0.3)
    for frozen, expected in ((0, [0, 0.1, 0.2, 0.3]), (2, [0, 0, 0.2, 0.3])):
        frozen_shape = dataclasses.replace(shape, frozen_blocks=frozen)
        encoder = nnx.eval_shape(lambda s=frozen_shape: vit.Encoder(s, rngs=nnx.Rngs(0)))
        rates = [getattr(encoder, f"block_{i:02d}").rate for i in range(4)]
        np.testing.assert_allclose(rates, expected, atol=1e-9)


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


def test_initialization_is_that_of_the_paper():
    params = init("mae", SHAPE, jax.random.key(0))["encoder"]
    kernel = params["block_00"]["attn"]["qkv"]["kernel"]
    limit = (6 / (16 + 48)) ** 0.5  # Xavier-uniform
    assert 0.95 * limit < float(jnp.abs(kernel).max()) <= limit
    assert not params["block_00"]["attn"]["qkv"]["bias"].any()
    assert (params["norm"]["scale"] == 1).all()
    assert 0.01 < float(params["cls_token"].std()) < 0.03


@pytest.mark.slow
@pytest.mark.parametrize("pool", ["cls", "mean"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_classifier_gives_finite_float32_logits(pool, dtype):
    shape = ViTConfig(16, 4, 16, 2, 2, pool=pool, n_classes=3, dtype=dtype, drop_path=0.5)
    params = init("vit", shape, jax.random.key(0))
    images = jax.random.normal(jax.random.key(1), (2, 16, 16, 3))
    logits = apply("vit", shape, params, images)
    assert logits.shape == (2, 3) and logits.dtype == jnp.float32 and jnp.isfinite(logits).all()
    assert ("norm" in params["encoder"]) == (pool == "cls")
    np.testing.assert_array_equal(logits, apply("vit", shape, params, images))
    dropped = apply("vit", shape, params, images, key=jax.random.key(3))
    assert np.abs(logits - dropped).max() > 1e-4


def test_both_pools_are_the_class_token_and_the_mean_of_the_normalized_patches():
    shape = ViTConfig(16, 8, 16, 1, 2, n_classes=3, pool="both", registers=2, batch_norm=True)
    params = models.init("vit", shape, jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (2, 16, 16, 3))
    tokens = models.apply("encoder", shape, params["encoder"], x)
    assert tokens.shape == (2, 5, 16)
    features = models.pooled(shape, params, x)
    np.testing.assert_allclose(features, jnp.concatenate([tokens[:, 0], tokens[:, 1:].mean(1)], 1), atol=1e-6)
    assert params["head"]["kernel"].shape == (32, 3) and params["batch_norm"]["mean"].shape == (32,)
    assert models.apply("vit", shape, params, x).shape == (2, 3)


def test_any_image_size_that_is_a_multiple_of_the_patch():
    params = init("vit", SHAPE, jax.random.key(0))
    larger = ViTConfig(24, 4, 16, 2, 2, n_classes=3)
    assert apply("vit", larger, params, jnp.zeros((1, 24, 24, 3))).shape == (1, 3)
