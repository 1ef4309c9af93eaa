"""Changes of test images in steps: stain, hue, brightness, blur and compression, at the network's input size."""

import dataclasses
import io
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8
from PIL import Image
from scipy import ndimage

from mae_jax.step import stain

Images = UInt8[np.ndarray, "n h w 3"]
PART = 256  # images that are changed at a time


@dataclasses.dataclass(frozen=True)
class Perturbation:
    """One kind of change. `neutral` is the level that changes nothing, or nearly nothing: JPEG has no such quality."""

    name: str
    axis: str  # what the level is, in words
    levels: tuple[float, ...]
    neutral: float
    change: Callable[[Images, float], Images]


def _in_parts(change: Callable[[np.ndarray, float], np.ndarray]) -> Callable[[Images, float], Images]:
    """Applies `change`, which maps float32 images of 0..1, to uint8 images, some at a time."""

    def changed(images: Images, level: float) -> Images:
        done = np.empty_like(images)
        for start in range(0, len(images), PART):
            part = np.asarray(change(images[start : start + PART].astype(np.float32) / 255, level))
            done[start : start + PART] = np.clip(np.rint(255 * part), 0, 255)
        return done

    return changed


def _gain(number: int) -> Callable[[np.ndarray, float], np.ndarray]:
    """Multiplies the amount of a stain: 0 is hematoxylin, 1 eosin."""

    def change(images: np.ndarray, level: float) -> np.ndarray:
        factors = jnp.ones(3).at[number].set(level)
        return np.asarray(stain.rgb_from_hed(stain.hed(jnp.asarray(images)) * factors))

    return change


def _turn(images: np.ndarray, level: float) -> np.ndarray:
    return np.asarray(stain.turned(jnp.asarray(images), jnp.full((len(images), 1, 1), level, jnp.float32)))


def _blur(images: np.ndarray, level: float) -> np.ndarray:
    return ndimage.gaussian_filter(images, (0, level, level, 0), mode="nearest")


def _jpeg(images: Images, level: float) -> Images:
    done = np.empty_like(images)
    for i, image in enumerate(images):
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=int(level))
        done[i] = np.asarray(Image.open(file))
    return done


GAINS = (0.5, 0.75, 1.5, 2.0)
ALL = (
    Perturbation("hematoxylin", "amount of hematoxylin, times", GAINS, 1.0, _in_parts(_gain(0))),
    Perturbation("eosin", "amount of eosin, times", GAINS, 1.0, _in_parts(_gain(1))),
    Perturbation("hue", "hue, turned by this share of a circle", (-0.1, -0.05, 0.05, 0.1), 0.0, _in_parts(_turn)),
    Perturbation("gamma", "gamma; above 1 is darker", (0.5, 0.75, 1.5, 2.0), 1.0, _in_parts(lambda x, level: x**level)),
    Perturbation("blur", "Gaussian blur, sigma in pixels of the input", (0.5, 1.0, 2.0), 0.0, _in_parts(_blur)),
    Perturbation("jpeg", "quality of JPEG compression", (80.0, 50.0, 20.0), 100.0, _jpeg),
)
