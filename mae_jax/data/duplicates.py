"""Finds identical images, images that look like copies of each other, and images and groups that two splits share.

Copies are searched for in two steps: perceptual hashes give candidates, and `copies` decides on decoded pixels.
"""

from __future__ import annotations

import heapq
import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from itertools import groupby

import numpy as np
from jaxtyping import Float32, Int, Int8, UInt64
from scipy.fft import dctn

from mae_jax.data import copies, shifted
from mae_jax.data.checking import digest
from mae_jax.data.copies import CENTER, Picture, Prepared, Window
from mae_jax.data.looks import SIDE, look, picture
from mae_jax.data.sources import Source

NEAR = 0.95  # minimum correlation of the perceptual hashes of a candidate
ROWS, COLUMNS = 512, 8192  # images compared at once
DENSE = 0.02  # share of a block's pairs from which all its pairs are compared in all orientations, which is faster
MOST = 20  # maximum number of candidates to decode for one image, those with the highest correlation
MOST_DECODED = 200_000  # maximum number of candidates to decode, those with the highest correlation
KEPT = 4096  # number of decoded images to keep in memory, 70 KiB each
SHOWN = 5  # number of examples that a run keeps
MOST_ALIKE = 0.5  # share of images with a near-identical one from which they may all show one shape

Pictures = Callable[[int], Picture]  # returns the picture of the image with this index
Candidate = tuple[float, int, int, int, Window, bool]  # correlation, i, j, turn of i, window in i, whether shifted


