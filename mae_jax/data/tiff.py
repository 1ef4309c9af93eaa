"""Decodes TIFF files of up to 16 bits to 8-bit RGB with tifffile and imagecodecs.

The meaning of the values follows TIFF 6.0 (Adobe, 1992) and its Technical Note 1 (reduced images). A file whose
meaning is not known is refused with the reason.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import logging
import math
import re
import threading
from collections.abc import Iterator

import numpy as np
from jaxtyping import UInt8

from mae_jax.data import channels
from mae_jax.data.channels import Damaged, Unreadable
from mae_jax.runtime.text import count

SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # classic and BigTIFF
MAX_PAGES = 100  # maximum number of pages to search for the image
MAX_TAG = 1 << 20  # maximum number of characters of a description to search
DARK = 4096  # 16-bit images with lower values look almost black, and may come from a 12-bit camera
DARK_16 = "16 bits without a value above {}: 65535 is white, so the image is almost black"

# tags
NEW_SUBFILE, ORIENTATION, MAX_SAMPLE, COLOR_MAP, SUB_IFDS, INK_SET, EXTRA = 254, 274, 281, 320, 330, 332, 338
DNG_VERSION = 50706
REDUCED, MASK = 1, 4  # bits of NewSubfileType
MIN_IS_WHITE, GRAY, RGB, PALETTE, TRANSPARENCY, CMYK, YCBCR = range(7)
COLORS = {MIN_IS_WHITE: 1, GRAY: 1, RGB: 3, PALETTE: 1, CMYK: 4, YCBCR: 3}  # channels that hold color
OTHER = {
    TRANSPARENCY: "a transparency mask",
    8: "colors in CIE L*a*b*",
    9: "colors in ICC L*a*b*",
    10: "colors in ITU L*a*b*",
    32803: "raw camera data (a color filter array)",
    32844: "luminance in a logarithmic code (LogL)",
    32845: "colors in a logarithmic code (LogLuv)",
    34892: "raw camera data (linear raw)",
    51177: "a depth map",
}
ASSOCIATED, UNASSOCIATED = 1, 2  # kinds of alpha
FAX = (2, 3, 4)  # compressions of CCITT, whose decoders read damaged data without an error
OLD_JPEG, JPEG = 6, (7, 33007, 34892)  # compressions whose decoders convert YCbCr to RGB
APERIO_YCBCR = 33003


class _Faults(logging.Handler):
    """Keeps the first error that tifffile logs in a thread, because tifffile then continues with wrong pixels."""

    def __init__(self):
        super().__init__(logging.ERROR)
        self.of_thread = threading.local()

    def emit(self, record: logging.LogRecord) -> None:
        if not getattr(self.of_thread, "first", ""):
            self.of_thread.first = record.getMessage()

    @contextlib.contextmanager
    def raised(self) -> Iterator[None]:
        """Raises Damaged at the end of the context if an error was logged inside it."""
        self.of_thread.first = ""
        yield
        if first := self.of_thread.first:
            raise Damaged(re.sub(r"<tifffile[^>]*> ?|@\d+ ?", "", first))


_faults = _Faults()
logging.getLogger("tifffile").addHandler(_faults)
logging.getLogger("tifffile").propagate = False  # its messages name no file


def read(data: bytes, max_pixels: float = math.inf) -> tuple[UInt8[np.ndarray, "h w 3"], tuple[str, ...]]:
    """Decodes the page that holds the image, upright and on white. Also returns the assumptions made.

    Raises Unreadable if the file does not say what its values mean or has more than `max_pixels` pixels. A damaged
    file can raise almost any exception.
    """
    import tifffile

    if data[8:10] == b"CR" and data[:2] == b"II":
        raise Unreadable("holds raw camera data (Canon CR2)")
    with _faults.raised(), tifffile.TiffFile(io.BytesIO(data)) as file:
        page, assumed = _image(file)
        _refuse(page, len(data), max_pixels)
        pixels, more = _rgb(page, data, file)
        return channels.upright(pixels, page.tags.valueof(ORIENTATION, 1)), (*assumed, *more)


def _image(file) -> tuple:
    """The page that holds the image, not a thumbnail or a mask, and the assumptions made.

    It is the first of the candidates. Raises Unreadable unless it is also the largest.
    """
    top = list(itertools.islice(file.pages, MAX_PAGES))
    if DNG_VERSION in top[0].tags:
        raise Unreadable("holds raw camera data (DNG)")
    pages = [page for page in top if not _kind(page) & (REDUCED | MASK)]
    if not pages:  # cameras store the image in a sub-page of its thumbnail
        below = [sub for page in top if SUB_IFDS in page.tags for sub in itertools.islice(page.pages, MAX_PAGES)]
        pages = [page for page in below if not _kind(page) & (REDUCED | MASK)]
    if not pages:
        if all(_kind(page) & MASK for page in top):
            raise Unreadable(f"holds {OTHER[TRANSPARENCY]} and no image")
        if max(top, key=_area) is not top[0]:
            raise Unreadable(f"holds {count(len(top), 'page')}, all marked as thumbnails", "save the image alone")
        return top[0], ("all pages are marked as thumbnails: the first is used",)
    _refuse_channels_in_pages(file, pages)
    if len(pages) == 1 and _images_in_description(pages[0]) == 1:
        return pages[0], ()
    if max(pages, key=_area) is not pages[0]:
        sizes = ", ".join(f"{page.imagewidth} x {page.imagelength}" for page in pages[:3])
        raise Unreadable(
            f"holds {count(len(pages), 'page')} ({sizes}), none marked as a thumbnail", "save the image alone"
        )
    return pages[0], ("several pages: the first is used",)


def _kind(page) -> int:
    kind = page.subfiletype
    return int(kind) if isinstance(kind, int) else 0


def _area(page) -> int:
    return page.imagewidth * page.imagelength


def _refuse_channels_in_pages(file, pages: list) -> None:
    """Raises Unreadable if OME-XML or ImageJ metadata say that each page is one channel of an image."""
    text = (file.pages[0].description or "")[:MAX_TAG]
    n = 1
    if file.is_ome and (match := re.search(r'SizeC="(\d+)"', text)):
        n = int(match[1]) // max(1, pages[0].samplesperpixel)
    elif text.startswith("ImageJ=") and (match := re.search(r"^channels=(\d+)", text, re.MULTILINE)):
        n = int(match[1])
    if n > 1:
        raise Unreadable(f"holds {n} channels in separate pages, not marked as red, green and blue")


def _images_in_description(page) -> int:
    """Number of images stored one after another in one page, as ImageJ writes large stacks."""
    text = (page.description or "")[:MAX_TAG]
    match = re.search(r"^images=(\d+)", text, re.MULTILINE) if text.startswith("ImageJ=") else None
    return int(match[1]) if match else 1


def _refuse(page, length: int, max_pixels: float) -> None:
    """Raises Unreadable or Damaged, before decoding, for a page with unknown meaning, too large, or incomplete."""
    import tifffile  # takes half a second, and most data sets have no TIFF

    if (n := _area(page)) > max_pixels:
        raise Unreadable(f"has {n} pixels, but at most {max_pixels} are allowed", "cut it into tiles")
    if not n:
        raise Damaged("no pixels")
    if page.photometric not in COLORS:
        raise Unreadable(f"holds {OTHER.get(page.photometric, f'colors of an unknown kind ({page.photometric})')}")
    bits, kinds = page.bitspersample, {1: "u", 2: "i", 3: "f", 4: "u", 5: "c", 6: "c"}
    if isinstance(bits, tuple):
        raise Unreadable(f"has channels of different sizes ({', '.join(map(str, bits))} bits)")
    kind = kinds.get(page.sampleformat if isinstance(page.sampleformat, int) else 0, "")
    if not kind:
        raise Unreadable("has channels with different types of numbers")
    if kind != "u" or not 1 <= bits <= 16:
        raise Unreadable(channels.in_words(kind, bits))
    if page.samplesperpixel < COLORS[page.photometric]:
        raise Unreadable(f"has {count(page.samplesperpixel, 'channel')}, too few for its colors")
    if page.samplesperpixel > 16:
        raise Unreadable(f"has {page.samplesperpixel} channels, not marked as red, green and blue")
    if page.imagedepth > 1 or page.tiledepth > 1:
        raise Unreadable("holds a volume")
    if page.photometric == CMYK and page.tags.valueof(INK_SET, 1) != 1:
        raise Unreadable("holds inks other than cyan, magenta, yellow and black")
    if page.compression == APERIO_YCBCR:
        raise Unreadable("holds JPEG 2000 in YCbCr as Aperio's scanners write it", "prepare it as a slide")
    if page.compression != 1 and page.compression not in tifffile.TIFF.DECOMPRESSORS:
        raise Unreadable(f"has an unsupported compression ({_name(page.compression)})", "save it uncompressed")
    starts, sizes = page.dataoffsets, page.databytecounts
    if not len(starts) == len(sizes) == math.prod(page.chunked):
        raise Damaged(f"{len(starts)} offsets and {len(sizes)} sizes for {math.prod(page.chunked)} parts of the image")
    if not all(sizes) or not all(starts):
        raise Damaged("parts of the image were never written")
    if (end := max(a + b for a, b in zip(starts, sizes, strict=True))) > length:
        raise Damaged(f"it has {length} bytes instead of at least {end}")


def _name(compression: int) -> str:
    return getattr(compression, "name", f"compression {int(compression)}")


def _rgb(page, data: bytes, file) -> tuple[np.ndarray, tuple[str, ...]]:
    """Decodes a page to RGB on white, in the orientation of the file."""
    if (page.photometric == YCBCR and page.compression not in JPEG) or page.compression == OLD_JPEG:
        return _by_libtiff(page, data, file), ()
    values = page.asarray(maxworkers=1).reshape(page.shaped)
    if page.compression in FAX:
        _compare_with_libtiff(page, data, values)
    values = np.moveaxis(values[..., 0], 0, -1)[0] if page.shaped[0] > 1 else values[0, 0]
    if values.dtype == bool:
        values = values.astype(np.uint8)
    n, assumed = COLORS[page.photometric], []
    colors, white = values[..., :n], 2**page.bitspersample - 1
    alpha, premultiplied, more = _alpha(page, values, n)
    assumed += more
    if page.photometric == PALETTE:
        colors, index = _palette(page, white), colors[..., 0]
        if alpha is not None:
            raise Unreadable("has a palette and a transparency channel")
        return colors[np.minimum(index, len(colors) - 1)], tuple(assumed)
    if page.photometric == CMYK:
        rgb = channels.cmyk_to_rgb(colors, white)
        alpha = None if alpha is None else channels.to_8_bits(alpha, white)
        return channels.to_rgb(rgb, 255, alpha, premultiplied), tuple(assumed)
    if page.bitspersample == 16:
        white, more = _white(page, colors)
        assumed += more
        if white < 65535 and alpha is not None:
            alpha = np.minimum(alpha, white)
    if page.photometric == MIN_IS_WHITE:
        colors = white - np.minimum(colors, white)
    return channels.to_rgb(colors, white, alpha, premultiplied), tuple(assumed)


def _alpha(page, values: np.ndarray, n: int) -> tuple[np.ndarray | None, bool, list[str]]:
    """The transparency channel after `n` colors, whether colors are multiplied by it, and assumptions."""
    extra = values.shape[2] - n
    kinds = ([int(kind) for kind in page.extrasamples] + [0] * extra)[:extra]
    channel = next((i for i, kind in enumerate(kinds) if kind in (ASSOCIATED, UNASSOCIATED)), None)
    others = [n + i for i in range(extra) if i != channel]
    if others and n == 1:
        raise Unreadable(f"has {values.shape[2]} channels, not marked as red, green and blue")
    assumed = list(channels.ignore({i + 1: values[..., i] for i in others}, 2**page.bitspersample - 1))
    if channel is None:
        return None, False, assumed
    return values[..., n + channel], kinds[channel] == ASSOCIATED, assumed


def _white(page, values: np.ndarray) -> tuple[int, list[str]]:
    """The value that is white in 16 bits, and assumptions.

    It is MaxSampleValue if that is the maximum of 9 to 15 bits and no pixel is above it.
    """
    maximum, largest = page.tags.valueof(MAX_SAMPLE), int(values.max())
    maximum = maximum[0] if isinstance(maximum, tuple) else maximum
    if isinstance(maximum, int) and 255 < maximum < 65535 and maximum & (maximum + 1) == 0 and largest <= maximum:
        return maximum, [f"{maximum.bit_length()} bits in 16: MaxSampleValue {maximum} is white"]
    if 0 < largest < DARK and page.photometric != MIN_IS_WHITE:
        return 65535, [DARK_16.format(DARK - 1)]
    return 65535, []


def _palette(page, largest: int) -> UInt8[np.ndarray, "colors 3"]:
    table = page.tags.valueof(COLOR_MAP)
    table = None if table is None else np.asarray(table)
    if table is None or table.size != 3 * (largest + 1):
        raise Unreadable("lacks the colors of its palette")
    table = table.reshape(3, -1).T
    return (table if table.max() < 256 else table >> 8).astype(np.uint8)  # some writers use 8 bits


def _compare_with_libtiff(page, data: bytes, values: np.ndarray) -> None:
    """Raises Damaged if libtiff reads other values from a page, as two decoders do from damaged fax data."""
    import imagecodecs

    if isinstance(page.index, int):
        theirs = imagecodecs.tiff_decode(data, index=page.index)
        if theirs.size != values.size or (theirs.ravel().astype(bool) != values.ravel().astype(bool)).any():
            raise Damaged("its fax data (CCITT) can be read in two ways")


def _by_libtiff(page, data: bytes, file) -> UInt8[np.ndarray, "h w 3"]:
    """Decodes YCbCr without JPEG, or with old-style JPEG. Only libtiff supports all their variants."""
    import imagecodecs

    if page.offset != file.pages.first.offset or page.tags.valueof(ORIENTATION, 1) != 1:
        raise Unreadable("holds YCbCr colors, which are supported only on an upright first page")
    pixels = imagecodecs.tiff_decode(data, asrgb=True)
    if pixels.shape != (page.imagelength, page.imagewidth, 4):
        raise Damaged(f"{pixels.shape[1::-1]} pixels of {(page.imagewidth, page.imagelength)}")
    return np.ascontiguousarray(pixels[..., :3])
