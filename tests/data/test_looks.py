"""Perceptual hashes: equal for two ways to them, and not sent to other processes; sizes of images."""

import io
from pathlib import Path

import cloudpickle
import numpy as np
import pytest
from PIL import Image

from mae_jax.data import looks, sources
from mae_jax.data.decode import load_image
from mae_jax.runtime.errors import UserError


def save(path: Path, side: int, seed: int, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    small = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    Image.fromarray(small).resize((side + 20, side)).save(path, **options)
    return path


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
@pytest.mark.parametrize("turned", [1, 3, 6])
def test_a_size_is_that_of_the_decoded_image(kind, turned):
    exif = Image.Exif()
    exif[0x0112] = turned
    file = io.BytesIO()
    Image.new("RGB", (30, 20)).save(file, kind, exif=exif)
    assert looks.size_of(file.getvalue()) == load_image(file.getvalue()).shape[:2]
    assert looks.size_of(file.getvalue()) == ((30, 20) if turned == 6 else (20, 30))


def test_perceptual_hashes_are_not_sent_to_other_processes(tmp_path):
    for i in range(3):
        save(tmp_path / f"{i}.png", 40, i)
    source = sources.unlabeled_folder(tmp_path)
    assert source.looks is not None and source.looks().shape == (3, 256)
    np.testing.assert_array_equal(source.looks()[1], looks.look(source.read(1)))
    sent = cloudpickle.loads(cloudpickle.dumps(source))
    assert sent.read(2) == source.read(2)
    with pytest.raises(RuntimeError, match="not sent to other processes"):
        sent.looks()


def test_both_ways_to_a_perceptual_hash_agree(tmp_path):
    """A JPEG is hashed at a reduced scale where only its bytes are given."""
    path = save(tmp_path / "a.jpg", 400, 0, quality=90)
    one, two = looks.look(path.read_bytes()), looks.look_of(load_image(path.read_bytes()))
    assert np.corrcoef(one, two)[0, 1] > 0.999


def png(pixels) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def test_a_hash_is_the_gray_picture_without_mean_and_contrast():
    gray = np.random.default_rng(0).integers(0, 256, (16, 16), np.uint8)
    result = looks.look(png(gray)).astype(float)
    levels = gray.astype(float).ravel() - gray.mean()
    np.testing.assert_allclose(result, 127 * levels / np.abs(levels).max(), atol=0.51)
    assert np.abs(result).max() == 127
    fainter = (gray // 2 + 90).astype(np.uint8)
    assert np.abs(looks.look(png(fainter)) - result).max() <= 2
    flat = np.full((16, 16), 100, np.uint8)
    flat[0] = 103  # a standard deviation below 2 gray levels
    assert not looks.look(png(flat)).any()


def test_a_picture_is_upright_and_has_the_colors():
    pixels = np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8)
    np.testing.assert_array_equal(looks.picture(png(pixels)), pixels)
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    Image.fromarray(pixels).resize((300, 200)).save(file, "JPEG", exif=exif, quality=95)
    upright = np.asarray(Image.fromarray(load_image(file.getvalue())).resize((64, 64)), np.float32)
    assert np.abs(looks.picture(file.getvalue()) - upright).mean() < 2
    one, two = looks.look(file.getvalue()), looks.look_of(load_image(file.getvalue()))
    assert np.corrcoef(one, two)[0, 1] > 0.97


def test_what_is_not_an_image_is_refused_by_its_name():
    for call in (looks.look, looks.picture, looks.size_of):
        with pytest.raises(UserError, match="cells/1.png"):
            call(b"no image", "cells/1.png")
