import dataclasses

import numpy as np
import pytest
from PIL import Image

from mae_jax.data import augment
from mae_jax.data.augment import COLOR, FILL, GEOMETRY, RandAugment, RandomErasing

SIZE = 20
NOISE = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
SMOOTH = np.add.outer(np.arange(60, 160, 5), np.arange(0, 80, 4))[..., None].repeat(3, -1).astype(np.uint8)
SMOOTH = SMOOTH + np.array([0, 7, 13], np.uint8)


def done(name, image, strength):
    return np.asarray((GEOMETRY | COLOR)[name](Image.fromarray(image), strength))


@pytest.mark.parametrize(
    "name", sorted((GEOMETRY | COLOR).keys() - {"autocontrast", "equalize", "invert", "posterize"})
)
def test_strength_0_leaves_the_image_as_it_is(name):
    np.testing.assert_array_equal(done(name, NOISE, 0.0), NOISE)


@pytest.mark.parametrize("strength", [1.0, -1.0, 0.5])
def test_translation_moves_by_up_to_45_percent_and_fills_with_the_mean_color(strength):
    image = np.resize(NOISE, (40, SIZE, 3))  # 9 pixels are 45 % of 20, 18 of 40
    for name, axis, length in (("translate_x", 1, SIZE), ("translate_y", 0, 40)):
        by = round(0.45 * strength * length)
        if by != 0.45 * strength * length:
            continue
        moved = np.roll(image, -by, axis)
        outside = [slice(None)] * 2
        outside[axis] = slice(length - by, None) if by > 0 else slice(0, -by)
        moved[tuple(outside)] = FILL
        np.testing.assert_array_equal(done(name, image, strength), moved)


def test_shear_slants_a_line_by_30_percent():
    image = np.zeros((41, 41, 3), np.uint8)
    image[:, 20] = 255
    for sign in (1, -1):
        for name, picture in (("shear_x", image), ("shear_y", image.transpose(1, 0, 2))):
            result = done(name, picture, sign).astype(float).sum(-1)
            result = result if name == "shear_x" else result.T
            for row in range(1, 40):
                middle = 20.5 - sign * 0.3 * (row + 0.5)  # what is drawn at x comes from x + 0.3 y
                if 3 < middle < 38:
                    near = result[row, int(middle) - 2 : int(middle) + 3]
                    centre = (near * np.arange(int(middle) - 2, int(middle) + 3)).sum() / near.sum() + 0.5
                    assert centre == pytest.approx(middle, abs=0.3), (name, sign, row)


def test_rotation_is_by_30_degrees_around_the_middle():
    image = np.zeros((41, 41, 3), np.uint8)
    image[19:22, 34:37] = 255  # 15 pixels to the right of the middle
    for sign in (1, -1):
        result = done("rotate", image, float(sign)).astype(float).sum(-1)
        result[result == sum(FILL)] = 0
        result[:5], result[-5:] = 0, 0  # blends of the filling
        y, x = np.argwhere(result > 300).mean(0) - 20
        assert (x, y) == pytest.approx((15 * np.cos(np.pi / 6), -sign * 15 * np.sin(np.pi / 6)), abs=0.6)


def enhanced(towards):
    """Between `towards` (factor 0) and the image (factor 1), and beyond."""
    return lambda image, factor: np.clip(towards(image) + factor * (image - towards(image)), 0, 255)


def gray(image):
    return (image @ [0.299, 0.587, 0.114])[..., None].repeat(3, -1)


def blurred(image):
    weights = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]]) / 13
    result, inner = image.copy(), np.zeros_like(image[1:-1, 1:-1])
    for y, x in np.ndindex(3, 3):
        inner += weights[y, x] * image[y : y + SIZE - 2, x : x + SIZE - 2]
    result[1:-1, 1:-1] = inner
    return result


@pytest.mark.parametrize(
    ("name", "towards"),
    [
        ("colour", gray),
        ("contrast", lambda image: np.full_like(image, gray(image).mean())),
        ("brightness", np.zeros_like),
        ("sharpness", blurred),
    ],
)
@pytest.mark.parametrize(("strength", "factor"), [(-1.0, 0.1), (-0.9, 0.19), (1.0, 1.9), (0.5, 1.45)])
def test_enhancements_move_from_and_to_a_plainer_image(name, towards, strength, factor):
    expected = enhanced(towards)(NOISE.astype(float), factor)
    np.testing.assert_allclose(done(name, NOISE, strength), expected, atol=2)


