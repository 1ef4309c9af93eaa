"""Decodes JPEG 2000 to 8-bit RGB: up to 16 bits, with palettes, channel definitions and YCbCr (ISO/IEC 15444-1).

OpenJPEG decodes the codestream (through imagecodecs). This module reads the boxes around it, which say what its
channels mean: color specification (I.5.3.3), palette (I.5.3.4, I.5.3.5) and channel definitions (I.5.3.6).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import UInt8

from mae_jax.data import channels
from mae_jax.data.channels import Damaged, Unreadable
from mae_jax.runtime.text import count

SIGNATURES = (b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51")  # a file of boxes, and a bare codestream
SRGB, GRAY, SYCC, CMYK = 16, 17, 18, 12  # enumerated color spaces
NAMES = {14: "CIE L*a*b*", 19: "CIE Jab", 20: "e-sRGB", 21: "ROMM-RGB", 24: "e-sYCC", 0: "bi-level", 15: "bi-level"}
PROFILES = {b"RGB ": SRGB, b"GRAY": GRAY, b"CMYK": CMYK, b"Lab ": 14}  # in an ICC profile's header
COLOR, OPACITY, PREMULTIPLIED, UNSPECIFIED = 0, 1, 2, 65535  # types of channels


@dataclass
class Header:
    """The content of the boxes."""

    code: bytes = b""
    images: int = 0  # codestreams in the file
    size: tuple[int, int] = (0, 0)  # height and width
    space: int | None = None  # enumerated color space; None: not stated
    palette: np.ndarray | None = None  # entries x columns
    palette_bits: tuple[int, ...] = ()
    mapping: list[tuple[int, int, int]] = field(default_factory=list)  # component, whether it uses the palette, column
    definitions: dict[int, tuple[int, int]] = field(
        default_factory=dict
    )  # channel: its type, and the color it belongs to


def read(data: bytes, max_pixels: float = math.inf) -> tuple[UInt8[np.ndarray, "h w 3"], tuple[str, ...]]:
    """Decodes the first image on a white background. Also returns the assumptions made.

    Raises Unreadable if the file does not say what its values mean or has more than `max_pixels` pixels. A damaged
    file can raise almost any exception.
    """
    import imagecodecs

    header = _header(data)
    width, height, components = _size(header.code)
    if width * height > max_pixels:
        raise Unreadable(f"has {width * height} pixels, but at most {max_pixels} are allowed", "cut it into tiles")
    if header.size != (height, width):
        raise Damaged(f"its headers announce {header.size[::-1]} and {(width, height)} pixels")
    bits = {(precision, signed) for precision, signed, _, _ in components}
    if any(signed for _, signed in bits):
        raise Unreadable(channels.in_words("i", max(bits)[0]))
    if len(bits) > 1:
        raise Unreadable(f"has channels of different sizes ({', '.join(str(c[0]) for c in components)} bits)")
    ((depth, _),) = bits
    if depth > 16:
        raise Unreadable(channels.in_words("u", depth))
    steps = [(dx, dy) for _, _, dx, dy in components]
    chroma_smaller = header.space == SYCC and steps in ([(1, 1), (2, 1), (2, 1)], [(1, 1), (2, 2), (2, 2)])
    if set(steps) != {(1, 1)} and not chroma_smaller:
        raise Unreadable("has channels of different resolutions" if len(set(steps)) > 1 else "skips pixels")
    values = imagecodecs.jpeg2k_decode(header.code, numthreads=1)
    values = values[..., None] if values.ndim == 2 else values
    if values.dtype.kind != "u" or values.shape[:2] != (height, width):
        raise Damaged(f"{values.shape[1::-1]} pixels of {(width, height)}")
    if header.palette is not None:
        values, depth = _by_palette(header, values)
    pixels, assumed = _rgb(header, values, 2**depth - 1, chroma_smaller)
    if header.images > 1:
        assumed += ("several images in one file: the first is used",)
    return pixels, assumed


def _boxes(data: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """Type and content of each box."""
    at = 0
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        head = 8
        if length == 1:
            (length,), head = struct.unpack_from(">Q", data, at + 8), 16
        end = len(data) if length == 0 else at + length
        if not at + head <= end <= len(data):
            raise Damaged(f"a box of {length} bytes where {len(data) - at} are left")
        yield kind, data[at + head : end]
        at = end


def _header(data: bytes) -> Header:
    header = Header()
    if data.startswith(SIGNATURES[1]):
        header.code, header.images = data, 1
        width, height, _ = _size(data)
        header.size = height, width
        return header
    for kind, content in _boxes(memoryview(data)):
        if kind == b"jp2c":
            header.code = header.code or bytes(content)
            header.images += 1
        elif kind == b"jp2h":
            for inner, box in _boxes(content):
                _take(header, inner, box)
    if not header.images or not header.size:
        raise Damaged("no pixels" if header.size else "no image header")
    return header


def _take(header: Header, kind: bytes, box: memoryview) -> None:
    """Adds the content of one box to the header."""
    if kind == b"ihdr":
        header.size = struct.unpack_from(">II", box, 0)
    elif kind == b"colr" and header.space is None:  # later boxes are alternatives
        if box[0] == 1:
            (header.space,) = struct.unpack_from(">I", box, 3)
        elif box[0] in (2, 3):  # an ICC profile; only its color space is used
            header.space = PROFILES.get(bytes(box[3 + 16 : 3 + 20]))
    elif kind == b"pclr":
        entries, columns = struct.unpack_from(">HB", box, 0)
        sizes = [1 + (b & 127) for b in box[3 : 3 + columns]]
        if any(b & 128 for b in box[3 : 3 + columns]) or max(sizes, default=17) > 16:
            raise Unreadable("has a palette of signed or of more than 16-bit values")
        row = np.dtype([(str(i), ">u1" if n <= 8 else ">u2") for i, n in enumerate(sizes)])
        table = np.frombuffer(box, row, entries, 3 + columns)
        header.palette = np.stack([table[str(i)].astype(np.uint16) for i in range(columns)], -1)
        header.palette_bits = tuple(sizes)
    elif kind == b"cmap":
        header.mapping = [struct.unpack_from(">HBB", box, at) for at in range(0, len(box), 4)]
    elif kind == b"cdef":
        (n,) = struct.unpack_from(">H", box, 0)
        for i in range(n):
            channel, what, of = struct.unpack_from(">HHH", box, 2 + 6 * i)
            header.definitions[channel] = (what, of)


def _size(code: bytes) -> tuple[int, int, list[tuple[int, bool, int, int]]]:
    """Width, height, and for each component its bits, whether it is signed, and horizontal and vertical sampling."""
    if code[:4] != SIGNATURES[1]:
        raise Damaged("its codestream does not begin with a size")
    right, bottom, left, top = struct.unpack_from(">4I", code, 8)
    (n,) = struct.unpack_from(">H", code, 40)
    components = []
    for i in range(n):
        size, dx, dy = struct.unpack_from(">3B", code, 42 + 3 * i)
        components.append((1 + (size & 127), bool(size & 128), dx, dy))
    if not n or n > 16:
        raise Unreadable(f"has {count(n, 'channel')}, not marked as red, green and blue")
    return right - left, bottom - top, components


def _by_palette(header: Header, values: np.ndarray) -> tuple[np.ndarray, int]:
    """Channels looked up in the palette, and their number of bits."""
    palette, channels, sizes = header.palette, [], set()
    assert palette is not None
    for component, by_palette, column in header.mapping or [(0, 1, i) for i in range(palette.shape[1])]:
        if by_palette != 1 or component >= values.shape[2] or column >= palette.shape[1]:
            raise Unreadable("has channels with and without a palette")
        channels.append(palette[np.minimum(values[..., component], len(palette) - 1), column])
        sizes.add(header.palette_bits[column])
    if len(sizes) > 1:
        raise Unreadable("has a palette with channels of different sizes")
    depth = sizes.pop()
    if palette.max() >= 2**depth:
        raise Damaged(f"a palette of {depth} bits with larger values")
    return np.stack(channels, -1), depth


def _rgb(header: Header, values: np.ndarray, white: int, converted: bool) -> tuple[np.ndarray, tuple[str, ...]]:
    """RGB from the channels, ordered by their definitions. `converted`: the decoder converted YCbCr to RGB."""
    n, space = values.shape[2], header.space
    colors = {SRGB: 3, SYCC: 3, GRAY: 1, CMYK: 4}.get(space, 0) if space is not None else (1 if n <= 2 else 3)
    if not colors:
        raise Unreadable(f"holds colors in {NAMES.get(space or 0, f'an unknown space ({space})')}")
    defined = header.definitions or {i: (COLOR, i + 1) for i in range(min(n, colors))}
    if colors == 1:  # some writers say that gray belongs to the whole image
        defined = {i: (what, 1 if what == COLOR else of) for i, (what, of) in defined.items()}
    places = {of: i for i, (what, of) in defined.items() if what == COLOR and i < n}
    order = [places.get(i + 1, -1) for i in range(colors)]
    if min(order) < 0:
        raise Unreadable(f"has {count(n, 'channel')}, but not all colors are defined")
    opacity = [(i, what) for i, (what, _) in defined.items() if what in (OPACITY, PREMULTIPLIED) and i < n]
    if len(opacity) > 1:
        raise Unreadable("has several transparency channels")
    left = set(range(n)) - set(order) - {i for i, _ in opacity}
    assumed = channels.ignore({i + 1: values[..., i] for i in sorted(left)}, white)
    alpha = values[..., opacity[0][0]] if opacity else None
    premultiplied = bool(opacity) and opacity[0][1] == PREMULTIPLIED
    picked = values[..., order]
    if (space == CMYK or (space == SYCC and not converted)) and values.dtype.kind == "u":
        picked = (channels.cmyk_to_rgb if space == CMYK else channels.ycc_to_rgb)(picked, white)
        alpha = None if alpha is None else channels.to_8_bits(alpha, white)
        white = 255
    return channels.to_rgb(picked, white, alpha, premultiplied), assumed
