import io

import numpy as np
import pytest
from PIL import Image

from mae_jax.data import jpeg, transforms
from mae_jax.data.transforms import CenterResize, Decode, RandomFlip, RandomResizedCrop, load_image
from mae_jax.errors import UserError


def encode(image: Image.Image, format: str = "PNG", **options) -> bytes:
    data = io.BytesIO()
    image.save(data, format, **options)
    return data.getvalue()


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth colours, an edge and some noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / max(height, width)
    waves = [np.sin(9 * x + 2), np.cos(7 * y), np.sin(11 * x * y)]
    image = 128 + 80 * np.stack(waves, -1) + rng.normal(0, 6, (height, width, 3))
    image[height // 3 : height // 2, width // 4 : width // 2] -= 70
    return np.clip(image, 0, 255).astype(np.uint8)


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
    exif[transforms.ORIENTATION] = 6  # to be turned by 90 degrees clockwise
    data = encode(Image.fromarray(pixels), format, exif=exif.tobytes())
    plain = load_image(encode(Image.fromarray(pixels), format))
    upright = np.rot90(plain, -1)
    np.testing.assert_array_equal(load_image(data), upright)
    centre = CenterResize(40)(Decode()({"image": data}))["image"]
    np.testing.assert_array_equal(centre, upright[10:50])


@pytest.mark.parametrize("mode", ["I", "F"])
def test_32_bit_is_refused_by_name(mode):
    data = encode(Image.new(mode, (4, 4)), "TIFF")
    for read in (lambda: load_image(data, "a/b.tif"),
                 lambda: Decode()({"image": data, "name": "a/b.tif"})):  # fmt: skip
        with pytest.raises(UserError, match=r"a/b\.tif: 32-bit.*mode " + mode):
            read()


def test_broken_files_are_refused_by_name():
    whole = encode(Image.fromarray(picture(200, 200)), "JPEG")
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"
    tga = encode(Image.new("RGB", (4, 4)), "TGA")  # Pillow would open it
    for data in (b"", b"hello", eps, tga, whole[:300], whole[: len(whole) // 2]):
        with pytest.raises(UserError, match=r"x\.png") as raised:
            load_image(data, "x.png")
        assert "\n" not in str(raised.value)
    element = Decode()({"image": whole[: len(whole) // 2], "name": "x.png"})
    with pytest.raises(UserError, match=r"x\.png"):
        CenterResize(16)(element)


@pytest.mark.parametrize("limit", [1000, 300])  # beyond the limit, beyond twice the limit
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_too_many_pixels_are_refused(monkeypatch, limit):
    data = encode(Image.new("RGB", (40, 30)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(UserError, match=r"big\.png.*1200 pixels"):
        load_image(data, "big.png")


def test_crop_never_leaves_the_image():
    rng = np.random.default_rng(0)
    sizes = [(1, 1), (1, 500), (500, 1), (2, 3), *rng.integers(1, 400, (400, 2)).tolist()]
    crop = RandomResizedCrop(8)
    for height, width in sizes:
        for _ in range(5):
            left, upper, w, h = crop.box(height, width, rng)
            assert left >= 0 and upper >= 0 and w >= 1 and h >= 1
            assert left + w <= width and upper + h <= height
    image = np.full((1, 50, 3), 77, np.uint8)
    assert (crop({"image": image}, rng)["image"] == 77).all()
    assert (CenterResize(8)({"image": image})["image"] == 77).all()


def test_crop_draws_scale_and_ratio_as_asked():
    rng = np.random.default_rng(0)
    boxes = np.array([RandomResizedCrop(8).box(1000, 1000, rng) for _ in range(2000)])
    left, upper, w, h = boxes.T
    share, ratio = w * h / 1e6, w / h
    assert 0.198 < share.min() < 0.22 and 0.9 < share.max() < 1.002
    assert 0.748 < ratio.min() < 0.77 and 1.3 < ratio.max() < 1.336
    assert abs(np.log(ratio).mean()) < 0.02
    assert left.min() < 20 and upper.min() < 20
    assert (left + w).max() > 980 and (upper + h).max() > 980
    # Too long for its ratio: the largest centred part.
    assert RandomResizedCrop(8).box(100, 1000, np.random.default_rng(1)) == (433, 0, 133, 100)
    assert RandomResizedCrop(8).box(1000, 100, np.random.default_rng(1)) == (0, 433, 100, 133)


def test_crop_cuts_the_box_it_drew():
    rows, columns = np.mgrid[:100, :200].astype(np.uint8)
    image = np.stack([rows, columns, columns], -1)
    box = RandomResizedCrop(16).box(100, 200, np.random.default_rng(3))
    cut = RandomResizedCrop(16)({"image": image}, np.random.default_rng(3))["image"].astype(float)
    left, upper, w, h = box
    assert abs(cut[..., 0].mean() - (upper + (h - 1) / 2)) < 1
    assert abs(cut[..., 1].mean() - (left + (w - 1) / 2)) < 1


JPEGS = {
    "best": {"quality": 95, "subsampling": "4:4:4"},
    "half colours": {"quality": 95},
    "4:2:2": {"quality": 90, "subsampling": "4:2:2"},
    "small": {"quality": 50},
    "markers": {"quality": 95, "restart_marker_blocks": 2, "optimize": True},
    "passes": {"quality": 90, "progressive": True},
}


def plain_way(data: bytes, box: tuple[int, int, int, int], size: int) -> np.ndarray:
    """Decodes all, cuts, scales, all by Pillow."""
    left, upper, w, h = box
    cut = Image.open(io.BytesIO(data)).convert("RGB").crop((left, upper, left + w, upper + h))
    return np.asarray(cut.resize((size, size), Image.Resampling.BICUBIC), float)


@pytest.mark.parametrize("options", JPEGS.values(), ids=JPEGS)
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("size", [16, 32, 64, 224])
def test_crops_of_jpegs_are_close_to_the_plain_way(size, mode, options):
    """Less than 2/255 off: half of the crops here decode at 1/2 to 1/8 of the scale."""
    pixels = Image.fromarray(picture(363, 481)).convert(mode)
    data = encode(pixels, "JPEG", **options)
    scales = []
    for seed in range(8):
        box = RandomResizedCrop(size).box(363, 481, np.random.default_rng(seed))
        rng = np.random.default_rng(seed)
        fast = RandomResizedCrop(size)(Decode()({"image": data}), rng)["image"]
        assert np.abs(fast - plain_way(data, box, size)).mean() < 2
        scales.append(min(box[2:]) // (transforms.REDUCED_MARGIN * size))
    assert (max(scales) >= 2) == (size < 100)


@pytest.mark.parametrize("missing", ["resizer", "decoder"])
def test_pillow_does_the_same_where_it_has_to(monkeypatch, missing):
    data, size = encode(Image.fromarray(picture(363, 481)), "JPEG", quality=95), 32

    def crops():
        crop = RandomResizedCrop(size)
        return [crop(Decode()({"image": data}), np.random.default_rng(n))["image"].astype(int) for n in range(8)]

    before = crops()
    if missing == "resizer":
        monkeypatch.setattr(transforms, "resizer", None)
    else:
        monkeypatch.setattr(jpeg.simplejpeg, "decode_jpeg", lambda *a, **k: (_ for _ in ()).throw(ValueError("no")))
    after = crops()
    assert all(0 < np.abs(one - other).mean() < 1 for one, other in zip(before, after, strict=True))


def test_a_decoded_element_can_be_cropped_again():
    """A reduced decoding must not be what the next crop sees."""
    element = Decode()({"image": encode(Image.fromarray(picture(360, 360)), "JPEG")})
    small = CenterResize(16)(element)["image"]
    large = CenterResize(224)(element)["image"]
    np.testing.assert_array_equal(CenterResize(16)(element)["image"], small)
    fresh = CenterResize(224)(Decode()({"image": element["image"].data}))["image"]
    np.testing.assert_array_equal(large, fresh)


@pytest.mark.parametrize(("height", "width"), [(363, 360), (40, 61), (300, 400), (90, 89)])
def test_center_resize_scales_the_shorter_side_then_cuts(height, width):
    """As Pillow does it on the whole image, and with it the image processors of other code, to the last bit."""
    data = encode(Image.fromarray(picture(height, width)), "JPEG", quality=90)
    size = 64
    sides = (size, size * height // width) if height >= width else (size * width // height, size)
    scaled = Image.open(io.BytesIO(data)).resize(sides, Image.Resampling.BICUBIC)
    left, upper = ((side - size) // 2 for side in sides)
    expected = np.asarray(scaled.crop((left, upper, left + size, upper + size)))
    np.testing.assert_array_equal(CenterResize(size)(Decode()({"image": data}))["image"], expected)
    np.testing.assert_array_equal(CenterResize(size)({"image": load_image(data)})["image"], expected)


def test_center_resize_of_a_thread_needs_no_room():
    thread = np.full((1, 3_000_000, 3), 50, np.uint8)
    for image in (thread, thread.transpose(1, 0, 2)):
        assert (CenterResize(64)({"image": image})["image"] == 50).all()


def test_center_resize_takes_the_centre():
    image = np.zeros((30, 90, 3), np.uint8)
    image[:, 30:60] = 200
    for way in (image, image.transpose(1, 0, 2)):  # the filter reaches a pixel over the border
        cut = CenterResize(10)({"image": np.ascontiguousarray(way)})["image"].astype(int)
        assert cut.shape == (10, 10, 3) and (np.abs(cut - 200) < 20).all()
        assert (cut[2:-2, 2:-2] == 200).all()


def test_flip_gives_all_four_and_keeps_the_element():
    image = picture(8, 8)
    element = {"image": image.copy(), "label": 3}
    rng = np.random.default_rng(0)
    seen = {RandomFlip()(element, rng)["image"].tobytes() for _ in range(64)}
    ways = [image, image[:, ::-1], image[::-1], image[::-1, ::-1]]
    assert seen == {way.tobytes() for way in ways}
    np.testing.assert_array_equal(element["image"], image)
    only = {RandomFlip(vertical=False)(element, rng)["image"].tobytes() for _ in range(64)}
    assert only == {way.tobytes() for way in ways[:2]}


def test_normalize():
    images = np.array([[[[0, 51, 255]]]], np.uint8)
    out = transforms.normalize(images, (0.5, 0.2, 0.0), (0.5, 1.0, 2.0))
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, [[[[-1, 0, 0.5]]]], atol=1e-6)
