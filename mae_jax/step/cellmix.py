"""CellMix (Zhang et al. 2023, arXiv:2301.11513): exchanges patches between the images of a batch, each in its place.

Half of the updates are mixed. All images of an update have the same puzzle of square patches. Some positions stay; at
the others, patches move between images but not within one. A label becomes the shares of the patches' labels.

A curriculum makes the puzzle harder (`levels`, `advance`): fewer positions stay, then the patches are smaller. It takes
a step when the mean loss of a period is at most a threshold. The paper gives the threshold as a number; 4.0, its value,
is above the loss of chance for five classes (1.6 nats) and would never hold the curriculum back. Here the threshold is
the mean loss at the end of the warm-up. Written from the paper.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float, Int, UInt8

from mae_jax.runtime.errors import UserError

UNIT = 16  # pixels; sides of patches are multiples of it
MIXED = 0.5  # share of the updates
STAYING = (0.9, 0.8, 0.7, 0.6, 0.5)  # shares of the positions, from easy to hard
GROUPS = {"pairs": 2, "batch": 0}  # images among which patches are exchanged; 0: all of the batch

Running = dict[str, Array]  # level: int32; total, count, threshold: float32; period, warmup: int32, in updates


class Level(NamedTuple):
    """A puzzle of the curriculum."""

    side: int  # of a patch, in units
    stay: int  # number of positions that stay


def levels(image_size: int) -> list[Level]:
    """The curriculum for images of this size, from easy to hard. Raises UserError if a size has no puzzle."""
    grid, rest = divmod(image_size, UNIT)
    if rest or grid < 2:
        raise UserError(
            f"train.cellmix needs model.image_size to be a multiple of {UNIT} and at least {2 * UNIT}, not {image_size}"
        )
    sides = [side for side in range(grid // 2, 0, -1) if grid % side == 0]
    return [Level(side, int((grid // side) ** 2 * share + 1e-6)) for side in sides for share in STAYING]


def begin() -> Running:
    """The state of the curriculum before the first update. `timed` sets its periods."""
    state = {name: jnp.float32(0) for name in ("total", "count", "threshold")}
    return state | {"level": jnp.int32(0), "period": jnp.int32(1), "warmup": jnp.int32(1)}


def timed(running: Running, period: int, warmup: int) -> Running:
    """The state with a period of `period` updates, and a warm-up of `warmup` updates or at least one period."""
    whole_periods = max(1, warmup // period)
    return running | {"period": jnp.int32(period), "warmup": jnp.int32(whole_periods * period)}


def advance(running: Running, loss: Float[Array, ""], step: Int[Array, ""], image_size: int) -> Running:
    """The state after update `step` (from 0) with this mean loss.

    The last period of the warm-up sets the threshold. After each later period, the next level follows if the mean loss
    is at most the threshold; otherwise the level stays.
    """
    done = step + 1
    total, count = running["total"] + loss, running["count"] + 1
    ended = done % running["period"] == 0
    mean, warm = total / count, done > running["warmup"]
    threshold = jnp.where(ended & ~warm, mean, running["threshold"])
    harder = ended & warm & (mean <= threshold)
    level = jnp.minimum(running["level"] + harder, len(levels(image_size)) - 1)
    kept = jnp.where(ended, 0.0, 1.0)
    return running | {"total": total * kept, "count": count * kept, "threshold": threshold, "level": level}


def of_level(running: Running, image_size: int) -> tuple[Int[Array, ""], Int[Array, ""]]:
    """Side of a patch, in units, and number of positions that stay."""
    table = jnp.asarray(levels(image_size), jnp.int32)[running["level"]]
    return table[0], table[1]


def origins(
    key: Array, images: int, grid: int, side: Int[Array, ""], stay: Int[Array, ""], group: int
) -> Int[Array, "b n"]:
    """From which image each unit of each image comes; units are grid x grid, row by row.

    One random order of the positions holds for the whole batch; the first `stay` positions keep their patches. At each
    other position, the patches of all images are permuted at random, or with `group` 2 swapped in random pairs.
    """
    order_key, rows_key = jax.random.split(key)
    across = grid // side
    along = jnp.arange(grid) // side
    position = (along[:, None] * across + along).reshape(-1)  # of each unit
    noise = jax.random.uniform(order_key, (grid * grid,))
    noise = jnp.where(jnp.arange(grid * grid) < across * across, noise, jnp.inf)
    rank = jnp.argsort(jnp.argsort(noise))
    if group == 2:
        shuffled = jax.random.permutation(rows_key, images)
        partners = jnp.concatenate(
            [shuffled[: images // 2 * 2].reshape(-1, 2)[:, ::-1].ravel(), shuffled[images // 2 * 2 :]]
        )
        exchanged = jnp.zeros(images, jnp.int32).at[shuffled].set(partners)[:, None]
    else:
        exchanged = jnp.argsort(jax.random.uniform(rows_key, (images, grid * grid)), axis=0)[:, position]
    return jnp.where(rank[position] < stay, jnp.arange(images)[:, None], exchanged).astype(jnp.int32)


def mix(
    key: Array,
    images: UInt8[Array, "b h w 3"],
    labels: Int[Array, " b"],
    running: Running,
    group: int,
    n_classes: int,
) -> tuple[UInt8[Array, "b h w 3"], Float[Array, "b classes"]]:
    """Mixes the images with probability MIXED. Returns them with the shares of each class among their patches."""
    n, grid = images.shape[0], images.shape[1] // UNIT
    switch, draw = jax.random.split(key)
    source = origins(draw, n, grid, *of_level(running, images.shape[1]), group)
    source = jnp.where(jax.random.bernoulli(switch, MIXED), source, jnp.arange(n, dtype=jnp.int32)[:, None])
    patches = rearrange(images, "b (y p) (x q) c -> b (y x) (p q c)", p=UNIT, q=UNIT)
    patches = jnp.take_along_axis(patches, source[..., None], axis=0)
    mixed = rearrange(patches, "b (y x) (p q c) -> b (y p) (x q) c", y=grid, p=UNIT, q=UNIT)
    return mixed, jax.nn.one_hot(labels[source], n_classes).mean(1)
