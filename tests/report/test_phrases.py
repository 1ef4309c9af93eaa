"""Parts of sentences."""

import math

import pytest

from mae_jax.report import phrases


def test_a_small_number_is_not_shown_as_none():
    assert [phrases.signed(v) for v in (-0.03, 0.04, 0.0, 0.001, 1.25)] == ["−0.03", "+0.04", "0.0", "0.0", "+1.2"]


@pytest.mark.parametrize(
    ("times", "low", "high", "text", "interval"),
    [
        (3.21, 2.5, 4.04, "3.2 times the labels", "2.5 to 4.0"),
        (math.inf, 4.0, math.inf, "more than 10 times the labels", "4.0 to more than 10"),
        (math.inf, math.inf, math.inf, "more than 10 times the labels", "more than 10"),
        (0.0, 0.0, 0.5, "less than 0.1 times the labels", "less than 0.1 to 0.50"),
    ],
    ids=["inside", "over", "all over", "under"],
)
def test_worth_in_words(times, low, high, text, interval):
    row = {"times": times, "low": low, "high": high, "least": 0.1, "most": 10.0}
    assert phrases.times(row) == text
    assert phrases.times_interval(row) == interval
