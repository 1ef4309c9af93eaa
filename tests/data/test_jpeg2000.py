"""JPEG 2000 files, coded by imagecodecs and boxed here: each is decoded correctly, or refused with its name."""

import io
import struct

import imagecodecs
import numpy as np
import pytest
from PIL import Image

from mae_jax.data import jpeg2000
from mae_jax.data.channels import Unreadable
from mae_jax.data.decode import decode, load_image
from mae_jax.runtime.errors import UserError

HEIGHT, WIDTH = 24, 32
Y, X = np.mgrid[:HEIGHT, :WIDTH]
RGB = np.stack([X * 8, Y * 10, 255 - X * 8], -1)
RGB[:, WIDTH // 2 :] = 255  # white, where Pillow's conversion of 12 bits overflows
GRAY = RGB[..., :1]
ALPHA = np.where(HEIGHT // 2 > Y, 255, 0)[..., None]
SRGB, GRAYS, SYCC, CMYK, LAB = 16, 17, 18, 12, 14
WHITE = np.where(ALPHA > 0, RGB, 255)


def box(kind: bytes, *parts: bytes) -> bytes:
    content = b"".join(parts)
    return struct.pack(">I4s", 8 + len(content), kind) + content


def code(values: np.ndarray, bits: int = 8) -> bytes:
    """The bare code of channels of 0..255, at another depth."""
    values = np.rint(values * ((2**bits - 1) / 255)).astype(np.uint8 if bits <= 8 else np.uint16)
    values = values[..., 0] if values.shape[2] == 1 else values
    return imagecodecs.jpeg2k_encode(values, codecformat="j2k", bitspersample=bits, level=0, mct=False)


def jp2(values: np.ndarray, space: int, bits: int = 8, *boxes: bytes, codes: int = 1) -> bytes:
    height, width, n = values.shape
    head = box(b"ihdr", struct.pack(">IIHBBBB", height, width, n, bits - 1, 7, 0, 0))
    head += box(b"colr", struct.pack(">BBBI", 1, 0, 0, space)) + b"".join(boxes)
    body = box(b"jp2c", code(values, bits)) * codes
    start = box(b"jP  ", b"\r\n\x87\n") + box(b"ftyp", b"jp2 \0\0\0\0jp2 ")
    return start + box(b"jp2h", head) + body


def cdef(*rows: tuple[int, int, int]) -> bytes:
    """Of each channel: its number, type (0 color, 1 opacity, 2 premultiplied opacity), color it belongs to."""
    return box(b"cdef", struct.pack(">H", len(rows)), *(struct.pack(">HHH", *row) for row in rows))


COLORS = ((0, 0, 1), (1, 0, 2), (2, 0, 3))


@pytest.mark.parametrize("boxed", [True, False])
@pytest.mark.parametrize("bits", [1, 2, 4, 7, 8, 9, 10, 12, 14, 15, 16])
@pytest.mark.parametrize(("values", "space"), [(GRAY, GRAYS), (RGB, SRGB)], ids=["gray", "RGB"])
def test_any_bits(values, space, bits, boxed):
    image = load_image(jp2(values, space, bits) if boxed else code(values, bits))
    white = 2**bits - 1
    right = np.rint(values * white / 255) * 255 / white
    assert np.abs(image - np.broadcast_to(right, image.shape)).max() <= 1


def test_white_in_twelve_bits_is_white():
    """Pillow 13 makes it black."""
    assert (load_image(jp2(RGB, SRGB, 12))[:, WIDTH // 2 :] == 255).all()


DEFINED = {
    "alpha": (np.concatenate([RGB, ALPHA], -1), SRGB, cdef(*COLORS, (3, 1, 0)), WHITE),
    "alpha first": (np.concatenate([ALPHA, RGB], -1), SRGB,
                    cdef((0, 1, 0), (1, 0, 1), (2, 0, 2), (3, 0, 3)), WHITE),
    "blue first": (RGB[..., ::-1], SRGB, cdef((0, 0, 3), (1, 0, 2), (2, 0, 1)), RGB),
    "gray, alpha": (np.concatenate([GRAY, ALPHA], -1), GRAYS, cdef((0, 0, 1), (1, 1, 0)), WHITE[..., :1]),
    "gray of all, alpha": (np.concatenate([GRAY, ALPHA], -1), GRAYS, cdef((0, 0, 0), (1, 1, 0)), WHITE[..., :1]),
    "multiplied": (np.concatenate([RGB * 128 // 255, 0 * ALPHA + 128], -1), SRGB, cdef(*COLORS, (3, 2, 0)),
                   RGB * 128 / 255 + 127),
    "CMYK": (np.concatenate([255 - RGB, 0 * ALPHA], -1), CMYK, b"", RGB),
    "YCbCr": (np.concatenate([GRAY, 0 * GRAY + 128, 0 * GRAY + 128], -1), SYCC, b"", GRAY),
}  # fmt: skip


@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize(("values", "space", "boxes", "right"), DEFINED.values(), ids=DEFINED)
def test_channel_definitions(values, space, boxes, right, bits):
    image = decode(jp2(values, space, bits, boxes))
    assert np.abs(image.pixels - np.broadcast_to(right, image.pixels.shape)).max() <= 2
    assert image.assumed == ()


def test_a_palette():
    index = (X + Y)[..., None] % 4
    table = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]], np.uint8)
    pclr = box(b"pclr", struct.pack(">HB3B", 4, 3, 7, 7, 7), table.tobytes())
    cmap = box(b"cmap", *(struct.pack(">HBB", 0, 1, column) for column in (2, 1, 0)))
    image = load_image(jp2(index, SRGB, 8, pclr, cmap))
    np.testing.assert_array_equal(image, table[index[..., 0]][..., ::-1])


REFUSED = {
    "signed": (imagecodecs.jpeg2k_encode((GRAY[..., 0] - 128).astype(np.int8), level=0), r"signed pixels \(8 bits\)"),
    "signed 16": (imagecodecs.jpeg2k_encode(GRAY[..., 0].astype(np.int16), level=0), r"signed pixels \(16 bits\)"),
    "four channels": (jp2(np.concatenate([RGB, GRAY // 2], -1), SRGB), "a channel 4 in addition to its colors"),
    "four bare channels": (code(np.concatenate([RGB, GRAY // 2], -1)), "a channel 4 in addition to its colors"),
    "two stains": (jp2(np.concatenate([GRAY, ALPHA // 2], -1), GRAYS), "a channel 2 in addition to its colors"),
    "a color that is missing": (jp2(RGB, SRGB, 8, cdef((0, 0, 1), (1, 0, 2), (2, 65535, 65535))), "not all colors"),
    "two alphas": (jp2(np.concatenate([RGB, ALPHA, ALPHA], -1), SRGB, 8, cdef(*COLORS, (3, 1, 0), (4, 1, 0))),
                   "several transparency channels"),
    "CIELab": (jp2(RGB, LAB), r"colors in CIE L\*a\*b\*"),
    "unknown colors": (jp2(RGB, 99), r"an unknown space \(99\)"),
    "another size": (jp2(RGB, SRGB).replace(struct.pack(">II", HEIGHT, WIDTH), struct.pack(">II", 9, 9)),
                     "its headers announce"),
    "cut": (jp2(RGB, SRGB)[:-20], "cut short or damaged"),
    "cut bare code": (code(RGB)[:-40], "cut short or damaged"),
    "no code": (jp2(RGB, SRGB, codes=0), "cut short or damaged"),
}  # fmt: skip


@pytest.mark.parametrize(("data", "why"), REFUSED.values(), ids=REFUSED)
def test_refused_with_the_reason(data, why, capfd):
    with pytest.raises(UserError, match=rf"^a/b\.jp2.*{why}") as error:
        load_image(data, "a/b.jp2")
    assert "\n" not in str(error.value) and capfd.readouterr() == ("", "")


def test_several_images_are_counted():
    image = decode(jp2(RGB, SRGB, codes=2))
    np.testing.assert_array_equal(image.pixels, RGB)
    assert image.assumed == ("several images in one file: the first is used",)


def test_a_large_header_does_not_fill_the_memory():
    size = struct.pack(">II", WIDTH, HEIGHT)
    data = code(RGB).replace(size, struct.pack(">II", 60000, 60000), 1)
    with pytest.raises(
        UserError, match=r"^big\.j2k has 3600000000 pixels, but at most .* are allowed; cut it into tiles"
    ):
        load_image(data, "big.j2k")


def test_an_image_with_more_pixels_than_allowed_is_not_decoded():
    file = io.BytesIO()
    Image.new("RGB", (40, 30), (200, 100, 50)).save(file, "JPEG2000")
    pixels, assumed = jpeg2000.read(file.getvalue(), max_pixels=1200)
    assert pixels.shape == (30, 40, 3) and assumed == () and pixels[0, 0].tolist() == [200, 100, 50]
    with pytest.raises(Unreadable, match="pixels"):
        jpeg2000.read(file.getvalue(), max_pixels=1199)
