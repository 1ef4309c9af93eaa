"""AdamW and LARS with parameter groups by regular expression, and layer-wise learning-rate decay.

The learning rate is an argument of the update, so runs that differ only in length share one compiled step.
"""

import dataclasses
import re
from typing import Any

import jax
import optax
from jaxtyping import Array, Float

from mae_jax.models import Params
from mae_jax.models.params import map_paths

TRUST = 0.001  # LARS trust coefficient: norm of an update at learning rate 1, relative to the parameter's norm


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """AdamW (Loshchilov and Hutter 2019) or LARS (You et al. 2017). Hashable: equal optimizers share compiled code.

    LARS is the version used for linear probing by He et al. 2022. Weight decay is added to the gradient, which is then
    scaled to TRUST times the parameter's norm. `no_decay` parameters skip both. Momentum follows, then the learning
    rate.
    """

    b1: float  # for lars: momentum
    b2: float
    weight_decay: float
    no_decay: str  # regular expression: parameters whose path matches are not decayed
    clip_norm: float  # 0: no clipping
    layer_decay: float  # 1: the same learning rate for every layer
    name: str = "adamw"  # adamw | lars

    def transform(self) -> optax.GradientTransformation:
        """The optimizer without its learning rate."""
        parts = [optax.clip_by_global_norm(self.clip_norm)] if self.clip_norm else []
        decay = optax.add_decayed_weights(self.weight_decay, mask=self.decayed) if self.weight_decay else None
        if self.name == "lars":
            scaled = optax.masked(optax.scale_by_trust_ratio(trust_coefficient=TRUST), self.decayed)
            parts += [*filter(None, [decay]), scaled, optax.trace(self.b1)]
        else:
            parts += [optax.scale_by_adam(b1=self.b1, b2=self.b2, eps=1e-8), *filter(None, [decay])]
        return optax.chain(*parts)

    def decayed(self, params: Params) -> Params:
        """True for each parameter to which weight decay and LARS's scaling apply."""
        return map_paths(lambda path, _: not re.search(self.no_decay, path), params)

    def update(self, gradient: Params, state, params: Params, learning_rate: Float[Array, ""]) -> tuple[Params, Any]:
        """One update: the new values of the trained parameters, and the new optimizer state."""
        updates, state = self.transform().update(gradient, state, params)
        scales = layer_scales(params, self.layer_decay)
        params = jax.tree.map(lambda p, u, scale: p - learning_rate * scale * u, params, updates, scales)
        return params, state


def layer_scales(params: Params, decay: float) -> Params:
    """Learning-rate factor of each parameter: decay ** (number of layers above it).

    As in BEiT and MAE's fine-tuning code, the embedding is layer 0 and `block_i` is layer i + 1. Everything after the
    last block (norm, head) has factor 1.
    """
    # If only the last blocks are trained, `params` lacks the others, but they still count as layers.
    blocks = max((int(key[6:]) + 1 for key in params.get("encoder", {}) if key.startswith("block_")), default=0)

    def scale(path: str, _) -> float:
        inside = re.match(r"encoder/block_(\d+)/", path)
        if inside:
            layer = int(inside[1]) + 1
        elif re.match(r"encoder/(patch_embed|norm_pre|stem|stem_norm|cls_token|pos_embed|reg_token)", path):
            layer = 0
        else:
            layer = blocks + 1
        return decay ** (blocks + 1 - layer)

    return map_paths(scale, params)
