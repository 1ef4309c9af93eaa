"""Ratios of sums: estimates, intervals and differences against known answers and against simulation."""

import itertools

import numpy as np
import pytest
from scipy import stats

from mae_jax.report import ratios
from mae_jax.report.comparisons import judge


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


def test_groups_that_are_all_alike_count_as_no_more_images_than_there_are():
    """Seven of ten are right in every patient but one: images differ more within patients than between them."""
    units = np.repeat(np.arange(20), 10)
    right = np.tile(np.arange(10) < 7, 20).astype(float)[None]
    right[0, 7] = 1
    exact = stats.binomtest(141, 200).proportion_ci(method="exact")
    assert ratios.share_interval(ratios.ratio(right, np.ones((1, 200)), units)) == pytest.approx(
        (exact.low, exact.high)
    )


def test_the_variance_of_seeds_is_added():
    right = np.tile([[1.0, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 0.4]], 2)
    ratio = ratios.ratio(right, np.ones((3, 8)), np.arange(8))
    assert ratio.seeds == pytest.approx([0.5, 0.75, 0.85]) and ratio.estimate == pytest.approx(0.7)
    residuals = np.tile([1, 1, 2 / 3, 0.4 / 3], 2) - 0.7
    over_images = (residuals**2).sum() / 64 * 8 / 7
    over_seeds = np.var([0.5, 0.75, 0.85], ddof=1) / 3
    freedom = (over_images + over_seeds) ** 2 / (over_images**2 / 7 + over_seeds**2 / 2)
    half = stats.t.ppf(0.975, freedom) * np.sqrt(over_images + over_seeds)
    assert ratios.mean_interval(ratio) == pytest.approx((max(0.7 - half, 0), min(0.7 + half, 1)))


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
    assert (same.value, same.p, same.seeds) == (0.0, 1.0, 3) and seeds == 3
    assert -0.02 < same.low < 0 < same.high < 0.02  # other images may differ


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


def shares(*seeds, units=None):
    """The ratio of each list of answers, one list for each seed."""
    right = np.array(seeds, float)
    return ratios.ratio(right, np.ones_like(right), np.arange(right.shape[1]) if units is None else np.array(units))


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize(
    ("images", "units"),
    [(1, None), (3, None), (4, None), (60, [0] * 60), (60, [i % 4 for i in range(60)])],
    ids=["1 image", "3 images", "4 images", "1 patient", "4 patients"],
)
def test_few_images_or_patients_show_no_difference(images, units, seeds):
    ours, base = (shares(*[[value] * images] * seeds, units=units) for value in (1, 0))
    result = ratios.difference(ours, base)
    assert result.value == 1.0 and not result.tested and result.numbers == (1.0, None, None, None)
    assert ratios.mean_interval(ours) == (None, None)
    (entry,) = judge([result])
    assert entry == {"holm_p": None, "verdict": "too few images to compare"}


def test_two_wrong_predictions_say_nothing_about_their_spread():
    values, used = np.array([[0.6, 0.9, 0.99, 0.99]]), np.array([[1.0, 1, 0, 0]])
    pair = ratios.deviation(values, used, np.arange(4))
    assert ratios.mean_interval(pair) == (None, None) and not ratios.difference(pair, pair).tested


@pytest.mark.parametrize("units", [None, [i // 2 for i in range(12)]], ids=["images", "patients"])
def test_images_that_agree_leave_room_for_others(units):
    """Six units on which one model is right and the other wrong: McNemar's exact p is 0.03."""
    n = 12 if units else 6
    ours, base = (shares([value] * n, units=units) for value in (1, 0))
    opposite = ratios.difference(ours, base)
    assert opposite.value == opposite.high == 1.0 and 0.05 < opposite.low < 0.2 and 0.01 < opposite.p < 0.05
    same = ratios.difference(ours, ours)
    assert same.p == 1.0 and same.low < -0.3 and same.high > 0.3
    constant = ratios.ratio(np.full((1, n), 0.8), np.ones((1, n)), np.arange(n))
    low, high = ratios.mean_interval(constant)
    assert low < 0.8 - 0.05 and 0.8 + 0.05 < high <= 1.0


def test_bonett_and_prices_interval_of_paired_proportions():
    """19 pairs: 7 right with the first model alone, 2 with the second alone."""
    ours = shares([1] * 7 + [0] * 2 + [1] * 10)
    base = shares([0] * 7 + [1] * 2 + [1] * 10)
    result = ratios.difference(ours, base)
    first, second = 8 / 21, 3 / 21
    error = np.sqrt((first + second - (first - second) ** 2) / 21)
    middle = (result.low + result.high) / 2
    assert result.value == pytest.approx(5 / 19) and middle == pytest.approx(first - second)
    half = (result.high - result.low) / 2
    # Student's t of the 19 images in place of the normal distribution, and the sample variance
    assert half == pytest.approx(stats.t.ppf(0.975, 18) * error * np.sqrt(21 / 20))


@pytest.mark.parametrize("n", [5, 12, 30])
def test_few_images_seldom_claim_what_is_not_so(n):
    """Exact: every number of images that the first model alone gets right (a), and the second alone (b)."""
    counts = [(a, b) for a in range(n + 1) for b in range(n + 1 - a)]
    results = []
    for a, b in counts:
        rest = [1] * (n - a - b)
        results.append(ratios.difference(shares([1] * a + [0] * b + rest), shares([0] * a + [1] * b + rest)))
    low, high = (np.array([result[end] for result in results]) for end in (1, 2))
    table = np.array([(a, b, n - a - b) for a, b in counts])
    for first, second in itertools.product((0.0, 0.001, 0.02, 0.1, 0.3, 0.5), repeat=2):
        chance = stats.multinomial.pmf(table, n, [first, second, 1 - first - second])
        truth = first - second
        assert chance[(low <= truth) & (truth <= high)].sum() >= 0.93, (first, second)
        if first == second:  # from models that always agree to models that never do
            assert chance[(low > 0) | (high < 0)].sum() <= 0.053, first


@pytest.mark.parametrize("patients", [5, 12, 30])
def test_few_patients_seldom_claim_what_is_not_so(patients):
    """Four images of each patient, whom a model finds easy or hard; 200 studies measure 0.05 to within 0.03."""
    rng = np.random.default_rng(patients)
    units = np.repeat(np.arange(patients), 4)
    for alike in (0.0, 0.9):
        inside = 0
        for _ in range(200):
            easy = np.sqrt(alike) * rng.normal(size=(2, patients))[:, units]
            answers = easy + np.sqrt(1 - alike) * rng.normal(size=easy.shape) > -0.84  # 80 % right
            result = ratios.difference(*(shares(one, units=units) for one in answers))
            inside += result.low <= 0 <= result.high
        assert inside >= 0.93 * 200
