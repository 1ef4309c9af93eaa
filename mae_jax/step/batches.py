"""Batches on a device: images as the network receives them, and micro-batches."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8


def to_float(
    images: UInt8[Array, "b h w 3"], mean: tuple[float, ...], std: tuple[float, ...]
) -> Float[Array, "b h w 3"]:
    """Converts images in 0..255 to float32: scales to 0..1, subtracts `mean`, divides by `std` (per channel)."""
    return (images.astype(jnp.float32) / 255 - jnp.array(mean, jnp.float32)) / jnp.array(std, jnp.float32)


def micro_batches(batch: dict[str, Array], n: int) -> dict[str, Array]:
    """Rows as (micro-batch, row). Every n-th row goes to the same micro-batch, so rows stay on their device."""
    return jax.tree.map(lambda x: jnp.moveaxis(x.reshape(-1, n, *x.shape[1:]), 1, 0), batch)
