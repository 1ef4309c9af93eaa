"""Networks as pure functions of nested dicts of arrays: the one place that knows Flax.

`build(kind, shape)` gives a graph definition (hashable); `init` draws parameters; `apply` runs the
network. Outside this folder parameters are plain nested dicts such as
`params["encoder"]["block_00"]["attn"]["qkv"]["kernel"]`.
"""

from functools import lru_cache
from typing import Any

import jax
from flax import nnx

from mae_jax.models.mae import MAE
from mae_jax.models.vit import SIZES, Encoder, Shape, ViT

__all__ = ["SIZES", "Params", "Shape", "apply", "init"]

Params = dict[str, Any]
_KINDS = {"mae": MAE, "vit": ViT, "encoder": Encoder}


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
