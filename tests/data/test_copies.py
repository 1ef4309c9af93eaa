"""Images that only resemble each other do not count as copies; copies among them are found."""

import io
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from mae_jax.data import copies, duplicates
from mae_jax.data.copies import Prepared
from mae_jax.data.looks import look, picture

SIDE, N = 96, 30


def grid() -> tuple[np.ndarray, np.ndarray]:
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE - 0.5
    return y, x


def finished(plane: np.ndarray, rng: np.random.Generator, noise: float, colors=(1.0, 1.0, 1.0)) -> np.ndarray:
    plane = plane + rng.normal(0, noise, plane.shape)
    return np.clip(plane[..., None] * np.array(colors), 0, 255).astype(np.uint8)


def nucleus(rng: np.random.Generator, colors=(1.0, 1.0, 1.0)) -> np.ndarray:
    """A bright blurred ellipse on black, as a nucleus in fluorescence."""
    y, x = grid()
    a, angle = rng.uniform(0.18, 0.3), rng.uniform(0, np.pi)
    b, cx, cy = a * rng.uniform(0.65, 1), *rng.uniform(-0.05, 0.05, 2)
    u = (x - cx) * np.cos(angle) + (y - cy) * np.sin(angle)
    v = (y - cy) * np.cos(angle) - (x - cx) * np.sin(angle)
    inside = 1.0 * ((u / a) ** 2 + (v / b) ** 2 < 1)
    return finished(gaussian_filter(inside, rng.uniform(2, 5)) * rng.uniform(120, 220) + 10, rng, 0, colors)


def nuclei(rng: np.random.Generator, n: int) -> np.ndarray:
    """Nuclei anywhere on a dark background with noise, as in fluorescence."""
    y, x = grid()
    plane = np.full(x.shape, 8.0)
    for _ in range(n):
        cx, cy = rng.uniform(-0.3, 0.3, 2)
        u, v = ((x - cx) / rng.uniform(0.09, 0.16), (y - cy) / rng.uniform(0.09, 0.16))
        plane = np.maximum(plane, gaussian_filter(rng.uniform(100, 240) * (u * u + v * v < 1), 2))
    return finished(plane, rng, 3)


def gradient(rng: np.random.Generator) -> np.ndarray:
    y, x = grid()
    angle = rng.uniform(0, 2 * np.pi)
    return finished(130 + rng.uniform(20, 120) * (x * np.cos(angle) + y * np.sin(angle)), rng, 1, (1, 0.95, 0.9))


def empty(rng: np.random.Generator) -> np.ndarray:
    """A blank tile with the same shading as all others."""
    y, x = grid()
    return finished(240 - 100 * ((x - 0.1) ** 2 + (y + 0.05) ** 2) + rng.uniform(-3, 3), rng, 2)


def organoid(rng: np.random.Generator) -> np.ndarray:
    y, x = grid()
    d = np.hypot(x - rng.uniform(-0.05, 0.05), y - rng.uniform(-0.05, 0.05)) / rng.uniform(0.2, 0.38)
    ring = rng.uniform(30, 60) * np.exp(-(((d - 1) / rng.uniform(0.08, 0.15)) ** 2))
    return finished(gaussian_filter(150 - ring - rng.uniform(5, 30) * (d < 1), 2) + 15 * x, rng, 1.5)


def encoded(image: np.ndarray, quality: int = 0) -> bytes:
    file = io.BytesIO()
    options = {"format": "JPEG", "quality": quality} if quality else {"format": "PNG"}
    Image.fromarray(np.ascontiguousarray(image)).save(file, **options)
    return file.getvalue()


def copies_in(data: list[bytes]) -> set[tuple[int, int]]:
    looks = np.stack([look(one) for one in data])
    return {(i, j) for i, j, _ in duplicates.find(looks, lambda i: picture(data[i]))}


@pytest.mark.parametrize("draw", [nucleus, gradient, empty, organoid])
def test_images_that_resemble_each_other_are_not_copies(draw):
    rng = np.random.default_rng(1)
    data = [encoded(draw(rng)) for _ in range(N)]
    candidates = list(duplicates.near(np.stack([look(one) for one in data])))
    assert len(candidates) > 5  # their hashes alone would report these
    assert copies_in(data) == set()


def test_copies_among_images_that_resemble_each_other_are_found():
    rng = np.random.default_rng(2)
    images = [nucleus(rng) for _ in range(N)]
    larger = np.asarray(Image.fromarray(images[2]).resize((150, 150)))
    result = [
        encoded(images[0], 90),
        encoded(np.rot90(images[1][:, ::-1], 3), 90),
        encoded(larger, 85),
        encoded(images[3][:86, 10:], 90),
        encoded((0.8 * images[4]).astype(np.uint8), 90),
    ]
    assert copies_in([encoded(image) for image in images] + result) == {(i, N + i) for i in range(len(result))}


