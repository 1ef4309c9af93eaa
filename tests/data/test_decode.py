"""Image files of every format but TIFF and JPEG 2000: decoded to upright RGB on white, or refused with their names."""

import io
import struct
import zlib

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from mae_jax.data import sources
from mae_jax.data.decode import ORIENTATION, decode, load_image
from mae_jax.data.transforms import CenterResize, Decode
from mae_jax.runtime.errors import UserError


def encode(image: Image.Image, format: str = "PNG", **options) -> bytes:
    data = io.BytesIO()
    image.save(data, format, **options)
    return data.getvalue()


def picture(height: int, width: int) -> np.ndarray:
    """Smooth colors."""
    y, x = np.mgrid[:height, :width] / max(height, width)
    return (128 + 80 * np.stack([np.sin(9 * x + 2), np.cos(7 * y), np.sin(11 * x * y)], -1)).astype(np.uint8)


def both(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """`load_image`, and the same through the transforms at the image's own size."""
    image = load_image(data)
    return image, CenterResize(image.shape[0])(Decode()({"image": data}))["image"]


RGBA = np.array([[[255, 0, 0, 255], [0, 0, 255, 0]], [[0, 0, 0, 128], [9, 8, 7, 255]]], np.uint8)
ON_WHITE = np.array([[[255, 0, 0], [255, 255, 255]], [[127, 127, 127], [9, 8, 7]]])
GREY = np.array([[0, 40], [200, 255]], np.uint8)


def palette(transparent: bool) -> bytes:
    image = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8), "P")
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    return encode(image, **({"transparency": 1} if transparent else {}))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (encode(Image.fromarray(GREY)), np.stack([GREY] * 3, -1)),
        (encode(Image.fromarray(GREY > 100)), np.stack([(GREY > 100) * 255] * 3, -1)),
        (encode(Image.fromarray(RGBA)), ON_WHITE),
        (encode(Image.fromarray(RGBA[..., 2:])), np.stack([[[0, 255], [127, 7]]] * 3, -1)),  # LA
        (palette(False), [[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [0, 255, 0]]]),
        (palette(True), [[[255, 0, 0], [255, 255, 255]], [[0, 0, 255], [255, 255, 255]]]),
        (encode(Image.fromarray(GREY), transparency=40), [[[v] * 3 for v in r] for r in
                                                         ([0, 255], [200, 255])]),
        (encode(Image.fromarray(GREY.astype(np.uint16) * 257)), np.stack([GREY] * 3, -1)),
        (encode(Image.fromarray(GREY.astype(np.uint16) * 257), "TIFF"), np.stack([GREY] * 3, -1)),
        (b"P5 2 2 65535\n" + (GREY.astype(">u2") * 257).tobytes(), np.stack([GREY] * 3, -1)),
        (encode(Image.new("CMYK", (2, 2), (0, 255, 255, 0)), "TIFF"), [[[255, 0, 0]] * 2] * 2),
    ],
    ids=["L", "1", "RGBA", "LA", "P", "P+t", "L+t", "16 PNG", "16 TIFF", "16 PPM", "CMYK"],
)  # fmt: skip
def test_modes_become_rgb(data, expected):
    for image in both(data):
        assert image.dtype == np.uint8 and image.shape == (2, 2, 3)
        np.testing.assert_allclose(image, expected, atol=1)


def test_cmyk_jpeg():
    red = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    for image in both(encode(red, "JPEG", quality=95)):
        np.testing.assert_allclose(image, np.full((16, 16, 3), [255, 0, 0]), atol=6)


def test_16_bit_keeps_its_contrast():
    """Pillow's own conversion turns all above 255 white."""
    ramp = np.linspace(0, 65535, 64 * 64).astype(np.uint16).reshape(64, 64)
    image = load_image(encode(Image.fromarray(ramp)))
    np.testing.assert_array_equal(image[..., 0], np.rint(ramp / 257))


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF"])
def test_exif_orientation_is_applied(format):
    pixels = picture(40, 60)
    exif = Image.Exif()
    exif[ORIENTATION] = 6  # to be turned by 90 degrees clockwise
    data = encode(Image.fromarray(pixels), format, exif=exif.tobytes())
    plain = load_image(encode(Image.fromarray(pixels), format))
    upright = np.rot90(plain, -1)
    np.testing.assert_array_equal(load_image(data), upright)
    center = CenterResize(40)(Decode()({"image": data}))["image"]
    np.testing.assert_array_equal(center, upright[10:50])


