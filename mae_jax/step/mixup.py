"""Mixup (Zhang et al. 2018) and CutMix (Yun et al. 2019): mix the images of a batch in pairs.

This follows timm's mode "batch", which MAE's fine-tuning code uses: one draw applies to all images of an update, and
row i is mixed with row n - 1 - i.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

SWITCH = 0.5  # probability of CutMix if both are enabled


def draw(key: Array, mixup: float, cutmix: float, size: int) -> tuple[Float[Array, "h w"], Float[Array, ""]]:
    """Draws the weight of each pixel of the row itself (its partner has the rest), and the weight of its label.

    `mixup` and `cutmix` are the alphas of Beta(alpha, alpha), 0 for off; at least one is on. Images are
    size x size. Mixup weights all pixels equally; CutMix takes a box from the partner. A box may extend beyond the
    edge, so the label's weight is the fraction of pixels kept, not the fraction drawn.
    """
    kind, amount, place = jax.random.split(key, 3)
    boxed = jax.random.bernoulli(kind, SWITCH) if mixup and cutmix else jnp.bool_(cutmix > 0)
    alphas = {False: mixup or cutmix, True: cutmix or mixup}
    shares = {boxes: jax.random.beta(amount, alpha, alpha) for boxes, alpha in alphas.items()}
    inside = box(shares[True], jax.random.randint(place, (2,), 0, size), size)
    weights = jnp.where(boxed, 1.0 - inside, jnp.broadcast_to(shares[False], (size, size)))
    return weights, jnp.where(boxed, 1.0 - inside.mean(), shares[False])


def box(share: Float[Array, ""], center: Int[Array, "2"], size: int) -> Bool[Array, "h w"]:
    """True inside a square of (1 - share) of the image's area around `center` (row, column), clipped at the edges.

    As in timm 1.0.31, the side is rounded down, and an odd side has its extra pixel below and to the right.
    """
    side = jnp.floor(size * jnp.sqrt(1.0 - share)).astype(jnp.int32)
    rows, columns = (
        (jnp.arange(size) >= middle - side // 2) & (jnp.arange(size) < middle + (side + 1) // 2)
        for middle in (center[0], center[1])
    )
    return rows[:, None] & columns[None, :]


def partners(rows: Array, real: int) -> Array:
    """The partner of each row of a batch. Rows from index `real` on are padding and are not mixed."""
    return jnp.concatenate([rows[:real][::-1], rows[real:]])


def blend(
    images: Float[Array, "b h w c"], others: Float[Array, "b h w c"], weights: Float[Array, "h w"]
) -> Float[Array, "b h w c"]:
    """Mixes images with their partners: `weights` of the image, 1 - `weights` of the partner."""
    weights = weights[..., None]
    return images * weights + others * (1.0 - weights)
