"""Pairs of images that may be copies which are shifted by up to a tenth of their side, or cropped to nine tenths of it.

Shifting and cropping move the middle of an image to another window of it. Therefore the middle of each image of one
set is compared with windows of each image of the other. Two filters run in sequence:

1. An upper bound of the correlation of two windows of the perceptual hashes. Low frequencies enter exactly, the others
   through the product of their norms (Cauchy-Schwarz). No pair that filter 2 would keep is lost, except where an image
   resembles more than MOST of COLUMNS others: then the MOST with the highest bound are kept.
2. That correlation itself, which must be at least CANDIDATE. The hash has only 16 x 16 pixels, so it cannot distinguish
   similar cells well. `duplicates.find` then decides on decoded pixels.

On 2 cores, CPU time is 0.4 to 1 us for each pair of images. Of 1,000 pairs, 0 (492 tiles of tissue) to 3 (1,318 blood
cells and platelets) are candidates.

`duplicates.near` finds rotated or mirrored images, but not if they are also shifted or cropped.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from jaxtyping import Float, Float32, Int8
from scipy.fft import dctn

from mae_jax.data.copies import MIDDLE, Window, sampling

SIDE = 16  # pixels along each side of a perceptual hash
POINTS = 12  # samples along each side of a window of the hash
ORDER = 8  # sum of the two frequencies up to which the bound is exact
CANDIDATE = 0.91  # minimum correlation of two windows of the hashes
FLAT = 4.0  # standard deviation of a window of the hash (of 127) below which it has no structure to compare
ROWS, COLUMNS = 32, 4096  # number of images compared at once
MOST = 200  # maximum number of images in a block that are compared with one image, those with the highest bound
PAIRS = 10**9  # pairs of images beyond which the search would take hours


def _windows() -> list[Window]:
    """Where the middle of an image is found in a shifted copy, in a crop of it, or in an image it was cropped from."""
    edge = (1 - MIDDLE) / 2
    shifts = np.linspace(-0.1, 0.1, 7)
    windows = [(edge + x, edge + y, MIDDLE) for y in shifts for x in shifts]
    side = MIDDLE / 0.9
    windows += [(x, y, side) for y in np.linspace(0, 1 - side, 3) for x in np.linspace(0, 1 - side, 3)]
    return windows + [(0.9 * edge + x, 0.9 * edge + y, 0.9 * MIDDLE) for y in (0, 0.05, 0.1) for x in (0, 0.05, 0.1)]


WINDOWS = _windows()


@lru_cache
def _matrices() -> tuple[Float32[np.ndarray, "w s p"], Float32[np.ndarray, "s p"]]:
    """Matrices that sample the WINDOWS of a hash, and a matrix that samples its middle."""

    edge = (1 - MIDDLE) / 2
    x, y, side = np.array([*WINDOWS, (edge, edge, MIDDLE)]).T
    down, across = sampling(y, side, POINTS, SIDE), sampling(x, side, POINTS, SIDE)
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
    windows, middle = _matrices()
    two = _unit((looks if others is None else others).astype(np.float32) @ middle.T, FLAT)
    bounds = _bounding(two)
    for start in range(0, len(looks), ROWS):
        rows = looks[start : start + ROWS].astype(np.float32)
        one = _unit((rows @ windows.reshape(-1, rows.shape[1]).T).reshape(len(rows), len(WINDOWS), -1), FLAT)
        bound = _bounding(one).reshape(-1, bounds.shape[1])
        for left in range(0 if others is not None else start, len(two), COLUMNS):
            block = (bound @ bounds[left : left + COLUMNS].T).reshape(len(rows), len(WINDOWS), -1).max(1)
            if others is None:
                block[np.arange(len(rows))[:, None] + start >= np.arange(block.shape[1]) + left] = -1
            if len(block.T) > MOST:
                block[block < np.partition(block, -MOST, 1)[:, -MOST, None]] = -1
            i, j = np.nonzero(block >= CANDIDATE - 1e-4)
            for part in range(0, len(i), 1024):
                a, b = i[part : part + 1024], j[part : part + 1024] + left
                alike = np.einsum("pws,ps->pw", one[a], two[b])
                best = alike.argmax(1)
                for k in np.flatnonzero(alike.max(1) >= CANDIDATE).tolist():
                    yield start + int(a[k]), int(b[k]), int(best[k]), float(alike[k, best[k]])
