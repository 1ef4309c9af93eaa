"""A short run of `tools/torture.py`: killed and resumed runs are bit-identical, and a difference would be detected."""

import os
import random
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from mae_jax.rundir import contents
from mae_jax.train import loop

ROOT = Path(__file__).parents[2]
torture = runpy.run_path(str(ROOT / "tools" / "torture.py"))
differences = torture["differences"]


class Finished:
    """Runs that end before any kill, up to a number of them."""

    kind, steps = "pretrain", 12

    def __init__(self, out, unkillable):
        self.out, self.unkillable = out, unkillable

    def finish(self, workdir):
        workdir.mkdir(exist_ok=True)
        workdir.with_suffix(".log").touch()
        return 1.0

    def kill_after(self, workdir, seconds):
        self.finish(workdir)
        self.unkillable -= 1
        return self.unkillable < 0

    kill_between = torture["Runs"].kill_between


@pytest.mark.parametrize("unkillable, kills", [(0, 2), (7, 2), (10, 1), (20, 0)])
def test_a_run_that_ends_before_its_kill_is_not_counted(tmp_path, monkeypatch, capsys, unkillable, kills):
    monkeypatch.setitem(torture["torture"].__globals__, "differences", lambda one, two: [])
    assert torture["torture"](Finished(tmp_path, unkillable), 2, random.Random(0)) == (kills, 0)
    assert f"pretrain: {kills} of 2 killed" in capsys.readouterr().out


class Processes(torture["Runs"]):
    """Runs whose process runs `code`. The first `early` ones end at once."""

    def __init__(self, kind, out, code, early=0):
        super().__init__(kind, 12, out)
        self.code, self.early = code, early

    def finish(self, workdir):
        workdir.mkdir(exist_ok=True)
        workdir.with_suffix(".log").touch()
        return 1.0

    def start(self, workdir):
        workdir.mkdir(exist_ok=True)
        self.early -= 1
        return subprocess.Popen([sys.executable, "-c", "" if self.early >= 0 else self.code, str(workdir)])


WAITING = "import time; time.sleep(60)"
SAVING = """
import pathlib, sys, time
for step in range(2, 12):
    (pathlib.Path(sys.argv[1]) / "checkpoints" / f"{step}.saving").mkdir(parents=True)
    (pathlib.Path(sys.argv[1]) / "checkpoints" / str(step)).mkdir()
time.sleep(60)
"""


def test_only_a_run_that_died_of_the_signal_was_killed(tmp_path):
    assert Processes("pretrain", tmp_path, WAITING).kill_after(tmp_path / "a", 0.2)
    assert not Processes("pretrain", tmp_path, "").kill_after(tmp_path / "b", 20.0)
    assert Processes("save", tmp_path, SAVING).kill_in_save(tmp_path / "c", 4, 0.0) is not None
    assert Processes("save", tmp_path, SAVING).kill_in_save(tmp_path / "d", 4, None) is not None
    assert Processes("save", tmp_path, "").kill_in_save(tmp_path / "e", 4, None) is None


def test_a_run_that_ends_as_it_is_to_be_killed_was_not_killed(tmp_path, monkeypatch):
    """It ends between the time limit and the signal, which a process that has ended does not get."""

    class Ending(subprocess.Popen):
        def send_signal(self, number):
            subprocess.Popen.wait(self)
            super().send_signal(number)

    runs = Processes("pretrain", tmp_path, "import time; time.sleep(0.3)")
    monkeypatch.setattr(subprocess, "Popen", Ending)
    assert not runs.kill_after(tmp_path / "a", 0.01)


@pytest.mark.parametrize("early, kills", [(0, 2), (4, 2), (9, 2), (10, 2), (20, 1), (30, 0)])
def test_a_save_that_could_not_be_killed_is_drawn_again_and_not_counted(tmp_path, monkeypatch, capsys, early, kills):
    monkeypatch.setitem(torture["torture"].__globals__, "differences", lambda one, two: [])
    runs = Processes("save", tmp_path, SAVING, early)
    assert torture["torture"](runs, 2, random.Random(0)) == (kills, 0)
    assert f"save: {kills} of 2 killed" in capsys.readouterr().out


def test_runs_that_could_not_be_killed_are_a_failure(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(torture["main"].__globals__, "torture", lambda runs, times, rng: (times - 1, 0))
    monkeypatch.setattr(sys, "argv", ["torture.py", "--only=pretrain", f"--out={tmp_path / 'out'}"])
    assert torture["main"]() == 1 and "1 run could not be killed" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["study", "save"])
def test_killed_and_resumed_runs_are_bit_identical(tmp_path, environment, kind):
    """`study` has a pre-training and classifiers. `save` kills a run during an asynchronous save."""
    command = [sys.executable, str(ROOT / "tools" / "torture.py"), f"--only={kind}", f"--out={tmp_path / 'out'}"]
    run = subprocess.run(
        [*command, "--moments=1", "--delays=1", "--steps=12"],
        capture_output=True, text=True, env=environment, cwd=ROOT, timeout=600,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.count(": equal\n") == 1 and "all equal" in run.stdout
    assert f"{kind}: 1 of 1 killed" in run.stdout


@pytest.mark.slow
def test_a_difference_of_one_bit_is_detected(tmp_path, tiny_config):
    places = [tmp_path / name for name in ("one", "two")]
    for place in places:
        loop.run(tiny_config(**{"train.select": "best"}), place)
    assert differences(*places) == []
    changes = {
        contents.METRICS: lambda data: data.replace(b'"epoch"', b'"epoch "', 1),
        contents.PREDICTIONS: lambda data: data[:-2] + bytes([data[-2] ^ 1]) + data[-1:],
        next((places[1] / "best").glob("*.npz")).relative_to(places[1]): lambda data: data + b" ",
    }
    for name, change in changes.items():
        file = places[1] / name
        undamaged = file.read_bytes()
        file.write_bytes(change(undamaged))
        assert differences(*places) == [f"./{name}"]
        file.write_bytes(undamaged)
    (places[1] / "checkpoints" / "9.saving").mkdir()
    assert differences(*places) == [f"{places[1]}: left behind: 9.saving"]
    os.rmdir(places[1] / "checkpoints" / "9.saving")
    other = tmp_path / "three"
    loop.run(tiny_config(**{"train.select": "best", "seed": 1}), other)
    assert any("params['head']['kernel']" in line for line in differences(places[0], other))
