"""Decodes the part of a JPEG that a crop needs, and skips as much of the rest as the file allows.

A JPEG is one long bit stream that must be decoded from its start. Restart markers divide it into intervals that can
be decoded independently. Tiles prepared by mae_jax have a marker every few blocks (`encode`). The intervals that a
crop touches, with a header of a smaller size, form a JPEG of that part (ITU-T T.81, sections B.2.4.4 and E.1.4). Its
pixels are the same. Without markers, a smaller height in the header skips only the part below the crop.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import simplejpeg
from jaxtyping import Int, UInt8
from PIL import Image

Box = tuple[int, int, int, int]  # left, upper, width, height in pixels

SOI, EOI, SOS, DRI, APP1 = 0xD8, 0xD9, 0xDA, 0xDD, 0xE1
RESTARTS = bytes(range(0xD0, 0xD8))
FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
SEQUENTIAL = (0xC0, 0xC1)  # Huffman codes, one pass over the image
QUALITY = 92  # of tiles that are encoded here
REST_UNREAD = "extraneous bytes before marker 0xd9"  # libjpeg's first warning where the height is made smaller


@dataclass(frozen=True)
class Header:
    """The header of a plain JPEG: 8 bits, gray or three channels, one pass."""

    height: int
    width: int
    mcu: tuple[int, int]  # height and width of a minimum coded unit, in pixels
    interval: int  # coded units between restart markers; 0: no markers
    frame: int  # byte at which the frame header begins
    scan: int  # byte at which the bit stream begins
    exif: bool

    @property
    def halved(self) -> bool:
        """Whether chroma is stored at half the size in both directions (4:2:0)."""
        return self.mcu == (16, 16)


def encode(pixels: UInt8[np.ndarray, "h w 3"], halved: bool = False) -> bytes:
    """Encodes a tile as JPEG with restart markers; optimized Huffman tables make up for the markers' bytes.

    Color carries the stain, so chroma keeps its full resolution (4:4:4), unless the tile comes from a file in which
    it is `halved` in both directions (4:2:0).
    """
    sampling, side = ("4:2:0", 16) if halved else ("4:4:4", 8)
    across = -(-pixels.shape[1] // side)
    # Intervals of 32 to 72 pixels: narrower ones cost bytes, wider ones make a crop decode more.
    units = next((n for n in range(32 // side, 72 // side + 1) if across % n == 0), across)
    file = io.BytesIO()
    options = {"quality": QUALITY, "subsampling": sampling, "optimize": True, "restart_marker_blocks": units}
    Image.fromarray(pixels).save(file, "JPEG", **options)
    return file.getvalue()


def read_header(data: bytes) -> Header | None:
    """The header, or None if `data` is not a JPEG, or not a plain one."""
    at, interval, exif, frame = 2, 0, False, 0
    height = width = channels = 0
    sampling = b""
    try:
        if data[0] != 0xFF or data[1] != SOI:
            return None
        while True:
            start, marker, length = struct.unpack_from(">BBH", data, at)
            if start != 0xFF or length < 2:
                return None
            if marker in FRAMES:
                bits, height, width, channels = struct.unpack_from(">BHHB", data, at + 4)
                if marker not in SEQUENTIAL or bits != 8 or channels not in (1, 3) or not height or not width:
                    return None
                frame, sampling = at, data[at + 11 : at + 10 + 3 * channels : 3]
            elif marker == DRI:
                interval = struct.unpack_from(">H", data, at + 4)[0]
            elif marker == APP1:
                exif = True
            elif marker == SOS:
                if not frame or data[at + 4] != channels:
                    return None
                # A single channel is coded block by block, whatever its sampling.
                mcu = (
                    (8, 8) if channels == 1 else (8 * max(s & 15 for s in sampling), 8 * max(s >> 4 for s in sampling))
                )
                return Header(height, width, mcu, interval, frame, at + 2 + length, exif)
            at += 2 + length
    except (IndexError, struct.error):
        return None


def decode(
    data: bytes, header: Header, box: Box, reduced: int = 1, smooth: bool = True
) -> tuple[UInt8[np.ndarray, "h w 3"], int, int]:
    """Pixels of a part of the image that contains `box`, and the left and upper edge of this part.

    All are at 1/`reduced` (1, 2, 4, 8) of the scale. Inside the box, pixels equal those of the whole image when
    decoded. Without `smooth`, chroma that the file stores at half the size is repeated instead of interpolated, which
    is faster. Raises ValueError if the bit stream is damaged or not supported by simplejpeg.
    """
    part, left, upper, height, width, unread = window(data, header, box, 1 if smooth else 0)
    options: dict[str, Any] = {"fastupsample": not smooth}
    if reduced > 1:
        options |= {"min_height": -(-height // reduced), "min_width": -(-width // reduced)}
    if not unread:
        return simplejpeg.decode_jpeg(part, **options), left // reduced, upper // reduced
    pixels = np.empty((-(-height // reduced), -(-width // reduced), 3), np.uint8)
    try:
        simplejpeg.decode_jpeg(part, buffer=pixels, **options)
    except ValueError as error:  # the pixels are complete; libjpeg reports only its first warning
        if REST_UNREAD not in str(error):
            raise
    return pixels, left // reduced, upper // reduced


def window(
    data: bytes, header: Header, box: Box, margin: int = 1
) -> tuple[bytes | bytearray, int, int, int, int, bool]:
    """The smallest JPEG that contains `box`: its bytes, left, upper, height, width, and whether unread bytes follow.

    `margin`: number of pixels around the box that are also needed; 1 if chroma is interpolated.
    """
    left, upper, wide, high = box
    tall, broad = header.mcu
    across, down = -(-header.width // broad), -(-header.height // tall)
    first, last = max(0, (upper - margin) // tall), min(down, -(-(upper + high + margin) // tall))
    marks = _intervals(data, header, across * down) if header.interval else None
    if marks is None:
        if header.interval or last == down:
            return data, 0, 0, header.height, header.width, False
        height, part = last * tall, bytearray(data)
        struct.pack_into(">H", part, header.frame + 5, height)
        return part, 0, 0, height, header.width, True

    units = min(header.interval, across)  # in an interval, or in its part in one row
    rows = max(1, header.interval // across)  # rows of units in an interval
    stride, tall, broad = across // units, tall * rows, broad * units
    first, last = first // rows, -(-last // rows)
    begin, end = max(0, (left - margin) // broad), min(stride, -(-(left + wide + margin) // broad))
    height, width = (min(header.height, last * tall) - first * tall, min(header.width, end * broad) - begin * broad)
    # Rows of adjacent intervals, each with the marker at its end.
    heads = np.arange(first * stride + begin, last * stride + begin, stride)
    starts, stops = marks[heads] + 2, marks[heads + (end - begin)] + 2
    head = bytearray(data[: header.scan])
    struct.pack_into(">HH", head, header.frame + 5, height, width)
    view = memoryview(data)
    part = bytearray().join([head, *[view[a:b] for a, b in zip(starts.tolist(), stops.tolist(), strict=True)]])
    # Markers count from 0 to 7, then start again at 0. The last marker is the end of the image.
    lengths = stops - starts
    moved = header.scan + 1 + np.cumsum(lengths) - stops
    at = (marks[heads[:, None] + np.arange(1, end - begin + 1)] + moved[:, None]).ravel()
    np.frombuffer(part, np.uint8)[at] = np.frombuffer(_counted(len(at)), np.uint8)
    return part, begin * broad, first * tall, height, width, False


def _intervals(data: bytes, header: Header, units: int) -> Int[np.ndarray, " n"] | None:
    """Positions of the marker before each interval and of the last one's end; None if they do not form a grid."""
    across = -(-header.width // header.mcu[1])
    if across % header.interval and header.interval % across:
        return None
    expected = -(-units // header.interval)
    code = np.frombuffer(data, np.uint8, offset=header.scan)
    markers = (code[:-1] == 0xFF).nonzero()[0]
    kinds = code[markers + 1]
    real = kinds.nonzero()[0][:expected]  # FF 00 stands for a data byte FF
    if kinds[real].tobytes() != _counted(expected):
        return None
    return np.concatenate([[-2], markers[real]]) + header.scan


def _counted(n: int) -> bytes:
    """The second bytes of the markers that end n intervals."""
    return (RESTARTS * (n // 8 + 1))[: n - 1] + bytes([EOI])
