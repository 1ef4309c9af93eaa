"""Progress lines in a log and bars on a terminal; a rate is never rounded to 0."""

import io
import time

import pytest

from mae_jax.runtime import progress
from mae_jax.runtime.progress import PRIOR, Parts, Progress, counting, duration, rough, speed


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test advances: clock[0] is the time."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize(
    ("rate", "message"),
    [(1234.4, "1234 images/s"), (10, "10 images/s"), (2.54, "2.5 images/s"), (0.25, "4 s per image"),
     (1 / 90, "90 s per image")],
)  # fmt: skip
def test_a_rate_is_never_zero(rate, message):
    assert speed(rate) == message


def test_durations():
    assert [duration(s) for s in (0, 75, 3700)] == ["0:00", "1:15", "1:01:40"]


def test_a_log_gets_an_occasional_line(clock):
    out = io.StringIO()
    shown = Progress(10.0, stream=out)
    shown.start("finetune", 4, 0, 2)
    for step in range(1, 5):
        clock[0] += 8.0
        shown.update(step, "loss 0.5")
    assert out.getvalue().splitlines() == [
        "finetune · step 2/4 · loss 0.5 · 4 s per image · 0:16 left",
        "finetune · step 4/4 · loss 0.5 · 4 s per image · 0:00 left",
    ]


def test_the_first_step_compiles_and_does_not_count(clock):
    out = io.StringIO()
    shown = Progress(0.0, stream=out)
    shown.start("finetune", 5, 0, 2)
    for step, seconds in enumerate((100.0, 1.0, 1.0), 1):
        clock[0] += seconds
        shown.update(step, "loss 1")
    assert out.getvalue().splitlines()[-1] == "finetune · step 3/5 · loss 1 · 2.0 images/s · 0:02 left"


def test_time_left_counts_the_runs_that_follow(clock):
    """By their expected seconds, which finished runs correct. A first step that compiles does not."""
    out = io.StringIO()
    shown = Progress(0.0, costs=[20.0, 60.0, 30.0], stream=out)
    shown.start("first", 3, 0, 1)
    for step, seconds in enumerate((30.0, 10.0, 10.0), 1):
        clock[0] += seconds
        shown.update(step, "loss 1")
    lines = out.getvalue().splitlines()
    here = (10.0 * 10 + PRIOR * 20.0 / 3) / (10 + PRIOR)  # measured for 10 s, and by the plan
    assert lines[1].endswith(f"10 s per image · {duration(here)} left, about {rough(here + 90.0)} for all runs")
    shown.finish()  # 50 s instead of 20
    clock[0] += 5.0  # between two runs
    shown.start("second", 2, 0, 1)
    for step in (1, 2):
        clock[0] += 10.0
        shown.update(step, "loss 1")
    left = 30.0 * (50 + PRIOR) / (20 + PRIOR)
    assert out.getvalue().splitlines()[-1].endswith(f"0:00 left, about {rough(left)} for all runs")
    shown.finish()
    assert shown._spent == 75.0


def test_a_terminal_gets_a_bar_and_lines_above_it(monkeypatch):
    monkeypatch.setattr(progress.sys, "stdout", Terminal())
    out = Terminal()
    shown = Progress(10.0, stream=out)
    shown.start("finetune", 3, 1, 10)
    shown.update(2, "loss 0.5")
    shown.say("a line")
    drawn = out.getvalue()
    assert "finetune" in drawn and "step 2/3, loss 0.5" in drawn and "20.0/30.0" in drawn
    assert "\ra line\n" in drawn  # the bar is cleared before it
    shown.update(3, "loss 0.4")
    assert not progress._open  # closed with the last step


def test_bars_are_closed_before_a_final_message():
    shown = Progress(10.0, stream=Terminal())
    shown.start("finetune", 3, 0, 10)
    shown.update(1, "loss 0.5")
    assert len(progress._open) == 1
    progress.close_bars()
    assert not progress._open


def test_counting(clock):
    lines: list[str] = []
    report = counting("checking images", lines.append, io.StringIO())
    for done in range(0, 13):
        clock[0] += 1.0
        report(done, 12)
    assert lines == ["checking images: 5/12", "checking images: 11/12"]
    out = Terminal()
    report = counting("checking images", lines.append, out)
    report(6, 12)
    assert "checking images:   0%" in out.getvalue() and len(progress._open) == 1
    report(12, 12)
    assert not progress._open and len(lines) == 2


def test_quiet_processes_print_nothing():
    out = Terminal()
    shown = Progress(0.0, stream=out, quiet=True)
    shown.start("finetune", 2, 0, 1)
    shown.update(1, "loss 1")
    shown.say("a line")
    assert out.getvalue() == ""


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(2, "10 seconds"), (75, "80 seconds"), (100, "2 minutes"), (5000, "83 minutes"), (9000, "2.5 hours")],
)
def test_estimates_are_rounded(seconds, words):
    assert rough(seconds) == words and rough(400_000) == "4.6 days"


def test_further_runs_of_a_kind_only_print_new_warnings():
    out = io.StringIO()
    shown = Progress(10.0, stream=out)
    shown.describe("finetune", ["one in x", "  classes: A 4", "  warning: few"])
    shown.describe("finetune", ["two in x", "  classes: A 8", "  warning: few"])
    shown.describe("finetune", ["three in x", "  classes: A 9", "  warning: large"])
    shown.describe("knn", ["four in x", "  classes: A 4"])
    assert out.getvalue().splitlines() == [
        "one in x", "  classes: A 4", "  warning: few", "three in x", "  warning: large", "four in x", "  classes: A 4"
    ]  # fmt: skip


def test_several_trainings_are_shown_as_one_run(clock):
    out = io.StringIO()
    outer = Progress(0.0, costs=[40.0, 100.0], stream=out)
    parts = Parts(outer, 3)
    parts.skip()  # it was finished before
    for label in ("fold 2", "all"):
        parts.describe(label, [f"about {label}", "  images"])
        parts.start(label, 2, 0, 1)
        parts.back(0)
        for step in (1, 2):
            clock[0] += 10.0
            parts.update(step, "loss 1")
        parts.finish()
    lines = out.getvalue().splitlines()
    assert [line.split(" · ")[:2] for line in lines if " · " in line] == [
        ["fold 2", "step 3/6"], ["fold 2", "step 4/6"], ["all", "step 5/6"], ["all", "step 6/6"],
    ]  # fmt: skip
    assert [line for line in lines if " · " not in line] == ["about all", "  images"]
    assert outer.run == 0 and outer.seconds_left() == pytest.approx(100.0)  # it took the 40 seconds it should
