"""Ratios of sums: estimates, intervals and differences against known answers and against simulation."""

import numpy as np
import pytest
from scipy import stats

from mae_jax.report import ratios


def test_a_share_of_independent_images_has_clopper_and_pearsons_interval():
    right = np.zeros((1, 95))
    right[0, :75] = 1
    ratio = ratios.ratio(right, np.ones((1, 95)), np.arange(95))
    assert ratio.estimate == pytest.approx(75 / 95)
    low, high = ratios.share_interval(ratio)
    exact = stats.binomtest(75, 95).proportion_ci(method="exact")
    assert (low, high) == pytest.approx((exact.low, exact.high), abs=1e-9)


@pytest.mark.parametrize("right, expected", [(0.0, (0.0, 0.3085)), (1.0, (0.6915, 1.0))])
def test_all_right_and_all_wrong_have_an_interval_with_width(right, expected):
    ratio = ratios.ratio(np.full((3, 10), right), np.ones((3, 10)), np.arange(10))
    assert ratios.share_interval(ratio) == pytest.approx(expected, abs=1e-4)


def test_images_of_one_group_count_as_one_where_they_are_alike():
    units = np.repeat(np.arange(20), 10)
    right = np.isin(units, np.arange(15)).astype(float)[None]
    single = ratios.share_interval(ratios.ratio(right, np.ones((1, 200)), np.arange(200)))
    grouped = ratios.share_interval(ratios.ratio(right, np.ones((1, 200)), units))
    exact = stats.binomtest(15, 20).proportion_ci(method="exact")
    assert grouped == pytest.approx((exact.low, exact.high), abs=0.03)
    assert single[1] - single[0] < 0.4 * (grouped[1] - grouped[0])


def test_the_variance_of_seeds_is_added():
    ratio = ratios.ratio(np.array([[1.0, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]), np.ones((3, 4)), np.arange(4))
    assert ratio.seeds.tolist() == [0.5, 0.75, 1.0] and ratio.estimate == 0.75
    residuals = np.array([1, 1, 2 / 3, 1 / 3]) - 0.75
    over_images = (residuals**2).sum() / 16 * 4 / 3
    over_seeds = np.var([0.5, 0.75, 1.0], ddof=1) / 3
    freedom = (over_images + over_seeds) ** 2 / (over_images**2 / 3 + over_seeds**2 / 2)
    half = stats.t.ppf(0.975, freedom) * np.sqrt(over_images + over_seeds)
    assert ratios.mean_interval(ratio) == pytest.approx((0.75 - half, 0.75 + half))


def test_a_ratio_without_denominator_is_none():
    assert ratios.ratio(np.zeros((2, 3)), np.array([[1.0, 1, 1], [0, 0, 0]]), np.arange(3)) is None


def test_a_difference_is_paired_over_images_and_seeds():
    rng = np.random.default_rng(0)
    base = (rng.random((3, 200)) < 0.6).astype(float)
    ours = base.copy()
    ours[:, :10] = 1 - ours[:, :10]  # differs on ten images alone
    a, b = (ratios.ratio(x, np.ones_like(x), np.arange(200)) for x in (ours, base))
    result, low, high, p, seeds = ratios.difference(a, b)
    assert result == pytest.approx(ours.mean() - base.mean())
    unpaired = np.hypot(*(np.diff(ratios.mean_interval(one))[0] for one in (a, b)))
    assert high - low < 0.6 * unpaired
    assert (p < 0.05) == (not low <= 0 <= high)
    same = ratios.difference(a, a)
    assert same == (0.0, 0.0, 0.0, 1.0, 3) and seeds == 3


def test_the_standard_deviation_of_some_values_has_the_jackknifes_interval():
    """Linearization and the jackknife agree for a smooth statistic of many images."""
    rng = np.random.default_rng(3)
    values, used = rng.beta(5, 2, (1, 600)), (rng.random((1, 600)) < 0.3).astype(float)
    ratio = ratios.deviation(values, used, np.arange(600))
    chosen = values[used > 0]
    assert ratio.estimate == pytest.approx(chosen.std(ddof=1)) and ratio.units == len(chosen) == ratio.n
    without = np.array([np.delete(chosen, i).std(ddof=1) for i in range(len(chosen))])
    jackknife = np.sqrt((len(chosen) - 1) / len(chosen) * ((without - without.mean()) ** 2).sum())
    assert np.sqrt((ratio.influence**2).sum()) == pytest.approx(jackknife, rel=0.02)
    assert ratios.deviation(values, np.eye(1, 600), np.arange(600)) is None  # one value has no spread


def test_intervals_cover_groups_and_seeds():
    """400 simulated cells: 30 groups of 8 images that are alike, 3 seeds that differ."""
    rng = np.random.default_rng(1)
    units, inside = np.repeat(np.arange(30), 8), {"share": 0, "difference": 0}
    for _ in range(400):
        hard = rng.normal(0, 1, 30)[units]
        sides = []
        for _ in range(2):
            skill = 1.0 + rng.normal(0, 0.3, (3, 1))
            sides.append((rng.normal(0, 1, (3, 240)) + hard < skill).astype(float))
        a, b = (ratios.ratio(x, np.ones_like(x), units) for x in sides)
        truth = stats.norm.cdf(1.0 / np.sqrt(2 + 0.09))
        low, high = ratios.share_interval(a)
        inside["share"] += low <= truth <= high
        _, low, high, *_ = ratios.difference(a, b)
        inside["difference"] += low <= 0 <= high
    assert 0.93 <= inside["share"] / 400 <= 0.995, inside
    assert 0.93 <= inside["difference"] / 400 <= 0.995, inside
