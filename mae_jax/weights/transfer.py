"""Weights into a network: every parameter taken, drawn anew for a stated reason, or the start refused."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mae_jax.models import Params
from mae_jax.models.params import map_paths
from mae_jax.models.vit import Shape
from mae_jax.runtime.errors import UserError
from mae_jax.weights.reader import Weights

_SHAPE = ("patch_size", "width", "depth", "heads", "mlp_ratio", "positions", "registers")


def transfer(params: Params, shape: Shape, weights: Weights, field: str = "init_from") -> tuple[Params, list[str]]:
    """`params` of a network of `shape` with all that `weights` has for it, and notes on what it has not.

    A classifier's head (and the norms before it) stays as drawn; a decoder does where the weights have
    none. Learned positions of another grid are interpolated. Placements stay those of `params`. Raises
    UserError that lists what does not fit.
    """
    notes: list[str] = []
    found = _flat(weights.params)
    new = {"head", "fc_norm", "batch_norm"} | (set() if "decoder" in weights.params else {"decoder"})
    bad, used = [], set()

    def take(path: str, leaf: jax.Array) -> jax.Array:
        if path.partition("/")[0] in new:
            return leaf
        value = found.get(path)
        if path == "encoder/pos_embed" and value is not None and value.shape != leaf.shape:
            notes.append(f"position embeddings interpolated from {weights.shape.grid} x {weights.shape.grid} patches")
            notes[-1] += f" to {shape.grid} x {shape.grid} (bicubic)"
            value = interpolate_positions(jnp.asarray(value), shape.grid)
        used.add(path)
        if value is None or value.shape != leaf.shape:
            bad.append(f"{path} {'is missing' if value is None else f'{value.shape} in place of {leaf.shape}'}")
            return leaf
        return jax.device_put(value, leaf.sharding)

    taken = map_paths(take, params)
    expected = {"head", "fc_norm", "batch_norm", *(() if "decoder" in params else ("decoder",))}
    left = [path for path in found if path not in used and path.partition("/")[0] not in expected]
    if shape.pool == "mean" and "head" in params:
        left = [path for path in left if not path.startswith("encoder/norm/")]
    bad += [f"{path} has no place" for path in left]
    if bad:
        more = f" and {len(bad) - 8} more" if len(bad) > 8 else ""
        raise UserError(f"{field}={weights.origin} does not fit: {'; '.join(bad[:8])}{more}")
    if shape.positions == "fixed" and shape.grid != weights.shape.grid:
        notes.append(f"fixed positions recomputed for {shape.grid} x {shape.grid} patches")
    if "decoder" in params and "decoder" not in weights.params:
        notes.append("no decoder there: it is drawn anew")
    return taken, notes


def _flat(params: Params) -> dict[str, Array | np.ndarray]:
    flat: dict[str, Array | np.ndarray] = {}
    map_paths(lambda path, leaf: flat.setdefault(path, leaf), params)
    return flat


def compare(shape: Shape, weights: Weights, field: str = "init_from") -> list[str]:
    """Refuses (UserError) a network of another shape, field by field; returns notes on what may differ.

    For what arrays alone do not tell, such as the number of heads, and before any are there.
    """
    theirs, other, notes = weights.shape, [], []
    for name in _SHAPE:
        a, b = getattr(shape, name), getattr(theirs, name)
        if name == "heads" and a != b and not weights.heads_known and shape.width == theirs.width:
            notes.append(f"{a} attention heads, from model.heads")
        elif not (math.isclose(a, b, rel_tol=1e-6) if isinstance(a, float) else a == b):
            other.append(f"{name} is {a} here and {b} there")
    if bool(shape.layer_scale) != bool(theirs.layer_scale):
        there = ("with", "without") if theirs.layer_scale else ("without", "with")
        other.append(f"layer_scale={shape.layer_scale} here, {there[0]} layer scale there")
    if other:
        fields = " ".join(f"--config.model.{k}={v}" for k, v in weights.model_fields().items() if v != 0)
        raise UserError(
            f"{field}={weights.origin} is of another network: {'; '.join(other)}. The fields that fit: {fields}"
        )
    if shape.norm_eps != theirs.norm_eps:
        notes.append(f"the norms' epsilon is {shape.norm_eps:g} here and {theirs.norm_eps:g} there")
    return notes


def interpolate_positions(positions: Float[Array, "1 n d"], grid: int) -> Float[Array, "1 m d"]:
    """Learned positions of a square grid for one of grid x grid: bicubic, antialiased, as timm does it."""
    side = round(positions.shape[1] ** 0.5)
    square = positions.reshape(side, side, -1)
    return jax.image.resize(square, (grid, grid, square.shape[2]), "bicubic").reshape(1, grid**2, -1)
