"""TIFF files, drawn by tifffile and by a small writer here: each is decoded correctly, or refused with its name."""

import io
import struct

import numpy as np
import pytest
import tifffile
from PIL import Image

from mae_jax.data import tiff
from mae_jax.data.decode import decode, load_image
from mae_jax.runtime.errors import UserError

HEIGHT, WIDTH = 24, 32
Y, X = np.mgrid[:HEIGHT, :WIDTH]
RGB = np.stack([X * 8, Y * 10, 255 - X * 8], -1)  # 0..255, another ramp in each channel
GRAY = RGB[..., :1]
ALPHA = np.where(WIDTH // 2 > X, 255, 0)[..., None]  # the right half is transparent
HALF = np.full_like(ALPHA, 128)


def on_white(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    return np.rint((rgb * alpha + 255 * (255 - alpha)) / 255)


def as_rgb(image: np.ndarray) -> np.ndarray:
    return np.broadcast_to(image, (HEIGHT, WIDTH, 3))


KINDS = {  # name: channels as they are written (0..255), photometric, extra samples, what is right, tolerance
    "gray": (GRAY, "minisblack", None, GRAY),
    "white is 0": (255 - GRAY, "miniswhite", None, GRAY),
    "gray, alpha": (np.concatenate([GRAY, ALPHA], -1), "minisblack", ["unassalpha"], on_white(GRAY, ALPHA)),
    "gray, half": (np.concatenate([GRAY, HALF], -1), "minisblack", ["unassalpha"], on_white(GRAY, HALF)),
    "gray, multiplied": (
        np.concatenate([GRAY * HALF // 255, HALF], -1), "minisblack", ["assocalpha"], on_white(GRAY, HALF),
    ),
    "RGB": (RGB, "rgb", None, RGB),
    "RGB, alpha": (np.concatenate([RGB, ALPHA], -1), "rgb", ["unassalpha"], on_white(RGB, ALPHA)),
    "RGB, multiplied": (np.concatenate([RGB * HALF // 255, HALF], -1), "rgb", ["assocalpha"], on_white(RGB, HALF)),
    "RGB, padding": (np.concatenate([RGB, 0 * ALPHA], -1), "rgb", ["unspecified"], RGB),
    "CMYK": (np.concatenate([255 - RGB, 0 * ALPHA], -1), "separated", None, RGB),
    "CMYK, alpha": (
        np.concatenate([255 - RGB, 0 * ALPHA, ALPHA], -1), "separated", ["unassalpha"], on_white(RGB, ALPHA),
    ),
}  # fmt: skip
COMPRESSIONS = {
    "none": {},
    "LZW": {"compression": "lzw"},
    "deflate, predictor": {"compression": "zlib", "predictor": True},
    "packbits": {"compression": "packbits"},
    "zstd": {"compression": "zstd"},
    "LZMA": {"compression": "lzma"},
    "tiles": {"tile": (16, 16)},
    "tiles, LZW": {"tile": (16, 16), "compression": "lzw"},
    "strips": {"rowsperstrip": 5, "compression": "lzw"},
    "big-endian": {"byteorder": ">", "compression": "zlib", "predictor": True},
    "BigTIFF": {"bigtiff": True},
}


def write(values: np.ndarray, planar: bool = False, **options) -> bytes:
    file = io.BytesIO()
    values = np.moveaxis(values, -1, 0) if planar else values
    if values.shape[0 if planar else -1] == 1:
        values = values.squeeze(0 if planar else -1)
    else:
        options["planarconfig"] = "separate" if planar else "contig"
    tifffile.imwrite(file, values, metadata=None, **options)
    return file.getvalue()


@pytest.mark.parametrize("compression", COMPRESSIONS.values(), ids=COMPRESSIONS)
@pytest.mark.parametrize("planar", [False, True], ids=["contiguous", "planar"])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_whole_bytes(kind, bits, planar, compression):
    values, photometric, extra, right = kind
    values = values.astype(np.uint8) if bits == 8 else values.astype(np.uint16) * 257
    data = write(values, planar, photometric=photometric, extrasamples=extra, **compression)
    image = decode(data)
    assert np.abs(image.pixels - as_rgb(right)).max() <= 2
    assert image.assumed == (
        ("an extra channel with the same value everywhere is ignored",) if extra == ["unspecified"] else ()
    )


@pytest.mark.parametrize(("compression", "off"), [("jpeg", 12), ("jpeg2000", 12), ("webp", 25), ("png", 0)])
@pytest.mark.parametrize("kind", ["gray", "RGB"])
def test_compressions_of_images(kind, compression, off):
    if (kind, compression) == ("gray", "webp"):
        return
    values, photometric, _, right = KINDS[kind]
    options = {"compressionargs": {"level": 95}} if compression == "jpeg" else {}
    data = write(values.astype(np.uint8), photometric=photometric, compression=compression, tile=(16, 16), **options)
    assert np.abs(load_image(data).astype(int) - as_rgb(right)).mean() <= off / 4


class Raw:
    """A TIFF file tag by tag, for what other writers do not make."""

    def __init__(self, values: np.ndarray, bits: int, photometric: int, planar: bool = False, **tags):
        height, width, samples = values.shape
        self.planes = [self._packed(values[..., [i]], bits) for i in range(samples)] if planar else []
        self.planes = self.planes or [self._packed(values, bits)]
        self.tags = {256: width, 257: height, 258: [bits] * samples, 259: 1, 262: photometric, 277: samples}
        self.tags |= {278: height, 279: [len(plane) for plane in self.planes], 284: 1 + planar}
        self.tags |= {int(key[1:]): value for key, value in tags.items()}

    @staticmethod
    def _packed(values: np.ndarray, bits: int) -> bytes:
        """Rows of whole bytes, the first value in the highest bits."""
        shifts = np.arange(bits - 1, -1, -1)
        ones = (values.reshape(len(values), -1, 1).astype(np.int64) >> shifts & 1).astype(np.uint8)
        return np.packbits(ones.reshape(len(values), -1), axis=1).tobytes()

    def bytes(self) -> bytes:
        return self.pages(self)

    @staticmethod
    def pages(*pages: "Raw") -> bytes:
        out, links = bytearray(b"MM\0*\0\0\0\0"), [4]
        for page in pages:
            starts = []
            for plane in page.planes:
                starts.append(len(out))
                out += plane
            rows = b""
            for tag, value in sorted((page.tags | {273: starts}).items()):
                value = [value] if isinstance(value, int) else value
                long = tag in (273, 279)
                body = struct.pack(f">{len(value)}{'L' if long else 'H'}", *value)
                if len(body) > 4:
                    out += bytes(len(out) % 2)
                    place, body = struct.pack(">L", len(out)), body
                    out += body
                else:
                    place = body.ljust(4, b"\0")
                rows += struct.pack(">HHL", tag, 4 if long else 3, len(value)) + place
            out += bytes(len(out) % 2)
            struct.pack_into(">L", out, links[-1], len(out))
            out += struct.pack(">H", len(page.tags) + 1) + rows
            links.append(len(out))
            out += bytes(4)
        return bytes(out)


@pytest.mark.parametrize("planar", [False, True], ids=["contiguous", "planar"])
@pytest.mark.parametrize("bits", [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16])
@pytest.mark.parametrize("kind", ["gray", "white is 0", "gray, alpha", "RGB", "RGB, alpha", "CMYK"])
def test_any_bits(kind, bits, planar):
    values, photometric, extra, _ = KINDS[kind]
    white = 2**bits - 1
    coarse = np.rint(values * white / 255).astype(int)
    kinds = {"minisblack": 1, "miniswhite": 0, "rgb": 2, "separated": 5}
    data = Raw(coarse, bits, kinds[photometric], planar, **({"t338": [2]} if extra else {})).bytes()
    again = coarse * 255 / white  # what is left of 0..255 at so many bits
    right = again[..., :3] if photometric == "rgb" else again[..., :1]
    right = 255 - again[..., :3] if photometric == "separated" else right
    right = 255 - right if photometric == "miniswhite" else right
    right = on_white(right, again[..., -1:]) if extra else right
    assert np.abs(load_image(data) - as_rgb(right)).max() <= 1.01


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("table_bits", [8, 16])
def test_palettes(bits, table_bits):
    index = (X + Y)[..., None] % 2**bits
    colors = np.stack([np.arange(2**bits) * k * 17 % 256 for k in (1, 3, 5)])
    table = (colors * (257 if table_bits == 16 else 1)).ravel().tolist()
    if max(table) < 256 and table_bits == 16:
        return
    image = load_image(Raw(index, bits, 3, t320=table).bytes())
    np.testing.assert_array_equal(image, colors.T[index[..., 0]])


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize(
    ("dtype", "why"),
    [
        (np.int8, r"signed pixels \(8 bits\)"),
        (np.int16, r"signed pixels \(16 bits\)"),
        (np.int32, r"signed pixels \(32 bits\)"),
        (np.uint32, "32-bit pixels"),
        (np.float16, r"floating-point pixels \(16 bits\)"),
        (np.float32, r"floating-point pixels \(32 bits\)"),
        (np.float64, r"floating-point pixels \(64 bits\)"),
        (np.complex64, "pixels that are complex numbers"),
    ],
)
def test_values_without_a_white_are_refused(dtype, why, samples):
    values = (RGB[..., :samples] // 2).astype(dtype)
    data = write(values, photometric="rgb" if samples == 3 else "minisblack")
    with pytest.raises(UserError, match=rf"^a/b\.tif has {why}.*; save it with 8 or 16 bits") as error:
        load_image(data, "a/b.tif")
    assert "\n" not in str(error.value)


REFUSED = {
    "two stains": (write(np.concatenate([GRAY, ALPHA], -1).astype(np.uint8), photometric="minisblack",
                         extrasamples=["unspecified"]), "has 2 channels, not marked as red, green and blue"),
    "three stains": (write(RGB.astype(np.uint8), True, photometric="minisblack"), "has 3 channels, not marked as red"),
    "a fourth channel": (write(np.concatenate([RGB, GRAY], -1).astype(np.uint8), photometric="rgb",
                               extrasamples=["unspecified"]), "has a channel 4 in addition to its colors"),
    "CIELab": (Raw(RGB, 8, 8).bytes(), r"holds colors in CIE L\*a\*b\*"),
    "camera": (Raw(GRAY, 8, 32803).bytes(), "holds raw camera data"),
    "mask": (Raw(GRAY // 255, 1, 4, t254=4).bytes(), "holds a transparency mask"),
    "inks": (Raw(np.concatenate([RGB, GRAY], -1), 8, 5, t332=2).bytes(), "holds inks other than"),
    "565": (Raw(RGB, 8, 2, t258=[5, 6, 5]).bytes(), r"has channels of different sizes \(5, 6, 5 bits\)"),
    "fax of old": (Raw(GRAY, 8, 1, t259=32809).bytes(), r"has an unsupported compression \(THUNDERSCAN\)"),
    "sparse": (Raw(GRAY, 8, 1, t279=[0]).bytes(), "parts of the image were never written"),
    "cut": (Raw(GRAY, 8, 1, t279=[5000]).bytes(), "cut short or damaged .* instead of at least"),
    "strips": (Raw(GRAY, 8, 1, t278=4).bytes(), r"cut short or damaged \("),
    "no palette": (Raw(GRAY, 8, 3).bytes(), "lacks the colors of its palette"),
}  # fmt: skip


@pytest.mark.parametrize(("data", "why"), REFUSED.values(), ids=REFUSED)
def test_refused_with_the_reason(data, why, capfd):
    with pytest.raises(UserError, match=rf"^a/b\.tif.*{why}") as error:
        load_image(data, "a/b.tif")
    assert "\n" not in str(error.value)
    assert capfd.readouterr() == ("", "")  # no lines of a library, which would not name the file


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("compression", ["none", "lzw", "zlib", "packbits", "zstd", "lzma", "jpeg", "jpeg2000"])
def test_cut_files_are_refused(compression, share, capfd):
    """The directory comes first here, so that what is lost are pixels."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    data = write(noise, photometric="rgb", compression=None if compression == "none" else compression, rowsperstrip=16)
    with pytest.raises(UserError, match=r"^a/b\.tif"):
        load_image(data[: int(len(data) * share)], "a/b.tif")
    assert capfd.readouterr() == ("", "")


def test_twelve_bits_in_sixteen():
    twelve = GRAY.astype(np.uint16) * 16
    image = decode(Raw(twelve, 16, 1, t281=[4095]).bytes())
    np.testing.assert_allclose(image.pixels, as_rgb(GRAY), atol=1)
    assert image.assumed == ("12 bits in 16: MaxSampleValue 4095 is white",)
    image = decode(Raw(4095 - twelve, 16, 0, t281=[4095]).bytes())
    np.testing.assert_allclose(image.pixels, as_rgb(GRAY), atol=1)
    plain = decode(Raw(twelve, 16, 1).bytes())
    assert plain.pixels.max() == 15 and plain.assumed == (tiff.DARK_16.format(4095),)


@pytest.mark.parametrize("message", [3968, 200, 65535, 2047])
def test_a_largest_value_that_is_not_a_bit_depth_is_not_white(message):
    """The largest value of this image, which some writers put there, would change its contrast; 2047 is wrong."""
    image = decode(Raw(GRAY.astype(np.uint16) * 16, 16, 1, t281=[message]).bytes())
    assert image.pixels.max() == 15 and not any("MaxSampleValue" in text for text in image.assumed)


def small() -> Raw:
    return Raw(RGB[::4, ::4], 8, 2, t254=1)


PAGES = {
    "thumbnail first": ([small(), Raw(RGB, 8, 2)], ()),
    "thumbnail last": ([Raw(RGB, 8, 2), small()], ()),
    "thumbnail by the old tag": ([Raw(RGB[::4, ::4], 8, 2, t255=2), Raw(RGB, 8, 2)], ()),
    "mask": ([Raw(RGB, 8, 2), Raw(GRAY // 128, 1, 4, t254=4)], ()),
    "pyramid": ([Raw(RGB, 8, 2), Raw(RGB[::2, ::2], 8, 2)], ("several pages: the first is used",)),
    "several": ([Raw(RGB, 8, 2), Raw(255 - RGB, 8, 2)], ("several pages: the first is used",)),
}


@pytest.mark.parametrize(("pages", "assumed"), PAGES.values(), ids=PAGES)
def test_pages(pages, assumed):
    image = decode(Raw.pages(*pages))
    np.testing.assert_array_equal(image.pixels, RGB)
    assert image.assumed == assumed


def test_a_smaller_first_page_that_is_not_marked_is_refused():
    with pytest.raises(UserError, match=r"holds 2 pages \(8 x 6, 32 x 24\), none marked as a thumbnail"):
        load_image(Raw.pages(Raw(RGB[::4, ::4], 8, 2), Raw(RGB, 8, 2)), "a.tif")


@pytest.mark.parametrize("kind", ["ome", "imagej"])
def test_channels_in_pages_of_their_own_are_refused(kind):
    file = io.BytesIO()
    stack = np.moveaxis(RGB, -1, 0).astype(np.uint16)[:2]
    tifffile.imwrite(file, stack, **{kind: True}, metadata={"axes": "CYX"}, photometric="minisblack")
    with pytest.raises(UserError, match="holds 2 channels in separate pages"):
        load_image(file.getvalue(), "a.tif")


@pytest.mark.parametrize("kind", ["ome", "imagej"])
def test_planes_of_a_stack_are_counted(kind):
    file = io.BytesIO()
    tifffile.imwrite(file, np.stack([RGB, 255 - RGB]).astype(np.uint8), **{kind: True}, metadata={"axes": "ZYXS"},
                     photometric="rgb")  # fmt: skip
    image = decode(file.getvalue())
    np.testing.assert_array_equal(image.pixels, RGB)
    assert image.assumed == ("several pages: the first is used",)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["TIFF", "PNG", "JPEG"])
def test_every_orientation(format, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    options = {"quality": 100, "subsampling": 0} if format == "JPEG" else {}
    Image.fromarray(RGB.astype(np.uint8)).save(file, format, exif=exif.tobytes(), **options)
    turns = {1: None, 2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_270"}
    turns |= {7: "TRANSVERSE", 8: "ROTATE_90"}
    right = Image.fromarray(RGB.astype(np.uint8))
    right = right if orientation == 1 else right.transpose(Image.Transpose[turns[orientation]])
    np.testing.assert_allclose(load_image(file.getvalue()).astype(int), np.asarray(right, int), atol=3)


@pytest.mark.parametrize("subsampling", [(1, 1), (2, 2)])
def test_uncompressed_ycbcr(subsampling):
    gray = np.concatenate([GRAY, np.full((HEIGHT, WIDTH, 2), 128)], -1)
    page = Raw(gray, 8, 6, t530=list(subsampling))
    if subsampling == (2, 2):  # of four pixels: four Y, one Cb, one Cr
        y = GRAY[..., 0].reshape(HEIGHT // 2, 2, WIDTH // 2, 2).transpose(0, 2, 1, 3).reshape(-1, 4)
        page.planes = [np.concatenate([y, np.full((len(y), 2), 128)], 1).astype(np.uint8).tobytes()]
        page.tags[279] = [len(page.planes[0])]
    np.testing.assert_allclose(load_image(page.bytes()), as_rgb(GRAY), atol=2)


def test_a_large_header_does_not_fill_the_memory():
    page = Raw(GRAY, 8, 1)
    page.tags |= {256: 60000, 257: 60000, 278: 60000}
    with pytest.raises(
        UserError, match=r"^big\.tif has 3600000000 pixels, but at most .* are allowed; cut it into tiles"
    ):
        load_image(page.bytes(), "big.tif")


@pytest.mark.parametrize("compression", ["group3", "group4"])
def test_damaged_fax_data_are_refused(compression):
    """Both decoders read on without an error, each in its own way."""
    bits = Image.fromarray(np.uint8(255 * (np.random.default_rng(0).random((40, 60)) < 0.7))).convert("1")
    file = io.BytesIO()
    bits.save(file, "TIFF", compression=compression)
    data = bytearray(file.getvalue())
    np.testing.assert_array_equal(load_image(bytes(data))[..., 0], np.asarray(bits.convert("L")))
    with tifffile.TiffFile(io.BytesIO(data)) as opened:
        page = opened.pages[0]
        start, size = page.dataoffsets[0], page.databytecounts[0]
    refused = 0
    for i in range(10, size - 10, size // 20):
        changed = data.copy()
        changed[start + i] ^= 0x5A
        try:
            load_image(bytes(changed))
        except UserError as error:
            assert "cut short or damaged" in str(error)
            refused += 1
    assert refused > 10  # some changes give another valid image
