"""Networks as pure functions of nested dicts of arrays. Only this package uses Flax.

`init` draws parameters; `apply` runs a network. Outside this package, parameters are plain nested dicts such as
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
from mae_jax.models.resnet import ResNet
from mae_jax.models.vit import SIZES, Encoder, ViT, ViTConfig
from mae_jax.runtime.errors import UserError
from mae_jax.runtime.text import count

__all__ = ["BATCH_NORM_EPSILON", "SIZES", "Params", "ViTConfig", "apply", "attention", "batch_norm", "batch_statistics"]
__all__ += ["features", "head", "init", "pooled"]

Params = dict[str, Any]


def _classifier(shape: ViTConfig, *, rngs: nnx.Rngs) -> ViT | ResNet:
    return (ViT if shape.family == "vit" else ResNet)(shape, rngs=rngs)


_KINDS = {
    "mae": MAE,
    "vit": _classifier,
    "encoder": Encoder,
    "encoder without norm": partial(Encoder, final_norm=False),
}


@lru_cache
def _graphdef(kind: str, shape: ViTConfig):
    """The network's graph definition (hashable), without its arrays."""
    return nnx.split(nnx.eval_shape(lambda: _KINDS[kind](shape, rngs=nnx.Rngs(0))))[0]


def init(kind: str, shape: ViTConfig, key: jax.Array) -> Params:
    """Initial parameters of a network of `kind` (mae, vit or encoder) as a nested dict. Can be jitted."""
    return nnx.to_pure_dict(nnx.state(_KINDS[kind](shape, rngs=nnx.Rngs(key)), nnx.Param))


def apply(kind: str, shape: ViTConfig, params: Params, *args, **kwargs):
    """Calls the network `kind` with `params`. The other arguments are passed to `MAE`, `ViT` or `Encoder`."""
    return nnx.merge(_graphdef(kind, shape), params)(*args, **kwargs)


def pooled(shape: ViTConfig, params: Params, images: Float[Array, "b h w c"]) -> Float[Array, "b d"]:
    """Pooled features: the input of a classifier's head, before any batch norm. Deterministic."""
    return nnx.merge(_graphdef("vit", shape), params).pooled(images)


def head(shape: ViTConfig, params: Params, features: Float[Array, "b d"]) -> Float[Array, "b classes"]:
    """Logits of a classifier from its pooled features, after any batch norm."""
    return nnx.merge(_graphdef("vit", shape), params).head(features)


def features(
    shape: ViTConfig,
    encoder: Params,
    images: Float[Array, "b h w c"],
    blocks: Sequence[int] = (-1,),
    ids_keep: Int[Array, "b v"] | None = None,
) -> tuple[Float[Array, "b t d"], ...]:
    """Output tokens of each of `blocks`, before the final norm. Deterministic; can be jitted.

    `encoder` is a network's `params["encoder"]`. Blocks are numbered from 0; negative numbers count from the end.
    The class token comes first, then the patches, without registers. With `ids_keep`, only those patches are encoded.
    Raises UserError for a block that does not exist.
    """
    return _encoder(shape, encoder).features(images, tuple(block_index(shape, i) for i in blocks), ids_keep)


def attention(
    shape: ViTConfig, encoder: Params, images: Float[Array, "b h w c"], block: int = -1
) -> Float[Array, "b heads t t"]:
    """Attention weights of one block, float32. Can be jitted.

    `encoder` is a network's `params["encoder"]`. The second-to-last axis indexes queries, the last one keys; both
    list the class token, the registers, then the patches. Raises UserError for a block that does not exist.
    """
    return _encoder(shape, encoder).attention(images, block_index(shape, block))


def _encoder(shape: ViTConfig, params: Params) -> Encoder:
    """The encoder of a vision transformer. Raises UserError for another network, which has no tokens."""
    if shape.family != "vit":
        raise UserError(f"model.family={shape.family} has no tokens and no attention; name a run with model.family=vit")
    return nnx.merge(_graphdef("encoder" if "norm" in params else "encoder without norm", shape), params)


def block_index(shape: ViTConfig, number: int, name: str = "block") -> int:
    """The index of a block whose number may count from the end. Raises UserError that calls the number `name`."""
    if not -shape.depth <= number < shape.depth:
        allowed = f"0 to {shape.depth - 1}" if shape.depth > 1 else "0"
        raise UserError(
            f"{name}={number} is out of range; the network has {count(shape.depth, 'block')}, so use {allowed}, or -1 "
            f"for the last one"
        )
    return number % shape.depth
