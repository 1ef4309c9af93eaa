"""Functions with derivatives of their own, compared with those of autodiff."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mae_jax.models import kernels, layers
from mae_jax.models.kernels import LAYER_NORM_EPSILON, attend, layer_norm, product


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


def test_gelu_and_its_gradient_are_exact():
    x = jnp.linspace(-4, 4, 41)
    theirs = jax.vmap(jax.value_and_grad(lambda v: jax.nn.gelu(v, approximate=False)))(x)
    ours = jax.vmap(jax.value_and_grad(lambda v: kernels.gelu(v[None])[0]))(x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), ours, theirs)