def find(
    looks: Int8[np.ndarray, "n pixels"],
    pictures: Pictures,
    others: Int8[np.ndarray, "m pixels"] | None = None,
    other_pictures: Pictures | None = None,
) -> Iterator[tuple[int, int, float]]:
    """Yields (i, j, likeness) for pairs that look like copies of one image; without `others`, for i < j within `looks`.

    Copies may be recompressed, resized, brightened, and either rotated by right angles and mirrored, or shifted or
    cropped by up to a tenth. Shifted and cropped ones are only searched for if `searched` is true. Of each image at
    most MOST candidates are decoded, and MOST_DECODED in total.
    """
    n, m = len(looks), len(looks if others is None else others)
    kept = lru_cache(KEPT)(lambda i: Prepared.of(pictures(i)))
    kept_other = kept
    if other_pictures is not None:
        kept_other = lru_cache(KEPT)(lambda j: Prepared.of(other_pictures(j)))
    shared: copies.Shared | None = None
    done: set[tuple[int, int]] = set()
    for candidates in (_turned_candidates(looks, others), _shifted_candidates(looks, others)):
        for _, i, j, turn, window, coarse in sorted(_likeliest(candidates), key=lambda c: c[1:3]):
            if (i, j) in done:
                continue
            if shared is None:
                total = n if others is None else n + m
                sample = [kept(k) if k < n else kept_other(k - n) for k in copies.representative(total)]
                shared = copies.Shared(sample, total * (total - 1) // 2)
            image = Prepared.of(copies.turned(kept(i).picture, turn)) if turn else kept(i)
            likeness = shared.copies(image, kept_other(j), window, coarse)
            if likeness:
                done.add((i, j))
                yield i, j, likeness


def searched(n: int, m: int | None = None) -> bool:
    """Whether shifted and cropped copies are searched for among n images, or n and m images."""
    return (n * (n - 1) / 2 if m is None else n * m) <= shifted.PAIRS


def _likeliest(candidates: Iterator[Candidate]) -> list[Candidate]:
    """The MOST candidates with the highest correlation of each image i, and MOST_DECODED of all. Sorted by i."""
    kept = (c for _, of_one in groupby(candidates, lambda c: c[1]) for c in heapq.nlargest(MOST, of_one))
    return heapq.nlargest(MOST_DECODED, kept)


def _turned_candidates(
    looks: Int8[np.ndarray, "n pixels"], others: Int8[np.ndarray, "m pixels"] | None
) -> Iterator[Candidate]:
    return ((alike, i, j, turn, CENTER, False) for i, j, turn, alike in near(looks, others))


def _shifted_candidates(
    looks: Int8[np.ndarray, "n pixels"], others: Int8[np.ndarray, "m pixels"] | None
) -> Iterator[Candidate]:
    if not searched(len(looks), None if others is None else len(others)):
        return
    for _, block in groupby(shifted.candidates(looks, others), lambda c: c[0] // shifted.ROWS):
        for i, j, window, alike in sorted(block):
            yield alike, i, j, 0, shifted.WINDOWS[window], True


def near(
    looks: Int8[np.ndarray, "n pixels"], others: Int8[np.ndarray, "m pixels"] | None = None
) -> Iterator[tuple[int, int, int, float]]:
    """Yields (i, j, turn, correlation) for the pairs with the most similar hashes; without `others`, for i < j.

    Tissue has no upright orientation, so an image that is rotated by right angles or mirrored counts as the same;
    `turn` is the orientation of i (see `copies.turned`) that looks like j. Only pairs whose upper bound, the product of
    their `_unturned`, is high enough are compared in all 8 orientations. The pairs of an image i are those with the
    highest correlation, at most MOST.
    """
    one = _unit(looks)
    two = one if others is None else _unit(others)
    bounds, other_bounds = _unturned(one), _unturned(two)
    for start in range(0, len(one), ROWS):
        pairs: list[tuple[np.ndarray, ...]] = []
        rows = slice(start, start + ROWS)
        for left in range(0 if others is not None else start, len(two), COLUMNS):
            columns = slice(left, left + COLUMNS)
            bound = bounds[rows] @ other_bounds[columns].T
            if others is None:
                bound[np.arange(len(bound))[:, None] + start >= np.arange(bound.shape[1]) + left] = -1
            pairs.append(_alike(one[rows], two[columns], bound, start, left))
        i, j, turn, alike = (np.concatenate(part) for part in zip(*pairs, strict=True))
        order = np.lexsort((-alike, i))
        rank = np.arange(len(i)) - np.searchsorted(i[order], i[order])
        for k in order[rank < MOST].tolist():
            yield int(i[k]), int(j[k]), int(turn[k]), float(alike[k])


def _alike(
    one: Float32[np.ndarray, "r pixels"],
    two: Float32[np.ndarray, "c pixels"],
    bound: Float32[np.ndarray, "r c"],
    start: int,
    left: int,
) -> tuple[Int[np.ndarray, " k"], Int[np.ndarray, " k"], Int[np.ndarray, " k"], Float32[np.ndarray, " k"]]:
    """Pairs of a block of two sets of unit rows with a correlation of at least NEAR: i, j, turn and correlation.

    `bound` has the upper bounds of the correlations; `start` and `left` are the indices of the first row and column.
    """
    hopeful = bound >= NEAR - 1e-4
    if hopeful.mean() > DENSE:
        best, turn = np.full(bound.shape, -1, np.float32), np.zeros(bound.shape, np.int8)
        for number, way in enumerate(_turned(one)):
            alike = way @ two.T
            better = alike > best
            best[better], turn[better] = alike[better], number
        best[~hopeful] = -1
        if len(two) > MOST:
            best[best < np.partition(best, -MOST, 1)[:, -MOST, None]] = -1
        i, j = np.nonzero(best >= NEAR)
        return i + start, j + left, turn[i, j].astype(int), best[i, j]
    i, j = np.nonzero(hopeful)
    best, turn = np.zeros(len(i), np.float32), np.zeros(len(i), int)
    for part in range(0, len(i), ROWS):
        these = slice(part, part + ROWS)
        alike = np.einsum("wnp,np->wn", _turned(one[i[these]]), two[j[these]])
        best[these], turn[these] = alike.max(0), alike.argmax(0)
    good = best >= NEAR
    return i[good] + start, j[good] + left, turn[good], best[good]


def _unturned(rows: Float32[np.ndarray, "n pixels"]) -> Float32[np.ndarray, "n pixels"]:
    """Vectors that rotation and mirroring do not change. Their products are upper bounds of the products of `rows`.

    Rotation and mirroring swap the frequencies (i, j) and (j, i) of the cosine transform and change signs. By the
    rearrangement inequality, the sorted magnitudes of each such pair give the largest possible product.
    """
    size = np.abs(np.asarray(dctn(rows.reshape(-1, SIDE, SIDE), axes=(1, 2), norm="ortho")))
    swapped = size.transpose(0, 2, 1)
    upper = np.triu(np.ones((SIDE, SIDE), bool))
    return np.where(upper, np.maximum(size, swapped), np.minimum(size, swapped)).reshape(rows.shape)


def _turned(rows: Float32[np.ndarray, "n pixels"]) -> Float32[np.ndarray, "8 n pixels"]:
    """Each row in its 8 orientations, in the order of `copies.turned`."""
    square = rows.reshape(-1, SIDE, SIDE).transpose(1, 2, 0)
    versions = [copies.turned(square, turn) for turn in range(copies.TURNS)]
    return np.stack(versions).reshape(copies.TURNS, -1, len(rows)).transpose(0, 2, 1)


def _unit(looks: Int8[np.ndarray, "n pixels"]) -> Float32[np.ndarray, "n pixels"]:
    """Rows without their mean, scaled to length 1. Flat images stay 0, so they are similar to no image."""
    pixels = looks.astype(np.float32)
    pixels -= pixels.mean(axis=1, keepdims=True)
    return pixels / np.maximum(np.linalg.norm(pixels, axis=1, keepdims=True), 1e-6)


def hashes_of(source: Source) -> tuple[UInt64[np.ndarray, " n"], Int8[np.ndarray, "n pixels"]]:
    """Digests and perceptual hashes of a source; if it does not have them, all its files are read."""
    if source.digests is not None and source.looks is not None:
        return source.digests, source.looks()

    def both(i: int) -> tuple[int, np.ndarray]:
        data = source.encoded(i)
        return digest(data), look(data, source.names[i])

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        digests, looks = zip(*pool.map(both, range(len(source))), strict=True)
    return np.asarray(digests, np.uint64), np.stack(looks)


def pictures(sources: Sequence[Source], i: int) -> Picture:
    """The picture of image `i`, counted over all `sources` in their order."""
    for source in sources:
        if i < len(source):
            return picture(source.encoded(i), source.names[i])
        i -= len(source)
    raise IndexError(i)


def leaks(train: Sequence[Source], test: Source) -> dict:
    """Counts groups and images that the test images share with the sources `train`, which include validation images.

    Counts are of test images. Byte-identical ones are not counted again as near-identical, which are those
    that look like copies. `images` lists the names of all test images in any of the counts.
    """
    hashes = [hashes_of(source) for source in train]
    ours, looks = (np.concatenate(part) for part in zip(*hashes, strict=True))
    theirs, other_looks = hashes_of(test)
    names = [name for source in train for name in source.names]
    first = {value: i for i, value in reversed(list(enumerate(ours.tolist())))}
    identical = [(j, first[value]) for j, value in enumerate(theirs.tolist()) if value in first]
    groups = sorted({g for g in test.compared if g} & {g for source in train for g in source.compared})
    shared = set(groups)
    same = {j for j, _ in identical}
    rest = np.asarray([j for j in range(len(test)) if j not in same], int)
    pairs = find(other_looks[rest], lambda k: pictures([test], int(rest[k])), looks, partial(pictures, train))
    alike = {int(rest[k]): i for k, i, _ in pairs}

    def pair(j: int, i: int) -> list[str]:
        return [test.names[j], names[i]]

    leaked = same | alike.keys() | {j for j, g in enumerate(test.compared) if g in shared}
    return {
        "groups": len(groups),
        "images_in_shared_groups": sum(g in shared for g in test.compared),
        "identical": len(identical),
        "near_identical": len(alike),
        "test_images": len(test),
        "shifted_searched": searched(len(rest), len(names)),  # whether shifted and cropped images were searched for
        "images": [test.names[j] for j in sorted(leaked)],
        "examples": {
            "groups": groups[:SHOWN],
            "identical": [pair(*p) for p in identical[:SHOWN]],
            "near_identical": [pair(*p) for p in sorted(alike.items())[:SHOWN]],
        },
    }


def all_alike(near: int, total: float) -> str:
    """A clause for the case that `near` of `total` images look like copies of others, which may be too many; or ""."""
    if near < max(10, MOST_ALIKE * total):
        return ""
    return "so many that the images may all show one shape, as drawings do; look at some pairs before you remove any"


def unsearched(leaks_by_test: dict[str, dict]) -> str:
    """A line that names the test sets in which shifted and cropped copies were not searched for; "" if none.

    `leaks_by_test` has the `leaks` of each test set.
    """
    names = [name for name, leaks in leaks_by_test.items() if not leaks["shifted_searched"]]
    if not names:
        return ""
    return f"not searched for in {', '.join(names)}, because there are more than {shifted.PAIRS:,} pairs of images"


def in_words(leaks: dict, who: str = "training") -> str:
    """One line about what a test set shares with the images of `who`; "" if nothing."""
    phrases = []
    if leaks["groups"]:
        groups = "a group" if leaks["groups"] == 1 else f"{leaks['groups']} groups"
        phrases.append(f"{leaks['images_in_shared_groups']} of {groups} that {who} has, too")
    if leaks["identical"]:
        phrases.append(f"{leaks['identical']} byte-identical with {who} images")
    if n := leaks["near_identical"]:
        note = all_alike(n, leaks.get("test_images", math.inf))
        more = f" ({note})" if note else ""
        phrases.append(f"{n} that {'looks' if n == 1 else 'look'} like copies of {who} images{more}")
    return ", ".join(phrases)
