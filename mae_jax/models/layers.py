"""Building blocks of the transformer: linear layer, layer norm, attention, block, patch embedding.

Parameters are float32; `dtype` is the type of the arithmetic. Functions with hand-written gradients are in `kernels`.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from mae_jax.models import kernels, rotary
from mae_jax.models.kernels import LAYER_NORM_EPSILON

BATCH_NORM_EPSILON = 1e-6  # the paper's code; PyTorch's default is 1e-5


class Linear(nnx.Module):
    """y = x W + b, initialized as in the MAE code: Xavier-uniform weights, zero bias."""

    def __init__(self, n_in: int, n_out: int, *, dtype: str, rngs: nnx.Rngs, std: float = 0.0):
        """`std` > 0 (classification heads): the standard deviation of normal weights, truncated at twice `std`."""
        draw = jax.nn.initializers.xavier_uniform()
        if std:
            draw = jax.nn.initializers.truncated_normal(std)
        self.kernel = nnx.Param(draw(rngs.params(), (n_in, n_out), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((n_out,), jnp.float32))
        self.dtype = dtype

    def __call__(self, x: Float[Array, "*rows i"]) -> Float[Array, "*rows o"]:
        kernel, bias = (jnp.asarray(p[...], self.dtype) for p in (self.kernel, self.bias))
        return kernels.product(x.astype(self.dtype), kernel) + bias


class LayerNorm(nnx.Module):
    """Layer norm with learned scale (initially 1) and bias (initially 0)."""

    def __init__(self, width: int, epsilon: float = LAYER_NORM_EPSILON):
        self.scale = nnx.Param(jnp.ones((width,), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((width,), jnp.float32))
        self.epsilon = epsilon

    def __call__(self, x: Float[Array, "*rows d"]) -> Float[Array, "*rows d"]:
        return kernels.layer_norm(x, self.scale[...], self.bias[...], self.epsilon)


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


class Attention(nnx.Module):
    """Multi-head self-attention with one fused projection for queries, keys and values."""

    def __init__(self, width: int, heads: int, *, dtype: str, attention: str = "xla", rngs: nnx.Rngs):
        """`attention`: "xla" calls `kernels.attend`; "cudnn" calls NVIDIA's fused kernel, which stores no weights."""
        self.qkv = Linear(width, 3 * width, dtype=dtype, rngs=rngs)
        self.proj = Linear(width, width, dtype=dtype, rngs=rngs)
        self.heads, self.attention = heads, attention

    def __call__(
        self, tokens: Float[Array, "b n d"], first: int, angles: Float[Array, "a n e"] | None = None
    ) -> Float[Array, "b m d"]:
        """Output for the first m = `first` tokens, which attend to all n. `angles` are those of `rotary`, if used."""
        qkv = self._split(tokens, angles)
        if self.attention == "xla":
            return self.proj(kernels.attend(qkv, first))
        q, k, v = qkv[:, :first, 0], qkv[:, :, 1], qkv[:, :, 2]
        mixed = jax.nn.dot_product_attention(q, k, v, implementation="cudnn")
        return self.proj(mixed.reshape(*mixed.shape[:2], -1))

    def weights(
        self, tokens: Float[Array, "b n d"], angles: Float[Array, "a n e"] | None = None
    ) -> Float[Array, "b h n n"]:
        """Attention weights in float32: queries on the second-to-last axis, keys on the last. Rows sum to 1."""
        return kernels.attention_weights(self._split(tokens, angles))

    def _split(self, tokens: Float[Array, "b n d"], angles: Float[Array, "a n e"] | None) -> Float[Array, "b n 3 h f"]:
        b, n, d = tokens.shape
        qkv = self.qkv(tokens).reshape(b, n, 3, self.heads, d // self.heads)
        return qkv if angles is None else rotary.rotate(qkv, angles)


def hidden_features(width: int, mlp_ratio: float) -> int:
    """Hidden features of the MLP: width x ratio, rounded down; products that are whole but for rounding are kept."""
    return int(width * mlp_ratio + 1e-6)


class Mlp(nnx.Module):
    """Two linear layers with an exact GELU, a quick GELU or a SwiGLU between them. `dropout` is the rate after it.

    The quick GELU is x sigmoid(1.702 x) (Hendrycks and Gimpel 2016), as in CLIP. With `kind="swiglu"` (Shazeer 2020),
    the first layer computes 2 x `hidden` features: gates g, then values v. The second reads silu(g) * v.
    """

    def __init__(
        self, width: int, hidden: int, *, dtype: str, rngs: nnx.Rngs, dropout: float = 0.0, kind: str = "gelu"
    ):
        self.gated, self.quick = kind == "swiglu", kind == "quick_gelu"
        self.fc1 = Linear(width, 2 * hidden if self.gated else hidden, dtype=dtype, rngs=rngs)
        self.fc2 = Linear(hidden, width, dtype=dtype, rngs=rngs)
        self.dropout = dropout

    def __call__(self, tokens: Float[Array, "b n d"], key: Array | None = None) -> Float[Array, "b n d"]:
        """`key` enables dropout; None is deterministic."""
        hidden = self.fc1(tokens)
        if self.gated:
            gates, values = jnp.split(hidden, 2, axis=-1)
            hidden = jax.nn.silu(gates) * values
        else:
            hidden = hidden * jax.nn.sigmoid(1.702 * hidden) if self.quick else kernels.gelu(hidden)
        return self.fc2(dropout(hidden, key, self.dropout) if key is not None and self.dropout else hidden)


@partial(jax.jit, inline=True, static_argnames="mask_shape")
def dropout(
    x: Float[Array, "*rows d"],
    key: Array,
    rate: Float[Array, ""] | float,
    mask_shape: tuple[int, ...] | None = None,
) -> Float[Array, "*rows d"]:
    """Sets random elements to 0 with probability `rate` and divides the others by 1 - rate (Srivastava et al. 2014).

    Elements that share an entry of a mask of `mask_shape` (default: the shape of `x`) are dropped together.
    """
    keep = jax.random.bernoulli(key, 1.0 - rate, mask_shape or x.shape)
    return x * keep.astype(x.dtype) / jnp.asarray(1.0 - rate, x.dtype)


def drop_path(branch: Float[Array, "b n d"], key: Array, rate: Float[Array, ""] | float) -> Float[Array, "b n d"]:
    """Stochastic depth (Huang et al. 2016): drops the branch for random images and rescales it for the others."""
    return dropout(branch, key, rate, (branch.shape[0], 1, 1))


class Block(nnx.Module):
    """Pre-norm transformer block.

    `rate` is the drop-path rate. `dropout` is the rate after each linear layer but queries, keys and values, as in
    Dosovitskiy et al. 2021, appendix B.1. `layer_scale` > 0 is the initial value of the residual branches' learned
    factors.
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
        dropout: float = 0.0,
        mlp: str = "gelu",
    ):
        self.norm1 = LayerNorm(width, norm_eps)
        self.attn = Attention(width, heads, dtype=dtype, attention=attention, rngs=rngs)
        self.norm2 = LayerNorm(width, norm_eps)
        self.mlp = Mlp(width, hidden_features(width, mlp_ratio), dtype=dtype, rngs=rngs, dropout=dropout, kind=mlp)
        if layer_scale:
            self.ls1, self.ls2 = LayerScale(width, layer_scale), LayerScale(width, layer_scale)
        self.scaled = bool(layer_scale)
        self.rate, self.dropout = rate, dropout

    def __call__(
        self,
        tokens: Float[Array, "b n d"],
        key: Array | None = None,
        first: int | None = None,
        angles: Float[Array, "a n e"] | None = None,
    ) -> Float[Array, "b m d"]:
        """Output for the first m = `first` tokens (None: all).

        `key` enables drop path and dropout; None is deterministic. `angles` are those of `rotary`, if used.
        """
        first = tokens.shape[1] if first is None else first
        attended = self.attn(self.norm1(tokens), first, angles)
        tokens = tokens[:, :first] + self._branch(attended, key, 0)
        mixed = self.mlp(self.norm2(tokens), None if key is None else jax.random.fold_in(key, 4))
        return tokens + self._branch(mixed, key, 1)

    def _branch(self, branch: Float[Array, "b n d"], key: Array | None, number: int) -> Float[Array, "b n d"]:
        """A residual branch after dropout, layer scale and drop path. `number` is 0 for attention, 1 for the MLP."""
        if key is not None and self.dropout:
            branch = dropout(branch, jax.random.fold_in(key, 2 + number), self.dropout)
        if self.scaled:
            branch = (self.ls2 if number else self.ls1)(branch)
        if key is not None and self.rate:
            branch = drop_path(branch, jax.random.fold_in(key, number), self.rate)
        return branch


def run_block(
    block: Block,
    tokens: Float[Array, "b n d"],
    key: Array | None = None,
    first: int | None = None,
    angles: Float[Array, "a n e"] | None = None,
    *,
    remat: bool,
) -> Float[Array, "b m d"]:
    """Calls a block. With `remat`, only its input is kept for the backward pass and the rest is recomputed."""
    if not remat:
        return block(tokens, key, first, angles)
    graph, params = nnx.split(block)
    return kernels.recomputed(graph, tokens.shape[1] if first is None else first, params, tokens, key, angles)


class PatchEmbed(nnx.Module):
    """Linear embedding of flattened patches, equivalent to a convolution whose stride is its kernel size."""

    def __init__(self, patch_size: int, width: int, *, dtype: str, rngs: nnx.Rngs):
        self.proj = Linear(3 * patch_size**2, width, dtype=dtype, rngs=rngs)
        self.patch_size = patch_size

    def __call__(self, patches: Float[Array, "b n p"]) -> Float[Array, "b n d"]:
        return self.proj(patches)
