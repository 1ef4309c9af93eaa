"""Counts in words: singular, plural, and whole numbers with all their digits. Lists are shortened."""

import pytest

from mae_jax.runtime.text import count, joined, shortened, some


@pytest.mark.parametrize(
    ("n", "words"), [(0, "0 runs"), (1, "1 run"), (1.0, "1 run"), (0.5, "0.5 runs"), (12345678, "12345678 runs")]
)
def test_a_noun_follows_its_number(n, words):
    assert count(n, "run") == words


def test_another_plural():
    assert [count(n, "key is", "keys are") for n in (1, 2)] == ["1 key is", "2 keys are"]


def test_parts_of_a_sentence():
    assert [joined(["a", "b", "c"][:n]) for n in (1, 2, 3)] == ["a", "a and b", "a, b and c"]


def test_a_long_list_ends_in_dots():
    assert [shortened(["a", "b", "c", "d"][:n]) for n in (0, 1, 3, 4)] == ["", "a", "a, b, c", "a, b, c, ..."]
    assert shortened(["a", "b"], 1) == "a, ..."


def test_a_long_list_says_how_many_are_left_out():
    texts = [some(["a", "b", "c", "d"][:n], 2) for n in (0, 2, 3, 4)]
    assert texts == ["", "a, b", "a, b and 1 more", "a, b and 2 more"]
