import io

import numpy as np
import pytest
from PIL import Image

from mae_jax.data import jpeg, transforms
from mae_jax.data.decode import load_image
from mae_jax.data.transforms import CenterResize, Decode, RandomFlip, RandomResizedCrop


def encode(image: Image.Image, format: str = "PNG", **options) -> bytes:
    data = io.BytesIO()
    image.save(data, format, **options)
    return data.getvalue()


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth colors, an edge and some noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / max(height, width)
    waves = [np.sin(9 * x + 2), np.cos(7 * y), np.sin(11 * x * y)]
    image = 128 + 80 * np.stack(waves, -1) + rng.normal(0, 6, (height, width, 3))
    image[height // 3 : height // 2, width // 4 : width // 2] -= 70
    return np.clip(image, 0, 255).astype(np.uint8)


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
    # Too long for its ratio: the largest centered part.
    assert RandomResizedCrop(8).box(100, 1000, np.random.default_rng(1)) == (433, 0, 133, 100)
    assert RandomResizedCrop(8).box(1000, 100, np.random.default_rng(1)) == (0, 433, 100, 133)


def test_the_ratio_of_a_crop_is_its_width_over_its_height():
    rng = np.random.default_rng(0)
    boxes = [RandomResizedCrop(8, scale=(0.1, 0.2), ratio=(2.0, 3.0)).box(1000, 1000, rng) for _ in range(100)]
    ratios = np.array([w / h for _, _, w, h in boxes])
    assert 1.98 < ratios.min() < 2.2 and 2.8 < ratios.max() < 3.02


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
    "half chroma": {"quality": 95},
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


@pytest.mark.parametrize(("orientation", "turned"), [(6, Image.Transpose.ROTATE_90), (3, Image.Transpose.ROTATE_180)])
def test_training_crops_are_upright(orientation, turned):
    """A camera stores the turned pixels and the EXIF orientation that turns them back."""
    upright = Image.fromarray(picture(240, 360))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = encode(upright.transpose(turned), "JPEG", quality=95, subsampling="4:4:4", exif=exif)
    plain = encode(upright, "JPEG", quality=95, subsampling="4:4:4")
    for seed in range(4):
        one, two = (
            RandomResizedCrop(32)(Decode()({"image": data}), np.random.default_rng(seed)) for data in (stored, plain)
        )
        assert np.abs(one["image"].astype(int) - two["image"]).mean() < 3


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


def test_center_resize_takes_the_center():
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
