"""Images shifted by up to a tenth or cropped to nine tenths are found; different images are not."""

import io

import numpy as np
import pytest
from PIL import Image

from mae_jax.data import duplicates, shifted, synthetic
from mae_jax.data.copies import MIDDLE
from mae_jax.data.sources import Source, digest

SIDE = 96
CORNERS = {"top left": (0, 0), "top right": (0.1, 0), "bottom left": (0, 0.1), "bottom right": (0.1, 0.1)}


def encoded(image: np.ndarray, quality: int = 90) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return file.getvalue()


def shift(image: np.ndarray, x: float, y: float) -> np.ndarray:
    """Shifts an image by fractions of its side; the area that it leaves is black."""
    dx, dy = round(x * SIDE), round(y * SIDE)
    moved = np.roll(image, (dy, dx), (0, 1))
    moved[: max(dy, 0)] = moved[SIDE + min(dy, 0) :] = 0
    moved[:, : max(dx, 0)] = moved[:, SIDE + min(dx, 0) :] = 0
    return moved


def crop(image: np.ndarray, x: float, y: float) -> np.ndarray:
    left, top, side = round(x * SIDE), round(y * SIDE), round(0.9 * SIDE)
    return image[top : top + side, left : left + side]


def source(images: list[np.ndarray], name: str, quality: int = 90) -> Source:
    data = [encoded(image, quality) for image in images]
    return Source(
        names=tuple(f"{name}/{i}" for i in range(len(data))),
        labels=np.zeros(len(data), np.int32),
        groups=("",) * len(data),
        classes=("a",),
        fingerprint=name,
        read=data.__getitem__,
        digests=np.asarray([digest(one) for one in data], np.uint64),
    )


@pytest.fixture(scope="module")
def cells() -> list[np.ndarray]:
    """Generated cells of all classes, and tissue."""
    rng = np.random.default_rng(0)
    return [synthetic.draw_cell(rng, i % 5, SIDE) for i in range(40)] + [
        synthetic.draw_tissue(rng, SIDE) for _ in range(20)
    ]


@pytest.mark.parametrize("place", CORNERS.values(), ids=CORNERS)
@pytest.mark.parametrize("reverse", [False, True], ids=["test cropped", "training cropped"])
def test_a_crop_at_any_corner_is_found(cells, place, reverse):
    cropped, uninterrupted = source([crop(cell, *place) for cell in cells[5:50:3]], "crop", 75), source(cells, "whole")
    train, test = (cropped, uninterrupted) if reverse else (uninterrupted, cropped)
    leaks = duplicates.leaks([train], test)
    expected = cells[5:50:3]
    assert leaks["near_identical"] == len(expected) and leaks["shifted_searched"]
    numbers = sorted(int(name.split("/")[1]) for name in leaks["images"])
    assert numbers == (list(range(5, 50, 3)) if reverse else list(range(len(expected))))


def test_a_shift_by_up_to_a_tenth_is_found(cells):
    rng = np.random.default_rng(1)
    moves = [(0.1, 0.1), (-0.1, 0.05), (0, -0.1), *rng.uniform(-0.1, 0.1, (21, 2))]
    moved = [shift(cell, *move) for cell, move in zip(cells[::2], moves, strict=False)]
    train, test = source(cells, "train"), source(moved, "test", 75)
    looks = [duplicates.hashes_of(s)[1] for s in (test, train)]
    pictures = [lambda i, s=s: duplicates.pictures([s], i) for s in (test, train)]
    pairs = {(i, j) for i, j, _ in duplicates.find(looks[0], pictures[0], looks[1], pictures[1])}
    assert pairs == {(i, 2 * i) for i in range(len(moved))}


def test_the_window_of_a_crop_has_its_side(cells):
    """Nine tenths of the middle if the other image is the crop, and more than the middle if this one is."""
    uncut = duplicates.hashes_of(source(cells[:40], "whole"))[1]
    cropped = duplicates.hashes_of(source([crop(cell, 0.1, 0.0) for cell in cells[:40]], "crop"))[1]
    for looks, others, side in ((uncut, cropped, 0.9 * MIDDLE), (cropped, uncut, MIDDLE / 0.9)):
        sides = [shifted.WINDOWS[window][2] for i, j, window, _ in shifted.candidates(looks, others) if i == j]
        assert np.median(sides) == pytest.approx(side)


def test_other_images_are_not_found(cells):
    images = source(cells, "all")
    looks = duplicates.hashes_of(images)[1]
    pairs = list(shifted.candidates(looks))
    assert list(duplicates.find(looks, lambda i: duplicates.pictures([images], i))) == []
    assert all(i < j for i, j, _, _ in pairs)


def test_the_first_filter_loses_no_candidate(cells, monkeypatch):
    """Compared with all correlations of all windows, on mixtures of two images."""
    mixed = [np.uint8(0.6 * one + 0.4 * two) for one, two in zip(cells[:20], cells[20:40], strict=True)]
    looks = duplicates.hashes_of(source(cells[:20] + mixed, "mixed"))[1]
    sampling, middle = shifted._matrices()
    one = shifted._unit(np.einsum("wsp,np->nws", sampling, looks.astype(np.float32)), shifted.FLAT)
    two = shifted._unit(looks.astype(np.float32) @ middle.T, shifted.FLAT)
    alike = np.einsum("nws,ms->nmw", one, two).max(2)
    expected = {(i, j) for i, j in np.argwhere(alike >= shifted.CANDIDATE).tolist() if i < j}
    assert expected
    monkeypatch.setattr(shifted, "ROWS", 7)
    monkeypatch.setattr(shifted, "COLUMNS", 11)
    assert {(i, j) for i, j, _, _ in shifted.candidates(looks)} == expected


def test_flat_images_match_nothing():
    flat = source([np.full((SIDE, SIDE, 3), 255, np.uint8)] * 3, "flat")
    looks = duplicates.hashes_of(flat)[1]
    assert list(shifted.candidates(looks)) == []