def test_operations_on_values():
    x = NOISE.astype(int)
    np.testing.assert_array_equal(done("invert", NOISE, 0.9), 255 - x)
    for strength in (0.9, -0.9):  # the sign means nothing
        np.testing.assert_array_equal(done("posterize", NOISE, strength), x // 128 * 128)  # 4 - int(3.6) = 1 bit
        np.testing.assert_array_equal(done("solarize", NOISE, strength), np.where(x < 26, x, 255 - x))
        np.testing.assert_array_equal(done("solarize_add", NOISE, strength), np.where(x < 128, x + 99, x))
    np.testing.assert_array_equal(done("posterize", NOISE, 0.0), x // 16 * 16)
    np.testing.assert_array_equal(done("posterize", NOISE, 1.0), x // 128 * 128)  # Pillow refuses to keep none
    np.testing.assert_array_equal(done("solarize", NOISE, 0.5), np.where(x < 128, x, 255 - x))

    low, high = SMOOTH.min((0, 1)).astype(float), SMOOTH.max((0, 1))
    np.testing.assert_allclose(done("autocontrast", SMOOTH, 0.9), (SMOOTH - low) / (high - low) * 255, atol=1)
    dark = np.random.default_rng(0).integers(0, 64, (100, 100, 3)).astype(np.uint8)
    even = done("equalize", dark, 0.9)  # the histogram becomes flat, the order of the values stays
    assert even.mean() == pytest.approx(127, abs=8) and even.std() == pytest.approx(255 / 12**0.5, rel=0.1)
    order = dark[..., 0].ravel().argsort(kind="stable")
    assert (np.diff(even[..., 0].ravel()[order].astype(int)) >= 0).all()


def test_what_is_drawn_is_as_often_and_as_strong_as_asked():
    rng = np.random.default_rng(0)
    drawn = [RandAugment().draw(rng) for _ in range(6000)]
    assert np.mean([len(each) for each in drawn]) == pytest.approx(1, abs=0.03)  # two layers, each half the time
    names, strengths = zip(*(op for each in drawn for op in each), strict=True)
    _, counts = np.unique(names, return_counts=True)
    assert len(counts) == 15 and counts.min() > 320 and counts.max() < 480  # 400 each
    strengths = np.array(strengths)
    assert (strengths > 0).mean() == pytest.approx(0.5, abs=0.03)
    size = abs(strengths)
    assert size.mean() == pytest.approx(0.9, abs=0.005) and size.std() == pytest.approx(0.05, rel=0.08)
    assert size.max() <= 1
    weak = [op for _ in range(300) for op in RandAugment(magnitude=0.1).draw(rng)]
    assert min(abs(s) for _, s in weak) == 0


def test_without_color_operations_none_is_drawn_and_no_color_changes():
    transform = RandAugment(color=False, layers=1, probability=1.0)
    rng = np.random.default_rng(1)
    assert {name for _ in range(200) for name, _ in transform.draw(rng)} == set(GEOMETRY)
    pink = np.full((16, 16, 3), (231, 20, 240), np.uint8)
    for seed in range(30):
        result = transform({"image": pink}, np.random.default_rng(seed))["image"]
        assert set(map(tuple, result.reshape(-1, 3).tolist())) == {(231, 20, 240), FILL}
    changed = RandAugment(layers=1, probability=1.0)
    seen = {tuple(changed({"image": pink}, np.random.default_rng(seed))["image"][8, 8]) for seed in range(30)}
    assert len(seen) > 5  # with them they do change


@pytest.mark.parametrize("transform", [RandAugment(), RandAugment(color=False), RandomErasing(1.0)])
def test_the_same_generator_gives_the_same_image_and_the_original_is_kept(transform):
    original = NOISE.copy()
    original.flags.writeable = False
    result = [transform({"image": original, "label": 3}, np.random.default_rng(seed)) for seed in [*range(8)] * 2]
    assert all(e["image"].dtype == np.uint8 and e["image"].shape == NOISE.shape and e["label"] == 3 for e in result)
    for one, two in zip(result[:8], result[8:], strict=True):
        np.testing.assert_array_equal(one["image"], two["image"])
    assert len({e["image"].tobytes() for e in result}) > 3
    np.testing.assert_array_equal(original, NOISE)


def test_boxes_are_erased_as_often_and_as_large_as_asked():
    rng = np.random.default_rng(0)
    boxes = np.array([RandomErasing().box(200, 300, rng) for _ in range(3000)])
    left, upper, w, h = boxes.T
    assert (left >= 0).all() and (upper >= 0).all() and (left + w <= 300).all() and (upper + h <= 200).all()
    area, ratio = w * h / 60000, h / w
    assert area.min() >= 0.019 and area.max() <= 0.34 and area.mean() == pytest.approx((0.02 + 1 / 3) / 2, rel=0.06)
    assert ratio.min() > 0.28 and ratio.max() < 3.5
    image = {"image": np.zeros((16, 16, 3), np.uint8)}
    erased = [RandomErasing()(image, np.random.default_rng(seed))["image"].any() for seed in range(1000)]
    assert np.mean(erased) == pytest.approx(0.25, abs=0.04)
    never = RandomErasing(1.0, area=(0.99, 0.999))
    assert never.box(4, 4, rng) is None and never(image, rng) is image


def test_the_ratio_of_an_erased_box_is_its_height_over_its_width():
    rng = np.random.default_rng(0)
    boxes = [RandomErasing(ratio=(2.0, 3.0), area=(0.05, 0.1)).box(300, 300, rng) for _ in range(100)]
    ratios = np.array([h / w for _, _, w, h in boxes])
    assert 1.9 < ratios.min() < 2.2 and 2.8 < ratios.max() < 3.1


def test_noise_has_the_colors_of_images():
    image = np.zeros((200, 200, 3), np.uint8)
    result = RandomErasing(1.0, area=(0.2, 1 / 3))({"image": image}, np.random.default_rng(0))["image"] / 255
    noise = result[result.any(-1)]
    np.testing.assert_allclose(noise.mean(0), augment.MEAN, atol=0.01)
    np.testing.assert_allclose(noise.std(0), augment.STD, rtol=0.04)  # what is cut off makes it a little smaller
    assert abs(np.corrcoef(noise[:-1, 0], noise[1:, 0])[0, 1]) < 0.05  # pixel by pixel


def test_transforms_are_values():
    assert RandAugment(9) == RandAugment(9.0) and hash(RandomErasing(0.25)) == hash(RandomErasing())
    with pytest.raises(dataclasses.FrozenInstanceError):
        RandAugment().magnitude = 1
