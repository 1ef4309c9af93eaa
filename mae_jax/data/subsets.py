"""Selects validation images and training labels, depending only on labels, groups and a seed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Int

from mae_jax.data.sources import Purpose, Source
from mae_jax.runtime.errors import UserError


def split_validation(
    labels: Int[np.ndarray, " n"],
    groups: Sequence[str],
    fraction: float,
    seed: int,
    *,
    field: str = "data.val_fraction",
    purpose: Purpose = Purpose.VALIDATION,
) -> tuple[Int[np.ndarray, " t"], Int[np.ndarray, " v"]]:
    """Sorted indices of training and validation images, with about `fraction` of each class in validation.

    A group is never split. An image without a group ("") is its own group, so without groups each class contributes
    exactly round(fraction * images), and at least one image if it has two. Every class keeps an image for training.
    Raises UserError for a fraction outside [0, 1).
    """
    if not 0 <= fraction < 1:
        raise UserError(f"{field}={fraction!r}: use a share from 0 (no validation) to below 1")
    everything = np.arange(len(labels))
    if fraction == 0:
        return everything, everything[:0]
    group, counts = _images_of(labels, groups)
    total = counts.sum(0)
    wanted = np.clip(np.rint(fraction * total), np.minimum(1, total - 1), total - 1).astype(int)

    missing, left = (
        wanted.copy(),
        total.copy(),
    )  # images of each class still wanted for validation; images left for training
    chosen = np.zeros(len(counts), bool)

    def miss(without: np.ndarray) -> float:
        """How far the validation set is from the wanted numbers, each class relative to its size."""
        return float(np.sum(np.abs(without) / total))

    def take(g: int) -> None:
        nonlocal missing, left
        chosen[g], missing, left = True, missing - counts[g], left - counts[g]

    order = np.random.default_rng((seed, purpose)).permutation(len(counts)).tolist()
    for g in order:
        if np.all(left - counts[g] >= 1) and miss(missing - counts[g]) < miss(missing):
            take(g)
    for c in range(len(total)):  # classes with two or more images that have none in validation yet
        if wanted[c] and missing[c] == wanted[c]:
            able = [g for g in order if counts[g, c] and np.all(left - counts[g] >= 1)]
            if able:
                take(min(able, key=lambda g: miss(missing - counts[g])))
    return everything[~chosen[group]], everything[chosen[group]]


def folds(
    labels: Int[np.ndarray, " n"], groups: Sequence[str], k: int, seed: int, *, field: str = "probe.folds"
) -> Int[np.ndarray, " n"]:
    """The fold, 0 to k - 1, of each image, for cross-validation. Folds have about equally many images of each class.

    A group is never split; an image without a group ("") is its own group. With fewer groups than `k`, there is a fold
    for each group. Raises UserError if there is only one group, which leaves nothing to train on.
    """
    group, counts = _images_of(labels, groups)
    if len(counts) < 2:
        raise UserError(f"{field}={k} needs images of two groups or more, but these are all of {groups[0]!r}")
    total, rng = counts.sum(0), np.random.default_rng((seed, Purpose.FOLDS))
    order = rng.permutation(len(counts))
    order = order[np.argsort(-counts[order].sum(1), kind="stable")]  # the largest groups first
    filled, chosen = np.zeros((min(k, len(counts)), len(total)), int), np.zeros(len(counts), int)
    for g in order.tolist():
        # The growth of the sum of squares of each class's shares, which equal shares minimize.
        growth = ((filled + counts[g]) ** 2 - filled**2) @ (1 / total**2)
        sizes = filled.sum(1)
        best = min(range(len(filled)), key=lambda f: (round(growth[f], 12), sizes[f], f))
        chosen[g] = best
        filled[best] += counts[g]
    return chosen[group]


def _images_of(
    labels: Int[np.ndarray, " n"], groups: Sequence[str]
) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, "g c"]]:
    """The number of each image's group, and the images of each group and class. No group ("") is a group of its own."""
    unit_names = [f"group {g}" if g else f"image {i}" for i, g in enumerate(groups)]
    group = np.unique(unit_names, return_inverse=True)[1]
    label = np.unique(labels, return_inverse=True)[1]
    counts = np.zeros((group.max() + 1, label.max() + 1), int)
    np.add.at(counts, (group, label), 1)
    return group, counts


def nested_subset(
    labels: Int[np.ndarray, " n"], fraction: float, seed: int, classes: Sequence[str], count: int = 0
) -> Int[np.ndarray, " k"]:
    """Sorted indices of `fraction` of each class, and at least one image. The 1 % are part of the 10 %, and so on.

    Each class has its own order, of which the first max(1, round(fraction * images)) are taken. Other classes and
    fractions do not change that order. A `count` above 0 selects this total number of images instead, distributed by
    `allocation`; 20 are part of 50. Raises UserError for a fraction outside (0, 1], a count that does not fit, or a
    class without images.
    """
    if not 0 < fraction <= 1:
        raise UserError(f"data.fraction={fraction!r}: use a share above 0 and up to 1, such as 0.1 for 10 %")
    members = [np.flatnonzero(labels == label) for label in range(len(classes))]
    for name, those in zip(classes, members, strict=True):
        if not len(those):
            raise UserError(f"data.fraction: class {name!r} has no training image; add some")
    sizes = subset_sizes([len(those) for those in members], fraction, count)
    parts = []
    for label, (those, size) in enumerate(zip(members, sizes, strict=True)):
        rng = np.random.default_rng((seed, Purpose.SUBSET, label))
        parts.append(rng.permutation(those)[:size])
    return np.sort(np.concatenate(parts))


