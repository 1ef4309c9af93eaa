"""Ratios of sums over test images, such as the sensitivity for one class, with intervals over images and seeds.

The ratio of one model is sum(numerator) / sum(denominator) over images; the ratio of a cell is the mean over its seeds.
Its variance is the sum of two parts. The part over images (or groups of images) comes from the residuals of a Taylor
linearization (Woodruff 1971). The part over seeds is their sample variance divided by their number. Satterthwaite's
(1946) formula gives the degrees of freedom. Shapes: s seeds, n images, u units (groups or images).

Few or agreeing images show no variance, although other images would differ. A difference of shares therefore counts two
more images, one that only the first model gets right and one that only the second does (Bonett and Price 2012). Fewer
than FEWEST units give no interval and no test, whatever the number of seeds.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy import special

from mae_jax.report.comparisons import Difference, untested
from mae_jax.report.stats import LEVEL, SEEDS

TINY = 1e-20  # a variance at most as large comes from rounding
FEWEST = 5  # minimum number of units: with five single images, even opposite models differ with p = 0.06 (McNemar)


@dataclass(frozen=True)
class Ratio:
    """The mean over seeds of sum(numerator) / sum(denominator).

    `seeds` has each seed's ratio, `residuals` and `influence` each image's and each unit's contribution to the error of
    the estimate, `n` the mean denominator, and `units` the number of units with a denominator above 0. `share` says
    that every image counts or does not, so that the ratio is a share of images.
    """

    estimate: float
    seeds: Float[np.ndarray, " s"]
    residuals: Float[np.ndarray, " n"]
    influence: Float[np.ndarray, " u"]
    n: float
    units: int
    share: bool


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
    share = bool(((numerator == 0) | (numerator == denominator)).all())
    return Ratio(float(seeds.mean()), seeds, residuals, influence, float(totals.mean()), used, share)


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
    return Ratio(float(seeds.mean()), seeds, residuals, influence, float(totals.mean()), counted, share=False)


def _spread(influence: Float[np.ndarray, " u"], units: float, seeds: Float[np.ndarray, " s"]) -> tuple[float, float]:
    """Variance and degrees of freedom of an estimate from its units' influence and its seeds' values.

    If `units` is infinite, the variance over units counts as known. Fewer than SEEDS seeds add no variance.
    """
    correction = 1.0 if math.isinf(units) else units / max(units - 1, 1)
    return _total(float((influence**2).sum()) * correction, units, seeds)


def _total(over_images: float, units: float, seeds: Float[np.ndarray, " s"]) -> tuple[float, float]:
    """Adds the variance over seeds to that over images; the sum and its degrees of freedom."""
    several = len(seeds) >= SEEDS  # fewer values do not show how far away another would be
    over_seeds = float(seeds.var(ddof=1)) / len(seeds) if several else 0.0
    total = over_images + over_seeds
    if not total:
        return 0.0, math.inf
    parts = over_images**2 / max(units - 1, 1) + over_seeds**2 / max(len(seeds) - 1, 1)
    return total, total**2 / parts if parts else math.inf


def _with_two_more(estimate: float, variance: float, n: float) -> tuple[float, float]:
    """A mean difference and its variance over `n` images after adding one image that counts 1 and one that counts -1.

    This is Bonett and Price's (2012) interval for paired proportions.
    """
    moved = estimate * n / (n + 2)
    squares = variance * n * (n - 1) + n * (estimate - moved) ** 2 + (1 - moved) ** 2 + (1 + moved) ** 2
    return moved, squares / ((n + 2) * (n + 1))


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


def mean_interval(mean: Ratio, highest: float = 1.0) -> tuple[float, float] | tuple[None, None]:
    """Student's 95 % interval of a ratio of values from 0 to `highest`; (None, None) with fewer than FEWEST units."""
    if mean.units < FEWEST:
        return None, None
    variance, freedom = _spread(mean.influence, mean.units, mean.seeds)
    if not (mean.influence**2).sum() > TINY:
        _, more = _with_two_more(0.0, 0.0, mean.units)
        variance, freedom = _total(more, mean.units, mean.seeds)
    half = _student(freedom) * math.sqrt(variance)
    return max(mean.estimate - half, 0.0), min(mean.estimate + half, highest)


def difference(ours: Ratio, base: Ratio) -> Difference:
    """`ours` minus `base` on the same images, paired by seed, with Student's interval and p value.

    Both are ratios of values from 0 to 1. Seeds are in the same order in both. The variance over images takes the
    pairing into account. With fewer than FEWEST units on a side, the result has no interval and no p value, see
    `comparisons.untested`. Two images are added to shares, or where no variance is seen.
    """
    estimate = round(ours.estimate - base.estimate, 12) + 0.0
    units, seeds = min(ours.units, base.units), len(ours.seeds)
    if units < FEWEST:
        return untested(estimate, seeds)
    over_images = float(((ours.influence - base.influence) ** 2).sum()) * units / (units - 1)
    center = estimate
    if (ours.share and base.share) or over_images <= TINY:
        single = float(((ours.residuals - base.residuals) ** 2).sum())
        n = min(ours.n, base.n)
        effective = min(max(n * single / over_images, units), n) if over_images > TINY else float(units)
        center, over_images = _with_two_more(estimate, over_images, effective)
    variance, freedom = _total(over_images, units, ours.seeds - base.seeds)
    error = math.sqrt(variance)
    half = _student(freedom) * error
    p = 2 * special.stdtr(freedom, -abs(center) / error)
    low, high = max(center - half, -1.0), min(center + half, 1.0)
    return Difference(estimate, low, high, float(p), seeds)
