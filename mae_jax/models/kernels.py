"""Kernels of the transformer with hand-written gradients: matrix product, layer norm, GELU, attention, recomputation.

Tokens are flattened to (batch * tokens, features) before every matrix product, and attention puts the head axis
before the token axis. On CPUs both are faster than the straightforward layout, mostly in the backward pass.
Layer norm and softmax always run in float32.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax.experimental.layout import Layout, with_layout_constraint
from jaxtyping import Array, Float

CACHED = 6 * 2**20  # array elements that fit into a typical CPU's last-level cache
LAYER_NORM_EPSILON = 1e-6  # the paper's code and timm; PyTorch's default is 1e-5, Hugging Face's ViT uses 1e-12


def _multiply(x: Float[Array, "*rows i"], kernel: Float[Array, "i o"]) -> Float[Array, "*rows o"]:
    """x W. On a single CPU device, an x larger than the cache is split, because XLA's product reads it repeatedly."""
    images = x.shape[0]
    parts = 1
    if jax.default_backend() == "cpu" and jax.device_count() == 1 and x.ndim > 2 and x.size > CACHED:
        parts = next(k for k in range(2, images + 1) if images % k == 0 and (4 * x.size <= k * CACHED or k == images))
    rows = x.reshape(parts, -1, x.shape[-1])
    out = jax.lax.map(lambda part: part @ kernel, rows) if parts > 1 else rows[0] @ kernel
    return out.reshape(*x.shape[:-1], kernel.shape[1])


@jax.custom_vjp
def product(x: Float[Array, "*rows i"], kernel: Float[Array, "i o"]) -> Float[Array, "*rows o"]:
    """x W, with the gradients dx = dy W^T and dW = x^T dy over the flattened rows.

    dW is computed in the way that is fastest on CPUs. XLA's faster matrix product there needs its first factor
    transposed in memory. The compiler arranges that when more than one axis is contracted, so the rows keep their axes.
    The narrower of x and dy is the first factor, because it is cheaper to transpose. If that is dy, the result is
    dW^T = dy^T x.
    """
    return _multiply(x, kernel)


def _product_backward(saved, gradient):
    x, kernel = saved
    n_in, n_out = kernel.shape
    d_x = _multiply(gradient, kernel.T)
    if jax.default_backend() != "cpu":
        return d_x, x.reshape(-1, n_in).T @ gradient.reshape(-1, n_out)
    rows = tuple(range(x.ndim - 1))
    over_rows = ((rows, rows), ((), ()))
    if n_in <= n_out:
        return d_x, jax.lax.dot_general(x, gradient, over_rows)
    # The barrier keeps the compiler from fusing the transpose into the product. The layout constraint keeps it from
    # fusing the transpose into everything that reads dW.
    d_kernel = jax.lax.optimization_barrier(jax.lax.dot_general(gradient, x, over_rows))
    return d_x, with_layout_constraint(d_kernel.T, Layout((0, 1)))


product.defvjp(lambda x, kernel: (product(x, kernel), (x, kernel)), _product_backward)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def layer_norm(
    x: Float[Array, "*rows d"],
    scale: Float[Array, " d"],
    bias: Float[Array, " d"],
    epsilon: float = LAYER_NORM_EPSILON,
) -> Float[Array, "*rows d"]:
    """Layer normalization over the last axis (Ba et al. 2016), computed in float32, returned in the dtype of `x`."""
    return _layer_norm_forward(x, scale, bias, epsilon)[0]


def _layer_norm_forward(x, scale, bias, epsilon):
    wide = x.astype(jnp.float32)
    mean = wide.mean(-1, keepdims=True)
    centered = wide - mean
    inverse = jax.lax.rsqrt(jnp.square(centered).mean(-1, keepdims=True) + epsilon)
    return (centered * inverse * scale + bias).astype(x.dtype), (x, mean, inverse, scale)


def _layer_norm_backward(epsilon, saved, gradient):
    # Written by hand, the gradient takes two passes over memory. Autodiff's takes about five.
    x, mean, inverse, scale = saved
    normal = (x.astype(jnp.float32) - mean) * inverse
    gradient = gradient.astype(jnp.float32)
    scaled = gradient * scale
    along = (scaled * normal).mean(-1, keepdims=True)
    d_x = inverse * (scaled - scaled.mean(-1, keepdims=True) - normal * along)
    rows = tuple(range(x.ndim - 1))
    return d_x.astype(x.dtype), (gradient * normal).sum(rows), gradient.sum(rows)


layer_norm.defvjp(_layer_norm_forward, _layer_norm_backward)


@jax.custom_vjp
def gelu(x: Float[Array, "*rows d"]) -> Float[Array, "*rows d"]:
    """The exact GELU, x Phi(x) (Hendrycks and Gimpel 2016). Uses erf, which is cheaper than jax.nn.gelu's erfc."""
    return x * _normal_cdf(x)


