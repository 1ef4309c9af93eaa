"""Starting a run: two starts at once, unwritable directories, other devices, and signals during the start."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh

from mae_jax.checkpoints.saver import Checkpoints
from mae_jax.checkpoints.steps import committed_steps
from mae_jax.config.fields import study_defaults
from mae_jax.rundir import contents
from mae_jax.runtime.errors import EXIT_STOPPED, UserError
from mae_jax.step import sharding
from mae_jax.step.state import abstract_state, init_state, padded, unpadded
from mae_jax.study import label_study
from mae_jax.study.validation import validate_study
from mae_jax.train import loop
from mae_jax.train.build import build

ROOT = Path(__file__).parents[2]


def start(environment, workdir: Path, *more: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "mae_jax.main", "--config=configs/demo.py:smoke=true", f"--workdir={workdir}"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen([*command, *more], cwd=ROOT, env=environment, **pipes)


def test_one_of_two_simultaneous_starts_is_refused(tmp_path, environment):
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / ".lock").write_text(f"99999999 on {os.uname().nodename}")  # of a process that was killed
    two = [start(environment, tmp_path / "study", "--config.pretrain.train.steps=100000") for _ in range(2)]
    while all(process.poll() is None for process in two):  # one is refused, whichever it is
        time.sleep(0.05)
    loser, winner = sorted(two, key=lambda process: process.poll() is None)
    printed, _ = loser.communicate(timeout=60)
    winner.send_signal(signal.SIGTERM)
    text, _ = winner.communicate(timeout=300)
    assert loser.returncode == 2, printed
    assert f"is in use by process {winner.pid} on {os.uname().nodename}; wait for it" in printed
    assert winner.returncode == EXIT_STOPPED, text


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_during_the_start_have_the_same_exit_code(tmp_path, environment, number):
    """The signals come from the first lines of the program on, during its imports."""
    for i, delay in enumerate((0.0, 0.1, 0.4, 0.8, 1.2, 1.6, 2.0, 2.5)):
        process = start(environment, tmp_path / f"{i}")
        status = Path(f"/proc/{process.pid}/status")
        while process.poll() is None and not _heeds(status.read_text(), number):
            time.sleep(0.002)
        time.sleep(delay)
        process.send_signal(number)
        text, _ = process.communicate(timeout=60)
        assert process.returncode == EXIT_STOPPED, (delay, text)
        last = text.splitlines()[-1]
        assert last.startswith(f"stopped by {number.name}; ") and "Traceback" not in text, (delay, text)


def _heeds(status: str, number: int) -> bool:
    """Whether a process blocks a signal, according to /proc/PID/status."""
    mask = next(line.split()[1] for line in status.splitlines() if line.startswith("SigBlk"))
    return bool(int(mask, 16) >> (number - 1) & 1)


def test_a_full_disk_at_the_start_is_named_with_its_free_space(tmp_path, environment):
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]
    if os.getuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small tmpfs cannot be mounted: not root, or not allowed here")
    try:
        with open(place / "filler", "wb") as file, contextlib.suppress(OSError):
            file.write(bytes(1 << 20))
        (place / "run").mkdir(exist_ok=True)
        process = start(environment, place / "run")
        text, _ = process.communicate(timeout=60)
        assert process.returncode == 2 and text.count("\n") == 1, text
        assert text.startswith(f"error: workdir {place}/run cannot be written: No space left on device (0 bytes free")
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.fixture
def read_only(tmp_path):
    """A directory on a file system that is mounted read-only; root may write to any other."""
    folder = tmp_path / "read-only"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "ro,size=1m", "tmpfs", str(folder)]
    mounted = os.getuid() == 0 and subprocess.run(command, capture_output=True)
    if not mounted or mounted.returncode:
        pytest.skip("a tmpfs cannot be mounted: not root, or not allowed here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("kind", ["run", "study"])
def test_an_unwritable_workdir_is_refused_before_images_are_read(read_only, tiny_config, monkeypatch, kind):
    monkeypatch.setattr(loop, "build", None)
    config = tiny_config() if kind == "run" else study_defaults(tiny_config("pretrain"), tiny_config())
    with pytest.raises(UserError, match="read-only/here cannot be written: Read-only file system"):
        (loop if kind == "run" else label_study).run(config, read_only / "here")


def test_a_file_as_workdir_is_refused_before_images_are_read(tmp_path, tiny_config, monkeypatch):
    monkeypatch.setattr(loop, "build", None)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file/here cannot be written: Not a directory"):
        loop.run(tiny_config(), tmp_path / "file" / "here")
    with pytest.raises(UserError, match="file cannot be written: File exists"):
        loop.run(tiny_config(), tmp_path / "file")


def test_a_run_whose_checkpoints_were_removed_is_refused(tmp_path, tiny_config):
    (tmp_path / contents.METRICS).write_text('{"step": 3, "train/loss": 1.0, "learning_rate": 0.1}\n')
    with pytest.raises(UserError, match="checkpoints is missing, but .* has rows of earlier updates: restore it"):
        loop.run(tiny_config(), tmp_path)
    assert (tmp_path / contents.METRICS).read_text()


def mesh_of(devices: int) -> Mesh:
    """One device, or parameters split over five."""
    grid = np.array(jax.devices()[:devices]).reshape(1, devices)
    return Mesh(grid, ("data", "fsdp"), axis_types=(AxisType.Auto, AxisType.Auto))


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(5, 1), (1, 5)])
def test_a_state_restored_on_other_devices_is_equal(tmp_path, tiny_config, before, after):
    config = tiny_config(**{"model.width": 40})
    specs = {devices: build(config, mesh_of(devices)).spec for devices in (before, after)}
    state = init_state(specs[before], 3)
    with Checkpoints(tmp_path, 1, {}, print) as store:
        store.save(1, unpadded(specs[before], state), {})
    with Checkpoints(tmp_path, 1, {}, print) as store:
        result = padded(specs[after], store.restore(abstract_state(specs[after]))[0])
    for split, devices in ((state, before), (result, after)):
        kernel = split.params["encoder"]["block_00"]["mlp"]["fc1"]["kernel"]
        assert len(kernel.sharding.device_set) == devices and kernel.is_fully_replicated == (devices == 1)
    pairs = zip(*(jax.tree.leaves((s.params, s.opt_state)) for s in (state, result)), strict=True)
    assert all(np.asarray(one).tobytes() == np.asarray(two).tobytes() for one, two in pairs)


@pytest.mark.slow
def test_a_run_started_on_five_devices_ends_on_one(tmp_path, tiny_config, monkeypatch):
    config = tiny_config()
    loop.run(config, tmp_path)
    expected = (tmp_path / contents.PREDICTIONS).read_text().splitlines()
    (tmp_path / contents.RESULTS).unlink()
    shutil.rmtree(tmp_path / "checkpoints" / str(committed_steps(tmp_path / "checkpoints")[0]))
    monkeypatch.setattr(sharding, "make_mesh", lambda fsdp=1: mesh_of(1))
    loop.run(config, tmp_path)
    result = (tmp_path / contents.PREDICTIONS).read_text().splitlines()
    assert [row.split(",")[:4] for row in result] == [row.split(",")[:4] for row in expected]


@pytest.mark.slow
@pytest.mark.parametrize("accumulation", [1, 5])
def test_a_batch_that_followed_from_the_devices_stays_on_other_devices(
    tmp_path, tiny_config, monkeypatch, capsys, accumulation
):
    config = tiny_config("pretrain", **{"train.batch_size": 0, "train.batch_per_device": 2})
    scores = loop.run(config, tmp_path)
    (tmp_path / contents.RESULTS).unlink()
    shutil.rmtree(tmp_path / "checkpoints" / str(committed_steps(tmp_path / "checkpoints")[0]))
    monkeypatch.setattr(sharding, "make_mesh", lambda fsdp=1: mesh_of(1))
    with pytest.raises(UserError, match=r"another config \(train\.batch_per_device: 2 -> 3\)"):
        loop.run(tiny_config("pretrain", **{"train.batch_size": 0, "train.batch_per_device": 3}), tmp_path)
    capsys.readouterr()
    config.train.accumulation = accumulation  # smaller micro-batches, for a device with less memory
    config.train.batch_size = 10 if accumulation > 1 else 0
    again = loop.run(config, tmp_path)
    assert "began on 5 devices, continues on 1 with the same 10 images per update" in capsys.readouterr().out
    saved = contents.read_config(tmp_path / contents.CONFIG)["resolved"]
    assert (saved["batch_size"], saved["devices"]) == (10, 5)
    for name in ("val/loss", "val/visible_loss"):
        assert again[name] == pytest.approx(scores[name], rel=1e-4)
    assert loop.run(config, tmp_path) == again  # finished, on either number of devices


def test_a_run_and_a_study_do_not_share_a_directory(tiny_config, tmp_path):
    several = study_defaults(tiny_config("pretrain"), tiny_config())
    (tmp_path / "study").mkdir()
    label_study.keep_study(validate_study(several), tmp_path / "study", True)
    with pytest.raises(
        UserError, match=r"study holds a study of several runs \(study\.json\); choose another --workdir"
    ):
        loop.run(tiny_config(), tmp_path / "study")
    loop.run(tiny_config(), tmp_path / "run")
    with pytest.raises(UserError, match=r"run holds one run \(config\.json\); choose another --workdir"):
        label_study.keep_study(validate_study(several), tmp_path / "run", True)
