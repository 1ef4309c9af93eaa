"""A short run of `tools/torture.py`: killed and resumed runs are bit-identical, and a difference would be detected."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from mae_jax.rundir import contents
from mae_jax.train import loop

ROOT = Path(__file__).parents[2]
differences = runpy.run_path(str(ROOT / "tools" / "torture.py"))["differences"]


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


@pytest.mark.slow
def test_a_difference_of_one_bit_is_detected(tmp_path, tiny_config):
    places = [tmp_path / name for name in ("one", "two")]
    for place in places:
        loop.run(tiny_config(**{"train.select": "best"}), place)
    assert differences(*places) == []
    changes = {
        contents.METRICS: lambda data: data.replace(b'"epoch"', b'"epoch "', 1),
        contents.PREDICTIONS: lambda data: data[:-2] + bytes([data[-2] ^ 1]) + data[-1:],
        next((places[1] / "best").iterdir()).relative_to(places[1]): lambda data: data + b" ",
    }
    for name, change in changes.items():
        file = places[1] / name
        whole = file.read_bytes()
        file.write_bytes(change(whole))
        assert differences(*places) == [f"./{name}"]
        file.write_bytes(whole)
    (places[1] / "checkpoints" / "9.saving").mkdir()
    assert differences(*places) == [f"{places[1]}: left behind: 9.saving"]
    os.rmdir(places[1] / "checkpoints" / "9.saving")
    other = tmp_path / "three"
    loop.run(tiny_config(**{"train.select": "best", "seed": 1}), other)
    assert any("params['head']['kernel']" in line for line in differences(places[0], other))
