"""Rotary positions (Su et al. 2021) as in DINOv3 (Siméoni et al. 2025).

Queries and keys are rotated by the place of their patch, so that scores depend on the distance between two patches.
A patch's center has the coordinates (row, column), each from -1 to 1 across the image. With e features per head, pair j
of a query or key, (x_j, x_{j + e/2}), is rotated by 2 pi c f_i: c is the row for the first e/4 pairs and the column for
the others, and f_i = 100^(-4 i / e) for i = 0 .. e/4 - 1. The class token and registers are not rotated.
"""

from functools import lru_cache

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

BASE = 100.0


@lru_cache
def angles(grid: int, head_size: int) -> Float[np.ndarray, "n e"]:
    """The angles of the patches of grid x grid in radians; e is half of `head_size`, which is a multiple of 4."""
    frequencies = BASE ** (-4 * np.arange(head_size // 4) / head_size)
    centers = (2 * np.arange(grid) + 1) / grid - 1
    rows, columns = np.meshgrid(centers, centers, indexing="ij")
    places = np.stack([rows.reshape(-1), columns.reshape(-1)], axis=1)
    return (2 * np.pi * places[:, :, None] * frequencies).reshape(grid**2, -1).astype(np.float32)


def angles_of_tokens(
    grid: int, head_size: int, others: int, ids_keep: Int[Array, "b v"] | None = None
) -> Float[Array, "b t e"]:
    """The angles of all tokens: 0 for the first `others`, then those of the patches, or of the patches in `ids_keep`.

    Without `ids_keep`, b is 1.
    """
    patches = jnp.asarray(angles(grid, head_size))
    patches = patches[None] if ids_keep is None else jnp.take(patches, ids_keep, axis=0)
    return jnp.pad(patches, ((0, 0), (others, 0), (0, 0)))


def rotate(qkv: Float[Array, "b t 3 h f"], angles: Float[Array, "a t e"]) -> Float[Array, "b t 3 h f"]:
    """Rotates queries and keys by the angles of their tokens, in float32. Values stay. `a` is b or 1, f is 2 e."""
    turned = qkv[:, :, :2].astype(jnp.float32)
    first, second = jnp.split(turned, 2, axis=-1)
    cos, sin = (function(angles)[:, :, None, None] for function in (jnp.cos, jnp.sin))
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return jnp.concatenate([turned.astype(qkv.dtype), qkv[:, :, 2:]], axis=2)
