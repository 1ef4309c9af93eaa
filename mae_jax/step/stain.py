"""Random changes of stain and color, on the device: HED, RandStainNA and color jitter.

One draw per image and update. Draws depend only on (seed, purpose, step) and on the row of the batch, so devices and
micro-batches do not matter.
"""

import abc
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

LEAST = 1e-6  # smallest share of light, so that its logarithm is finite
# Optical densities of hematoxylin, eosin and DAB in red, green and blue (Ruifrok and Johnston 2001).
RGB_FROM_HED = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
HED_FROM_RGB = np.linalg.inv(RGB_FROM_HED)
# CIE 1931 XYZ of linear sRGB, the white point D65 for 2 degrees, and the constants of CIE LAB.
XYZ_FROM_RGB = np.array(
    [[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]]
)
RGB_FROM_XYZ = np.linalg.inv(XYZ_FROM_RGB)
WHITE = np.array([0.95047, 1.0, 1.08883])
EPSILON, KAPPA = 0.008856, 7.787
GRAY = np.array([0.299, 0.587, 0.114])  # luma of ITU-R BT.601

Triple = tuple[float, float, float]
RGB = Float[Array, "*b h w 3"]  # shares of light, 0..1


class Augmentation(abc.ABC):
    """Maps images to images. A subclass is a frozen dataclass, so that equal ones share compiled code."""

    @abc.abstractmethod
    def __call__(self, images: Float[Array, "b h w 3"], key: Array) -> Float[Array, "b h w 3"]:
        """Changes images of 0..1; values outside this range are clipped by `apply`."""


def apply(augmentation: Augmentation, images: UInt8[Array, "b h w 3"], key: Array) -> UInt8[Array, "b h w 3"]:
    """The changed images, rounded and clipped to 0..255."""
    changed = augmentation(images.astype(jnp.float32) / 255, key)
    return jnp.clip(jnp.rint(255 * changed), 0, 255).astype(jnp.uint8)


@dataclasses.dataclass(frozen=True)
class Hed(Augmentation):
    """Scales and shifts the amount of each stain: s -> s (1 + U(-scale, scale)) + U(-shift, shift).

    Stains are separated in natural-logarithm optical density (Tellez et al. 2018, with the matrix of Ruifrok and
    Johnston 2001). scikit-image divides optical density by -ln(1e-6), so a shift there is 13.8 times as large.
    """

    scale: float = 0.1
    shift: float = 0.02

    def __call__(self, images: Float[Array, "b h w 3"], key: Array) -> Float[Array, "b h w 3"]:
        scale, shift = jax.random.uniform(key, (2, images.shape[0], 1, 1, 3), minval=-1.0, maxval=1.0)
        return rgb_from_hed(hed(images) * (1 + self.scale * scale) + self.shift * shift)


def hed(images: RGB) -> RGB:
    """The amounts of hematoxylin, eosin and DAB, from natural-logarithm optical density. Negative ones are kept."""
    return -jnp.log(jnp.maximum(images, LEAST)) @ jnp.asarray(HED_FROM_RGB, images.dtype)


def rgb_from_hed(stains: RGB) -> RGB:
    """The inverse of `hed`."""
    return jnp.exp(-stains @ jnp.asarray(RGB_FROM_HED, stains.dtype))


@dataclasses.dataclass(frozen=True)
class RandStainNA(Augmentation):
    """Gives each image a drawn mean and standard deviation of L, a and b (Shen et al. 2022, "RandStainNA").

    The draws are normal, around the averages over the training images, with their spread times `strength`. `mean`,
    `mean_spread`, `deviation` and `deviation_spread` come from `statistics`. The standard deviation that
    is drawn is at least LEAST_DEVIATION, because a normal draw may be negative.
    """

    mean: Triple
    mean_spread: Triple
    deviation: Triple
    deviation_spread: Triple
    strength: float = 1.0

    def __call__(self, images: Float[Array, "b h w 3"], key: Array) -> Float[Array, "b h w 3"]:
        draws = self.strength * jax.random.normal(key, (2, images.shape[0], 1, 1, 3))
        mean = jnp.array(self.mean) + jnp.array(self.mean_spread) * draws[0]
        deviation = jnp.array(self.deviation) + jnp.array(self.deviation_spread) * draws[1]
        return rgb_from_lab(normalized(lab(images), mean, jnp.maximum(deviation, LEAST_DEVIATION)))


LEAST_DEVIATION = 0.1  # of L, a or b; the smallest visible difference is about 1