def test_nuclei_of_one_shape_differ_in_their_noise(monkeypatch):
    rng = np.random.default_rng(4)
    images = [nuclei(rng, 1) for _ in range(40)] + [nuclei(rng, int(rng.integers(3, 6))) for _ in range(40)]
    data = [encoded(image) for image in images]
    moved = np.pad(images[2], ((6, 0), (0, 5), (0, 0)))[:-6, 5:]
    data += [encoded(images[0], 90), encoded(images[1][:86, 10:], 90), encoded(moved, 90)]
    assert copies_in(data) == {(i, len(images) + i) for i in range(3)}
    monkeypatch.setattr(copies, "same_detail", lambda *_: True)
    assert len(copies_in(data)) > 20  # their shapes alone agree


@pytest.mark.parametrize("n", [2, 5, 12])
def test_copies_in_a_small_set_in_which_each_image_has_one_are_found(n):
    rng = np.random.default_rng(6)
    images = [
        (gaussian_filter(rng.uniform(0, 255, (SIDE, SIDE, 3)), (4, 4, 0)) * 5 % 256).astype(np.uint8) for _ in range(n)
    ]
    data = [encoded(image) for image in images] + [encoded(image[5:, :-5], 85) for image in images]
    assert copies_in(data) == {(i, n + i) for i in range(n)}


def test_another_color_is_another_image_and_a_gray_copy_is_a_copy():
    rng = np.random.default_rng(3)
    images = [
        (gaussian_filter(rng.uniform(0, 255, (SIDE, SIDE, 3)), (3, 3, 0)) * 3 % 256).astype(np.uint8) for _ in range(20)
    ]
    other = images[0][..., ::-1]  # red and blue change places
    gray = np.asarray(Image.fromarray(images[1]).convert("L").convert("RGB"))
    pictures = [Prepared.of(picture(encoded(image))) for image in (*images, other, gray)]
    shared = copies.Shared(pictures, 231)
    assert shared.copies(pictures[0], pictures[0]) > 0.999 and not shared.copies(pictures[0], pictures[20])
    assert shared.copies(pictures[1], pictures[21]) and not shared.copies(pictures[2], pictures[21])


def test_the_number_of_decoded_candidates_is_bounded(monkeypatch):
    rng = np.random.default_rng(4)
    data = [encoded(nucleus(rng)) for _ in range(N)]
    looks = np.stack([look(one) for one in data])
    monkeypatch.setattr(duplicates, "MOST", 3)
    pairs = [(i, j) for i, j, *_ in duplicates.near(looks)]
    assert len(pairs) == len(set(pairs)) and max(sum(i == k for i, _ in pairs) for k in range(N)) == 3
    monkeypatch.setattr(duplicates, "MOST_DECODED", 7)
    kept = duplicates._likeliest(duplicates._turned_candidates(looks, None))
    assert len(kept) == 7 and min(c[0] for c in kept) >= sorted(c[3] for c in duplicates.near(looks))[-7]


@pytest.mark.parametrize("dense", [0.0, 1.0])
def test_dense_blocks_give_the_same_candidates(monkeypatch, dense):
    rng = np.random.default_rng(5)
    images = [nucleus(rng) for _ in range(12)]
    looks = np.stack([look(encoded(np.rot90(image, i % 4))) for i, image in enumerate(images)])
    everything = {(i, j, turn): round(alike, 4) for i, j, turn, alike in duplicates.near(looks)}
    monkeypatch.setattr(duplicates, "DENSE", dense)
    again = {(i, j, turn): round(alike, 4) for i, j, turn, alike in duplicates.near(looks)}
    assert again.keys() == everything.keys() and again == pytest.approx(everything, abs=1e-3)


def test_more_pairs_need_a_greater_likeness():
    """Among a million pairs, chance alone makes some as alike as copies are."""
    rng = np.random.default_rng(7)
    pictures = [Prepared.of(picture(encoded(nucleus(rng)))) for _ in range(N)]
    few, many = (copies.Shared(pictures, pairs).needed for pairs in (N * (N - 1) // 2, 10**9))
    assert few < many < 1


@pytest.mark.parametrize(
    ("likeness", "directions", "copies_of_one"), [(0.98, 1.9, False), (0.98, 2.1, True), (1.0, 1.0, True)]
)
def test_agreement_in_two_directions_alone_makes_no_copy(monkeypatch, likeness, directions, copies_of_one):
    """As of two gradients that fall to the same side; identical pixels are copies whatever they show."""
    shared = object.__new__(copies.Shared)
    shared.__dict__["needed"] = 0.5
    monkeypatch.setattr(copies, "fit", lambda *_: (1.0, copies.CENTER))
    monkeypatch.setattr(copies.Shared, "likeness", lambda *_: (likeness, directions))
    monkeypatch.setattr(copies, "same_detail", lambda *_: True)
    image = SimpleNamespace(gray=None)
    assert bool(shared.copies(image, image)) == copies_of_one
