"""Where the time of a run goes: each second counts once."""

import threading
import time

import jax
import jax.numpy as jnp
import pytest

from mae_jax.runtime import clock


@pytest.fixture
def ticks(monkeypatch):
    """The time in seconds, which a test moves."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_a_part_inside_another_does_not_count_twice(ticks):
    spent = clock.Clock()
    with spent.part("training"):
        ticks[0] += 3
        with spent.part("images"):
            ticks[0] += 2
        ticks[0] += 4
        with spent.part("images"):
            ticks[0] += 0.5
    ticks[0] += 50  # outside of all parts
    with spent.part("test"):
        ticks[0] += 1
    assert spent.seconds == {"training": 7, "images": 2.5, "test": 1}


def test_a_part_that_fails_counts_until_then(ticks):
    spent = clock.Clock()
    with spent.part("training"), pytest.raises(ValueError), spent.part("images"):
        ticks[0] += 2
        raise ValueError
    ticks[0] += 5
    assert spent.seconds == {"training": 0, "images": 2}


def test_compiling_counts_apart_and_nothing_is_lost():
    spent = clock.Clock()
    began = time.monotonic()
    with spent.part("training"):
        jax.jit(lambda x: jnp.sin(x) @ jnp.cos(x) + len(str(began)))(jnp.ones((3, 3)))
    total = time.monotonic() - began
    assert spent.seconds[clock.COMPILING] > 0.001
    assert 0 <= spent.seconds["training"] < total - spent.seconds[clock.COMPILING] + 0.01


def test_what_other_threads_compile_is_not_taken_from_the_part_of_this_one():
    spent = clock.Clock()
    with spent.part("training"):
        thread = threading.Thread(target=lambda: jax.jit(lambda x: x * 3.25 - 1)(jnp.ones(5)))
        thread.start()
        thread.join()
    assert clock.COMPILING not in spent.seconds


def test_words_name_the_longest_part_first_and_leave_out_what_took_no_second():
    assert clock.in_words({"test": 0.4, "compiling": 41.2, "training": 85}) == "training 1:25, compiling 0:41"
