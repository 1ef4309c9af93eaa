"""The same image twice: byte for byte, or to the eye. And groups and images that two splits share."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import Float32, Int8, UInt64
from PIL import Image

from mae_jax.data.sources import Source
from mae_jax.data.transforms import load_image

SIDE = 16  # pixels along each side of the small picture that is compared
NEAR = 0.95  # correlation of two such pictures from which images count as near-identical
FLAT = 2.0  # grey levels of standard deviation below which an image shows nothing to compare
ROWS = 1024  # images compared at once
SHOWN = 5  # examples that a run keeps


def digest(data: bytes) -> int:
    """Tells byte-identical images: the first 64 bits of their sha256."""
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "little")


def look(data: bytes, name: str = "image") -> Int8[np.ndarray, " pixels"]:
    """A perceptual hash: the image as 16 x 16 grey levels, its mean and contrast taken off.

    Encoding anew, another size or brightness leave it as it is. All zero for an image without structure.
    Raises UserError where it cannot be decoded.
    """
    image = Image.open(io.BytesIO(data))
    if image.format == "JPEG" and image.mode in ("RGB", "L"):
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
    """(i, j, correlation) for all near-identical pairs; without `others`, of i < j among `looks`."""
    one = _unit(looks)
    two = one if others is None else _unit(others)
    for start in range(0, len(one), ROWS):
        alike = one[start : start + ROWS] @ two.T
        for row, column in np.argwhere(alike >= NEAR).tolist():
            if others is not None or start + row < column:
                yield start + row, column, float(alike[row, column])


def _unit(looks: Int8[np.ndarray, "n pixels"]) -> Float32[np.ndarray, "n pixels"]:
    """Rows of length 1; flat images stay 0, and like nothing."""
    pixels = looks.astype(np.float32)
    pixels -= pixels.mean(axis=1, keepdims=True)
    return pixels / np.maximum(np.linalg.norm(pixels, axis=1, keepdims=True), 1e-6)


def digests_of(source: Source) -> UInt64[np.ndarray, " n"]:
    """Those that the source knows, else from reading all its files."""
    if source.digests is not None:
        return source.digests
    with ThreadPoolExecutor(8) as pool:
        return np.fromiter(pool.map(lambda i: digest(source.read(i)), range(len(source))), np.uint64, len(source))


def leaks(train: Source, test: Source) -> dict:
    """What the test images share with the training images (validation included): groups and images.

    `near_identical` is None where the perceptual hashes are not known. Counts are of test images.
    """
    ours, theirs = digests_of(train), digests_of(test)
    first = {value: i for i, value in reversed(list(enumerate(ours.tolist())))}
    identical = [(j, first[value]) for j, value in enumerate(theirs.tolist()) if value in first]
    groups = sorted({g for g in test.groups if g} & {g for g in train.groups if g})
    shared = set(groups)
    same = {j for j, _ in identical}
    found = None
    if train.looks is not None and test.looks is not None:
        found = {j: i for i, j, _ in near(train.looks, test.looks) if j not in same}

    def pair(j: int, i: int) -> list[str]:
        return [test.names[j], train.names[i]]

    return {
        "groups": len(groups),
        "images_in_shared_groups": sum(g in shared for g in test.groups),
        "identical": len(identical),
        "near_identical": None if found is None else len(found),
        "examples": {
            "groups": groups[:SHOWN],
            "identical": [pair(*p) for p in identical[:SHOWN]],
            "near_identical": [pair(*p) for p in sorted((found or {}).items())[:SHOWN]],
        },
    }


def in_words(found: dict) -> str:
    """One line on what test and training share; "" where it is nothing."""
    said = []
    if found["groups"]:
        said.append(f"{found['images_in_shared_groups']} of {found['groups']} groups that training has, too")
    if found["identical"]:
        said.append(f"{found['identical']} byte-identical with training images")
    if found["near_identical"]:
        said.append(f"{found['near_identical']} near-identical with training images")
    return ", ".join(said)
