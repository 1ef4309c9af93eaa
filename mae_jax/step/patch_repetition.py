"""Patch repetition ("spam"): how much a reconstruction repeats itself, as one number per image.

An uncertain autoencoder may predict the same patch everywhere. The loss cannot distinguish this from blur.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mae_jax.models.patches import gather_tokens

MOST = 196  # maximum number of patches compared, evenly spaced; the number of pairs grows quadratically
FLAT = 0.01  # a patch counts as flat below this fraction of the image's mean patch variance


def _distances(patches: Float[Array, "b n p"], floor: Float[Array, "b 1 1"]) -> Float[Array, "b pairs"]:
    """Sorted distances of all pairs of patches: 1 minus the correlation of their pixels.

    The distance is 0 for equal patches, for copies that differ in brightness or contrast, and for two flat patches. It
    is 1 for uncorrelated patches.
    """
    centered = patches - patches.mean(-1, keepdims=True)
    variance = jnp.square(centered).mean(-1, keepdims=True)
    floor = jnp.maximum(FLAT * variance.mean(1, keepdims=True), floor)
    unit = centered / jnp.sqrt((variance + floor) * patches.shape[-1])
    square = jnp.square(unit).sum(-1)
    one, two = np.triu_indices(patches.shape[1], 1)
    correlation = jnp.einsum("bnp,bmp->bnm", unit, unit)[:, one, two]
    return jnp.sort(jnp.maximum((square[:, one] + square[:, two]) / 2 - correlation, 0), axis=1)


def spam_index(pred: Float[Array, "b n p"], patches: Float[Array, "b n p"]) -> Float[Array, " b"]:
    """How much more similar to each other the predicted patches `pred` are than the originals `patches`.

    The index is 0 for patches as diverse as the originals and 1 for one patch repeated everywhere. Both sets of
    pairwise distances are sorted and compared rank by rank, so repeating a patch in more places never lowers the index.
    Mean and scale of a patch do not matter: `pred` may be normalized, and blur, which lowers contrast, is not spam. The
    index is also 0 if all originals are equal.
    """
    n = patches.shape[1]
    if n > MOST:
        indices = np.linspace(0, n - 1, MOST).round().astype(np.int32)
        pred, patches = pred[:, indices], patches[:, indices]
    # Rounding noise must not count as contrast, even if all patches are flat.
    tiny = 1e-6 * patches.var(-1, keepdims=True).mean(1, keepdims=True) + 1e-12
    original = _distances(patches, tiny)
    lost = jnp.maximum(original - _distances(pred, tiny), 0).sum(1)
    return lost / jnp.maximum(original.sum(1), 1e-6)


def of_removed(
    pred: Float[Array, "b n p"], patches: Float[Array, "b n p"], mask: Float[Array, "b n"], removed: int
) -> Float[Array, " b"]:
    """`spam_index` over only the removed patches of each image, where `mask` is 1; `removed` is their number."""
    ids = jnp.argsort(-mask, axis=1, stable=True)[:, :removed]
    return spam_index(gather_tokens(pred, ids), gather_tokens(patches, ids))
