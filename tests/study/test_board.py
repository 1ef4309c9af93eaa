"""The progress of several runs at once: lines by run, and the time left for all of them."""

import io

import pytest

from mae_jax.runtime.progress import PRIOR
from mae_jax.study import board


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(board.time, "monotonic", lambda: now[0])
    return now


def test_the_time_left_follows_from_the_done_share_of_all_runs(clock):
    shown = board.Board(["a", "b", "c"], [10.0, 30.0, 40.0], 0.0, 2)
    assert shown.seconds_left() == 80 / 2  # as expected, in two workers
    shown.begin(0, 0)
    shown.begin(1, 1)
    shown.show(0, "start", ["a", 4, 0, 16])
    shown.show(1, "start", ["b", 10, 0, 16])
    clock[0] += 20.0
    shown.show(0, "update", [4, "loss 1"])
    shown.show(1, "update", [1, "loss 1"])  # 10 + 3 of 80 are done
    assert shown.seconds_left() == pytest.approx((80 - 13) / 2 * (20 + PRIOR) / (13 / 2 + PRIOR))
    shown.end(0)
    clock[0] += 20.0
    shown.show(1, "update", [10, "loss 1"])
    shown.end(1)
    assert shown.seconds_left() == pytest.approx(40 / 2 * (40 + PRIOR) / (40 / 2 + PRIOR))
    assert board.Board(["a"], [0.0], 0.0, 1).seconds_left() == 0.0


def test_lines_name_the_run(clock, capsys):
    shown = board.Board(["finetune 10 % mae", "finetune 10 % scratch"], [1.0, 1.0], 0.0, 2)
    shown.begin(1, 0)
    shown.show(1, "start", ["finetune 10 % mae", 3, 0, 16])
    clock[0] += 1
    shown.show(1, "update", [3, "loss 0.5"])
    shown.show(1, "say", ["a note"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "[1/2] finetune 10 % mae" and lines[-1] == "a note"
    assert lines[1].startswith("finetune 10 % mae · step 3/3 · loss 0.5")


def test_runs_of_all_workers_are_described_once(clock, capsys):
    shown = board.Board(["a", "b"], [1.0, 1.0], 0.0, 2)
    for place, name in enumerate("ab"):
        shown.begin(place, place)
        shown.show(place, "describe", ["finetune", [f"{name} in x", "  classes: 5"]])
    assert capsys.readouterr().out.splitlines() == ["[1/2] a", "a in x", "  classes: 5", "[2/2] b"]


def test_each_worker_has_a_bar_of_its_own(clock):
    shown = board.Board(["a", "b"], [1.0, 1.0], 0.0, 2)
    assert [place.position for place in shown._places] == [0, 1]
    assert isinstance(shown._places[0].stream, io.TextIOBase)
