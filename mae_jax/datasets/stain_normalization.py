"""Stain normalization of prepared images: every image gets the stain or colors of one target image.

The methods are torchstain's NumPy versions of Macenko et al. 2009 (the directions and amounts of two stains in optical
density) and Reinhard et al. 2001 (mean and standard deviation of each channel in CIE LAB).
"""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8

from mae_jax.runtime.errors import UserError

METHODS = ("macenko", "reinhard")
BRIGHTEST = 240 * np.exp(-0.15) - 1  # of tissue in all channels: optical density 0.15 below 240, as in torchstain
LEAST_TISSUE = 0.05  # of an image's pixels; with less, the estimate follows the noise of the background
MOST_GAIN = 10.0  # of an amount of stain, or of a standard deviation; more would amplify noise
LEAST_ANGLE = 1.0  # between the two stains, in degrees
JUDGED = 256  # pixels along a side on which an image is judged
SAMPLED = 64  # images that the default target is drawn from
SEED = 0

WITHOUT_TISSUE = f"less than {LEAST_TISSUE:.0%} of the pixels are stained"
NO_ESTIMATE = "its stains cannot be estimated"

Image = UInt8[np.ndarray, "h w 3"]


class Unsuitable(Exception):
    """An image that cannot be normalized; the message is the reason, which is WITHOUT_TISSUE or NO_ESTIMATE."""


@dataclass(frozen=True)
class Target:
    """The image whose stain all others get. `drawn_from`: number of training images it is typical of; 0 if given."""

    name: str
    pixels: Image
    drawn_from: int = 0

    @property
    def digest(self) -> str:
        """SHA-256 of the pixels."""
        return hashlib.sha256(self.pixels.tobytes()).hexdigest()


@dataclass
class Normalization:
    """Stain normalization to a target, with the names of the images that it left unchanged.

    Without a target, the builder draws one from the training images (`typical`). Raises UserError if torchstain is not
    installed, or the target cannot be used.
    """

    method: str
    target: Target | None = None
    unchanged: dict[str, list[str]] = field(default_factory=dict)  # names by reason

    def __post_init__(self) -> None:
        library()
        if self.target is not None:
            self.set_target(self.target)

    def set_target(self, target: Target) -> None:
        """Sets the target. Raises UserError if its stains cannot be estimated."""
        try:
            self._strength = _strength(self.method, target.pixels)
        except Unsuitable as reason:
            raise UserError(f"--stain_target {target.name}: {reason}; name an image full of stained tissue") from None
        self.target, self._fitted = target, _fitted(self.method, target.pixels)

    def __call__(self, pixels: Image) -> Image:
        """The image with the stain of the target. Raises Unsuitable."""
        assert self.target is not None, "no target was set"
        if (self._strength > MOST_GAIN * _strength(self.method, pixels)).any():
            raise Unsuitable(NO_ESTIMATE)
        try:
            with np.errstate(all="raise", under="ignore"):
                result = self._fitted.normalize(pixels, **({"stains": False} if self.method == "macenko" else {}))
        except (FloatingPointError, np.linalg.LinAlgError):
            raise Unsuitable(NO_ESTIMATE) from None
        return result[0] if self.method == "macenko" else result

    def about(self) -> dict[str, Any]:
        """The facts for `prepared.json`."""
        assert self.target is not None, "no target was set"
        return {
            "method": self.method,
            "library": f"torchstain {importlib.metadata.version('torchstain')}",
            "target": self.target.name,
            "target_drawn_from": self.target.drawn_from,
            "target_sha256": self.target.digest,
            "unchanged": {r: {"images": len(names), "names": names} for r, names in sorted(self.unchanged.items())},
        }


def typical(names: Sequence[str], images: Sequence[Image]) -> Target:
    """The image whose mean and standard deviation in CIE LAB are nearest to the median of all.

    Each of the six numbers is divided by its standard deviation over the images. Images that cannot be normalized do
    not count. Raises UserError if none is left.
    """
    numbers: list[np.ndarray] = []
    usable: list[int] = []
    for i, pixels in enumerate(images):
        try:
            for method in METHODS:
                _strength(method, pixels)
        except Unsuitable:
            continue
        colors = _fitted("reinhard", _judged(pixels))
        numbers.append(np.concatenate([colors.target_means, colors.target_stds]))
        usable.append(i)
    if not usable:
        raise UserError(
            f"--stain: none of {len(images)} training images that were drawn has stains that can be estimated; name a "
            f"target image, --stain_target FILE"
        )
    table = np.array(numbers, np.float64)
    away = (table - np.median(table, axis=0)) / np.maximum(table.std(axis=0), 1e-6)
    best = usable[int(np.argmin(np.square(away).sum(1)))]
    return Target(names[best], images[best], len(usable))


def tissue(pixels: Image) -> Bool[np.ndarray, "h w"]:
    """Where an image is stained: optical density of at least 0.15 in all channels, as in Macenko's method."""
    return pixels.max(axis=2) <= BRIGHTEST


def _judged(pixels: Image) -> Image:
    step = max(1, min(pixels.shape[:2]) // JUDGED)
    return pixels[::step, ::step]


def _strength(method: str, pixels: Image) -> Float[np.ndarray, " n"]:
    """What normalization divides by: the amounts of the two stains, or the standard deviations in LAB.

    Raises Unsuitable if it cannot be estimated.
    """
    pixels = _judged(pixels)
    if tissue(pixels).mean() < LEAST_TISSUE:
        raise Unsuitable(WITHOUT_TISSUE)
    try:
        with np.errstate(all="raise", under="ignore"):
            fitted = _fitted(method, pixels)
    except (FloatingPointError, np.linalg.LinAlgError):
        raise Unsuitable(NO_ESTIMATE) from None
    if method == "reinhard":
        strength = fitted.target_stds
    else:
        strength = fitted.maxCRef
        if abs(np.clip(np.prod(fitted.HERef, axis=1).sum(), -1, 1)) > np.cos(np.radians(LEAST_ANGLE)):
            raise Unsuitable(NO_ESTIMATE)
    if not (np.isfinite(strength).all() and (strength > 0).all()):
        raise Unsuitable(NO_ESTIMATE)
    return np.asarray(strength, np.float64)


def _fitted(method: str, pixels: Image) -> Any:
    """torchstain's normalizer for a target."""
    normalizers = library()
    fitted = normalizers.NumpyMacenkoNormalizer() if method == "macenko" else normalizers.NumpyReinhardNormalizer()
    fitted.fit(pixels)
    return fitted


def library() -> Any:
    """torchstain's normalizers in NumPy; PyTorch is not imported. Raises UserError if torchstain is not installed."""
    try:
        from torchstain.numpy import normalizers
    except ImportError as error:
        raise UserError(
            f'--stain needs torchstain ({error}); install it: python -m pip install "mae_jax[stain]", or in the '
            f'project python -m pip install -e ".[stain]"'
        ) from None
    return normalizers
