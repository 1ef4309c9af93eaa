"""Attention maps and principal components of a trained encoder's patch features.

`network` is a `weights.Weights`: `own_run.load(run_dir)[0]` for a finished run, or `weights.read(path)`.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from jaxtyping import Array, Float, UInt8
from PIL import Image

from mae_jax import models
from mae_jax.models import Params
from mae_jax.models.vit import ViTConfig
from mae_jax.step.batches import to_float
from mae_jax.weights.reader import Weights

_COLORMAP = "inferno"  # dark where there is no attention


def attention(
    network: Weights, images: UInt8[np.ndarray, "b h w 3"], block: int = -1
) -> Float[np.ndarray, "b heads grid grid"]:
    """Attention from the class token to each patch in one block, for each head (Caron et al. 2021, figure 1).

    Attention to the class token itself and to registers is omitted, so a map sums to at most 1. Raises UserError for a
    block that does not exist.
    """
    scaled = to_float(jnp.asarray(images), network.mean, network.std)
    maps = _attention(network.shape, network.params["encoder"], scaled, block)
    return np.asarray(maps).reshape(*maps.shape[:2], network.shape.grid, network.shape.grid)


@partial(jax.jit, static_argnums=(0, 3))
def _attention(shape: ViTConfig, encoder: Params, images: Array, block: int) -> Float[Array, "b heads n"]:
    return models.attention(shape, encoder, images, block)[:, :, 0, -shape.n_patches :]


def features(
    network: Weights, images: UInt8[np.ndarray, "b h w 3"], blocks: Sequence[int] = (-1,)
) -> tuple[Float[np.ndarray, "b t d"], ...]:
    """Output tokens of each of `blocks`: the class token, then the patches. See `models.features`."""
    scaled = to_float(jnp.asarray(images), network.mean, network.std)
    outputs = _features(network.shape, network.params["encoder"], scaled, tuple(blocks))
    return tuple(np.asarray(tokens) for tokens in outputs)


@partial(jax.jit, static_argnums=(0, 3))
def _features(shape: ViTConfig, encoder: Params, images: Array, blocks: tuple[int, ...]) -> tuple[Array, ...]:
    return tuple(tokens.astype(jnp.float32) for tokens in models.features(shape, encoder, images, blocks))


def components(
    network: Weights, images: UInt8[np.ndarray, "b h w 3"], block: int = -1
) -> Float[np.ndarray, "b grid grid 3"]:
    """The first three principal components of the patch features as red, green and blue in 0..1.

    They are computed over all patches of all `images`, so a color means the same in every picture (Oquab et al. 2023,
    figure 1, but with the background). Each component is scaled from its 1st to its 99th percentile.
    """
    tokens = features(network, images, (block,))[0][:, 1:]
    flat = tokens.reshape(-1, tokens.shape[-1]).astype(np.float64)
    centered = flat - flat.mean(0)
    values, directions = np.linalg.eigh(centered.T @ centered)
    directions = directions[:, np.argsort(-values)[:3]]
    # The sign of a direction is arbitrary; make its largest entry positive.
    largest = np.abs(directions).argmax(0)
    directions = directions * np.sign(directions[largest, np.arange(directions.shape[1])])
    scores = centered @ directions
    low, high = np.percentile(scores, (1, 99), axis=0)
    colors = np.clip((scores - low) / np.maximum(high - low, 1e-12), 0, 1).astype(np.float32)
    return colors.reshape(len(tokens), network.shape.grid, network.shape.grid, -1)


def over_image(
    image: UInt8[np.ndarray, "h w 3"], patches: Float[np.ndarray, "grid grid *c"], opacity: float = 0.6
) -> Float[np.ndarray, "h w 3"]:
    """Overlays a map of the patches on their image, values in 0..1.

    A map without channels is colored from 0 to its maximum.
    """
    if patches.ndim == 2:
        patches = matplotlib.colormaps[_COLORMAP](patches / max(float(patches.max()), 1e-12))[:, :, :3]
    small = Image.fromarray((patches * 255).round().astype(np.uint8))
    size = image.shape[1], image.shape[0]
    large = np.asarray(small.resize(size, Image.Resampling.BICUBIC), np.float32) / 255
    return (1 - opacity) * image.astype(np.float32) / 255 + opacity * large


def columns(
    network: Weights, images: UInt8[np.ndarray, "b h w 3"], block: int = -1
) -> list[tuple[str, Float[np.ndarray, "b h w 3"]]]:
    """Columns (heading, pictures): the images, their components, and the class token's mean and per-head attention."""
    maps = attention(network, images, block)

    def over(parts: np.ndarray) -> np.ndarray:
        return np.stack([over_image(image, part) for image, part in zip(images, parts, strict=True)])

    pictures = [("image", images.astype(np.float32) / 255), ("components", over(components(network, images, block)))]
    pictures.append(("attention", over(maps.mean(1))))
    return pictures + [(f"head {i}", over(maps[:, i])) for i in range(maps.shape[1])]
