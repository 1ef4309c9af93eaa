"""RandAugment and random erasing as in MAE's fine-tuning code: timm's "rand-m9-mstd0.5-inc1" and "pixel".

They are transforms like those in `transforms`: they map uint8 arrays to uint8 arrays and draw random numbers only from
the given generator.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageEnhance, ImageOps

from mae_jax.data.jpeg import Box

# ImageNet's values, because `data.mean` and `data.std` may be 0 and 1.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FILL = tuple(round(255 * value) for value in MEAN)  # fills pixels that come from outside the image
LEVELS = 10  # the level of full strength

Operation = Callable[[Image.Image, float], Image.Image]  # strength: -1 to 1


def _affine(image: Image.Image, *matrix: float) -> Image.Image:
    """Transforms the image: pixel (x, y) comes from (a x + b y + c, d x + e y + f); `matrix` is (a, b, c, d, e, f)."""
    return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC, fillcolor=FILL)


def _enhance(kind: Callable) -> Operation:
    """An operation with the factor 1 + 0.9 * strength: 1 leaves the image unchanged, 0.1 nearly removes the quality."""
    return lambda image, strength: kind(image).enhance(max(0.1, 1 + 0.9 * strength))


def _solarize_add(image: Image.Image, strength: float) -> Image.Image:
    add = int(110 * abs(strength))
    return image.point([min(255, value + add) if value < 128 else value for value in range(256)] * 3)


GEOMETRY: dict[str, Operation] = {  # full strength: 30 degrees, 30 % of the other side, 45 % of the side
    "rotate": lambda image, s: image.rotate(30 * s, Image.Resampling.BICUBIC, fillcolor=FILL),
    "shear_x": lambda image, s: _affine(image, 1, 0.3 * s, 0, 0, 1, 0),
    "shear_y": lambda image, s: _affine(image, 1, 0, 0, 0.3 * s, 1, 0),
    "translate_x": lambda image, s: _affine(image, 1, 0, 0.45 * s * image.width, 0, 1, 0),
    "translate_y": lambda image, s: _affine(image, 1, 0, 0, 0, 1, 0.45 * s * image.height),
}
COLOR: dict[str, Operation] = {  # operations on colors or sharpness
    "autocontrast": lambda image, s: ImageOps.autocontrast(image),
    "equalize": lambda image, s: ImageOps.equalize(image),
    "invert": lambda image, s: ImageOps.invert(image),
    "posterize": lambda image, s: ImageOps.posterize(image, max(1, 4 - int(4 * abs(s)))),  # bits that are kept
    "solarize": lambda image, s: ImageOps.solarize(image, 256 - int(256 * abs(s))),  # values from here on are inverted
    "solarize_add": _solarize_add,
    "colour": _enhance(ImageEnhance.Color),
    "contrast": _enhance(ImageEnhance.Contrast),
    "brightness": _enhance(ImageEnhance.Brightness),
    "sharpness": _enhance(ImageEnhance.Sharpness),
}


@dataclass(frozen=True)
class RandAugment:
    """`layers` operations in sequence, drawn with replacement, each applied with `probability` (Cubuk et al. 2020).

    Their level is drawn from a normal distribution around `magnitude`, clipped to [0, 10]. Without `color`, only
    geometric operations are drawn, because stains carry information in their color. Pixels from outside the image have
    ImageNet's mean color.
    """

    magnitude: float = 9.0
    color: bool = True
    deviation: float = 0.5
    layers: int = 2
    probability: float = 0.5

    def __call__(self, element: dict, rng: np.random.Generator) -> dict:
        chosen = self.draw(rng)
        if not chosen:
            return element
        image = Image.fromarray(element["image"])
        for name, strength in chosen:
            image = (GEOMETRY | COLOR)[name](image, strength)
        return element | {"image": np.asarray(image)}

    def draw(self, rng: np.random.Generator) -> list[tuple[str, float]]:
        """Names and strengths (-1 to 1) of the operations for one image."""
        names, chosen = [*GEOMETRY, *(COLOR if self.color else ())], []
        for _ in range(self.layers):
            name, sign = names[rng.integers(len(names))], rng.choice((-1, 1))
            level = min(max(rng.normal(self.magnitude, self.deviation), 0), LEVELS)
            if rng.random() < self.probability:
                chosen.append((name, sign * level / LEVELS))
        return chosen


@dataclass(frozen=True)
class RandomErasing:
    """Replaces a random box of the image with noise, with `probability` (Zhong et al. 2020).

    `area` is the area of the box relative to the image, `ratio` its height over its width. The original draws normal
    noise for each value of the normalized image. Here the image is uint8, so the noise has ImageNet's mean and standard
    deviation and is rounded and clipped to 0..255 (about 3 % of the values), whatever the normalization of the inputs.
    """

    probability: float = 0.25
    area: tuple[float, float] = (0.02, 1 / 3)
    ratio: tuple[float, float] = (0.3, 1 / 0.3)

    def __call__(self, element: dict, rng: np.random.Generator) -> dict:
        height, width, _ = element["image"].shape
        box = self.box(height, width, rng) if rng.random() < self.probability else None
        if box is None:
            return element
        left, upper, w, h = box
        image = element["image"].copy()
        image[upper : upper + h, left : left + w] = _noise(h, w, rng)
        return element | {"image": image}

    def box(self, height: int, width: int, rng: np.random.Generator) -> Box | None:
        """Draws the box to erase, which is smaller than the image; None if ten draws do not fit."""
        for _ in range(10):
            area = height * width * rng.uniform(*self.area)
            ratio = math.exp(rng.uniform(math.log(self.ratio[0]), math.log(self.ratio[1])))
            h, w = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if h < height and w < width:
                upper, left = rng.integers(height - h + 1), rng.integers(width - w + 1)
                return int(left), int(upper), w, h
        return None


def _noise(height: int, width: int, rng: np.random.Generator) -> UInt8[np.ndarray, "h w 3"]:
    noise = rng.standard_normal((height, width, 3), np.float32) * np.asarray(STD, np.float32) + np.asarray(
        MEAN, np.float32
    )
    return np.clip(np.rint(255 * noise), 0, 255).astype(np.uint8)
