"""Near-identical images that are shifted by up to a tenth of their side, or cropped to nine tenths of it.

Shifting and cropping move the middle of an image to another window of it. Therefore the middle of each image of one
set is compared with windows of each image of the other. Three filters run in sequence, each on the pairs that pass
the previous one:

1. An upper bound of the correlation of two windows of the perceptual hashes. Low frequencies enter exactly, the others
   through the product of their norms (Cauchy-Schwarz). No pair that filter 2 would keep is lost.
2. That correlation itself, which must be at least CANDIDATE. The hash has only 16 x 16 pixels, so it cannot distinguish
   similar cells well.
3. The correlation of the decoded images at 64 x 64 pixels, with the window moved and scaled to fit best, which must be
   at least NEAR.

On 2 cores, CPU time is 0.4 to 1 us for each pair of images and 2 ms for each candidate. Of 1,000 pairs, 0 (492 tiles
of tissue) to 3 (1,318 blood cells and platelets) are candidates. Comparing 1,728 test images with 10,175 training
images takes 8 s.

`duplicates.near` finds rotated or mirrored images, but not if they are also shifted or cropped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import groupby, product

import numpy as np
from jaxtyping import Float, Float32, Int8
from scipy.fft import dctn

SIDE = 16  # pixels along each side of a perceptual hash
POINTS = 12  # samples along each side of a window of the hash
ORDER = 8  # sum of the two frequencies up to which the bound is exact
MIDDLE = 0.8  # side of the compared middle; a shift by a tenth keeps it inside the image
CANDIDATE = 0.91  # minimum correlation of two windows of the hashes
NEAR = 0.95  # minimum correlation of the decoded images
HOPELESS = 0.85  # correlation below which finer fits are not tried
FLAT = 4.0  # standard deviation of a window of the hash (of 127) below which it has no structure to compare
ROWS, COLUMNS = 32, 4096  # number of images compared at once
PICTURE, FINE = 64, 24  # pixels of the decoded image, and samples of a window of it, along each side
MOST = 20  # maximum number of candidates to decode for one image, those with the highest correlation first
PAIRS = 10**9  # pairs of images beyond which the search would take hours

Window = tuple[float, float, float]  # left, top and side, as shares of the image's
Pixels = Callable[[int], Float32[np.ndarray, "64 64"]]  # returns the gray levels of the image with this index


def _windows() -> list[Window]:
    """Where the middle of an image is found in a shifted copy, in a crop of it, or in an image it was cropped from."""
    edge = (1 - MIDDLE) / 2
    shifts = np.linspace(-0.1, 0.1, 7)
    found = [(edge + x, edge + y, MIDDLE) for y in shifts for x in shifts]
    side = MIDDLE / 0.9
    found += [(x, y, side) for y in np.linspace(0, 1 - side, 3) for x in np.linspace(0, 1 - side, 3)]
    return found + [(0.9 * edge + x, 0.9 * edge + y, 0.9 * MIDDLE) for y in (0, 0.05, 0.1) for x in (0, 0.05, 0.1)]


WINDOWS = _windows()


def _sampling(
    starts: Float[np.ndarray, " k"], sides: Float[np.ndarray, " k"], points: int, pixels: int
) -> Float32[np.ndarray, "k points pixels"]:
    """Matrices that sample `points` values along a side of `pixels` pixels, with linear interpolation."""
    at = starts[:, None] + (np.arange(points) + 0.5) / points * sides[:, None]
    at = np.clip(at * pixels - 0.5, 0, pixels - 1)
    return np.maximum(0, 1 - np.abs(at[..., None] - np.arange(pixels))).astype(np.float32)


@lru_cache
def _matrices() -> tuple[Float32[np.ndarray, "w s p"], Float32[np.ndarray, "s p"]]:
    """Matrices that sample the WINDOWS of a hash, and a matrix that samples its middle."""

    edge = (1 - MIDDLE) / 2
    x, y, side = np.array([*WINDOWS, (edge, edge, MIDDLE)]).T
    down, across = _sampling(y, side, POINTS, SIDE), _sampling(x, side, POINTS, SIDE)
    matrices = np.stack([np.kron(*pair) for pair in zip(down, across, strict=True)])
    return matrices[:-1], matrices[-1]


def _unit(rows: Float[np.ndarray, "... n"], flat: float) -> Float32[np.ndarray, "... n"]:
    """Rows with mean 0 and length 1. Rows with a standard deviation below `flat` become 0, so they match nothing."""
    rows = rows - rows.mean(-1, keepdims=True)
    norm = np.linalg.norm(rows, axis=-1, keepdims=True)
    return np.where(norm < flat * np.sqrt(rows.shape[-1]), 0, rows / np.maximum(norm, 1e-6)).astype(np.float32)


def _bounding(rows: Float32[np.ndarray, "... s"]) -> Float32[np.ndarray, "... k"]:
    """Vectors whose products are upper bounds of the products of unit rows."""
    squares = rows.reshape(*rows.shape[:-1], POINTS, POINTS)
    frequencies = np.asarray(dctn(squares, axes=(-2, -1), norm="ortho"))
    i, j = np.indices((POINTS, POINTS))
    low = frequencies[..., (i + j <= ORDER) & (i + j > 0)]
    rest = np.square(rows).sum(-1) - np.square(low).sum(-1)
    return np.concatenate([low, np.sqrt(np.maximum(0, rest))[..., None]], -1).astype(np.float32)


def candidates(
    looks: Int8[np.ndarray, "n pixels"], others: Int8[np.ndarray, "m pixels"] | None = None
) -> Iterator[tuple[int, int, int, float]]:
    """Yields (i, j, index of the window, correlation) of pairs with similar hashes; without `others`, for i < j.

    The window is the one of image i that looks like the middle of image j.
    """
    sampling, middle = _matrices()
    two = _unit((looks if others is None else others).astype(np.float32) @ middle.T, FLAT)
    bounds = _bounding(two)
    for start in range(0, len(looks), ROWS):
        rows = looks[start : start + ROWS].astype(np.float32)
        one = _unit((rows @ sampling.reshape(-1, rows.shape[1]).T).reshape(len(rows), len(WINDOWS), -1), FLAT)
        bound = _bounding(one).reshape(-1, bounds.shape[1])
        for left in range(0 if others is not None else start, len(two), COLUMNS):
            block = (bound @ bounds[left : left + COLUMNS].T).reshape(len(rows), len(WINDOWS), -1).max(1)
            i, j = np.nonzero(block >= CANDIDATE - 1e-4)
            if others is None:
                i, j = i[start + i < left + j], j[start + i < left + j]
            for part in range(0, len(i), 1024):
                a, b = i[part : part + 1024], j[part : part + 1024] + left
                alike = np.einsum("pws,ps->pw", one[a], two[b])
                best = alike.argmax(1)
                for k in np.flatnonzero(alike.max(1) >= CANDIDATE).tolist():
                    yield start + int(a[k]), int(b[k]), int(best[k]), float(alike[k, best[k]])


def fit(image: Float32[np.ndarray, "64 64"], other: Float32[np.ndarray, "64 64"], window: Window) -> float:
    """The correlation of the middle of `other` with the best window of `image` near `window`."""
    edge = np.array([(1 - MIDDLE) / 2])
    middle = _unit(_cut(other, edge, edge, np.array([MIDDLE])), 2.0)[0]
    x, y, side = window
    x, y, best = x + side / 2, y + side / 2, -1.0
    grid = np.array(list(product((-1, 0, 1), repeat=3)))
    for step, stretch in ((1 / 30, 0.04), (1 / 60, 0.02), (1 / 120, 0.01)):
        sides = side * (1 + stretch * grid[:, 2])
        centers = np.array([x, y]) + step * grid[:, :2]
        corners = centers - sides[:, None] / 2
        alike = _unit(_cut(image, corners[:, 0], corners[:, 1], sides), 2.0) @ middle
        k = int(alike.argmax())
        best = max(best, float(alike[k]))
        (x, y), side = centers[k], float(sides[k])
        if best < HOPELESS:
            break
    return best


def _cut(
    image: Float32[np.ndarray, "64 64"],
    xs: Float[np.ndarray, " k"],
    ys: Float[np.ndarray, " k"],
    sides: Float[np.ndarray, " k"],
) -> Float32[np.ndarray, "k points"]:
    """Windows of an image, each as one row."""
    down, across = _sampling(ys, sides, FINE, PICTURE), _sampling(xs, sides, FINE, PICTURE)
    return (down @ image @ across.transpose(0, 2, 1)).reshape(len(down), -1)


def near(
    looks: Int8[np.ndarray, "n pixels"],
    pixels: Pixels,
    others: Int8[np.ndarray, "m pixels"] | None = None,
    other_pixels: Pixels | None = None,
) -> Iterator[tuple[int, int, float]]:
    """Yields (i, j, correlation) of pairs that are near-identical except for a shift or a crop.

    Without `others`, pairs within `looks` with i < j are compared. `pixels` and `other_pixels` decode an image. At
    most MOST candidates are decoded for each image i.
    """
    kept = lru_cache(4096)(pixels)
    kept_other = kept if other_pixels is None else lru_cache(4096)(other_pixels)
    waiting: list[tuple[float, int, int]] = []
    current = 0

    def decided() -> Iterator[tuple[int, int, float]]:
        for _, j, window in sorted(waiting, reverse=True)[:MOST]:
            alike = fit(kept(current), kept_other(j), WINDOWS[window])
            if alike >= NEAR:
                yield current, j, alike

    for _, block in groupby(candidates(looks, others), lambda found: found[0] // ROWS):
        for i, j, window, alike in sorted(block):
            if i != current:
                yield from decided()
                waiting.clear()
                current = i
            waiting.append((alike, j, window))
    yield from decided()
