"""What an encoder looks at, and what it takes for alike: pictures for notebooks, TensorBoard, and a figure.

A network is an `weights.Weights`: `export.load(run_dir)[0]` of a finished run, or `weights.read(path)`.
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
from mae_jax.models.vit import Shape
from mae_jax.weights.reader import Weights

_COLOURS = "inferno"  # dark where there is no attention


def normalised(network: Weights, images: UInt8[np.ndarray, "b h w 3"]) -> Float[np.ndarray, "b h w 3"]:
    """Square images of the network's size in 0..255, on the scale that it was trained with."""
    mean, std = np.array(network.mean, np.float32), np.array(network.std, np.float32)
    return (images.astype(np.float32) / 255 - mean) / std


def attention(
    network: Weights, images: UInt8[np.ndarray, "b h w 3"], block: int = -1
) -> Float[np.ndarray, "b heads grid grid"]:
    """How much the class token takes from each patch in a block, for each head (Caron et al. 2021, figure 1).

    What it takes from itself and from registers is left out, so that a map sums to at most 1.
    """
    maps = _attention(network.shape, network.params["encoder"], normalised(network, images), block)
    return np.asarray(maps).reshape(*maps.shape[:2], network.shape.grid, network.shape.grid)


@partial(jax.jit, static_argnums=(0, 3))
def _attention(shape: Shape, encoder: Params, images: Array, block: int) -> Float[Array, "b heads n"]:
    return models.attention(shape, encoder, images, block)[:, :, 0, -shape.n_patches :]


def features(
    network: Weights, images: UInt8[np.ndarray, "b h w 3"], blocks: Sequence[int] = (-1,)
) -> tuple[Float[np.ndarray, "b t d"], ...]:
    """Tokens as they leave each of `blocks`, the class token first, then the patches; see `models.features`."""
    found = _features(network.shape, network.params["encoder"], normalised(network, images), tuple(blocks))
    return tuple(np.asarray(tokens) for tokens in found)


@partial(jax.jit, static_argnums=(0, 3))
def _features(shape: Shape, encoder: Params, images: Array, blocks: tuple[int, ...]) -> tuple[Array, ...]:
    return tuple(tokens.astype(jnp.float32) for tokens in models.features(shape, encoder, images, blocks))


def components(
    network: Weights, images: UInt8[np.ndarray, "b h w 3"], block: int = -1
) -> Float[np.ndarray, "b grid grid 3"]:
    """The first three principal components of the patches' features as red, green and blue in 0..1.

    They are those of all patches of all `images` together: the same colour means the same in each picture
    (as in Oquab et al. 2023, figure 1, which leaves out a background). Each spans its 1st to 99th percentile.
    """
    tokens = features(network, images, (block,))[0][:, 1:]
    flat = tokens.reshape(-1, tokens.shape[-1]).astype(np.float64)
    centred = flat - flat.mean(0)
    values, directions = np.linalg.eigh(centred.T @ centred)
    directions = directions[:, np.argsort(-values)[:3]]
    # A direction's sign is arbitrary: its largest entry is made positive.
    largest = np.abs(directions).argmax(0)
    directions = directions * np.sign(directions[largest, np.arange(directions.shape[1])])
    scores = centred @ directions
    low, high = np.percentile(scores, (1, 99), axis=0)
    colours = np.clip((scores - low) / np.maximum(high - low, 1e-12), 0, 1).astype(np.float32)
    return colours.reshape(len(tokens), network.shape.grid, network.shape.grid, -1)


def over_image(
    image: UInt8[np.ndarray, "h w 3"], patches: Float[np.ndarray, "grid grid *c"], opacity: float = 0.6
) -> Float[np.ndarray, "h w 3"]:
    """A map of the patches over their image, values 0..1; without channels it is coloured from 0 to its largest."""
    if patches.ndim == 2:
        patches = matplotlib.colormaps[_COLOURS](patches / max(float(patches.max()), 1e-12))[:, :, :3]
    small = Image.fromarray((patches * 255).round().astype(np.uint8))
    size = image.shape[1], image.shape[0]
    large = np.asarray(small.resize(size, Image.Resampling.BICUBIC), np.float32) / 255
    return (1 - opacity) * image.astype(np.float32) / 255 + opacity * large


def columns(
    network: Weights, images: UInt8[np.ndarray, "b h w 3"], block: int = -1
) -> list[tuple[str, Float[np.ndarray, "b h w 3"]]]:
    """(heading, pictures): the images, the class token's attention as mean and for each head, the components."""
    maps = attention(network, images, block)

    def over(parts: np.ndarray) -> np.ndarray:
        return np.stack([over_image(image, part) for image, part in zip(images, parts, strict=True)])

    found = [("image", images.astype(np.float32) / 255), ("components", over(components(network, images, block)))]
    found.append(("attention", over(maps.mean(1))))
    return found + [(f"head {i}", over(maps[:, i])) for i in range(maps.shape[1])]
