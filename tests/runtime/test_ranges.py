"""Ranges of numbers, with open and closed ends."""

import math

import pytest

from mae_jax.runtime.ranges import Range


@pytest.mark.parametrize(
    ("limits", "inside", "outside", "interval", "words"),
    [
        ((1, 64), (1, 64), (0, 65, math.nan), "[1, 64]", "1 to 64"),
        ((0, 1, "low"), (0.01, 1), (0, 1.01), "(0, 1]", "above 0 and at most 1"),
        ((0, 1, "high"), (0, 0.99), (-0.01, 1), "[0, 1)", "at least 0 and below 1"),
        ((0, 1, "low high"), (0.5,), (0, 1), "(0, 1)", "above 0 and below 1"),
        ((-1,), (-1, 10**9), (-2,), "[-1, inf]", "-1 or more"),
        ((0, math.inf, "low"), (0.1,), (0,), "(0, inf]", "above 0"),
        ((-math.inf, 3), (3, -9), (4,), "[-inf, 3]", "at most 3"),
    ],
)
def test_a_range_holds_what_its_words_say(limits, inside, outside, interval, words):
    one_range = Range(*limits)
    assert all(map(one_range.holds, inside)) and not any(map(one_range.holds, outside))
    assert (str(one_range), one_range.words) == (interval, words)
