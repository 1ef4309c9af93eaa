"""Patches, position embeddings and random masking: the index arithmetic of a masked autoencoder."""

from functools import lru_cache

import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from mae_jax.runtime.errors import UserError


def patchify(images: Float[Array, "b h w c"], patch_size: int) -> Float[Array, "b n p"]:
    """Cuts images into patches, row by row; a patch is flattened as (row, column, channel)."""
    return rearrange(images, "b (gh ph) (gw pw) c -> b (gh gw) (ph pw c)", ph=patch_size, pw=patch_size)


def unpatchify(patches: Float[Array, "b n p"], patch_size: int) -> Float[Array, "b h w c"]:
    """The inverse of `patchify` for square images."""
    grid = round(patches.shape[1] ** 0.5)
    return rearrange(
        patches,
        "b (gh gw) (ph pw c) -> b (gh ph) (gw pw) c",
        gh=grid,
        gw=grid,
        ph=patch_size,
        pw=patch_size,
    )


def n_visible(n_patches: int, mask_ratio: float) -> int:
    """Number of visible patches: n * (1 - ratio), rounded down as in the paper's code."""
    return int(n_patches * (1 - mask_ratio))


def random_masking(
    noise: Float[Array, "b n"], visible: int
) -> tuple[Int[Array, "b v"], Int[Array, "b n"], Float[Array, "b n"]]:
    """Keeps the `visible` patches with the smallest noise in each image (He et al. 2022, appendix A.1).

    Returns `ids_keep` (indices of the visible patches, by increasing noise), `ids_restore` (position of each patch in
    the sequence of visible, then removed patches) and `mask` (1 = removed, 0 = kept).
    """
    ids_shuffle = jnp.argsort(noise, axis=1)
    ids_restore = jnp.argsort(ids_shuffle, axis=1)
    mask = (ids_restore >= visible).astype(jnp.float32)
    return ids_shuffle[:, :visible], ids_restore, mask


def given_mask(mask: ArrayLike) -> tuple[Float[np.ndarray, "b n"], int]:
    """Noise and number of visible patches that make `random_masking` remove the patches where `mask` (b n) is 1.

    Pass both to a masked autoencoder: `models.apply("mae", shape, params, images, *given_mask(mask))`. Visible patches
    keep their order. Raises UserError if rows remove different numbers of patches, or all of them.
    """
    noise = np.asarray(mask, np.float32)
    visible = (noise == 0).sum(-1) if noise.ndim == 2 else np.zeros(0, int)
    if not visible.size or not np.isin(noise, (0, 1)).all() or visible.min() < 1 or visible.min() != visible.max():
        raise UserError(
            f"mask has shape {noise.shape} and {sorted(set(visible.tolist()))} visible patches per image; use rows of "
            "0 (visible) and 1 (removed) with the same number of visible patches in each, at least one"
        )
    return noise, int(visible[0])


def gather_tokens(tokens: Float[Array, "b n d"], ids: Int[Array, "b v"]) -> Float[Array, "b v d"]:
    """Picks tokens by index, per image."""
    return jnp.take_along_axis(tokens, ids[:, :, None], axis=1)


@lru_cache
def position_embedding(grid: int, width: int) -> Float[np.ndarray, "n d"]:
    """Fixed 2-D sine-cosine embedding for grid x grid patches, without a row for the class token.

    As in the MAE code, the first half of the features encodes the column and the second half the row. Each half
    holds sines, then cosines, of position / 10000^(2i/d). `width` must be divisible by 4.
    """

    def one_axis(position: np.ndarray) -> np.ndarray:
        frequency = 1.0 / 10000 ** (np.arange(width // 4) / (width // 4))
        angle = position.reshape(-1)[:, None] * frequency[None, :]
        return np.concatenate([np.sin(angle), np.cos(angle)], axis=1)

    rows, columns = np.meshgrid(np.arange(grid), np.arange(grid), indexing="ij")
    embedding = np.concatenate([one_axis(columns), one_axis(rows)], axis=1)
    return embedding.astype(np.float32)
