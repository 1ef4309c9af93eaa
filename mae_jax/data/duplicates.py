"""The same image twice: byte for byte, or to the eye. And groups and images that two splits share."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import Float32, Int8, UInt64
from PIL import Image

from mae_jax.data.checking import digest
from mae_jax.data.decode import load_image, open_image
from mae_jax.data.sources import Source

SIDE = 16  # pixels along each side of the small picture that is compared
NEAR = 0.95  # correlation of two such pictures from which images count as near-identical
FLAT = 2.0  # grey levels of standard deviation below which an image shows nothing to compare
ROWS, COLUMNS = 512, 8192  # images compared at once
SHOWN = 5  # examples that a run keeps


def look(data: bytes, name: str = "image") -> Int8[np.ndarray, " pixels"]:
    """A perceptual hash: the image as 16 x 16 grey levels, its mean and contrast taken off.

    Encoding anew, another size or brightness leave it as it is. All zero for an image without structure.
    Raises UserError where it cannot be decoded.
    """
    image = open_image(data, name) if data.startswith(b"\xff\xd8") else None
    if image is not None and image.format == "JPEG" and image.mode in ("RGB", "L"):
        image.draft("L", (4 * SIDE, 4 * SIDE))  # decodes no more pixels than are needed
        image = image.convert("L")
    else:
        image = Image.fromarray(load_image(data, name)).convert("L")
    grey = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX), np.float32).ravel()
    if grey.std() < FLAT:
        return np.zeros(SIDE * SIDE, np.int8)
    grey -= grey.mean()
    return np.rint(127 * grey / np.abs(grey).max()).astype(np.int8)


def near(
    looks: Int8[np.ndarray, "n pixels"], others: Int8[np.ndarray, "m pixels"] | None = None
) -> Iterator[tuple[int, int, float]]:
    """(i, j, correlation) for all near-identical pairs; without `others`, of i < j among `looks`.

    Tissue has no upright: an image that is turned by a right angle or mirrored counts as the same.
    """
    one = _unit(looks)
    two = one if others is None else _unit(others)
    for start in range(0, len(one), ROWS):
        turned = _turned(one[start : start + ROWS])
        for left in range(0 if others is not None else start, len(two), COLUMNS):
            alike = (turned @ two[left : left + COLUMNS].T).max(axis=0)
            for row, column in np.argwhere(alike >= NEAR).tolist():
                if others is not None or start + row < left + column:
                    yield start + row, left + column, float(alike[row, column])


def _turned(rows: Float32[np.ndarray, "n pixels"]) -> Float32[np.ndarray, "8 n pixels"]:
    """Each row as it is, turned, mirrored, and both."""
    square = rows.reshape(-1, SIDE, SIDE)
    versions = [np.rot90(way, quarter, (1, 2)) for way in (square, square[:, :, ::-1]) for quarter in range(4)]
    return np.stack(versions).reshape(8, *rows.shape)


def _unit(looks: Int8[np.ndarray, "n pixels"]) -> Float32[np.ndarray, "n pixels"]:
    """Rows of length 1; flat images stay 0, and like nothing."""
    pixels = looks.astype(np.float32)
    pixels -= pixels.mean(axis=1, keepdims=True)
    return pixels / np.maximum(np.linalg.norm(pixels, axis=1, keepdims=True), 1e-6)


def hashes_of(source: Source) -> tuple[UInt64[np.ndarray, " n"], Int8[np.ndarray, "n pixels"]]:
    """Digests and perceptual hashes: those that the source knows, else from reading all its files."""
    if source.digests is not None and source.looks is not None:
        return source.digests, source.looks()

    def both(i: int) -> tuple[int, np.ndarray]:
        data = source.read(i)
        return digest(data), look(data, source.names[i])

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        digests, looks = zip(*pool.map(both, range(len(source))), strict=True)
    return np.asarray(digests, np.uint64), np.stack(looks)


def leaks(train: Sequence[Source], test: Source) -> dict:
    """What the test images share with the images of the sources `train` (validation included): groups and images.

    Counts are of test images; those that are byte-identical are not counted as near-identical again.
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

    def pair(j: int, i: int) -> list[str]:
        return [test.names[j], names[i]]

    return {
        "groups": len(groups),
        "images_in_shared_groups": sum(g in shared for g in test.compared),
        "identical": len(identical),
        "near_identical": len(found),
        "examples": {
            "groups": groups[:SHOWN],
            "identical": [pair(*p) for p in identical[:SHOWN]],
            "near_identical": [pair(*p) for p in sorted(found.items())[:SHOWN]],
        },
    }


def in_words(found: dict, who: str = "training") -> str:
    """One line on what a test set shares with the images of `who`; "" where it is nothing."""
    said = []
    if found["groups"]:
        groups = "a group" if found["groups"] == 1 else f"{found['groups']} groups"
        said.append(f"{found['images_in_shared_groups']} of {groups} that {who} has, too")
    if found["identical"]:
        said.append(f"{found['identical']} byte-identical with {who} images")
    if found["near_identical"]:
        said.append(f"{found['near_identical']} near-identical with {who} images")
    return ", ".join(said)
