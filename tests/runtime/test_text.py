"""Counts in words: singular, plural, and whole numbers with all their digits."""

import pytest

from mae_jax.runtime.text import count


@pytest.mark.parametrize(
    ("n", "words"), [(0, "0 runs"), (1, "1 run"), (1.0, "1 run"), (0.5, "0.5 runs"), (12345678, "12345678 runs")]
)
def test_a_noun_follows_its_number(n, words):
    assert count(n, "run") == words


def test_another_plural():
    assert [count(n, "key is", "keys are") for n in (1, 2)] == ["1 key is", "2 keys are"]
