"""Positions in weights of other code: which are fixed, and how learned ones are interpolated to another grid."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mae_jax.models import Params
from mae_jax.models.patches import position_embedding
from mae_jax.models.vit import ViTConfig
from mae_jax.weights.layout import Layout

ANTIALIASED, BICUBIC, OFFSET = "antialiased", "bicubic", "offset"
WAYS = {
    ANTIALIASED: "bicubic and antialiased, as in timm",
    BICUBIC: "bicubic, as in transformers",
    OFFSET: "bicubic with an offset of 0.1, as in DINO and DINOv2",
}
_CUBIC = -0.75  # PyTorch's bicubic coefficient without antialiasing; with antialiasing it is -0.5, as in JAX
_SHIFT = 0.1  # added to the grid's size before the scale is computed


def interpolate(positions: Float[Array, "1 n d"], grid: int, way: str = ANTIALIASED) -> Float[Array, "1 m d"]:
    """Interpolates learned positions of a square grid to grid x grid, in one of WAYS.

    `antialiased` is timm's and that of transformers' DINOv2 with registers. `bicubic` is that of the other models of
    transformers: it does not average where it shrinks. `offset` is that of facebookresearch/dino and dinov2 without
    registers: it samples at the scale (grid + 0.1) / side, so that the result is shifted by a part of a patch.
    """
    side = round(positions.shape[1] ** 0.5)
    square = positions.reshape(side, side, -1)
    if way == ANTIALIASED:
        resized = jax.image.resize(square, (grid, grid, square.shape[2]), "bicubic")
    else:
        weights = jnp.asarray(_bicubic_weights(side, grid, _SHIFT if way == OFFSET else 0.0))
        resized = jnp.einsum("ai,bj,ijd->abd", weights, weights, square, precision="highest")
    return resized.reshape(1, grid**2, -1)


def _bicubic_weights(side: int, grid: int, shift: float) -> Float[np.ndarray, "grid side"]:
    """Each row has the weights of the old positions in a new one; positions beyond the edge repeat the edge."""
    at = (np.arange(grid) + 0.5) * side / (grid + shift) - 0.5
    first = np.floor(at).astype(int) - 1
    weights = np.zeros((grid, side))
    for tap in range(4):
        distance = np.abs(at - (first + tap))
        near = (_CUBIC + 2) * distance**3 - (_CUBIC + 3) * distance**2 + 1
        far = _CUBIC * (distance**3 - 5 * distance**2 + 8 * distance - 4)
        values = np.where(distance <= 1, near, far)
        np.add.at(weights, (np.arange(grid), np.clip(first + tap, 0, side - 1)), values)
    return weights.astype(np.float32)


def way_of(layout: Layout) -> str:
    """How the code that published the weights interpolates their positions; one of WAYS."""
    stated = layout.saved.get("interpolation")
    if stated in WAYS:
        return str(stated)
    if layout.is_resnet:
        return ANTIALIASED  # it has no positions
    registers = layout.find("encoder/reg_token") is not None
    if layout.family == "hf":
        return ANTIALIASED if registers else BICUBIC
    if layout.family == "timm" and "architecture" not in layout.config.fields:
        if layout.find("decoder/embed/kernel") is not None:
            return BICUBIC  # facebookresearch/mae
        if "mask_token" in layout.arrays or "teacher." in layout.prefix:  # facebookresearch/dinov2, or dino
            return ANTIALIASED if registers else OFFSET
    return ANTIALIASED


def plain_decoder(positions: np.ndarray | None, shape: ViTConfig, tolerance: float) -> bool:
    """True if a decoder's positions are the fixed sine-cosine ones, the only ones supported."""
    if positions is None:
        return True
    expected = np.pad(position_embedding(shape.grid, shape.decoder_width), ((1, 0), (0, 0)))
    if positions.shape[-2:] != expected.shape or positions.size != expected.size:
        return False
    return bool(np.abs(positions.reshape(expected.shape) - expected).max() < tolerance)


def without_fixed(shape: ViTConfig, params: Params, tolerance: float) -> tuple[ViTConfig, Params, list[str]]:
    """Adds the positions of class token and registers to these tokens, and drops fixed positions of patches.

    Returns the new shape, the new parameters and notes.
    """
    encoder = dict(params["encoder"])
    positions = encoder.pop("pos_embed", None)
    if positions is None:
        return shape, params, []
    rows, notes = positions[0], []
    extra = len(rows) - shape.n_patches
    if extra:
        encoder["cls_token"] = encoder["cls_token"] + rows[:1]
        if extra > 1:
            encoder["reg_token"] = encoder["reg_token"] + rows[1:extra]
        if np.any(rows[:extra]):
            notes.append("the positions of the class token and registers are now part of these tokens")
    rows = rows[extra:]
    if np.abs(rows - position_embedding(shape.grid, shape.width)).max() < tolerance:
        return dataclasses.replace(shape, positions="fixed"), params | {"encoder": encoder}, notes
    return shape, params | {"encoder": encoder | {"pos_embed": rows[None]}}, notes