def _normal_cdf(x):
    return 0.5 + 0.5 * jax.lax.erf(x * math.sqrt(0.5))


def _gelu_backward(x, gradient):
    density = jnp.exp(-0.5 * x * x) * (1 / math.sqrt(2 * math.pi))
    return (gradient * (_normal_cdf(x) + x * density),)


gelu.defvjp(lambda x: (gelu(x), x), _gelu_backward)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def attend(qkv: Float[Array, "b n 3 h e"], first: int) -> Float[Array, "b m d"]:
    """softmax(q k^T / sqrt(e)) v for the queries of the first m = `first` tokens; heads are concatenated, d = h e.

    With P the softmax, O the result and dO its gradient: dV = P^T dO, dS = P (dO V^T - rowsum(dO O)),
    dQ = dS K / sqrt(e), dK = dS^T Q / sqrt(e). The row sums of dO O replace those of dP P, as in Dao et al. 2022
    (FlashAttention, appendix B.2). This saves a pass over the n x n weights.
    """
    return _attend_forward(qkv, first)[0]


def _heads_first(qkv):
    return qkv.transpose(2, 0, 3, 1, 4)  # q, k, v: each b h n e


def _softmax_scores(q, k):
    scores = jnp.einsum("bhqe,bhke->bhqk", q * q.shape[-1] ** -0.5, k)
    return jax.nn.softmax(scores.astype(jnp.float32), axis=-1)


def _attend_forward(qkv, first):
    q, k, v = _heads_first(qkv)
    q = q[:, :, :first]
    weights = _softmax_scores(q, k).astype(v.dtype)
    mixed = jnp.einsum("bhqk,bhke->bhqe", weights, v)
    b, h, n, e = mixed.shape
    return mixed.transpose(0, 2, 1, 3).reshape(b, n, h * e), (q, k, v, weights, mixed)


def _attend_backward(first, saved, gradient):
    q, k, v, weights, mixed = saved
    b, h, n, e = q.shape
    gradient = gradient.reshape(b, n, h, e).transpose(0, 2, 1, 3)
    along = (gradient.astype(jnp.float32) * mixed.astype(jnp.float32)).sum(-1, keepdims=True)
    d_v = jnp.einsum("bhqk,bhqe->bhke", weights, gradient)
    d_weights = jnp.einsum("bhqe,bhke->bhqk", gradient, v)
    d_scores = (weights.astype(jnp.float32) * (d_weights.astype(jnp.float32) - along)).astype(q.dtype)
    d_q = jnp.einsum("bhqk,bhke->bhqe", d_scores, k) * e**-0.5
    d_q = jnp.pad(d_q, ((0, 0), (0, 0), (0, k.shape[2] - first), (0, 0)))
    d_k = jnp.einsum("bhqk,bhqe->bhke", d_scores, q * e**-0.5)
    return (jnp.stack([d.transpose(0, 2, 1, 3) for d in (d_q, d_k, d_v)], axis=2),)


attend.defvjp(_attend_forward, _attend_backward)


def attention_weights(qkv: Float[Array, "b n 3 h e"]) -> Float[Array, "b h n n"]:
    """softmax(q k^T / sqrt(e)) in float32: queries on the second-to-last axis, keys on the last. Rows sum to 1."""
    q, k, _ = _heads_first(qkv)
    return _softmax_scores(q, k)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def recomputed(
    graph: nnx.GraphDef,
    first: int,
    params: nnx.State,
    tokens: Float[Array, "b n d"],
    key: Array | None,
    angles: Float[Array, "a n e"] | None,
) -> Float[Array, "b m d"]:
    """Calls the module of `graph` and `params` with (tokens, key, first, angles). The backward pass recomputes it.

    Only the inputs are kept for the gradient (Chen et al. 2016, "Training deep nets with sublinear memory cost").
    `key` and `angles` receive no gradient.
    """
    return nnx.merge(graph, params)(tokens, key, first, angles)


def _recomputed_backward(graph, first, saved, gradient):
    params, tokens, key, angles = saved
    # `jax.checkpoint` relies on a barrier that some of XLA's CPU schedulers drop. They then recompute too early, which
    # saves no memory. Here the input depends on the gradient, so the recomputation has to wait for it.
    params, tokens, gradient = jax.lax.optimization_barrier((params, tokens + 0 * gradient[:, :1], gradient))
    _, pull = jax.vjp(lambda p, t: nnx.merge(graph, p)(t, key, first, angles), params, tokens)
    return *pull(gradient), None, None


recomputed.defvjp(lambda graph, first, *rest: (recomputed(graph, first, *rest), rest), _recomputed_backward)
