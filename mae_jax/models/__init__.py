"""Networks as pure functions of nested dicts of arrays: the one place that knows Flax.

`build(kind, shape)` gives a graph definition (hashable); `init` draws parameters; `apply` runs the
network. Outside this folder parameters are plain nested dicts such as
`params["encoder"]["block_00"]["attn"]["qkv"]["kernel"]`.
"""

from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Float, Int

from mae_jax.models.layers import BATCH_NORM_EPSILON, batch_norm, batch_statistics
from mae_jax.models.mae import MAE
from mae_jax.models.vit import SIZES, Encoder, Shape, ViT
from mae_jax.runtime.errors import UserError

__all__ = ["BATCH_NORM_EPSILON", "SIZES", "Params", "Shape", "apply", "attention", "batch_norm", "batch_statistics"]
__all__ += ["features", "head", "init", "pooled"]

Params = dict[str, Any]
_KINDS = {"mae": MAE, "vit": ViT, "encoder": Encoder, "encoder without norm": partial(Encoder, final_norm=False)}


@lru_cache
def _graphdef(kind: str, shape: Shape):
    """The network without its arrays."""
    return nnx.split(nnx.eval_shape(lambda: _KINDS[kind](shape, rngs=nnx.Rngs(0))))[0]


def init(kind: str, shape: Shape, key: jax.Array) -> Params:
    """Draws the parameters of `kind` (mae, vit, or encoder for the tokens alone) as a nested dict; can be jitted."""
    return nnx.to_pure_dict(nnx.state(_KINDS[kind](shape, rngs=nnx.Rngs(key)), nnx.Param))


def apply(kind: str, shape: Shape, params: Params, *args, **kwargs):
    """Calls the network `kind` with `params`; the arguments are those of `MAE`, `ViT`, `Encoder`."""
    return nnx.merge(_graphdef(kind, shape), params)(*args, **kwargs)


def pooled(shape: Shape, params: Params, images: Float[Array, "b h w c"]) -> Float[Array, "b d"]:
    """What a classifier's head reads of each image, before any batch norm; nothing is random."""
    return nnx.merge(_graphdef("vit", shape), params).pooled(images)


def head(shape: Shape, params: Params, features: Float[Array, "b d"]) -> Float[Array, "b classes"]:
    """A classifier's logits from what its head reads."""
    return nnx.merge(_graphdef("vit", shape), params).head(features)


def features(
    shape: Shape,
    encoder: Params,
    images: Float[Array, "b h w c"],
    blocks: Sequence[int] = (-1,),
    ids_keep: Int[Array, "b v"] | None = None,
) -> tuple[Float[Array, "b t d"], ...]:
    """Tokens as they leave each of `blocks` of a network's `params["encoder"]`, before the last norm; can be jitted.

    Blocks count from 0, negative ones from the end. The class token comes first; with `ids_keep` only those
    patches are encoded. Nothing is random. Raises UserError for a block that is not there.
    """
    return _encoder(shape, encoder).features(images, tuple(_block(shape, i) for i in blocks), ids_keep)


def attention(
    shape: Shape, encoder: Params, images: Float[Array, "b h w c"], block: int = -1
) -> Float[Array, "b heads t t"]:
    """Attention weights in a block of a network's `params["encoder"]`, float32; can be jitted.

    The next to last axis asks, the last one gives; each is the class token, the registers, the patches.
    Raises UserError for a block that is not there.
    """
    return _encoder(shape, encoder).attention(images, _block(shape, block))


def _encoder(shape: Shape, params: Params) -> Encoder:
    return nnx.merge(_graphdef("encoder" if "norm" in params else "encoder without norm", shape), params)


def _block(shape: Shape, number: int) -> int:
    if not -shape.depth <= number < shape.depth:
        raise UserError(f"block={number} is not there; the network has blocks 0 to {shape.depth - 1}, the last is -1")
    return number % shape.depth
