"""Copies loaded weights into a network. Parameters that cannot be copied are reported, or the start is refused."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from mae_jax.models import Params
from mae_jax.models.params import map_paths
from mae_jax.models.vit import ViTConfig
from mae_jax.runtime.errors import UserError
from mae_jax.weights import positions
from mae_jax.weights.reader import Weights

_SHAPE = (
    "family",
    "norm",
    "patch_size",
    "width",
    "depth",
    "heads",
    "mlp_ratio",
    "mlp",
    "pre_norm",
    "positions",
    "registers",
)


def transfer(params: Params, shape: ViTConfig, weights: Weights, field: str = "init_from") -> tuple[Params, list[str]]:
    """Replaces `params` of a network of `shape` with those in `weights`. Returns the new parameters and notes.

    A classifier's head and batch norm stay random, and so do a decoder and a norm after the mean of the patch tokens
    (`fc_norm`) if `weights` has none. Learned
    positions of another grid are interpolated. The new parameters are placed like `params`. Raises UserError that lists
    everything that does not fit.
    """
    notes: list[str] = []
    loaded = _flat(weights.params)
    new = {"head", "batch_norm"} | {name for name in ("decoder", "fc_norm") if name not in weights.params}
    bad, used = [], set()

    def take(path: str, leaf: jax.Array) -> jax.Array:
        if path.partition("/")[0] in new:
            return leaf
        value = loaded.get(path)
        if path == "encoder/pos_embed" and value is not None and value.shape != leaf.shape:
            notes.append(f"position embeddings interpolated from {weights.shape.grid} x {weights.shape.grid} patches")
            notes[-1] += f" to {shape.grid} x {shape.grid} ({positions.WAYS[weights.interpolation]})"
            value = positions.interpolate(jnp.asarray(value), shape.grid, weights.interpolation)
        used.add(path)
        if value is None or value.shape != leaf.shape:
            bad.append(f"{path} {'is missing' if value is None else f'{value.shape} instead of {leaf.shape}'}")
            return leaf
        return jax.device_put(value, leaf.sharding)

    taken = map_paths(take, params)
    expected = {"head", "fc_norm", "batch_norm", *(() if "decoder" in params else ("decoder",))}
    left = [path for path in loaded if path not in used and path.partition("/")[0] not in expected]
    if shape.pool == "mean" and "head" in params:
        left = [path for path in left if not path.startswith("encoder/norm/")]
    bad += [f"{path} has no counterpart" for path in left]
    if bad:
        more = f" and {len(bad) - 8} more" if len(bad) > 8 else ""
        raise UserError(f"{field}={weights.origin} does not fit this network: {'; '.join(bad[:8])}{more}")
    if shape.family == "vit" and shape.positions == "fixed" and shape.grid != weights.shape.grid:
        notes.append(f"fixed positions recomputed for {shape.grid} x {shape.grid} patches")
    if "decoder" in params and "decoder" not in weights.params:
        notes.append("the decoder starts from random weights, because the source has none")
    return taken, notes


def _flat(params: Params) -> dict[str, Array | np.ndarray]:
    flat: dict[str, Array | np.ndarray] = {}
    map_paths(lambda path, leaf: flat.setdefault(path, leaf), params)
    return flat


def compare(shape: ViTConfig, weights: Weights, field: str = "init_from") -> list[str]:
    """Compares a network's shape with that of `weights`. Returns notes on differences that are allowed.

    This covers what arrays do not show, such as the number of heads, and needs no arrays. Raises UserError that lists
    the differing fields and those that fit.
    """
    theirs, differences, notes = weights.shape, [], []
    for name in _SHAPE:
        a, b = getattr(shape, name), getattr(theirs, name)
        if name == "heads" and a != b and not weights.heads_known and shape.width == theirs.width:
            notes.append(f"the number of attention heads, {a}, is that of model.heads")
        elif not (math.isclose(a, b, rel_tol=1e-6) if isinstance(a, float) else a == b):
            differences.append(f"{name} is {a} in the config and {b} in the weights")
    if bool(shape.layer_scale) != bool(theirs.layer_scale):
        which = "with" if theirs.layer_scale else "without"
        differences.append(f"layer_scale is {shape.layer_scale} in the config; the weights are {which} layer scale")
    if differences:
        fields = " ".join(f"--config.model.{k}={v}" for k, v in weights.model_fields().items() if v != 0)
        raise UserError(
            f"{field}={weights.origin} holds another network: {'; '.join(differences)}. Use these fields, which "
            f"the argument init=PATH of a config file sets unless you give other values: {fields}"
        )
    if shape.norm_eps != theirs.norm_eps:
        notes.append(f"the norms' epsilon is {shape.norm_eps:g} in the config and {theirs.norm_eps:g} in the weights")
    return notes
