"""Transforms from encoded bytes to square uint8 images. A Python list of transforms defines the preprocessing.

A transform is called as `t(element, rng)`, or as `t(element)` if it is deterministic. Elements are dicts and are never
changed in place. Pixels stay uint8; the accelerator normalizes them.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from mae_jax.data import jpeg
from mae_jax.data.decode import load_image, open_image, orientation
from mae_jax.data.jpeg import Box

try:
    import cykooz_resizer as resizer

    BICUBIC = resizer.ResizeAlg.convolution(resizer.FilterType.catmull_rom)
    WHOLE = resizer.ResizeOptions(resize_alg=BICUBIC)
except ImportError:  # not on all platforms, see setup.cfg; Pillow does the same, but slower
    resizer = None

LONGEST = 100  # maximum longer side, in multiples of the shorter side; the rest is cropped before scaling
REDUCED_MARGIN = 2  # minimum decoded pixels per output pixel when a JPEG is decoded at a reduced scale
_of_thread = threading.local()


@dataclass(frozen=True)
class Jpeg:
    """An upright JPEG that is not decoded yet, so that a crop decodes only the part it needs."""

    data: bytes
    header: jpeg.Header

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.header.height, self.header.width, 3


@dataclass(frozen=True)
class Decode:
    """Decodes bytes to pixels (h, w, 3). An upright JPEG keeps its bytes, as `Jpeg`, for the crop to decode.

    uint8 arrays pass through. Raises `decode.ImageError`, as `load_image` does.
    """

    def __call__(self, element: dict, rng: np.random.Generator | None = None) -> dict:
        data, name = element["image"], element.get("name", "image")
        if isinstance(data, np.ndarray):
            return element
        header = jpeg.read_header(data)
        if header is not None and header.height * header.width <= (Image.MAX_IMAGE_PIXELS or math.inf):
            if not header.exif or orientation(open_image(data, name)) == 1:
                return element | {"image": Jpeg(data, header)}
        return element | {"image": load_image(data, name)}


@dataclass(frozen=True)
class RandomResizedCrop:
    """Cuts out a random part of the image, resized to size x size pixels.

    The part has `scale` of the area and a width-to-height `ratio`, drawn as torchvision draws them: ten tries, then
    the largest centered crop within `ratio`.
    """

    size: int
    scale: tuple[float, float] = (0.2, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)

    def __call__(self, element: dict, rng: np.random.Generator) -> dict:
        height, width, _ = element["image"].shape
        return element | {"image": _cut(element, self.box(height, width, rng), self.size)}

    def box(self, height: int, width: int, rng: np.random.Generator) -> Box:
        """Draws the part to cut out, which is inside the image."""
        for _ in range(10):
            area = height * width * rng.uniform(*self.scale)
            aspect = math.exp(rng.uniform(math.log(self.ratio[0]), math.log(self.ratio[1])))
            w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < w <= width and 0 < h <= height:
                left, upper = rng.integers(width - w + 1), rng.integers(height - h + 1)
                return int(left), int(upper), w, h
        w = max(1, min(width, round(height * self.ratio[1])))
        h = max(1, min(height, round(width / self.ratio[0])))
        return (width - w) // 2, (height - h) // 2, w, h


@dataclass(frozen=True)
class CenterResize:
    """Scales the shorter side to `size` and cuts out the centered square, for evaluation.

    The result is bit-identical to Pillow's and to that of transformers' image processors, because the whole image is
    decoded and sides are rounded in the same way. Exported networks therefore give the same predictions.
    """

    size: int

    def __call__(self, element: dict, rng: np.random.Generator | None = None) -> dict:
        pixels = element["image"]
        if isinstance(pixels, Jpeg):
            pixels = load_image(pixels.data, element.get("name", "image"))
        short = min(pixels.shape[:2])
        # A very thin image would become too long.
        top, start = (max(0, side - LONGEST * short) // 2 for side in pixels.shape[:2])
        pixels = pixels[top : top + LONGEST * short, start : start + LONGEST * short]
        height, width = (self.size * side // short for side in pixels.shape[:2])
        scaled = np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))
        upper, left = (height - self.size) // 2, (width - self.size) // 2
        return element | {"image": np.ascontiguousarray(scaled[upper : upper + self.size, left : left + self.size])}


@dataclass(frozen=True)
class RandomFlip:
    """Mirrors an array left to right and upside down, each with probability 1/2."""

    horizontal: bool = True
    vertical: bool = True

    def __call__(self, element: dict, rng: np.random.Generator) -> dict:
        image = element["image"]
        left_right, upside_down = rng.random(2) < 0.5
        if self.vertical and upside_down:
            image = image[::-1]
        if self.horizontal and left_right:
            mirrored = np.empty_like(image)
            for channel in range(image.shape[2]):  # four times faster than all channels at once
                mirrored[..., channel] = image[:, ::-1, channel]
            image = mirrored
        return element | {"image": np.ascontiguousarray(image)}


def _cut(element: dict, box: Box, size: int) -> UInt8[np.ndarray, "size size 3"]:
    """Cuts out `box` and resizes it to size x size, bicubic and antialiased, in one step."""
    pixels, (left, upper, w, h) = element["image"], box
    if not isinstance(pixels, Jpeg):
        return _resize(pixels[upper : upper + h, left : left + w], size)
    spare = min(w, h) // (REDUCED_MARGIN * size)
    reduced = next(scale for scale in (8, 4, 2, 1) if spare >= scale or scale == 1)
    try:  # if the image shrinks, chroma interpolation hardly matters
        part, x, y = jpeg.decode(pixels.data, pixels.header, box, reduced, smooth=min(w, h) <= size)
    except ValueError:  # Pillow reads some JPEGs that simplejpeg refuses, and reports what is wrong with the others
        part, x, y, reduced = load_image(pixels.data, element.get("name", "image")), 0, 0, 1
    left, upper, w, h = left / reduced - x, upper / reduced - y, w / reduced, h / reduced
    x, y = math.floor(left), math.floor(upper)
    part = part[y : math.ceil(upper + h), x : math.ceil(left + w)]
    return _resize(part, size, None if reduced == 1 else (left - x, upper - y, w, h))


def _resize(
    pixels: UInt8[np.ndarray, "h w 3"], size: int, box: tuple[float, float, float, float] | None = None
) -> UInt8[np.ndarray, "size size 3"]:
    """Resizes, bicubic and antialiased. `box` is left, upper, width, height of the part to resize (None: all)."""
    height, width, _ = pixels.shape
    if resizer is None:
        corners = (box[0], box[1], box[0] + box[2], box[1] + box[3]) if box else None
        return np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC, box=corners))
    if not hasattr(_of_thread, "resizer"):  # reuses its memory for the next image
        _of_thread.resizer = resizer.Resizer()
    source = resizer.ImageData(width, height, resizer.PixelType.U8x3, pixels.tobytes())
    target = resizer.ImageData(size, size, resizer.PixelType.U8x3)
    options = resizer.ResizeOptions(resize_alg=BICUBIC, crop_box=resizer.CropBox(*box)) if box else WHOLE
    _of_thread.resizer.resize(source, target, options)
    return np.frombuffer(target.get_buffer(), np.uint8).reshape(size, size, 3)