@pytest.mark.parametrize("mode", ["I", "F"])
def test_32_bit_is_refused_by_name(mode):
    data = encode(Image.new(mode, (4, 4)), "TIFF")
    for read in (lambda: load_image(data, "a/b.tif"),
                 lambda: Decode()({"image": data, "name": "a/b.tif"})):  # fmt: skip
        with pytest.raises(UserError, match=r"^a/b\.tif has " + ("signed" if mode == "I" else "floating-point")):
            read()


def test_broken_files_are_refused_by_name():
    undamaged = encode(Image.fromarray(picture(200, 200)), "JPEG")
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"
    tga = encode(Image.new("RGB", (4, 4)), "TGA")  # Pillow would open it
    for data in (b"", b"hello", eps, tga, undamaged[:300], undamaged[: len(undamaged) // 2]):
        with pytest.raises(UserError, match=r"x\.png") as raised:
            load_image(data, "x.png")
        assert "\n" not in str(raised.value)
    element = Decode()({"image": undamaged[: len(undamaged) // 2], "name": "x.png"})
    with pytest.raises(UserError, match=r"x\.png"):
        CenterResize(16)(element)


@pytest.mark.parametrize("limit", [1000, 300])  # beyond the limit, beyond twice the limit
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_too_many_pixels_are_refused(monkeypatch, limit):
    data = encode(Image.new("RGB", (40, 30)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(UserError, match=r"big\.png.*1200 pixels"):
        load_image(data, "big.png")


PNG_COLORS = {"gray": 0, "RGB": 2, "palette": 3, "gray, alpha": 4, "RGBA": 6}


def png(values: np.ndarray, bits: int, colors: str, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG chunk by chunk (h, w, channels), which no other writer has touched."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width, _ = values.shape
    ones = values.reshape(height, -1, 1).astype(np.int64) >> np.arange(bits - 1, -1, -1) & 1
    rows = np.packbits(ones.reshape(height, -1).astype(np.uint8), axis=1)
    body = b"".join(b"\0" + row.tobytes() for row in rows)
    head = struct.pack(">IIBBBBB", width, height, bits, PNG_COLORS[colors], 0, 0, 0)
    middle = b"".join(chunk(*one) for one in chunks)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + middle + chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_a_transparent_gray_is_white(bits):
    """Pillow compares the value in the file, of 0 to 2^bits - 1, with pixels that it has scaled to 0..255."""
    white = 2**bits - 1
    values = (np.arange(64).reshape(8, 8, 1) * (1 if bits < 8 else 2**bits // 64)) % (white + 1)
    clear = int(values[0, 1, 0])
    image = load_image(png(values, bits, "gray", (b"tRNS", struct.pack(">H", clear))))
    right = np.where(values == clear, 255, np.rint(values * 255 / white))
    np.testing.assert_allclose(image, np.broadcast_to(right, image.shape), atol=0.51)


@pytest.mark.parametrize("bits", [8, 16])
def test_a_transparent_color_is_white(bits):
    """In 16 bits only the pixels that equal it in all bits, not those of the same upper 8."""
    values = np.arange(8 * 8 * 3).reshape(8, 8, 3) * (1 if bits == 8 else 40)
    clear = values[2, 3]
    values[5, 5] = clear + np.array([0, 0, 1])
    image = load_image(png(values, bits, "RGB", (b"tRNS", struct.pack(">3H", *clear.tolist()))))
    right = np.where((values == clear).all(-1, keepdims=True), 255, values / (2**bits - 1) * 255)
    np.testing.assert_allclose(image, right, atol=0.51)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("colors", ["gray, alpha", "RGBA"])
def test_transparency_channels(colors, bits):
    n = {"gray, alpha": 2, "RGBA": 4}[colors]
    values = np.random.default_rng(0).integers(0, 2**bits, (8, 8, n))
    image = load_image(png(values, bits, colors))
    shares = values / (2**bits - 1)
    right = 255 * (shares[..., :-1] * shares[..., -1:] + 1 - shares[..., -1:])
    np.testing.assert_allclose(image, np.broadcast_to(right, image.shape), atol=1.01 if bits == 8 else 0.51)


def test_the_orientation_of_a_16_bit_png_is_applied():
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    ramp = np.arange(12, dtype=np.uint16).reshape(3, 4) * 5000
    image = load_image(encode(Image.fromarray(ramp), exif=exif.tobytes()))
    np.testing.assert_array_equal(image[..., 0], np.rot90(np.rint(ramp / 257), -1))


@pytest.mark.parametrize("bits", [8, 16])
def test_dark_16_bit_images_are_counted(bits):
    values = np.arange(64).reshape(8, 8, 1) * (4 if bits == 8 else 60)
    assumed = decode(png(values, bits, "gray")).assumed
    assert assumed == (
        ("16 bits without a value above 4095: 65535 is white, so the image is almost black",) if bits == 16 else ()
    )


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP"])
def test_the_first_frame_of_an_animation_is_used_and_counted(format):
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "lime")]
    options = {"lossless": True} if format == "WEBP" else {}
    image = decode(encode(frames[0], format, save_all=True, append_images=frames[1:], **options))
    assert (image.pixels == [255, 0, 0]).all()
    assert image.assumed == ("an animation: the first frame is used",)
    assert decode(encode(frames[0], format, **options)).assumed == ()


OTHERS = {
    "a PDF document": b"%PDF-1.4",
    "a DICOM file": bytes(128) + b"DICM",
    "an AVIF image": b"\0\0\0\x20ftypavif",
    "a HEIC image": b"\0\0\0\x20ftypheic",
    "a web page": b"  <!DOCTYPE html>",
    "an SVG drawing": b"<svg xmlns=''>",
    "a Photoshop document": b"8BPS\0\1",
    "a .zip archive": b"PK\3\4",
    "an HDF5 file": b"\x89HDF\r\n",
    "12 bits per channel": imagecodecs.jpeg_encode(np.full((16, 16), 4000, np.uint16), bitspersample=12),
    "begins as a PNG file and is cut short": b"\x89PNG\r\n\x1a\n\0\0",
    "is empty": b"",
}


@pytest.mark.parametrize(("what", "data"), OTHERS.items(), ids=OTHERS)
def test_other_files_are_called_what_they_are(what, data):
    with pytest.raises(UserError, match=r"^a/b\.png") as error:
        load_image(data, "a/b.png")
    assert what in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("share", [0.1, 0.4, 0.7, 0.95])
@pytest.mark.parametrize("format", ["JPEG", "PNG", "BMP", "GIF", "WEBP", "PPM"])
def test_cut_files_are_refused(format, share, capfd):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    data = encode(Image.fromarray(noise), format)
    with pytest.raises(UserError, match=r"^a/b\.png"):
        load_image(data[: int(len(data) * share)], "a/b.png")
    assert capfd.readouterr() == ("", "")


def test_a_flipped_bit_of_a_png_is_damage():
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    data = bytearray(encode(Image.fromarray(noise)))
    data[len(data) // 2] ^= 1
    with pytest.raises(UserError, match=r"^a/b\.png: the image is cut short or damaged"):
        load_image(bytes(data), "a/b.png")


@pytest.mark.parametrize("kind", ["IDAT", "PLTE"])
def test_a_png_with_a_wrong_checksum_is_refused(kind):
    """Pillow does not check those of pixels."""
    data = bytearray(encode(Image.fromarray(picture(20, 30)).convert("P")))
    at = data.index(kind.encode())
    end = at + 4 + int.from_bytes(data[at - 4 : at], "big")
    assert load_image(bytes(data)).shape == (20, 30, 3)
    data[end] ^= 1
    with pytest.raises(
        UserError, match=f"x.png: the image is cut short or damaged .the checksum of its chunk {kind} is wrong"
    ):
        load_image(bytes(data), "x.png")


@pytest.mark.parametrize(
    ("of", "name", "format"),
    [
        (Image, "open", "PNG"),
        (Image.Image, "load", "BMP"),
        (Image.Image, "getexif", "JPEG"),
        (Image.Image, "convert", "GIF"),
        (imagecodecs, "png_decode", "PNG"),
        (tifffile, "TiffFile", "TIFF"),
        (tifffile.TiffPage, "asarray", "TIFF"),
        (imagecodecs, "jpeg2k_decode", "JPEG2000"),
    ],
)
def test_no_memory_is_not_damage(tmp_path, monkeypatch, of, name, format):
    """Otherwise `bad_images=skip` would leave out good images on a small machine."""
    pixels = GREY.astype(np.uint16) if of is imagecodecs and format == "PNG" else picture(16, 16)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_bytes(encode(Image.fromarray(pixels), format))

    def fail(*args, **options):
        raise MemoryError

    decode((tmp_path / "a" / "x").read_bytes())
    monkeypatch.setattr(of, name, fail)
    with pytest.raises(MemoryError):
        decode((tmp_path / "a" / "x").read_bytes())
    with pytest.raises(MemoryError):
        sources.folder(tmp_path, bad_images="skip")
