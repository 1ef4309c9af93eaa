"""Pixel values of reconstructions by networks that predict normalized patches (`norm_pix_loss`).

Such a network does not predict a patch's mean and standard deviation. Both are needed to show its patches or to measure
their error in pixels. Taken from the removed patch itself, they would leak much of the answer.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

NEIGHBOURS, BORROWED = "neighbours", "borrowed"
WORDS = {  # description of `how` in pictures and files
    NEIGHBOURS: "mean and contrast of removed patches estimated from the visible patches around them",
    BORROWED: "BORROWED: mean and contrast of removed patches taken from the original, which leaks the answer",
    "": "the network predicts pixels, so no mean or contrast had to be estimated",
}
POWER = 3  # of the distance; 2 to 4 work about equally well on tissue and on blood cells, 1 and 6 are worse


def neighbours(values: Float[Array, "b n s"], mask: Float[Array, "b n"]) -> Float[Array, "b n s"]:
    """For each patch of a square grid, the weighted average of `values` over the other visible patches.

    Weights are 1 / distance^3 on the grid (Shepard 1968). `mask` is 1 where a patch was removed.
    """
    grid = round(values.shape[1] ** 0.5)
    place = np.stack(np.divmod(np.arange(grid**2), grid), -1)
    distance = np.linalg.norm(place[:, None] - place[None], axis=-1)
    near = np.divide(1, distance**POWER, out=np.zeros_like(distance), where=distance > 0).astype(np.float32)
    weight = near * (1 - mask)[:, None, :]
    weight = weight / jnp.maximum(weight.sum(-1, keepdims=True), 1e-12)
    return jnp.einsum("bnm,bms->bns", weight, values)


def own_statistics(patches: Float[Array, "b n p"]) -> tuple[Float[Array, "b n 1"], Float[Array, "b n 1"]]:
    """Mean and standard deviation of each patch over pixels and channels, as in `losses.normalize_patches`."""
    variance = patches.var(-1, keepdims=True, ddof=1)
    return patches.mean(-1, keepdims=True), jnp.sqrt(variance + 1e-6)


def to_pixels(
    pred: Float[Array, "b n p"], patches: Float[Array, "b n p"], mask: Float[Array, "b n"], how: str = NEIGHBOURS
) -> Float[Array, "b n p"]:
    """Converts normalized patches `pred` to the scale of the originals `patches`; `mask` is 1 on removed patches.

    Visible patches get their own mean and standard deviation. Removed patches get those of the visible patches around
    them, so that no pixel of a removed patch is read. With `how="borrowed"`, removed patches also get their own.
    """
    statistics = own_statistics(patches)
    if how == BORROWED:
        mean, std = statistics
    else:
        removed = mask[:, :, None] == 1
        mean, std = (jnp.where(removed, neighbours(value, mask), value) for value in statistics)
    return pred * std + mean


def no_network(patches: Float[Array, "b n p"], mask: Float[Array, "b n"]) -> Float[Array, "b n p"]:
    """A baseline without a network: removed patches get the mean color of the visible patches around them."""
    color = patches.reshape(*patches.shape[:2], -1, 3).mean(2)
    painted = jnp.tile(neighbours(color, mask), patches.shape[2] // 3)
    return jnp.where(mask[:, :, None] == 1, painted, patches)
