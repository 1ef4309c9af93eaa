"""Converts the channels of a decoded file, of any bit depth, to 8-bit RGB on a white background."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from jaxtyping import UInt8

ROTATIONS = {3: 2, 6: -1, 8: 1, 5: 1, 7: -1}  # EXIF orientation to quarter turns, counterclockwise
MIRRORED = (2, 4, 5, 7)


class Unreadable(Exception):
    """The meaning of the pixels is not known. The message is the reason without a subject; `hint` says what to do."""

    def __init__(self, reason: str, hint: str = "save it with 8 or 16 bits per channel, in gray or RGB"):
        super().__init__(reason)
        self.hint = hint


class Damaged(Exception):
    """The file contradicts itself or ends too early; the message says where."""


def to_rgb(
    colors: np.ndarray,
    white: int,
    alpha: np.ndarray | None = None,
    premultiplied: bool = False,
) -> UInt8[np.ndarray, "h w 3"]:
    """Converts gray (h, w, 1) or RGB (h, w, 3) values of 0..`white` to 8 bits, on white.

    `alpha` (h, w) has the same range: 0 is transparent, `white` opaque. `premultiplied` colors are already
    multiplied by it (associated alpha).
    """
    if alpha is None:
        pixels = to_8_bits(colors, white)
        return np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))
    opacity = np.minimum(alpha.astype(np.float32) / np.float32(white), 1)[..., None]
    share = np.minimum(colors.astype(np.float32) / np.float32(white), 1)
    share = (share if premultiplied else share * opacity) + 1 - opacity
    pixels = np.rint(255 * np.minimum(share, 1)).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))


def to_8_bits(values: np.ndarray, white: int) -> np.ndarray:
    """Scales integers of 0..`white` to 0..255, rounded; larger ones become 255."""
    if white == 255 and values.dtype == np.uint8:
        return values
    return _table(white, np.iinfo(values.dtype).max)[values]


@lru_cache(maxsize=16)
def _table(white: int, largest: int) -> UInt8[np.ndarray, " values"]:
    values = np.minimum(np.arange(largest + 1, dtype=np.int64), white)
    return ((values * 255 + white // 2) // white).astype(np.uint8)


def cmyk_to_rgb(inks: np.ndarray, white: int) -> UInt8[np.ndarray, "h w 3"]:
    """Converts CMYK (h, w, 4), where `white` is full ink, to RGB by the inks' complements, without a color profile."""
    paper = 255 - to_8_bits(inks, white).astype(np.uint16)
    return ((paper[..., :3] * paper[..., 3:] + 127) // 255).astype(np.uint8)


def ycc_to_rgb(ycc: np.ndarray, white: int) -> UInt8[np.ndarray, "h w 3"]:
    """Converts full-range YCbCr (h, w, 3) to RGB (ITU-R BT.601, as in JFIF)."""
    y, cb, cr = np.moveaxis(ycc.astype(np.float32) * np.float32(255 / white), -1, 0)
    cb, cr = cb - np.float32(128), cr - np.float32(128)
    rgb = np.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], -1)
    return np.clip(np.rint(rgb), 0, 255).astype(np.uint8)


def upright(pixels: UInt8[np.ndarray, "h w 3"], orientation: int) -> UInt8[np.ndarray, "h w 3"]:
    """Undoes an EXIF or TIFF orientation (1 to 8); other numbers mean upright."""
    if orientation in MIRRORED:
        pixels = pixels[:, ::-1]
    turns = {**ROTATIONS, 4: 2}.get(orientation, 0)
    return np.ascontiguousarray(np.rot90(pixels, turns)) if turns or orientation == 2 else pixels


def ignore(others: dict[int, np.ndarray], white: int) -> tuple[str, ...]:
    """The assumption made when channels of unknown meaning (numbered from 1) are ignored; () if there are none.

    Raises Unreadable unless each channel is 0 everywhere or `white` everywhere, because it may be transparency or
    another stain.
    """
    for number, values in others.items():
        if values.min() != values.max() or values.flat[0] not in (0, white):
            raise Unreadable(f"has a channel {number} in addition to its colors, which is not marked as transparency")
    return ("an extra channel with the same value everywhere is ignored",) if others else ()


def in_words(dtype_kind: str, bits: int | Sequence[int]) -> str:
    """Why pixels of this type are not supported. `dtype_kind`: "i" signed, "f" floating, "c" complex, "u" unsigned."""
    if dtype_kind == "f":
        return f"has floating-point pixels ({bits} bits), and a file does not say which values are black and white"
    if dtype_kind == "c":
        return "has pixels that are complex numbers"
    if dtype_kind == "i":
        return f"has signed pixels ({bits} bits), and a file does not say which values are black and white"
    return f"has {bits}-bit pixels, and a file does not say which values are black and white"
