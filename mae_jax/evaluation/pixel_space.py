"""Pixel values of reconstructions whose network predicts normalised patches (`norm_pix_loss`).

Such a network says nothing of a patch's mean and deviation. To show its patches, or to measure their error in
pixels, both are needed; taken from a removed patch itself they leak a good part of the answer.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

NEIGHBOURS, BORROWED = "neighbours", "borrowed"
WORDS = {  # what pictures and files say of themselves
    NEIGHBOURS: "mean and contrast of removed patches estimated from the visible patches around them",
    BORROWED: "BORROWED: mean and contrast of removed patches taken from the original, which leaks the answer",
    "": "the network predicts pixels: nothing is estimated, nothing borrowed",
}
POWER = 3  # of the distance; 2 to 4 are about as good on tissue and on blood cells, 1 and 6 are worse


def neighbours(values: Float[Array, "b n s"], mask: Float[Array, "b n"]) -> Float[Array, "b n s"]:
    """For each patch of a square grid the average of `values` over the visible ones, its own left out.

    Each is weighted by 1 / distance^3 on the grid (Shepard 1968). `mask` is 1 where a patch was removed.
    """
    grid = round(values.shape[1] ** 0.5)
    place = np.stack(np.divmod(np.arange(grid**2), grid), -1)
    distance = np.linalg.norm(place[:, None] - place[None], axis=-1)
    near = np.divide(1, distance**POWER, out=np.zeros_like(distance), where=distance > 0).astype(np.float32)
    weight = near * (1 - mask)[:, None, :]
    weight = weight / jnp.maximum(weight.sum(-1, keepdims=True), 1e-12)
    return jnp.einsum("bnm,bms->bns", weight, values)


def own_statistics(patches: Float[Array, "b n p"]) -> tuple[Float[Array, "b n 1"], Float[Array, "b n 1"]]:
    """Mean and deviation of each patch over its pixels and channels, as `losses.normalize_patches` has them."""
    variance = patches.var(-1, keepdims=True, ddof=1)
    return patches.mean(-1, keepdims=True), jnp.sqrt(variance + 1e-6)


def to_pixels(
    pred: Float[Array, "b n p"], patches: Float[Array, "b n p"], mask: Float[Array, "b n"], how: str = NEIGHBOURS
) -> Float[Array, "b n p"]:
    """Normalised patches `pred` on the scale of the originals `patches`; `mask` is 1 on removed ones.

    Visible patches get back their own mean and deviation. Removed ones get those of the visible patches
    around them, so that no pixel of a removed patch is read; with `how` = "borrowed" their own, too.
    """
    own = own_statistics(patches)
    if how == BORROWED:
        mean, deviation = own
    else:
        removed = mask[:, :, None] == 1
        mean, deviation = (jnp.where(removed, neighbours(value, mask), value) for value in own)
    return pred * deviation + mean


def no_network(patches: Float[Array, "b n p"], mask: Float[Array, "b n"]) -> Float[Array, "b n p"]:
    """Each removed patch painted in the mean colour of the visible ones around it: what a network must beat."""
    colour = patches.reshape(*patches.shape[:2], -1, 3).mean(2)
    painted = jnp.tile(neighbours(colour, mask), patches.shape[2] // 3)
    return jnp.where(mask[:, :, None] == 1, painted, patches)
