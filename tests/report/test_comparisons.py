"""The rule for differences: an interval without 0, and a p value that survives Holm's correction."""

import pytest

from mae_jax.report.comparisons import Difference, is_higher, is_lower, is_unsure, judge


def test_an_interval_and_the_corrected_p_value_decide_together():
    zero, sure = Difference(0.1, -0.1, 0.3, 0.3, 3), Difference(0.1, 0.05, 0.15, 0.001, 3)
    doubtful = Difference(-0.1, -0.19, -0.01, 0.04, 3)
    result = judge([zero, doubtful, None, sure])
    assert [row["verdict"] for row in result] == [
        "no difference shown",
        "lower, not confirmed by Holm's correction",
        "collapsed: nothing to compare",
        "higher",
    ]
    assert [row["holm_p"] for row in result] == [pytest.approx(p) if p else None for p in (0.3, 0.08, None, 0.003)]
    rows = [row | {"low": d.low, "high": d.high} for row, d in zip(result, (zero, doubtful, sure, sure), strict=True)]
    assert [is_higher(row) for row in rows] == [False, False, False, True]
    assert [is_unsure(row) for row in rows[:2]] == [False, True] and not is_lower(rows[1])
    assert judge([doubtful])[0]["verdict"] == "lower"  # alone, it needs no correction
    assert is_lower(judge([doubtful])[0] | {"high": doubtful.high})


@pytest.mark.parametrize(
    ("low", "high", "seeds", "message"),
    [
        (0.0, 0.0, 3, "no difference shown"),
        (0.01, 0.2, 1, "higher, each trained once"),
        (-0.2, -0.01, 2, "lower, each trained twice"),
        (-0.2, 0.1, 1, "no difference shown"),
    ],
)
def test_one_or_two_seeds_are_about_these_models(low, high, seeds, message):
    assert judge([Difference((low + high) / 2, low, high, 0.01, seeds)])[0]["verdict"] == message


def test_differences_of_few_seeds_do_not_make_others_significant():
    """A run is lost, so a difference is only about these models. The p value of another must not become smaller."""
    family = [Difference(0.1, 0.01, 0.2, p, 3) for p in (0.0022, 0.0208, 0.0334)]
    holm = [entry["holm_p"] for entry in judge(family)]
    assert holm == pytest.approx([0.0066, 0.0416, 0.0416])
    lost = [family[0], family[1], family[2]._replace(p=0.0001, seeds=2)]
    after = judge(lost)
    assert after[1]["holm_p"] == pytest.approx(0.0416) and after[0]["holm_p"] == pytest.approx(0.0066)
    assert after[2]["holm_p"] == pytest.approx(0.0003)  # corrected for all three, too
    assert after[2]["verdict"] == "higher, each trained twice"
