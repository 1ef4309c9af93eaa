"""The change of stain and color that a config asks for, with the statistics of its training images."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from mae_jax.config.fields import RunConfig
from mae_jax.data import loaders
from mae_jax.data.sources import Source
from mae_jax.data.transforms import CenterResize, Decode
from mae_jax.step import stain

SAMPLED = 256  # images whose colors are measured, evenly spaced among all: averages are exact to 1/16 of the spread


def augmentation(
    config: RunConfig, sources: Sequence[Source], indices: Sequence[Int[np.ndarray, " _"]]
) -> stain.Augmentation | None:
    """The augmentation of `data.stain`. RandStainNA reads some of the training images `indices` of each source.

    Raises UserError for an image that cannot be read.
    """
    kind, strength = config.data.stain, config.data.stain_strength
    if kind == "hed":
        return stain.Hed(0.1 * strength, 0.02 * strength)
    if kind == "jitter":
        return stain.Jitter(0.2 * strength, 0.25 * strength, 0.25 * strength, min(0.5, 0.15 * strength))
    if kind == "randstainna":
        return stain.RandStainNA(*stain.statistics(_sample(config, sources, indices)), strength=strength)
    return None


def _sample(
    config: RunConfig, sources: Sequence[Source], indices: Sequence[Int[np.ndarray, " _"]]
) -> Float[Array, "n h w 3"]:
    """Up to SAMPLED training images of 0..1, cropped as in evaluation."""
    places = np.concatenate([[(s, i) for i in chosen] for s, chosen in enumerate(indices) if len(chosen)])
    places = places[np.linspace(0, len(places) - 1, min(SAMPLED, len(places))).round().astype(int)]
    transforms = [Decode(), CenterResize(config.model.image_size)]
    images = [
        loaders.eval_images(sources[number], places[places[:, 0] == number, 1], transforms, config.data.threads)
        for number in np.unique(places[:, 0])
    ]
    return jnp.asarray(np.concatenate(images), jnp.float32) / 255
