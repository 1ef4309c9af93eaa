"""Finds identical and near-identical images, and images and groups that two splits share."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
from jaxtyping import Float32, Int8, UInt64
from scipy.fft import dctn

from mae_jax.data import shifted
from mae_jax.data.checking import digest
from mae_jax.data.looks import SIDE, look, shrunk
from mae_jax.data.sources import Source

NEAR = 0.95  # images count as near-identical from this correlation of their perceptual hashes
ROWS, COLUMNS = 512, 8192  # images compared at once
SHOWN = 5  # number of examples that a run keeps


def near(
    looks: Int8[np.ndarray, "n pixels"], others: Int8[np.ndarray, "m pixels"] | None = None
) -> Iterator[tuple[int, int, float]]:
    """Yields (i, j, correlation) for all near-identical pairs; without `others`, for i < j within `looks`.

    Tissue has no upright orientation, so an image that is rotated by right angles or mirrored counts as the same.
    Only pairs whose upper bound, the product of their `_unturned`, is high enough are compared in all 8
    orientations. No pair is missed.
    """
    one = _unit(looks)
    two = one if others is None else _unit(others)
    bounds, other_bounds = _unturned(one), _unturned(two)
    for start in range(0, len(one), ROWS):
        for left in range(0 if others is not None else start, len(two), COLUMNS):
            bound = bounds[start : start + ROWS] @ other_bounds[left : left + COLUMNS].T
            rows, columns = np.nonzero(bound >= NEAR - 1e-4)
            rows, columns = rows + start, columns + left
            if others is None:
                rows, columns = rows[rows < columns], columns[rows < columns]
            for part in range(0, len(rows), ROWS):
                i, j = rows[part : part + ROWS], columns[part : part + ROWS]
                alike = np.einsum("wnp,np->wn", _turned(one[i]), two[j]).max(0)
                for k in np.flatnonzero(alike >= NEAR).tolist():
                    yield int(i[k]), int(j[k]), float(alike[k])


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
    """Each row in its 8 orientations: rotated by right angles, with and without mirroring."""
    square = rows.reshape(-1, SIDE, SIDE)
    versions = [np.rot90(way, quarter, (1, 2)) for way in (square, square[:, :, ::-1]) for quarter in range(4)]
    return np.stack(versions).reshape(8, *rows.shape)


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


def pixels(sources: Sequence[Source], i: int) -> Float32[np.ndarray, "64 64"]:
    """The gray levels of image `i`, counted over all `sources` in their order."""
    for source in sources:
        if i < len(source):
            return shrunk(source.encoded(i), shifted.PICTURE, source.names[i])
        i -= len(source)
    raise IndexError(i)


def leaks(train: Sequence[Source], test: Source) -> dict:
    """Counts groups and images that the test images share with the sources `train`, which include validation images.

    Counts are of test images. Byte-identical ones are not counted again as near-identical. `images` lists the names
    of all test images in any of the counts.
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
    found = {j: i for i, j, _ in near(looks, other_looks) if j not in same}
    rest = np.asarray([j for j in range(len(test)) if j not in same and j not in found], int)
    searched = len(rest) * len(names) <= shifted.PAIRS
    if searched:
        moved = shifted.near(other_looks[rest], lambda k: pixels([test], int(rest[k])), looks, partial(pixels, train))
        found |= {int(rest[k]): i for k, i, _ in moved}

    def pair(j: int, i: int) -> list[str]:
        return [test.names[j], names[i]]

    leaked = same | found.keys() | {j for j, g in enumerate(test.compared) if g in shared}
    return {
        "groups": len(groups),
        "images_in_shared_groups": sum(g in shared for g in test.compared),
        "identical": len(identical),
        "near_identical": len(found),
        "shifted_searched": searched,  # whether shifted and cropped images were searched for
        "images": [test.names[j] for j in sorted(leaked)],
        "examples": {
            "groups": groups[:SHOWN],
            "identical": [pair(*p) for p in identical[:SHOWN]],
            "near_identical": [pair(*p) for p in sorted(found.items())[:SHOWN]],
        },
    }


def unsearched(found: dict[str, dict]) -> str:
    """A line that names the test sets in which shifted and cropped copies were not searched for; "" if none.

    `found` has the `leaks` of each test set.
    """
    names = [name for name, leaks in found.items() if not leaks["shifted_searched"]]
    if not names:
        return ""
    return f"not searched for in {', '.join(names)}, because there are more than {shifted.PAIRS:,} pairs of images"


def in_words(found: dict, who: str = "training") -> str:
    """One line about what a test set shares with the images of `who`; "" if nothing."""
    said = []
    if found["groups"]:
        groups = "a group" if found["groups"] == 1 else f"{found['groups']} groups"
        said.append(f"{found['images_in_shared_groups']} of {groups} that {who} has, too")
    if found["identical"]:
        said.append(f"{found['identical']} byte-identical with {who} images")
    if found["near_identical"]:
        said.append(f"{found['near_identical']} near-identical with {who} images")
    return ", ".join(said)