def normalized(
    images: Float[Array, "b h w 3"], mean: Float[Array, "b 1 1 3"], deviation: Float[Array, "b 1 1 3"]
) -> Float[Array, "b h w 3"]:
    """Images of L, a and b with another mean and standard deviation (Reinhard et al. 2001). Constant ones only move."""
    now = images.std((1, 2), keepdims=True)
    scale = jnp.where(now < LEAST_DEVIATION, 1.0, deviation / jnp.maximum(now, LEAST_DEVIATION))
    return (images - images.mean((1, 2), keepdims=True)) * scale + mean


def statistics(images: Float[Array, "n h w 3"]) -> tuple[Triple, Triple, Triple, Triple]:
    """The first four fields of `RandStainNA`: average and spread of the images' means, and of their deviations."""
    values = lab(images)
    means, deviations = values.mean((1, 2)), values.std((1, 2))
    return tuple(
        tuple(float(value) for value in part)
        for part in (means.mean(0), means.std(0), deviations.mean(0), deviations.std(0))
    )  # pyright: ignore[reportReturnType]  # four times three numbers


def lab(images: RGB) -> RGB:
    """CIE LAB (D65, 2 degrees) of sRGB images: L is 0..100."""
    linear = jnp.where(images > 0.04045, ((jnp.maximum(images, 0.04045) + 0.055) / 1.055) ** 2.4, images / 12.92)
    x = linear @ jnp.asarray((XYZ_FROM_RGB / WHITE[:, None]).T, images.dtype)
    f = jnp.where(x > EPSILON, jnp.cbrt(jnp.maximum(x, EPSILON)), KAPPA * x + 16 / 116)
    return jnp.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], -1)


def rgb_from_lab(images: RGB) -> RGB:
    """The inverse of `lab`; colors that sRGB lacks are clipped to 0..1."""
    y = (images[..., 0] + 16) / 116
    f = jnp.stack([y + images[..., 1] / 500, y, jnp.maximum(y - images[..., 2] / 200, 0.0)], -1)
    x = jnp.where(f > 0.2068966, f**3, (f - 16 / 116) / KAPPA)
    linear = x @ jnp.asarray((RGB_FROM_XYZ * WHITE).T, images.dtype)
    curved = 1.055 * jnp.maximum(linear, 0.0031308) ** (1 / 2.4) - 0.055
    return jnp.clip(jnp.where(linear > 0.0031308, curved, 12.92 * linear), 0.0, 1.0)


@dataclasses.dataclass(frozen=True)
class Jitter(Augmentation):
    """Changes brightness, contrast, saturation and hue, in this order, each by a uniform draw.

    The factors are 1 + U(-x, x), and the hue turns by U(-hue, hue) of a full turn, as in torchvision's ColorJitter.
    """

    brightness: float = 0.2
    contrast: float = 0.25
    saturation: float = 0.25
    hue: float = 0.15

    def __call__(self, images: Float[Array, "b h w 3"], key: Array) -> Float[Array, "b h w 3"]:
        draws = jax.random.uniform(key, (4, images.shape[0], 1, 1, 1), minval=-1.0, maxval=1.0)
        ranges = (self.brightness, self.contrast, self.saturation)
        brightness, contrast, saturation = (1 + x * u for x, u in zip(ranges, draws[:3], strict=True))
        images = jnp.clip(images * brightness, 0.0, 1.0)
        images = toward(images, gray(images).mean((1, 2), keepdims=True), contrast)
        images = toward(images, gray(images), saturation)
        return turned(images, self.hue * draws[3][..., 0])


def gray(images: RGB) -> Float[Array, "*b h w 1"]:
    """Luma."""
    return (images @ jnp.asarray(GRAY, images.dtype))[..., None]


def toward(images: Array, others: Array, factor: Array) -> Array:
    """`factor` times the images, plus 1 - `factor` times `others`, clipped to 0..1."""
    return jnp.clip(factor * images + (1 - factor) * others, 0.0, 1.0)


def turned(images: RGB, turn: Float[Array, "*b 1 1"]) -> RGB:
    """Images with their hue turned by `turn` of a full turn; saturation and value in HSV stay."""
    high, low = images.max(-1), images.min(-1)
    chroma = jnp.where(high > low, high - low, 1.0)
    red, green, blue = images[..., 0], images[..., 1], images[..., 2]
    not_red = jnp.where(high == green, 2 + (blue - red) / chroma, 4 + (red - green) / chroma)
    sixths = jnp.where(high == red, (green - blue) / chroma, not_red)
    hue = (sixths / 6 + turn) % 1.0
    # The three channels are one function of the hue, a third of a turn apart.
    k = (jnp.stack([5 + 6 * hue, 3 + 6 * hue, 1 + 6 * hue], -1)) % 6
    return high[..., None] - (high - low)[..., None] * jnp.clip(jnp.minimum(k, 4 - k), 0.0, 1.0)
