"""Perceptual hashes: small gray pictures that hardly change if an image is re-encoded, resized or brightened."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32, Int8, UInt8
from PIL import Image, ImageOps

from mae_jax.data.decode import load_image, open_image, orientation

SIDE = 16  # pixels along each side of the picture
PICTURE = 64  # pixels along each side of the picture on which copies are confirmed
FLAT = 2.0  # standard deviation, in gray levels, below which an image has no structure to compare


def look(data: bytes, name: str = "image") -> Int8[np.ndarray, " pixels"]:
    """A perceptual hash: the image as 16 x 16 gray levels, without its mean and contrast.

    Re-encoding, resizing or brightening the image hardly changes it. It is all zero for an image without structure.
    Raises UserError if the image cannot be decoded.
    """
    return _without_contrast(_shrunk(_reduced(data, name, SIDE, "L").convert("L"), SIDE))


def look_of(pixels: UInt8[np.ndarray, "h w 3"]) -> Int8[np.ndarray, " pixels"]:
    """`look` of a decoded image. For a JPEG it differs by a few units, because `look` decodes at a reduced scale."""
    return _without_contrast(_shrunk(Image.fromarray(pixels).convert("L"), SIDE))


def picture(data: bytes, name: str = "image") -> Float32[np.ndarray, "64 64 3"]:
    """The colors of an encoded image at 64 x 64 pixels, in 0..255. Raises UserError if it cannot be decoded."""
    image = _reduced(data, name, PICTURE, "RGB").convert("RGB")
    return np.asarray(image.resize((PICTURE, PICTURE), Image.Resampling.BICUBIC), np.float32)


def _reduced(data: bytes, name: str, side: int, mode: str) -> Image.Image:
    """An upright image of at least 4 x `side` pixels along each side if the image is that large.

    For JPEG, only that resolution is decoded.
    """
    image = open_image(data, name) if data.startswith(b"\xff\xd8") else None
    if image is not None and image.format == "JPEG" and image.mode in ("RGB", "L"):
        image.draft(mode, (4 * side, 4 * side))
        return ImageOps.exif_transpose(image) if orientation(image) != 1 else image
    return Image.fromarray(load_image(data, name))


def size_of(data: bytes, name: str = "image") -> tuple[int, int]:
    """Height and width in pixels of a decoded image; of a JPEG or PNG only the header is read.

    Raises UserError if the image cannot be decoded.
    """
    if not data.startswith((b"\xff\xd8", b"\x89PNG")):
        height, width = load_image(data, name).shape[:2]
        return height, width
    image = open_image(data, name)
    width, height = image.size
    return (width, height) if orientation(image) > 4 else (height, width)  # from 5 on it is turned by a right angle


def _shrunk(gray: Image.Image, side: int) -> Float32[np.ndarray, "side side"]:
    return np.asarray(gray.resize((side, side), Image.Resampling.BOX), np.float32)


def _without_contrast(gray: Float32[np.ndarray, "side side"]) -> Int8[np.ndarray, " pixels"]:
    levels = gray.ravel()
    if levels.std() < FLAT:
        return np.zeros(SIDE * SIDE, np.int8)
    levels = levels - levels.mean()
    return np.rint(127 * levels / np.abs(levels).max()).astype(np.int8)


class Kept:
    """Perceptual hashes that a source keeps in memory. They are not sent to a loader's processes, which only read."""

    def __init__(self, hashes: Int8[np.ndarray, "n pixels"]):
        self.hashes: Int8[np.ndarray, "n pixels"] | None = hashes

    def __call__(self) -> Int8[np.ndarray, "n pixels"]:
        """The hashes. Raises RuntimeError in another process."""
        if self.hashes is None:
            raise RuntimeError("perceptual hashes are not sent to other processes")
        return self.hashes

    def __getstate__(self) -> dict:
        return {"hashes": None}
