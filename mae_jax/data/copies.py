"""Decides on decoded pixels whether two images that look alike are copies of one image.

Images of one kind resemble each other: all nuclei are bright and smooth, all empty tiles have the same shading. Plain
correlation takes them for copies. Therefore two images are compared in what they do not share with the others:

1. The middle of one image is aligned with the best window of the other.
2. Both are reduced to 24 x 24 gray levels and 8 x 8 colors, and the mean of the set is subtracted.
3. They are whitened with the covariance of the set, so that differences which are common in the set count little.
   FLOOR is added to the variances, because recompression and resizing change every image a little.
4. They count as copies if the correlation of the whitened vectors is at least COPY, and above what chance gives among
   all pairs of the set. Chance is measured on random pairs: the upper half of their distribution (after Fisher's
   z transform) is extrapolated as a normal one.

5. Their noise and fine texture must agree, too, if both have some: smooth nuclei of one size and shape agree in all of
   the above, but are different photographs. The median correlation over small patches counts, so that the edges of the
   cells do not decide. For copies in drawn and real sets it is 0.6 or more, for two photographs of a real cell 0.5 or
   more, and for different nuclei 0.27 or less. If one image has lost detail, as out of focus or after strong
   compression, the two are not judged by it.

So the more similar the images of a set are, the more a copy must agree. Images that show only what their set shares,
such as empty tiles, cannot be told from copies and do not count as such.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from jaxtyping import Float, Float32
from scipy.fft import idctn
from scipy.ndimage import gaussian_filter
from scipy.special import ndtri

from mae_jax.data.looks import PICTURE

MIDDLE = 0.8  # side of the compared middle; a shift by a tenth keeps it inside the image
FINE, COLOR = 24, 8  # samples of gray and of color along each side of the middle
COLOR_WEIGHT = 0.3  # of color, which JPEG keeps less exactly than gray
COPY = 0.85  # minimum correlation of the whitened vectors
IDENTICAL = 0.999999  # likeness of equal pixels
DIRECTIONS = 2.0  # participation ratio up to which agreement is not evidence of a copy
SURELY = 0.995  # random pairs with at least this likeness may be copies and are left out of the estimate of chance
ALIKE = 0.95  # minimum correlation of the gray levels
HOPELESS = 0.85  # correlation below which finer fits are not tried
FLAT = 2.0  # standard deviation of the gray levels below which there is no structure to compare
FLOOR = 0.01  # variance that is added to each direction before whitening; an image has variance 1 in total
PRIOR = 10  # number of images that the covariance of natural images counts for
SAMPLE, PAIRS = 500, 500  # number of images, and of random pairs of them, that describe the set
CHANCE = 0.01  # expected number of false copies in a set
PATCHES, PATCH = 8, 6  # patches along each side of the middle, and samples along each side of a patch
SMOOTH = 1.5  # standard deviation, in samples, of the blur whose difference is the detail
VISIBLE = 0.4  # standard deviation of the detail of a patch, in gray levels, below which there is none
RATIO = 1.4  # ratio of the median standard deviations of two images above which one of them has lost detail
COMPARABLE = 16  # minimum number of patches with detail in both images
SAME_DETAIL = 0.35  # minimum median correlation of the detail
TURNS = 8  # orientations of an image: rotated by right angles, with and without mirroring

Window = tuple[float, float, float]  # left, top and side, as shares of the image's
Picture = Float32[np.ndarray, "64 64 3"]  # pixel values 0..255
CENTER: Window = ((1 - MIDDLE) / 2, (1 - MIDDLE) / 2, MIDDLE)
GRAY = np.array([0.299, 0.587, 0.114], np.float32)  # luminance in BT.601, as in JPEG
_STEPS = (
    (1 / 30, 0.04),
    (1 / 60, 0.02),
    (1 / 120, 0.01),
    (1 / 240, 0.005),
    (1 / 480, 0.0025),
)  # of the window's position and side
_PLACES, _SIDES = (grid.ravel() for grid in np.meshgrid([-1, 0, 1], [-1, 0, 1], indexing="ij"))


def turned(picture: np.ndarray, turn: int) -> np.ndarray:
    """A square picture (side side ...) in one of its TURNS orientations; 0 leaves it as it is."""
    return np.rot90(picture[:, ::-1] if turn >= 4 else picture, turn % 4)


@dataclass(frozen=True)
class Prepared:
    """A picture, and what every comparison needs of it."""

    picture: Picture
    gray: Float32[np.ndarray, "64 64"]
    middle: Float32[np.ndarray, " n"]  # gray levels of the middle, with mean 0 and length 1; 0 if it is flat
    vector: Float32[np.ndarray, " d"]  # `vector` of the middle
    colorless: bool

    @classmethod
    def of(cls, picture: Picture) -> Prepared:
        gray = picture @ GRAY
        colorless = float(np.abs(picture - gray[..., None]).mean()) < 1
        return cls(picture, gray, _unit(_cut(gray, CENTER, FINE)), vector(picture, gray), colorless)


def fit(image: Prepared, other: Prepared, window: Window = CENTER, coarse: bool = True) -> tuple[float, Window]:
    """The window of `image` near `window` that correlates best with the middle of `other`, and that correlation.

    Without `coarse`, only windows within 1/60 of the side are tried.
    """
    x, y, side = window
    x, y, best = x + side / 2, y + side / 2, -1.0
    for step, stretch in _STEPS if coarse else _STEPS[2:]:
        sides = side * (1 + stretch * _SIDES)
        down, across = (sampling(at + step * _PLACES - sides / 2, sides, FINE, PICTURE) for at in (y, x))
        down, across = (matrices.reshape(3, 3, FINE, PICTURE) for matrices in (down, across))
        rows = np.matmul(down, image.gray)  # place in y, side
        windows = np.matmul(rows[:, None], across.transpose(0, 1, 3, 2)[None])  # place in y, place in x, side
        alike = _unit(windows.reshape(27, -1)) @ other.middle
        k = int(alike.argmax())
        best = max(best, float(alike[k]))
        y, x, side = y + step * (k // 9 - 1), x + step * (k // 3 % 3 - 1), float(sides[k % 3])
        if best < HOPELESS:
            break
    return best, (float(x - side / 2), float(y - side / 2), side)


def vector(picture: Picture, gray: Float32[np.ndarray, "64 64"], window: Window = CENTER) -> Float32[np.ndarray, " d"]:
    """The gray levels and colors of a window, scaled so that the gray levels have length 1. All 0 if it is flat."""
    levels = _cut(gray, window, FINE)
    levels = levels - levels.mean()
    length = float(np.linalg.norm(levels))
    if length < FLAT * FINE:
        return np.zeros(FINE**2 + 2 * COLOR**2, np.float32)
    cuts = [_cut(picture[..., channel] - gray, window, COLOR) for channel in (0, 2)]
    colors = np.concatenate(cuts) * (FINE / COLOR)
    # Vivid colors, as of fluorescence, are kept less exactly than the gray levels, and must not outweigh them.
    return np.concatenate([levels / length, COLOR_WEIGHT * colors / max(length, float(np.linalg.norm(colors)))])


class Shared:
    """What the images of a set share: their mean, their covariance, and how alike random pairs of them are."""

    def __init__(self, images: Sequence[Prepared], pairs: int):
        """`images` stand for the set, see `representative`; the set has so many `pairs`."""
        vectors = np.stack([image.vector for image in images]).astype(np.float64)
        n = len(vectors)
        self.mean = vectors.sum(0) / (n + PRIOR)
        rest = vectors - self.mean
        variance, axes = np.linalg.eigh((rest.T @ rest + PRIOR * _natural()) / (n + PRIOR))
        self._axes = (axes / np.sqrt(np.maximum(variance, 0) + FLOOR)).astype(np.float32)
        self._images, self._pairs = images, max(1, pairs)

    def likeness(self, image: Prepared, other: Prepared, window: Window = CENTER) -> tuple[float, float]:
        """Correlation of a window of `image` with the middle of `other`, both whitened, and its number of directions.

        The number is the participation ratio of the products. Both are 0 if one of the images is flat. If one of them
        is gray, as a copy without its colors is, colors are not compared.
        """
        one, two = vector(image.picture, image.gray, window), other.vector
        if not one.any() or not two.any():
            return 0.0, 0.0
        rest = np.stack([one, two]) - self.mean
        if image.colorless != other.colorless:
            rest[:, FINE**2 :] = 0
        one, two = rest.astype(np.float32) @ self._axes
        both, length = one * two, np.linalg.norm(one) * np.linalg.norm(two)
        total, squares = float(both.sum()), float(np.square(both).sum())
        return total / max(float(length), 1e-12), total**2 / max(squares, 1e-12)

    @cached_property
    def needed(self) -> float:
        """The likeness from which two images count as copies."""
        drawn = np.random.default_rng(0).integers(0, len(self._images), (PAIRS, 2))
        pairs = [(self._images[i], self._images[j]) for i, j in drawn.tolist() if i != j]
        if not pairs:
            return COPY
        likenesses = np.array([self.likeness(one, two, fit(one, two)[1])[0] for one, two in pairs])
        likenesses = likenesses[likenesses < SURELY]
        if not len(likenesses):
            return COPY
        middle, upper = np.quantile(np.arctanh(likenesses), [0.5, 0.98])
        deviation = (upper - middle) / -ndtri(0.02)
        return max(COPY, float(np.tanh(middle - deviation * ndtri(CHANCE / (TURNS * self._pairs)))))

    def copies(self, image: Prepared, other: Prepared, window: Window = CENTER, coarse: bool = True) -> float:
        """The likeness of two images if they look like copies of one image, otherwise 0.

        `window` of `image` is where the middle of `other` is expected; `coarse` is that of `fit`.
        """
        alike, place = fit(image, other, window, coarse)
        if alike < ALIKE:
            return 0.0
        likeness, directions = self.likeness(image, other, place)
        if likeness < COPY or _z(likeness) < _z(self.needed):
            return 0.0
        if likeness > IDENTICAL:
            return likeness
        # Gradients, for example, are alike in all two directions that they have if they fall to the same side.
        return likeness if directions > DIRECTIONS and same_detail(image.gray, other.gray, place) else 0.0


def same_detail(gray: Float32[np.ndarray, "64 64"], other: Float32[np.ndarray, "64 64"], window: Window) -> bool:
    """Whether a window of `gray` has the noise and fine texture of the middle of `other`, or cannot be judged by it."""
    one, two = _detail(gray, window), _detail(other, CENTER)
    strength = np.stack([one.std(1), two.std(1)])
    comparable = strength.min(0) > VISIBLE
    weaker, stronger = np.sort(np.median(strength, 1))
    if comparable.sum() < COMPARABLE or stronger > RATIO * weaker:
        return True
    correlation = (one * two).mean(1)[comparable] / strength.prod(0)[comparable]
    return bool(np.median(correlation) >= SAME_DETAIL)


def _detail(gray: Float32[np.ndarray, "64 64"], window: Window) -> Float32[np.ndarray, "patches samples"]:
    """What a blur removes from the gray levels of a window, in patches with mean 0."""
    levels = _cut(gray, window, PATCHES * PATCH).reshape(2 * (PATCHES * PATCH,))
    patches = (levels - gaussian_filter(levels, SMOOTH)).reshape(PATCHES, PATCH, PATCHES, PATCH)
    rows = patches.transpose(0, 2, 1, 3).reshape(PATCHES**2, PATCH**2)
    return rows - rows.mean(1, keepdims=True)


def representative(n: int) -> list[int]:
    """The indices of at most SAMPLE images, evenly spaced among `n`."""
    return np.unique(np.linspace(0, n - 1, min(n, SAMPLE)).round().astype(int)).tolist()


def sampling(
    starts: Float[np.ndarray, " k"], sides: Float[np.ndarray, " k"], points: int, pixels: int
) -> Float32[np.ndarray, "k points pixels"]:
    """Matrices that average `points` samples along a side of `pixels` pixels. They overlap by half."""
    at = (starts[:, None] + (np.arange(points) + 0.5) / points * sides[:, None]) * pixels - 0.5
    at = np.clip(at, 0, pixels - 1)
    width = np.maximum(1, sides / points * pixels)[:, None, None]
    weights = np.maximum(0, 1 - np.abs(at[..., None] - np.arange(pixels)) / width)
    return (weights / weights.sum(-1, keepdims=True)).astype(np.float32)


def _cut(plane: Float32[np.ndarray, "64 64"], window: Window, points: int) -> Float32[np.ndarray, " n"]:
    """A window of one channel as a row of points x points samples."""
    x, y, side = (np.array([value]) for value in window)
    down, across = sampling(y, side, points, PICTURE)[0], sampling(x, side, points, PICTURE)[0]
    return (down @ plane @ across.T).ravel()


def _unit(rows: Float32[np.ndarray, "... n"]) -> Float32[np.ndarray, "... n"]:
    """Rows with mean 0 and length 1. Flat rows become 0, so they match nothing."""
    rows = rows - rows.mean(-1, keepdims=True)
    length = np.sqrt(np.einsum("...n,...n->...", rows, rows))[..., None]
    flat = length < FLAT * np.sqrt(rows.shape[-1])
    return np.where(flat, 0, rows / np.maximum(length, 1e-6)).astype(np.float32)


def _z(correlation: float) -> float:
    """Fisher's z transform. Correlations above 1 - 1e-7, which identical pixels have, count as that."""
    return float(np.arctanh(np.clip(correlation, -1 + 1e-7, 1 - 1e-7)))


@lru_cache
def _natural() -> Float[np.ndarray, "d d"]:
    """The covariance of natural images: the power of a frequency falls with its square."""
    blocks = [_planes(FINE, 1.0), *[_planes(COLOR, 0.02)] * 2]
    covariance = np.zeros((FINE**2 + 2 * COLOR**2,) * 2)
    start = 0
    for block in blocks:
        stop = start + len(block)
        covariance[start:stop, start:stop] = block
        start = stop
    return covariance


def _planes(side: int, variance: float) -> Float[np.ndarray, "n n"]:
    i, j = np.indices((side, side))
    power = 1 / np.maximum(1, i * i + j * j)
    power[0, 0] = 0
    power = (power / power.sum() * variance).ravel()
    waves = np.asarray(idctn(np.eye(side * side).reshape(-1, side, side), axes=(1, 2), norm="ortho"))
    waves = waves.reshape(side * side, -1)
    return (waves.T * power) @ waves
