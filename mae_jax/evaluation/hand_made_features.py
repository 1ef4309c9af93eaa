"""Features that need no network: color histograms, and measurements of the nucleus. The references of every encoder."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from scipy import ndimage, spatial

from mae_jax.data import loaders
from mae_jax.data.sources import Source
from mae_jax.data.transforms import CenterResize, Decode
from mae_jax.evaluation.feature_cache import Features

SIDE = 128  # images are scaled to this many pixels, as evaluation scales them for a network
BINS = 6  # of each color channel
LEVELS = 8  # gray levels of the co-occurrence matrix
PART = 0.1  # parts of the nucleus that are smaller than this share of its largest part are dirt
VERSION = 1  # changes with the values of any feature

NUCLEUS = (  # the features of `nucleus`, in order
    *("area", "parts", "perimeter", "eccentricity", "solidity", "extent", "elongation"),
    *("red", "green", "blue", "red_deviation", "green_deviation", "blue_deviation"),
    *("red_around", "green_around", "blue_around"),
    *("gradient", "entropy", "contrast", "homogeneity", "energy", "correlation"),
)


def histogram(images: UInt8[np.ndarray, "n h w 3"]) -> Float[np.ndarray, "n d"]:
    """The square root of the joint histogram of red, green and blue (Swain and Ballard 1991), as shares of the pixels.

    Euclidean distances between square roots are Hellinger distances between histograms.
    """
    bins = images.astype(np.int32) * BINS // 256
    numbers = ((bins[..., 0] * BINS + bins[..., 1]) * BINS + bins[..., 2]).reshape(len(images), -1)
    counts = np.stack([np.bincount(row, minlength=BINS**3) for row in numbers])
    return np.sqrt(counts / numbers.shape[1]).astype(np.float32)


def nucleus(images: UInt8[np.ndarray, "n h w 3"]) -> Float[np.ndarray, "n d"]:
    """Area, shape, color and texture of the nucleus in each image, in the order of NUCLEUS.

    The nucleus is the region that is dark in the green channel and saturated, above Otsu's threshold (Otsu 1979). An
    image without such a region gets zeros.
    """
    return np.stack([_measured(image) for image in images]).astype(np.float32)


COMPUTED: dict[str, Callable[[UInt8[np.ndarray, "n h w 3"]], Float[np.ndarray, "n d"]]] = {
    "histogram": histogram,
    "nucleus": nucleus,
}  # by the value of `init`


class Computed:
    """Features that are computed without a network, once for each image by all that share `cached`."""

    def __init__(self, kind: str, threads: int, cached: Features):
        """`kind` is the `init` of the run."""
        self.digest, self._key = f"{kind} {VERSION}", (kind,)
        self._function, self._threads, self._cached = COMPUTED[kind], threads, cached

    def of(self, source: Source, indices: Int[np.ndarray, " n"]) -> Float[np.ndarray, "n d"]:
        """Features of the images `indices`, in this order."""
        return self._cached.of(self._key, source, indices, self._compute)

    def _compute(self, source: Source, indices: Int[np.ndarray, " n"]) -> Float[np.ndarray, "n d"]:
        parts = loaders.eval_image_batches(source, indices, [Decode(), CenterResize(SIDE)], self._threads)
        return np.concatenate([self._function(images) for images in parts])


def region(image: UInt8[np.ndarray, "h w 3"]) -> Bool[np.ndarray, "h w"]:
    """The pixels of the nucleus: its largest part and the other lobes, with holes filled."""
    pixels = image.astype(np.float64) / 255
    high, low = pixels.max(2), pixels.min(2)
    saturation = np.divide(high - low, high, out=np.zeros_like(high), where=high > 0)
    stained = ndimage.gaussian_filter(saturation + 1 - pixels[..., 1], 1.0)
    if np.ptp(stained) < 1e-6:
        return np.zeros(stained.shape, bool)
    parts = _parts(np.asarray(ndimage.binary_fill_holes(stained > otsu(stained))))
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    return (sizes >= max(PART * sizes.max(), 1))[parts]


def _parts(inside: Bool[np.ndarray, "h w"]) -> Int[np.ndarray, "h w"]:
    """The number of the connected part that each pixel belongs to, from 1 on; 0 outside. Corners connect pixels."""
    numbers = np.zeros(inside.shape, np.int32)
    ndimage.label(inside, np.ones((3, 3)), output=numbers)
    return numbers


def otsu(values: Float[np.ndarray, "..."], bins: int = 256) -> float:
    """The threshold that separates `values` into two classes with the largest variance between them (Otsu 1979)."""
    counts, edges = np.histogram(values, bins)
    centers = (edges[1:] + edges[:-1]) / 2
    below, above = np.cumsum(counts), counts.sum() - np.cumsum(counts)
    total = np.cumsum(counts * centers)
    with np.errstate(invalid="ignore", divide="ignore"):
        variance = below * above * (total / below - (total[-1] - total) / above) ** 2
    return float(centers[np.nanargmax(variance[:-1])])


def _measured(image: UInt8[np.ndarray, "h w 3"]) -> Float[np.ndarray, " d"]:
    inside = region(image)
    if inside.sum() < 4:  # no shape
        return np.zeros(len(NUCLEUS))
    pixels = image.astype(np.float64) / 255
    ring = ndimage.binary_dilation(inside, iterations=SIDE // 10) & ~inside
    around = pixels[ring].mean(0) if ring.any() else np.zeros(3)
    values = [
        *shape(inside),
        *pixels[inside].mean(0),
        *pixels[inside].std(0),
        *around,
        *texture(pixels.mean(2), inside),
    ]
    return np.asarray(values)


def shape(inside: Bool[np.ndarray, "h w"]) -> Float[np.ndarray, "7"]:
    """Area (share of the image), number of parts, perimeter / sqrt(area), eccentricity, solidity, extent, elongation.

    Eccentricity and elongation (minor / major axis) are those of the ellipse with the same second moments. Solidity is
    the share of the convex hull, extent that of the bounding box.
    """
    rows, columns = np.nonzero(inside)
    area = len(rows)
    edge = area - ndimage.binary_erosion(inside).sum()
    points = np.stack([rows, columns], 1).astype(np.float64)
    small, large = np.maximum(np.linalg.eigvalsh(np.cov(points.T, bias=True)), 0)
    corners = (points[:, None] + np.array([[0, 0], [0, 1], [1, 0], [1, 1]])).reshape(-1, 2)
    hull = spatial.ConvexHull(np.unique(corners, axis=0)).volume  # of two dimensions: its area
    box = (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
    eccentricity, elongation = np.sqrt(1 - small / large), np.sqrt(small / large)
    of_ellipse = eccentricity, area / hull, area / box, elongation
    return np.array([area / inside.size, _parts(inside).max(), edge / np.sqrt(area), *of_ellipse], float)


def texture(gray: Float[np.ndarray, "h w"], inside: Bool[np.ndarray, "h w"]) -> Float[np.ndarray, "6"]:
    """Mean gradient, entropy (bits), and Haralick's contrast, homogeneity, energy and correlation inside a region.

    The co-occurrence matrix (Haralick et al. 1973) counts pairs of neighboring pixels that are both inside, in four
    directions and both orders.
    """
    slopes = np.hypot(*np.gradient(gray))
    levels = np.minimum((gray * LEVELS).astype(int), LEVELS - 1)
    shares = np.bincount(np.minimum((gray[inside] * 32).astype(int), 31), minlength=32) / inside.sum()
    entropy = -(shares[shares > 0] * np.log2(shares[shares > 0])).sum()
    pairs = cooccurrence(levels, inside, ((0, 1), (1, 0), (1, 1), (1, -1)))
    if not pairs.sum():
        return np.array([slopes[inside].mean(), entropy, 0, 0, 0, 0])
    p = pairs / pairs.sum()
    i, j = np.indices(p.shape)
    mean, variance = (i * p).sum(), ((i - (i * p).sum()) ** 2 * p).sum()
    correlation = ((i - mean) * (j - mean) * p).sum() / variance if variance > 0 else 1.0
    contrast, homogeneity = ((i - j) ** 2 * p).sum(), (p / (1 + (i - j) ** 2)).sum()
    energy = np.sqrt((p**2).sum())
    return np.array([slopes[inside].mean(), entropy, contrast, homogeneity, energy, correlation])


def cooccurrence(
    levels: Int[np.ndarray, "h w"], inside: Bool[np.ndarray, "h w"], steps: Sequence[tuple[int, int]]
) -> Int[np.ndarray, "l l"]:
    """How often two pixels inside, `steps` rows and columns apart, have each pair of levels; symmetric."""
    counts = np.zeros((LEVELS, LEVELS), int)
    height, width = levels.shape
    for down, right in steps:
        first = slice(0, height - down), slice(max(0, -right), width - max(0, right))
        second = slice(down, height), slice(max(0, right), width - max(0, -right))
        both = inside[first] & inside[second]
        np.add.at(counts, (levels[first][both], levels[second][both]), 1)
    return counts + counts.T
