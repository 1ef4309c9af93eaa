"""Patch spamming: how far a reconstruction repeats itself, as one number per image.

Where an autoencoder is unsure it may put the same patch everywhere. The loss does not tell this from blur.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mae_jax.models.patches import gather_tokens

MOST = 196  # patches that are compared, spread evenly over those given; pairs grow with the square
FLAT = 0.01  # share of the image's mean contrast (variance) below which a patch counts as flat


def _distances(patches: Float[Array, "b n p"], floor: Float[Array, "b 1 1"]) -> Float[Array, "b pairs"]:
    """Sorted distances of all pairs: 1 minus the correlation of their pixels, whatever their contrast.

    0 for equal patches, for copies of other brightness or contrast and for two flat ones; 1 for patches
    that have nothing in common.
    """
    centred = patches - patches.mean(-1, keepdims=True)
    variance = jnp.square(centred).mean(-1, keepdims=True)
    floor = jnp.maximum(FLAT * variance.mean(1, keepdims=True), floor)
    unit = centred / jnp.sqrt((variance + floor) * patches.shape[-1])
    square = jnp.square(unit).sum(-1)
    one, two = np.triu_indices(patches.shape[1], 1)
    alike = jnp.einsum("bnp,bmp->bnm", unit, unit)[:, one, two]
    return jnp.sort(jnp.maximum((square[:, one] + square[:, two]) / 2 - alike, 0), axis=1)


def spam_index(pred: Float[Array, "b n p"], patches: Float[Array, "b n p"]) -> Float[Array, " b"]:
    """How much more alike the patches `pred` are among themselves than the originals `patches` are.

    0 for the originals, or any patches as diverse as they; 1 for one patch repeated everywhere. Both sets
    of pairwise distances are sorted and compared rank by rank, so repeating one patch in more and more
    places never lowers the index. Mean and scale of a patch do not count: `pred` may be normalised, and
    blur, which takes contrast away, is not spam. 0 where there are no two different originals.
    """
    n = patches.shape[1]
    if n > MOST:
        spread = np.linspace(0, n - 1, MOST).round().astype(np.int32)
        pred, patches = pred[:, spread], patches[:, spread]
    # What is flat to six digits is flat, also where all patches are.
    tiny = 1e-6 * patches.var(-1, keepdims=True).mean(1, keepdims=True) + 1e-12
    original = _distances(patches, tiny)
    lost = jnp.maximum(original - _distances(pred, tiny), 0).sum(1)
    return lost / jnp.maximum(original.sum(1), 1e-6)


def of_removed(
    pred: Float[Array, "b n p"], patches: Float[Array, "b n p"], mask: Float[Array, "b n"], removed: int
) -> Float[Array, " b"]:
    """`spam_index` of the `removed` patches of each image alone, where `mask` is 1."""
    ids = jnp.argsort(-mask, axis=1, stable=True)[:, :removed]
    return spam_index(gather_tokens(pred, ids), gather_tokens(patches, ids))
