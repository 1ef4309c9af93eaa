"""Each statistic against numbers worked by hand or published."""

import math

import numpy as np
import pytest
import scipy.stats

from mae_jax.report import stats


def metrics(labels, predictions, confidence=None, probabilities=None, classes=5):
    labels, predictions = np.array(labels), np.array(predictions)
    confidence = np.full(len(labels), 0.5) if confidence is None else np.array(confidence)
    terms = stats.image_terms(labels, predictions, confidence, probabilities, classes)
    return stats.metrics_from_sums(terms.sum(0), classes)


def test_macro_metrics_by_hand():
    # class 0: 2 of 3 found, 2 of 2 predictions right; class 1: 1 of 1 found, 1 of 2 right
    scores = metrics([0, 0, 0, 1], [0, 0, 1, 1], classes=2)
    assert scores["accuracy"] == 3 / 4
    assert scores["precision"] == pytest.approx((1 + 1 / 2) / 2)
    assert scores["recall"] == pytest.approx((2 / 3 + 1) / 2)
    assert scores["f1"] == pytest.approx((4 / 5 + 2 / 3) / 2)
    assert scores["balanced_accuracy"] == scores["recall"]


def test_scikit_learn_macro_example():
    # sklearn.metrics.precision_recall_fscore_support: its documented example, macro
    scores = metrics([0, 1, 2, 0, 1, 2], [0, 2, 1, 0, 0, 1], classes=3)
    assert scores["precision"] == pytest.approx(0.2222, abs=1e-4)
    assert scores["recall"] == pytest.approx(0.3333, abs=1e-4)
    assert scores["f1"] == pytest.approx(0.2667, abs=1e-4)


def test_published_row_at_one_percent_shows_the_convention():
    # MAE at 1 % of Raabin-WBC: all 1,728 called neutrophil, 1,059 of them are: .61285, .12257 ...
    labels = np.repeat([0, 1, 2, 3, 4], [89, 130, 400, 50, 1059])
    scores = metrics(labels, np.full(1728, 4))
    result = [round(float(scores[m]), 5) for m in ("accuracy", "precision", "recall", "f1")]
    assert result == [0.61285, 0.12257, 0.2, 0.15199]


def test_class_absent_from_the_labels_is_left_out_of_the_mean():
    scores = metrics([0, 0, 1, 1], [0, 0, 1, 2], classes=3)
    assert scores["recall"] == pytest.approx((1 + 1 / 2) / 2)
    assert scores["precision"] == 1


def test_nll_and_brier_by_hand():
    p = np.array([[0.8, 0.2], [0.4, 0.6]])
    scores = metrics([0, 0], [0, 1], [0.8, 0.6], p, classes=2)
    assert scores["nll"] == pytest.approx(-(math.log(0.8) + math.log(0.4)) / 2)
    assert scores["brier"] == pytest.approx((0.04 + 0.04 + 0.36 + 0.36) / 2)


def test_calibration_error_by_hand():
    # bin (0.8, 0.8667]: 3 images of confidence 0.85, 2 right; bin (0.9333, 1]: 1 of 0.95, wrong
    confidence, right = np.array([0.85, 0.85, 0.85, 0.95]), np.array([1, 1, 0, 0], bool)
    table = stats.reliability(confidence, right, stats.width_bins(confidence))
    assert [row["n"] for row in table] == [3, 1]
    expected = 3 / 4 * abs(2 / 3 - 0.85) + 1 / 4 * 0.95
    assert stats.calibration_error(table) == pytest.approx(expected)
    labels = np.zeros(4, int)
    scores = metrics(labels, np.where(right, 0, 1), confidence, classes=2)
    assert scores["ece"] == pytest.approx(expected)


def test_bins_are_closed_above():
    assert stats.width_bins(np.array([0.0, 1 / 15, 0.0667, 0.2, 1.0])).tolist() == [0, 0, 1, 2, 14]


def test_mass_bins_hold_equal_counts_and_keep_ties_together():
    bins = stats.mass_bins(np.arange(1, 151) / 150)
    assert np.bincount(bins).tolist() == [10] * 15
    assert len(set(stats.mass_bins(np.full(20, 0.7)).tolist())) == 1


