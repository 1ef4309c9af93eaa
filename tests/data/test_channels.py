"""Channels of any bit depth as 8-bit RGB: known values, orientations, and what is refused."""

import numpy as np
import pytest
from PIL import Image, ImageOps

from mae_jax.data import channels


def test_integers_are_scaled_and_rounded():
    values = np.array([0, 1, 127, 128, 255], np.uint8)
    assert channels.to_8_bits(values, 255) is values
    wide = np.array([0, 128, 129, 32768, 65535], np.uint16)
    np.testing.assert_array_equal(channels.to_8_bits(wide, 65535), [0, 0, 1, 128, 255])
    np.testing.assert_array_equal(channels.to_8_bits(np.array([0, 1], np.uint8), 1), [0, 255])
    twelve = np.array([0, 2048, 4095, 5000], np.uint16)
    np.testing.assert_array_equal(channels.to_8_bits(twelve, 4095), [0, 128, 255, 255])  # larger values are white


def test_gray_has_three_equal_channels_and_transparency_is_on_white():
    gray = np.array([[[0], [100]]], np.uint8)
    np.testing.assert_array_equal(channels.to_rgb(gray, 255), [[[0] * 3, [100] * 3]])
    alpha = np.array([[255, 51]], np.uint8)
    result = channels.to_rgb(gray, 255, alpha)
    np.testing.assert_array_equal(result, [[[0] * 3, [224] * 3]])  # 100 x 0.2 + 255 x 0.8
    premultiplied = channels.to_rgb(np.array([[[0], [20]]], np.uint8), 255, alpha, premultiplied=True)
    np.testing.assert_array_equal(premultiplied, result)
    clear = channels.to_rgb(np.full((1, 1, 3), 7, np.uint16), 65535, np.zeros((1, 1), np.uint16))
    np.testing.assert_array_equal(clear, [[[255] * 3]])
    assert result.dtype == np.uint8 and result.flags.c_contiguous


def test_inks_take_away_light():
    inks = np.array([[[0, 0, 0, 0], [255, 0, 0, 0], [0, 0, 0, 255], [51, 0, 0, 51]]], np.uint8)
    expected = [[255, 255, 255], [0, 255, 255], [0, 0, 0], [163, 204, 204]]  # 255 x 0.8 x 0.8 = 163.2
    np.testing.assert_array_equal(channels.cmyk_to_rgb(inks, 255), [expected])


def test_ycc_is_that_of_pillow():
    rgb = np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8)
    ycc = np.asarray(Image.fromarray(rgb).convert("YCbCr"))
    result = channels.ycc_to_rgb(ycc, 255).astype(int)
    assert np.abs(result - np.asarray(Image.fromarray(ycc, "YCbCr").convert("RGB"))).max() <= 1
    gray = channels.ycc_to_rgb(np.array([[[0, 128, 128], [255, 128, 128]]], np.uint8), 255)
    np.testing.assert_array_equal(gray, [[[0] * 3, [255] * 3]])


@pytest.mark.parametrize("orientation", range(10))
def test_an_orientation_is_undone_as_pillow_does(orientation):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
    picture = Image.fromarray(pixels)
    picture.getexif()[0x0112] = orientation
    np.testing.assert_array_equal(channels.upright(pixels, orientation), np.asarray(ImageOps.exif_transpose(picture)))


def test_an_extra_channel_is_ignored_only_where_it_says_nothing():
    full, empty = np.full((2, 2), 9), np.zeros((2, 2), int)
    assert channels.ignore({}, 9) == ()
    assert channels.ignore({4: full, 5: empty}, 9) == ("an extra channel with the same value everywhere is ignored",)
    for other in (np.array([[0, 9]]), np.full((2, 2), 5)):
        with pytest.raises(channels.Unreadable, match="has a channel 4 in addition to its colors") as error:
            channels.ignore({4: other}, 9)
        assert error.value.hint.startswith("save it with 8 or 16 bits")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("f", "floating-point pixels (32 bits)"),
        ("c", "complex numbers"),
        ("i", "signed pixels (32 bits)"),
        ("u", "32-b"),
    ],
)
def test_pixels_without_black_and_white_are_named(kind, message):
    assert message in channels.in_words(kind, 32)
