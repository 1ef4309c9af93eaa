"""Decodes image files of common formats to upright 8-bit RGB. A file that cannot be read correctly is refused."""

from __future__ import annotations

import io
import logging
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from mae_jax.data import channels, jpeg2000, tiff
from mae_jax.data.channels import Unreadable
from mae_jax.runtime.errors import UserError

# Pillow reads these. It would also open EPS and other formats, whatever the name of the file.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "PPM")
READ = "JPEG, PNG, TIFF, BMP, GIF, WebP, JPEG 2000, PPM"
# Pillow prints several lines of warnings about slightly wrong files; here they are decoded, or refused in one line.
warnings.filterwarnings("ignore", module=r"PIL\.")
ORIENTATION = 0x0112  # the EXIF tag
logging.getLogger("imagecodecs").setLevel(logging.CRITICAL + 1)  # its warnings name no file
CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT")  # of a PNG that the pixels depend on
PNG = b"\x89PNG\r\n\x1a\n"
OTHER_KIND, DAMAGED = "image of a kind that is not read", "damaged image"
OTHERS = {  # the first bytes of formats that are not supported
    b"8BPS": "a Photoshop document",
    b"%PDF": "a PDF document",
    b"%!PS": "a PostScript file",
    b"\xc5\xd0\xd3\xc6": "a PostScript file",
    b"<svg": "an SVG drawing",
    b"<!DO": "a web page",
    b"<!do": "a web page",
    b"<htm": "a web page",
    b"<HTM": "a web page",
    b"PK\x03\x04": "a .zip archive",
    b"Rar!": "a .rar archive",
    b"\x1f\x8b": "a .gz archive",
    b"\x89HDF": "an HDF5 file",
    b"\x93NUM": "a NumPy array",
    b"\xff\x0a": "a JPEG XL image",
    b"\0\0\0\x0cJXL ": "a JPEG XL image",
    b"II\xbc": "a JPEG XR image",
    b"v/1\x01": "an OpenEXR image",
    b"ZISRAWFILE": "a Zeiss CZI file",
    b"\0\0\x01\0": "an icon",
    b"\xff\xd8\xff\xf7": "a JPEG-LS image",
}
BRANDS = {b"avif": "an AVIF image", b"avis": "an AVIF image", b"heic": "a HEIC image", b"heix": "a HEIC image"}
BRANDS |= {b"mif1": "a HEIF image", b"crx ": "raw camera data (Canon CR3)"}


class ImageError(UserError):
    """A file cannot be decoded. `kind` is the category under which it is counted."""

    def __init__(self, message: str, kind: str):
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True)
class Picture:
    """A decoded image, and the assumptions made about it, each as a short phrase."""

    pixels: UInt8[np.ndarray, "h w 3"]
    assumed: tuple[str, ...] = ()


def load_image(data: bytes, name: str = "image") -> UInt8[np.ndarray, "h w 3"]:
    """Decodes an image to upright RGB on white, as `decode` does, but without the assumptions."""
    return decode(data, name).pixels


def decode(data: bytes, name: str = "image") -> Picture:
    """Decodes the image of a file to upright RGB; transparency turns white.

    Raises ImageError with `name` and the reason if the bytes are not an image of a supported format, are truncated,
    have more than `Image.MAX_IMAGE_PIXELS` pixels, or if the file does not say which pixel value is white. Raises
    MemoryError if memory runs out, because the image may be good.
    """
    for module in (tiff, jpeg2000):
        if data.startswith(module.SIGNATURES):
            return _by_module(module.read, data, name)
    if data.startswith(PNG) and (chunk := _wrong_checksum(data)):
        raise ImageError(
            f"{name}: the image is cut short or damaged (the checksum of its chunk {chunk} is wrong)", DAMAGED
        )
    image = open_image(data, name)
    try:
        if _needs_libpng(data, image):
            return Picture(*_png(data, image))
        assumed = _frames(image)
        image.load()
        if orientation(image) != 1:
            image = ImageOps.exif_transpose(image)
        pixels, more = _rgb(image)
        return Picture(pixels, (*assumed, *more))
    except Unreadable as error:
        raise ImageError(f"{name} {error}; {error.hint}", OTHER_KIND) from None
    except MemoryError:  # the image may be good
        raise
    except Exception as error:
        raise _damaged(name, error) from error