def test_temperature_halves_the_logits_of_a_model_that_is_too_sure():
    # says 0.9, is right 3 times of 4: ln(9) / T = ln(3), so T = 2
    p = np.array([[0.9, 0.1]] * 4)
    temperature = stats.fit_temperature(p, np.array([0, 0, 0, 1]))
    assert temperature == pytest.approx(2, rel=1e-4)
    assert stats.scale(p, temperature)[0] == pytest.approx([0.75, 0.25], rel=1e-4)


def test_auroc_by_hand():
    # pairs (right, wrong): .9>.5, .9>.4, .4<.5, .4=.4: 2.5 of 4
    confidence, right = np.array([0.9, 0.4, 0.5, 0.4]), np.array([1, 1, 0, 0], bool)
    assert stats.auroc(confidence, right) == 2.5 / 4
    assert math.isnan(stats.auroc(confidence, np.ones(4, bool)))


def test_risk_coverage_by_hand():
    confidence, right = np.array([0.6, 0.9, 0.8, 0.7]), np.array([0, 1, 0, 1], bool)
    risk = stats.risk_coverage(confidence, right)
    assert risk == pytest.approx([0, 1 / 2, 1 / 3, 2 / 4])
    tied = stats.risk_coverage(np.full(4, 0.5), right)
    assert tied == pytest.approx([0.5] * 4)


def test_mcnemar_exact():
    # 1 against 9 discordant: 2 * (C(10,0) + C(10,1)) / 2^10 = 22 / 1024
    first = np.array([True] * 1 + [False] * 9 + [True] * 20)
    second = np.array([False] * 1 + [True] * 9 + [True] * 20)
    assert stats.mcnemar(first, second) == pytest.approx(22 / 1024)
    assert stats.mcnemar(first, first) == 1


def test_holm():
    # smallest first: .005 x 4, .01 x 3, .03 x 2, then .04 x 1 held at .06
    assert stats.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert stats.holm([0.9, 0.8]) == [1, 1]
    assert stats.holm([]) == []


def students_interval(values):
    """The 95 % interval of a mean, from SciPy."""
    result = scipy.stats.ttest_1samp(values, 0).confidence_interval(0.95)
    return result.low, result.high


def test_weights_of_seeds_spread_as_students_t():
    # 0.88, 0.90, 0.92: s = 0.02, t(0.975, 2) = 4.3027; paired differences keep their own, smaller spread
    first, second = np.array([0.88, 0.90, 0.92]), np.array([0.87, 0.895, 0.905])
    weights = stats.seed_weights(3, draws=100_000)
    assert weights.sum(0) == pytest.approx(1)
    half = 4.3027 * 0.02 / 3**0.5
    assert students_interval(first) == pytest.approx((0.9 - half, 0.9 + half), abs=1e-5)
    for values in (first, first - second):
        assert stats.percentile_interval(values @ weights) == pytest.approx(students_interval(values), abs=1e-3)
    assert (stats.seed_weights(1, draws=3) == 1).all()


def redrawn(values, shared, specific, draws=10_000):
    """Draws of seeds whose image noise is partly shared and partly each seed's own."""
    rng = np.random.default_rng(3)
    common, each = rng.normal(size=draws), rng.normal(size=(len(values), draws))
    return np.array(values)[:, None] + shared * common + specific * each


def test_seeds_without_image_noise_give_students_interval():
    values = np.array([0.01, 0.04, 0.02, 0.03])
    draws = stats.over_seeds(np.repeat(values[:, None], 10_000, 1), values)
    assert stats.percentile_interval(draws) == pytest.approx(students_interval(values), abs=0.03 * 0.0205)


def test_seeds_that_agree_leave_the_interval_of_the_images():
    values = np.full(3, 0.5)
    draws = redrawn(values, 0.02, 0.01)
    assert (stats.over_seeds(draws, values) == draws.mean(0)).all()