def subset_sizes(counts: Iterable[int], fraction: float, count: int = 0) -> list[int]:
    """How many images `nested_subset` takes of each class, given the number of images of each class."""
    counts = list(counts)
    return allocation(counts, count) if count else [max(1, round(fraction * n)) for n in counts]


def allocation(counts: Sequence[int], n: int) -> list[int]:
    """Distributes `n` images over classes with `counts` images: one for each class, the others in proportion.

    Uses Webster's method (divisors 1, 3, 5 ...), one image at a time. A larger `n` therefore never takes an image from
    a class, as rounding can. Raises UserError if `n` is below the number of classes or above the number of images.
    """
    if not len(counts) <= n <= sum(counts):
        raise UserError(
            f"data.label_count={n} is out of range; {len(counts)} classes with {sum(counts)} training images allow "
            f"{len(counts)} to {sum(counts)}"
        )
    total, given = np.asarray(counts, float), np.ones(len(counts), int)
    for _ in range(n - len(counts)):
        quotient = np.where(given < total, total / (2 * given + 1), -1.0)
        given[int(quotient.argmax())] += 1
    return given.tolist()


def unstratified_size(n: int, fraction: float, count: int = 0) -> int:
    """How many of `n` images are labeled without regard to their class. Raises UserError if `count` is above `n`."""
    if count > n:
        raise UserError(f"data.label_count={count} is out of range; there are {n} training images")
    return count or max(1, round(fraction * n))


def random_subset(n: int, size: int, seed: int) -> Int[np.ndarray, " k"]:
    """`size` of `n` images, drawn without regard to their class. A smaller subset is part of a larger one.

    Such a draw may miss a class; a stratified one cannot, but takes labels to draw.
    """
    return np.random.default_rng((seed, Purpose.UNSTRATIFIED)).permutation(n)[:size]


def unlabeled_subset(
    sources: Sequence[Int[np.ndarray, " _"]], size: int, seed: int
) -> tuple[Int[np.ndarray, " _"], ...]:
    """`size` of the images of several sources, in proportion to their numbers, sorted; at least one of each source.

    A smaller subset of a source is part of a larger one. Raises UserError if there are too few images or sources.
    """
    sizes = np.array([len(images) for images in sources])
    if not len(sources) <= size <= sizes.sum():
        raise UserError(
            f"data.unlabeled_count={size} is out of range; {sizes.sum()} images in {len(sources)} sources allow "
            f"{len(sources)} to {sizes.sum()}"
        )
    exact = 1 + (size - len(sources)) * (sizes - 1) / max(1, (sizes - 1).sum())
    counts = np.floor(exact + 1e-9).astype(int)
    counts[np.argsort(counts - exact, kind="stable")[: size - counts.sum()]] += 1
    drawn = []
    for number, (images, count) in enumerate(zip(sources, counts, strict=True)):
        rng = np.random.default_rng((seed, Purpose.UNLABELED, number))
        drawn.append(np.sort(rng.permutation(images)[:count]))
    return tuple(drawn)


def inverse_frequency(counts: Iterable[int]) -> tuple[float, ...]:
    """Class weights in proportion to 1 / number of images; 0 without images. Their mean over all images is 1."""
    counts = list(counts)
    classes = sum(n > 0 for n in counts)
    return tuple(sum(counts) / (classes * n) if n else 0.0 for n in counts)


def describe(
    source: Source,
    train: Int[np.ndarray, " t"],
    validation: Int[np.ndarray, " v"],
    subset: Int[np.ndarray, " k"],
    *,
    fraction: float,
    subset_seed: int,
    validation_seed: int,
    label_count: int = 0,
    method: str = "stratified",
) -> dict:
    """The content of subset.json. All three arrays are indices of images of `source`.

    `subset` was drawn from `train` by `method` (`data.subset`). Lists of files are recorded as SHA-256.
    """

    def count(indices: np.ndarray) -> dict[str, int]:
        counts = np.bincount(source.labels[indices], minlength=len(source.classes))
        return dict(zip(source.classes, counts.tolist(), strict=True))

    def file_list(indices: np.ndarray) -> str:
        names = json.dumps(sorted(source.names[int(i)] for i in indices))
        return hashlib.sha256(names.encode()).hexdigest()

    counts = count(train)
    share = label_count / max(1, len(train)) if label_count else fraction
    return {
        "fraction": share,
        "label_count": label_count,
        "method": method,
        "subset_seed": subset_seed,
        "validation_seed": validation_seed,
        "source_sha256": source.fingerprint,
        "subset_sha256": file_list(subset),
        "validation_sha256": file_list(validation),
        "train": counts,
        "requested": {name: share * n for name, n in counts.items()},
        "actual": count(subset),
        "validation": count(validation),
    }
