"""Building blocks of the transformer: linear layer, layer norm, attention, block, patch embedding.

Tokens are flattened to (batch * tokens, features) before every matrix product, and attention puts the head axis
before the token axis. On CPUs both are faster than the straightforward layout, mostly in the backward pass.
Parameters are float32; `dtype` is the type of the arithmetic. Norms and softmax always run in float32.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax.experimental.layout import Layout, with_layout_constraint
from jaxtyping import Array, Float

BATCH_NORM_EPSILON = 1e-6  # the paper's code; PyTorch's default is 1e-5
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


class Linear(nnx.Module):
    """y = x W + b, initialized as in the MAE code: Xavier-uniform weights, zero bias."""

    def __init__(self, n_in: int, n_out: int, *, dtype: str, rngs: nnx.Rngs, std: float = 0.0):
        """`std` > 0 (classification heads): normal weights of that standard deviation, truncated at two of them."""
        draw = jax.nn.initializers.xavier_uniform()
        if std:
            draw = jax.nn.initializers.truncated_normal(std)
        self.kernel = nnx.Param(draw(rngs.params(), (n_in, n_out), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((n_out,), jnp.float32))
        self.dtype = dtype

    def __call__(self, x: Float[Array, "*rows i"]) -> Float[Array, "*rows o"]:
        kernel, bias = (jnp.asarray(p[...], self.dtype) for p in (self.kernel, self.bias))
        return product(x.astype(self.dtype), kernel) + bias


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
    centred = wide - mean
    inverse = jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + epsilon)
    return (centred * inverse * scale + bias).astype(x.dtype), (x, mean, inverse, scale)


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


class LayerNorm(nnx.Module):
    """Layer norm with learned scale (initially 1) and bias (initially 0)."""

    def __init__(self, width: int, epsilon: float = LAYER_NORM_EPSILON):
        self.scale = nnx.Param(jnp.ones((width,), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((width,), jnp.float32))
        self.epsilon = epsilon

    def __call__(self, x: Float[Array, "*rows d"]) -> Float[Array, "*rows d"]:
        return layer_norm(x, self.scale[...], self.bias[...], self.epsilon)


def batch_statistics(
    x: Float[Array, "b d"], real: Float[Array, " b"], n: int
) -> tuple[Float[Array, " d"], Float[Array, " d"]]:
    """Mean and biased variance (divided by n, not n - 1) of each feature over the `n` rows where `real` is 1."""
    mean = (x * real[:, None]).sum(0) / n
    return mean, (jnp.square(x - mean) * real[:, None]).sum(0) / n


def batch_norm(x: Float[Array, "b d"], mean: Float[Array, " d"], variance: Float[Array, " d"]) -> Float[Array, "b d"]:
    """Batch normalization without learned scale and bias (Ioffe and Szegedy 2015)."""
    return (x - mean) * jax.lax.rsqrt(variance + BATCH_NORM_EPSILON)


class BatchNorm(nnx.Module):
    """Batch norm without learned scale and bias that applies its running statistics (He et al. 2022, appendix A.1).

    The running statistics are parameters that receive no gradient; `train_step` updates them from each batch.
    """

    def __init__(self, width: int):
        self.mean = nnx.Param(jnp.zeros((width,), jnp.float32))
        self.variance = nnx.Param(jnp.ones((width,), jnp.float32))

    def __call__(self, x: Float[Array, "b d"]) -> Float[Array, "b d"]:
        return batch_norm(x, self.mean[...], self.variance[...])


class LayerScale(nnx.Module):
    """A learned factor for each feature of a residual branch (Touvron et al. 2021, CaiT)."""

    def __init__(self, width: int, start: float):
        self.gamma = nnx.Param(jnp.full((width,), start, jnp.float32))

    def __call__(self, branch: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        return branch * self.gamma[...].astype(branch.dtype)


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


class Attention(nnx.Module):
    """Multi-head self-attention with one fused projection for queries, keys and values."""

    def __init__(self, width: int, heads: int, *, dtype: str, attention: str = "xla", rngs: nnx.Rngs):
        """`attention`: "xla" calls `attend`; "cudnn" calls NVIDIA's fused kernel, which stores no n x n weights."""
        self.qkv = Linear(width, 3 * width, dtype=dtype, rngs=rngs)
        self.proj = Linear(width, width, dtype=dtype, rngs=rngs)
        self.heads, self.attention = heads, attention

    def __call__(self, tokens: Float[Array, "b n d"], first: int) -> Float[Array, "b m d"]:
        """Output for the first m = `first` tokens, which attend to all n."""
        qkv = self._split(tokens)
        if self.attention == "xla":
            return self.proj(attend(qkv, first))
        q, k, v = qkv[:, :first, 0], qkv[:, :, 1], qkv[:, :, 2]
        mixed = jax.nn.dot_product_attention(q, k, v, implementation="cudnn")
        return self.proj(mixed.reshape(*mixed.shape[:2], -1))

    def weights(self, tokens: Float[Array, "b n d"]) -> Float[Array, "b h n n"]:
        """Attention weights in float32: queries on the second-to-last axis, keys on the last. Rows sum to 1."""
        q, k, _ = _heads_first(self._split(tokens))
        return _softmax_scores(q, k)

    def _split(self, tokens: Float[Array, "b n d"]) -> Float[Array, "b n 3 h e"]:
        b, n, d = tokens.shape
        return self.qkv(tokens).reshape(b, n, 3, self.heads, d // self.heads)


class Mlp(nnx.Module):
    """Two linear layers with an exact GELU between them."""

    def __init__(self, width: int, hidden: int, *, dtype: str, rngs: nnx.Rngs):
        self.fc1 = Linear(width, hidden, dtype=dtype, rngs=rngs)
        self.fc2 = Linear(hidden, width, dtype=dtype, rngs=rngs)

    def __call__(self, tokens: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        return self.fc2(gelu(self.fc1(tokens)))


@partial(jax.jit, inline=True)
def drop_path(branch: Float[Array, "b n d"], key: Array, rate: Float[Array, ""] | float) -> Float[Array, "b n d"]:
    """Stochastic depth (Huang et al. 2016): drops the branch for random images and rescales it for the others."""
    keep = jax.random.bernoulli(key, 1.0 - rate, (branch.shape[0], 1, 1))
    return branch * keep.astype(branch.dtype) / jnp.asarray(1.0 - rate, branch.dtype)


class Block(nnx.Module):
    """Pre-norm transformer block.

    `rate` is the drop-path rate. `layer_scale` > 0 is the initial value of the residual branches' learned factors.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        mlp_ratio: float,
        *,
        rate: float,
        dtype: str,
        rngs: nnx.Rngs,
        norm_eps: float = LAYER_NORM_EPSILON,
        layer_scale: float = 0.0,
        attention: str = "xla",
    ):
        self.norm1 = LayerNorm(width, norm_eps)
        self.attn = Attention(width, heads, dtype=dtype, attention=attention, rngs=rngs)
        self.norm2 = LayerNorm(width, norm_eps)
        self.mlp = Mlp(width, int(width * mlp_ratio), dtype=dtype, rngs=rngs)
        if layer_scale:
            self.ls1, self.ls2 = LayerScale(width, layer_scale), LayerScale(width, layer_scale)
        self.scaled = bool(layer_scale)
        self.rate = rate

    def __call__(
        self, tokens: Float[Array, "b n d"], key: Array | None = None, first: int | None = None
    ) -> Float[Array, "b m d"]:
        """Output for the first m = `first` tokens (None: all). `key` enables drop path; None is deterministic."""
        first = tokens.shape[1] if first is None else first
        attended = self.attn(self.norm1(tokens), first)
        attended = self.ls1(attended) if self.scaled else attended
        if key is not None and self.rate:
            attended = drop_path(attended, jax.random.fold_in(key, 0), self.rate)
        tokens = tokens[:, :first] + attended
        mixed = self.mlp(self.norm2(tokens))
        mixed = self.ls2(mixed) if self.scaled else mixed
        if key is not None and self.rate:
            mixed = drop_path(mixed, jax.random.fold_in(key, 1), self.rate)
        return tokens + mixed


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _remat_block(graph, first, params, tokens, key):
    return nnx.merge(graph, params)(tokens, key, first)


def _remat_block_backward(graph, first, saved, gradient):
    params, tokens, key = saved
    # `jax.checkpoint` relies on a barrier that some of XLA's CPU schedulers drop. They then recompute too early, which
    # saves no memory. Here the input depends on the gradient, so the recomputation has to wait for it.
    params, tokens, gradient = jax.lax.optimization_barrier((params, tokens + 0 * gradient[:, :1], gradient))
    _, pull = jax.vjp(lambda p, t: nnx.merge(graph, p)(t, key, first), params, tokens)
    return *pull(gradient), None


_remat_block.defvjp(lambda graph, first, *rest: (_remat_block(graph, first, *rest), rest), _remat_block_backward)


def run_block(
    block: Block, tokens: Float[Array, "b n d"], key: Array | None = None, first: int | None = None, *, remat: bool
) -> Float[Array, "b m d"]:
    """Calls a block. With `remat`, only its input is kept for the backward pass and the rest is recomputed.

    See Chen et al. 2016, "Training deep nets with sublinear memory cost".
    """
    if not remat:
        return block(tokens, key, first)
    graph, params = nnx.split(block)
    return _remat_block(graph, first, params, tokens, key)


class PatchEmbed(nnx.Module):
    """Linear embedding of flattened patches, equivalent to a convolution whose stride is its kernel size."""

    def __init__(self, patch_size: int, width: int, *, dtype: str, rngs: nnx.Rngs):
        self.proj = Linear(3 * patch_size**2, width, dtype=dtype, rngs=rngs)
        self.patch_size = patch_size

    def __call__(self, patches: Float[Array, "b n p"]) -> Float[Array, "b n d"]:
        return self.proj(patches)