def test_image_noise_of_each_seed_is_counted_once():
    # The seeds' values have a standard deviation of 0.02, all of it image noise of their own. The interval is
    # Student's, widened by the noise that they share. Adding all resampled noise would count 0.02 / sqrt(3) twice.
    values = 0.5 + 0.02 * np.array([-1, 0, 1])
    for shared in (0.0, 0.03):
        low, high = stats.percentile_interval(stats.over_seeds(redrawn(values, shared, 0.02), values))
        rng = np.random.default_rng(0)
        t = rng.standard_t(2, 1_000_000) * 0.02 / 3**0.5 + shared * rng.normal(size=1_000_000)
        expected = np.quantile(t, 0.975)
        assert (high - low) / 2 == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize("seeds", [1, 2])
def test_one_or_two_seeds_give_draws_over_the_images_alone(seeds):
    values = np.array([0.9, 0.2])[:seeds]
    draws = redrawn(values, 0.02, 0.01)
    assert (stats.over_seeds(draws, values) == draws.mean(0)).all()


def test_few_units_widen_draws_as_students_t():
    rng = np.random.default_rng(1)
    draws = 0.7 + 0.1 * rng.normal(size=(2, 100_000))
    wide = stats.allow_for_few_units(draws, 10)
    # 0.1 is the bootstrap's standard error, which divides by 10 where an unbiased one divides by 9
    half = 0.1 * (10 / 9) ** 0.5 * scipy.stats.t.ppf(0.975, 9)
    assert stats.percentile_interval(wide[0]) == pytest.approx((0.7 - half, 0.7 + half), rel=0.01)
    first, second = (wide - draws.mean(1, keepdims=True)) / (draws - draws.mean(1, keepdims=True))
    np.testing.assert_allclose(first, second, rtol=1e-6)  # paired runs stay paired
    many = stats.allow_for_few_units(draws, 2000)
    assert many.std() == pytest.approx(draws.std(), rel=1e-3)
    assert (stats.allow_for_few_units(draws, 1) == draws).all()


def test_p_value_agrees_with_the_normal_and_with_the_interval():
    draws = scipy.stats.norm.ppf((np.arange(10_000) + 0.5) / 10_000)
    for mean in (0.0, 1.0, 1.95, 1.97, 3.0, -3.0):
        p = stats.p_value(draws + mean)
        assert p == pytest.approx(2 * scipy.stats.norm.sf(abs(mean)), abs=2e-4)
        low, high = stats.percentile_interval(draws + mean)
        assert (p < 0.05) == (low > 0 or high < 0)
    assert stats.p_value(np.zeros(10_000)) == 1  # two models that answer alike
    assert stats.p_value(draws + 100) == 1e-4  # the resolution of 10,000 draws


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_ten_thousand_draws_over_seeds_give_students_interval(seeds):
    # independent draws left the ends of an interval up to 9 % off, which changed the verdicts
    weights = stats.seed_weights(seeds)
    assert weights.shape == (seeds, stats.DRAWS) and weights.sum(0) == pytest.approx(1)
    for values in (np.arange(seeds) / 10, np.eye(seeds)[0]):
        (low, high), exact = stats.percentile_interval(values @ weights), students_interval(values)
        assert (low, high) == pytest.approx(exact, abs=0.03 * (exact[1] - exact[0]) / 2)
        assert high + low == pytest.approx(2 * values.mean(), abs=0.01 * (exact[1] - exact[0]) / 2)


def test_scipy_agrees_on_bootstrap_and_binomial():
    rng = np.random.default_rng(5)
    right = rng.random(150) < 0.7
    result = stats.bootstrap([right[:, None] * 1.0], np.arange(150), lambda s: {"m": s[:, 0] / 150})["m"][0]
    theirs = scipy.stats.bootstrap((right * 1.0,), np.mean, n_resamples=10_000, method="percentile", rng=1)
    interval = theirs.confidence_interval
    assert stats.percentile_interval(result) == pytest.approx((interval.low, interval.high), abs=0.01)
    other = right ^ (rng.random(150) < 0.2)
    table = [int((right & ~other).sum()), int((other & ~right).sum())]
    assert stats.mcnemar(right, other) == pytest.approx(scipy.stats.binomtest(min(table), sum(table)).pvalue)


