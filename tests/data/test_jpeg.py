import io

import numpy as np
import pytest
from PIL import Image

from mae_jax.data import jpeg, synthetic
from mae_jax.data.transforms import RandomResizedCrop

TISSUE = synthetic.draw_tissue(np.random.default_rng(0), 160)


def encode(pixels: np.ndarray, mode: str | None = None, **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels, mode).save(file, "JPEG", **options)
    return file.getvalue()


def pixels_of(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def boxes(height: int, width: int, n: int = 25):
    rng = np.random.default_rng((height, width))
    yield from ((0, 0, width, height), (0, 0, 1, 1), (width - 1, height - 1, 1, 1))
    crop = RandomResizedCrop(8, (0.05, 1.0))
    for _ in range(n):
        yield crop.box(height, width, rng)


@pytest.mark.parametrize("shape", [(160, 160), (97, 143), (16, 16), (40, 3)])
@pytest.mark.parametrize(
    "options",
    [
        {"quality": 95},
        {"quality": 40, "subsampling": "4:4:4"},
        {"quality": 80, "subsampling": "4:2:2"},
        {"restart_marker_rows": 1},
        {"restart_marker_rows": 2, "subsampling": "4:4:4"},
        {"restart_marker_blocks": 1},
        {"restart_marker_blocks": 2, "subsampling": "4:2:2", "optimize": True},
        {"restart_marker_blocks": 7},  # not along a grid
    ],
    ids=str,
)
@pytest.mark.parametrize("gray", [False, True])
def test_pixels_of_a_part_are_those_of_the_whole(shape, options, gray):
    pixels = TISSUE[: shape[0], : shape[1]]
    data = encode(pixels[..., 0] if gray else pixels, **options)
    expected, header = pixels_of(data), jpeg.read_header(data)
    assert (header.height, header.width) == shape
    for box in boxes(*shape):
        part, x, y = jpeg.decode(data, header, box)
        left, upper, w, h = box
        cut = part[upper - y : upper - y + h, left - x : left - x + w]
        np.testing.assert_array_equal(cut, expected[upper : upper + h, left : left + w])
        for reduced in (2, 4, 8):
            small, x2, y2 = jpeg.decode(data, header, box, reduced)
            assert (x2 * reduced, y2 * reduced) == (x, y)
            assert small.shape == (-(-part.shape[0] // reduced), -(-part.shape[1] // reduced), 3)


def test_only_what_a_crop_touches_is_decoded():
    data = jpeg.encode(TISSUE, halved=True)
    header = jpeg.read_header(data)
    assert header.halved and header.interval == 2
    part, left, upper, height, width, unread = jpeg.window(data, header, (70, 50, 50, 40), margin=0)
    assert (left, upper, height, width, unread) == (64, 48, 48, 64, False)
    assert pixels_of(bytes(part)).shape == (48, 64, 3)  # a JPEG of its own
    np.testing.assert_array_equal(pixels_of(bytes(part))[2:-2, 2:-2], pixels_of(data)[50:94, 66:126])
    assert len(part) < len(data) / 2
    # The box ends where an interval does: interpolated chroma needs the next pixel.
    assert jpeg.window(data, header, (64, 48, 64, 48), margin=0)[1:5] == (64, 48, 48, 64)
    assert jpeg.window(data, header, (64, 48, 64, 48), margin=1)[1:5] == (32, 32, 80, 128)
    plain = encode(TISSUE)
    part, left, upper, height, width, unread = jpeg.window(plain, jpeg.read_header(plain), (70, 50, 50, 40))
    assert (left, upper, height, width, unread) == (0, 0, 96, 160, True)


@pytest.mark.parametrize("halved", [False, True])
@pytest.mark.parametrize(("width", "wide"), [(500, (56, 32)), (512, (32, 32)), (160, (32, 32)), (300, (304, 304))])
def test_tiles_are_encoded_with_markers_along_a_grid(width, wide, halved):
    pixels = np.resize(TISSUE, (96, width, 3))
    data, header = jpeg.encode(pixels, halved), jpeg.read_header(jpeg.encode(pixels, halved))
    assert header.halved == halved and header.interval * header.mcu[1] == wide[halved]
    plain = encode(pixels, quality=jpeg.QUALITY, subsampling="4:2:0" if halved else "4:4:4")
    np.testing.assert_array_equal(pixels_of(data), pixels_of(plain))
    assert len(data) < 1.01 * len(plain)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xd8",
        encode(TISSUE)[:300],
        encode(TISSUE, progressive=True),
        b"\x89PNG" + bytes(100),
        encode(np.zeros((9, 9, 4), np.uint8), mode="CMYK"),
    ],
    ids=["empty", "begun", "cut short", "progressive", "PNG", "CMYK"],
)
def test_what_is_not_a_plain_jpeg_is_left_to_pillow(data):
    assert jpeg.read_header(data) is None


@pytest.mark.parametrize("options", [{}, {"restart_marker_blocks": 2}])
def test_damaged_bytes_are_read_or_refused_but_never_crash(options):
    data, rng = encode(TISSUE, **options), np.random.default_rng(0)
    refused = 0
    for k in range(300):
        broken = bytearray(data)
        reach = len(data) if k % 2 else 650  # every other time in the header
        for _ in range(rng.integers(1, 4)):
            broken[rng.integers(reach)] = rng.integers(256)
        header = jpeg.read_header(bytes(broken))
        if header is None or header.height * header.width > 1e6:
            continue
        try:
            jpeg.decode(bytes(broken), header, RandomResizedCrop(8).box(header.height, header.width, rng))
        except ValueError:
            refused += 1
    assert refused > 20