def _wrong_checksum(data: bytes) -> str:
    """The name of the first chunk of a PNG that the pixels depend on and whose checksum is wrong; "" if there is none.

    Pillow does not verify the checksums of pixel data and would return wrong values.
    """
    at = len(PNG)
    while at + 12 <= len(data):
        length, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        end = at + 8 + length
        if end + 4 > len(data) or kind == b"IEND":
            break  # a file that is cut short is refused by its reader
        if kind in CHUNKS and zlib.crc32(memoryview(data)[at + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            return kind.decode()
        at = end + 4
    return ""


def _by_module(read: Callable, data: bytes, name: str) -> Picture:
    try:
        return Picture(*read(data, Image.MAX_IMAGE_PIXELS or float("inf")))
    except Unreadable as error:
        raise ImageError(f"{name} {error}; {error.hint}", OTHER_KIND) from None
    except MemoryError:
        raise
    except Exception as error:
        raise _damaged(name, error) from error


def _damaged(name: str, error: Exception) -> ImageError:
    why = " ".join(str(error).split()) or type(error).__name__
    return ImageError(f"{name}: the image is cut short or damaged ({why})", DAMAGED)


def open_image(data: bytes, name: str) -> Image.Image:
    """Reads only the header, with Pillow. Raises ImageError as `decode` does."""
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        message = f"{name}: {str(error).partition(',')[0].rstrip('.')}; cut it into tiles"
        raise ImageError(message, OTHER_KIND) from error
    except MemoryError:
        raise
    except Exception as error:  # a broken file makes Pillow's readers raise almost anything
        what, kind = _what(data)
        raise ImageError(f"{name} {what} ({READ})", kind) from error
    pixels, limit = image.width * image.height, Image.MAX_IMAGE_PIXELS
    if limit and pixels > limit:
        raise ImageError(f"{name} has {pixels} pixels, but at most {limit} are allowed; cut it into tiles", OTHER_KIND)
    return image


def _what(data: bytes) -> tuple[str, str]:
    """What kind of file Pillow refused, in words, and the category under which it is counted."""
    no = "not an image of a format that is read"
    start = data[:64].lstrip(b"\xef\xbb\xbf \t\r\n")
    other = next((what for magic, what in OTHERS.items() if start.startswith(magic) or data.startswith(magic)), "")
    if data[4:8] == b"ftyp":
        other = BRANDS.get(data[8:12], "a film")
    if data[128:132] == b"DICM":
        other = "a DICOM file"
    if other or not data:
        return f"is {other or 'empty'}, {no}", "not an image"
    if data[:3] == b"\xff\xd8\xff":
        if why := _jpeg_kind(data):
            return f"is a JPEG with {why}, {no}", OTHER_KIND
        return f"begins as a JPEG file and is cut short or damaged, {no}", DAMAGED
    for magic, known in ((PNG, "PNG"), (b"GIF8", "GIF"), (b"BM", "BMP"), (b"RIFF", "WebP")):
        if data.startswith(magic):
            return f"begins as a {known} file and is cut short or damaged, {no}", DAMAGED
    return f"is {no}", "not an image"


def _jpeg_kind(data: bytes) -> str:
    """Why Pillow refuses a JPEG, according to its frame header; "" if the header is missing."""
    at = 2
    while at + 10 <= len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            if data[at + 4] != 8:
                return f"{data[at + 4]} bits per channel"
            if marker in (0xC3, 0xC7, 0xCB, 0xCF):
                return "lossless compression"
            return "" if data[at + 9] in (1, 3, 4) else f"{data[at + 9]} channels"
        at += 2 + max(2, length)
    return ""


def orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 (upright) to 8."""
    try:
        return image.getexif().get(ORIENTATION, 1)
    except MemoryError:
        raise
    except Exception:  # a damaged EXIF block says nothing about the pixels
        return 1


def _frames(image: Image.Image) -> tuple[str, ...]:
    if image.format == "MPO":  # a photograph with what a camera adds, such as a preview or a stereo image
        return ("several images in one file: the first is used",)
    return ("an animation: the first frame is used",) if getattr(image, "is_animated", False) else ()


def _needs_libpng(data: bytes, image: Image.Image) -> bool:
    """Whether Pillow would lose information: the lower 8 of 16 bits, or the transparency of gray below 8 bits."""
    if image.format != "PNG":
        return False
    bits, colors = data[24], data[25]
    return bits == 16 or (colors == 0 and bits < 8 and "transparency" in image.info)


def _png(data: bytes, image: Image.Image) -> tuple[np.ndarray, tuple[str, ...]]:
    """Decodes a PNG with libpng, which converts a transparent color to a transparency channel."""
    import imagecodecs

    values = imagecodecs.png_decode(data)
    values = values[..., None] if values.ndim == 2 else values
    white = np.iinfo(values.dtype).max
    n = 1 if values.shape[2] <= 2 else 3
    alpha = values[..., n] if values.shape[2] > n else None
    pixels = channels.to_rgb(values[..., :n], white, alpha)
    assumed = (*_frames(image), *_dark(values[..., :n]))
    return channels.upright(pixels, orientation(image)), assumed


def _dark(values: np.ndarray) -> tuple[str, ...]:
    if values.dtype == np.uint16 and 0 < values.max() < tiff.DARK:
        return (tiff.DARK_16.format(tiff.DARK - 1),)
    return ()


def _rgb(image: Image.Image) -> tuple[np.ndarray, tuple[str, ...]]:
    """Converts any mode with a known range of values to RGB, on white."""
    mode = image.mode
    if mode.startswith("I;16") or (
        mode == "I" and image.format == "PPM"
    ):  # Pillow would clip values above 255 to white
        values = np.asarray(image).astype(np.uint16)[..., None]
        return channels.to_rgb(values, 65535), _dark(values)
    if mode in ("I", "F"):
        raise Unreadable(channels.in_words("f" if mode == "F" else "u", 32))
    if mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info:
        image = image.convert("LA") if mode == "La" else image
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB")), ()
