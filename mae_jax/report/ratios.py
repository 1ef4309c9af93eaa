"""Ratios of sums over test images, such as the sensitivity for one class, with intervals over images and seeds.

The ratio of one model is sum(numerator) / sum(denominator) over images; the ratio of a cell is the mean over its seeds.
Its variance is the sum of two parts. The part over images (or groups of images) comes from the residuals of a Taylor
linearization (Woodruff 1971). The part over seeds is their sample variance divided by their number. Satterthwaite's
(1946) formula gives the degrees of freedom. Shapes: s seeds, n images, u units (groups or images).
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy import special

from mae_jax.report.comparisons import Difference
from mae_jax.report.stats import LEVEL, SEEDS


@dataclass(frozen=True)
class Ratio:
    """The mean over seeds of sum(numerator) / sum(denominator).

    `seeds` has each seed's ratio, `influence` each unit's contribution to the error of the estimate, `n` the mean
    denominator, and `units` the number of units with a denominator above 0.
    """

    estimate: float
    seeds: Float[np.ndarray, " s"]
    influence: Float[np.ndarray, " u"]
    n: float
    units: int


def ratio(
    numerator: Float[np.ndarray, "s n"], denominator: Float[np.ndarray, "s n"], units: Int[np.ndarray, " n"]
) -> Ratio | None:
    """The ratio of a cell; None if a seed's denominator is 0. `units` has the index of each image's group."""
    totals = denominator.sum(1)
    if not totals.all():
        return None
    seeds = numerator.sum(1) / totals
    residuals = ((numerator - seeds[:, None] * denominator) / totals[:, None]).mean(0)
    influence = np.bincount(units, residuals, minlength=int(units.max()) + 1)
    used = len(np.unique(units[denominator.any(0)]))
    return Ratio(float(seeds.mean()), seeds, influence, float(totals.mean()), used)


def deviation(
    values: Float[np.ndarray, "s n"], used: Float[np.ndarray, "s n"], units: Int[np.ndarray, " n"]
) -> Ratio | None:
    """The mean over seeds of the standard deviation of the values where `used` is 1, else 0.

    None if a seed has fewer than two such values. The influence is that of the standard deviation, by linearization.
    """
    totals = used.sum(1)
    if (totals < 2).any():
        return None
    centered = (values - (values * used).sum(1, keepdims=True) / totals[:, None]) * used
    seeds = np.sqrt((centered**2).sum(1) / (totals - 1))
    scale = np.divide(1, 2 * seeds * (totals - 1), out=np.zeros_like(seeds), where=seeds > 0)
    residuals = ((centered**2 - (seeds**2 * (totals - 1) / totals)[:, None] * used) * scale[:, None]).mean(0)
    influence = np.bincount(units, residuals, minlength=int(units.max()) + 1)
    counted = len(np.unique(units[used.any(0)]))
    return Ratio(float(seeds.mean()), seeds, influence, float(totals.mean()), counted)


def _spread(influence: Float[np.ndarray, " u"], units: float, seeds: Float[np.ndarray, " s"]) -> tuple[float, float]:
    """Variance and degrees of freedom of an estimate from its units' influence and its seeds' values.

    If `units` is infinite, the variance over units counts as known. Fewer than SEEDS seeds add no variance.
    """
    over_images = float((influence**2).sum()) * (1.0 if math.isinf(units) else units / max(units - 1, 1))
    several = len(seeds) >= SEEDS  # fewer values do not show how far away another would be
    over_seeds = float(seeds.var(ddof=1)) / len(seeds) if several else 0.0
    total = over_images + over_seeds
    if not total:
        return 0.0, math.inf
    parts = over_images**2 / max(units - 1, 1) + over_seeds**2 / max(len(seeds) - 1, 1)
    return total, total**2 / parts if parts else math.inf


def _student(freedom: float) -> float:
    """The 97.5 % point of Student's t."""
    end = (1 + LEVEL) / 2
    return float(special.ndtri(end) if math.isinf(freedom) else special.stdtrit(freedom, end))


def share_interval(share: Ratio) -> tuple[float, float]:
    """The 95 % interval of a share: Clopper and Pearson's on the effective number of images (Korn and Graubard 1998).

    That is the number with which a simple random sample would have the same variance, corrected for the degrees of
    freedom, and at most the number of images. If all predictions are correct, or none, it is the number of units. If
    each unit is one image and there is one seed, it is the number of images, and the interval is exact.
    """
    p = min(max(share.estimate, 0.0), 1.0)
    variance, freedom = _spread(share.influence, math.inf if share.units >= share.n else share.units, share.seeds)
    if variance == 0 or p in (0.0, 1.0):
        effective = float(share.units)
    else:
        effective = p * (1 - p) / variance * (special.ndtri((1 + LEVEL) / 2) / _student(freedom)) ** 2
        effective = min(max(effective, 1.0), share.n)
    right, tail = p * effective, (1 - LEVEL) / 2
    low = special.betaincinv(right, effective - right + 1, tail) if right > 0 else 0.0
    high = special.betaincinv(right + 1, effective - right, 1 - tail) if right < effective else 1.0
    return float(low), float(high)


def mean_interval(mean: Ratio) -> tuple[float, float]:
    """Student's 95 % interval of any ratio."""
    variance, freedom = _spread(mean.influence, mean.units, mean.seeds)
    half = _student(freedom) * math.sqrt(variance)
    return mean.estimate - half, mean.estimate + half


def difference(ours: Ratio, base: Ratio) -> Difference:
    """`ours` minus `base` on the same images, paired by seed, with Student's interval and p value.

    Seeds are in the same order in both. The variance over images takes the pairing into account.
    """
    estimate = round(ours.estimate - base.estimate, 12) + 0.0
    units, seeds = max(ours.units, base.units), len(ours.seeds)
    variance, freedom = _spread(ours.influence - base.influence, units, ours.seeds - base.seeds)
    if not variance:
        return Difference(estimate, estimate, estimate, 1.0 if not estimate else 0.0, seeds)
    error = math.sqrt(variance)
    half = _student(freedom) * error
    p = 2 * special.stdtr(freedom, -abs(estimate) / error)
    return Difference(estimate, estimate - half, estimate + half, float(p), seeds)