def test_bootstrap_agrees_with_the_binomial():
    # 400 images, 80 % right: standard error sqrt(.8 x .2 / 400) = 0.02
    terms = [np.repeat([[1.0], [0.0]], [320, 80], axis=0)]
    share = stats.bootstrap(terms, np.arange(400), lambda sums: {"m": sums[:, 0] / 400})["m"][0]
    assert len(share) == 10_000
    assert share.std() == pytest.approx(0.02, rel=0.03)
    low, high = stats.percentile_interval(share)
    assert (low, high) == pytest.approx((0.8 - 0.0392, 0.8 + 0.0392), abs=0.003)


def test_bootstrap_redraws_whole_groups():
    # 4 groups of 100 equal images act like 4 images: standard error 0.5 / sqrt(4)
    right = np.repeat([[1.0], [1.0], [0.0], [0.0]], 100, axis=0)
    units = np.repeat(np.arange(4), 100)
    share = stats.bootstrap([right], units, lambda s: {"m": s[:, 0] / 400})["m"][0]
    assert share.std() == pytest.approx(0.25, rel=0.03)


def test_bootstrap_is_paired_and_the_same_every_time():
    terms = np.random.default_rng(0).random((50, 1))
    one = stats.bootstrap([terms, terms], np.arange(50), lambda s: {"m": s[:, 0]})["m"]
    two = stats.bootstrap([terms, terms], np.arange(50), lambda s: {"m": s[:, 0]})["m"]
    assert (one[0] == one[1]).all() and (one == two).all()


def test_labels_to_reach_is_linear_in_log_labels():
    n, scores = np.array([10.0, 100, 1000]), np.array([0.5, 0.7, 0.9])
    reach = [float(stats.labels_to_reach(n, scores, np.array(t))) for t in (0.5, 0.6, 0.7, 0.9)]
    assert reach == pytest.approx([10, 10**1.5, 100, 1000])
    assert stats.labels_to_reach(n, scores, np.array(0.95)) == np.inf
    assert stats.labels_to_reach(n, scores, np.array(0.4)) == 0


def test_labels_to_reach_holds_a_falling_curve_at_its_highest():
    n, scores = np.array([10.0, 100, 1000]), np.array([0.5, 0.4, 0.9])
    assert stats.labels_to_reach(n, scores, np.array(0.7)) == pytest.approx(10**2.5)


def test_a_power_law_is_recovered():
    n = np.array([10.0, 100, 1000])
    assert stats.power_law(n, 0.8 * n**-0.3) == pytest.approx((0.8, 0.3, 1.0))


def test_box_by_hand():
    # quartiles 2, 3, 4 of 1..5 and 20: with 20, quartiles 2.25, 3.5, 4.75; reach 3.75
    box = stats.box(np.array([1.0, 2, 3, 4, 5, 20]))
    assert [box[k] for k in ("q1", "median", "q3")] == [2.25, 3.5, 4.75]
    assert (box["whisker_low"], box["whisker_high"], box["max"]) == (1, 5, 20)
    assert box["n"] == 6


def test_whiskers_end_at_the_last_value_within_one_and_a_half_times_the_iqr():
    values = np.array([-8.0, -5.0, 0, 1, 2, 3, 4, 9.0, 12.0])  # quartiles 0 and 4: the whiskers may reach from -6 to 10
    box = stats.box(values)
    assert (box["whisker_low"], box["q1"], box["q3"], box["whisker_high"]) == (-5, 0, 4, 9)


def test_a_mirrored_interval_contains_its_estimate():
    draws = np.linspace(1, 2, 1001)  # 95 % of them from 1.025 to 1.975; mirrored about 0.5: from -0.975 to -0.025
    assert stats.mirrored_interval(draws, 0.5) == pytest.approx((-0.975, 0.5))
    assert stats.mirrored_interval(-draws, -0.5) == pytest.approx((-0.5, 0.975))


def test_mirrored_interval_undoes_the_lift_of_redrawing():
    draws = np.linspace(0.02, 0.06, 1001)  # the estimate 0.03, redrawn 0.04 on average
    low, high = stats.mirrored_interval(draws, 0.03)
    assert low == 0.001 or low == pytest.approx(0.001)
    assert high == pytest.approx(0.039)
