"""Damage to real checkpoints: flipped bits, truncation, lost files, full disks, strays, and errors during a save."""

import builtins
import contextlib
import dataclasses
import errno
import io
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from mae_jax.checkpoints import digests, steps
from mae_jax.checkpoints.saver import Checkpoints
from mae_jax.checkpoints.steps import committed_steps
from mae_jax.rundir import contents
from mae_jax.rundir.metrics_log import MetricsLog
from mae_jax.runtime.errors import StorageError, UserError
from mae_jax.step.sharding import make_mesh
from mae_jax.step.state import TrainState, abstract_state, init_state
from mae_jax.train.build import build


@pytest.fixture(scope="module")
def spec(tiny_config):
    return build(tiny_config(), make_mesh(1), lambda done, total: None).spec


@pytest.fixture(scope="module")
def saved(spec, tmp_path_factory) -> Path:
    """A run directory with steps 2, 4 and 6, which differ."""
    workdir = tmp_path_factory.mktemp("saved")
    with Checkpoints(workdir, 3, {}, print) as store:
        for step in (2, 4, 6):
            store.save(step, state_of(spec, step), {"number": step})
    return workdir


@pytest.fixture
def copy(saved, tmp_path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "copy"))


def state_of(spec, step: int) -> TrainState:
    return init_state(spec, step)


def restored(workdir: Path, spec, message: list[str]) -> tuple[TrainState, dict] | None:
    with Checkpoints(workdir, 3, {}, message.append) as store:
        return store.restore(abstract_state(spec))


def same(one: TrainState, two: TrainState) -> bool:
    pairs = zip(jax.tree.leaves(one.params), jax.tree.leaves(two.params), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


def files_of(step: Path) -> list[str]:
    return sorted(str(path.relative_to(step)) for path in step.rglob("*") if path.is_file())


def test_a_flipped_bit_anywhere_is_found(copy, spec):
    newest = copy / "checkpoints" / "6"
    for name in files_of(newest):
        path = newest / name
        undamaged = path.read_bytes()
        if not undamaged:
            continue
        broken = bytearray(undamaged)
        broken[len(undamaged) // 2] ^= 0b100
        path.write_bytes(broken)
        assert digests.problem(newest), name
        path.write_bytes(undamaged)
    assert digests.problem(newest) == ""


def test_the_step_before_a_flipped_bit_is_used_and_logged(copy, spec):
    newest = copy / "checkpoints" / "6"
    largest = max(newest.joinpath("params").rglob("*"), key=lambda p: p.stat().st_size if p.is_file() else 0)
    broken = bytearray(largest.read_bytes())
    broken[len(broken) // 2] ^= 1
    largest.write_bytes(broken)
    lines = []
    state, position = restored(copy, spec, lines)
    assert position == {"number": 4} and same(state, state_of(spec, 4)) and int(state.step) == 4
    assert len(lines) == 1 and "checkpoints/6 is damaged" in lines[0] and "SHA-256" in lines[0]
    assert committed_steps(copy / "checkpoints") == [4, 2]


@pytest.mark.parametrize("damage", ["truncated", "lost", "no digests"])
def test_the_step_before_a_damaged_one_is_used(copy, spec, damage):
    newest = copy / "checkpoints" / "6"
    victim = newest / "params" / "_METADATA"
    if damage == "truncated":
        os.truncate(victim, 10)
    elif damage == "lost":
        victim.unlink()
    else:
        (newest / digests.DIGESTS).unlink()
    lines = []
    assert restored(copy, spec, lines)[1] == {"number": 4}
    assert any("checkpoints/6" in line for line in lines)


def test_steps_that_are_all_bad_are_refused_at_every_start(copy, spec):
    for step in (2, 4, 6):
        (copy / "checkpoints" / str(step) / digests.DIGESTS).unlink()
    for _ in range(2):
        with pytest.raises(UserError, match=r"has no complete checkpoint, only 2\.damaged, 4\.damaged, 6\.damaged"):
            restored(copy, spec, [])


@pytest.mark.slow
def test_later_changes_do_not_reach_a_save_in_progress(tmp_path, spec, monkeypatch):
    def slow(*args, dumps=json.dumps, **options):
        if threading.current_thread() is not threading.main_thread():
            time.sleep(0.5)
        return dumps(*args, **options)

    monkeypatch.setattr(json, "dumps", slow)
    position = {"pending": [{"loss": 1.0}], "number": 3}
    with Checkpoints(tmp_path, 1, {}, print) as store:
        store.save(3, state_of(spec, 3), position)
        position["pending"].append({"loss": 2.0})
    assert restored(tmp_path, spec, [])[1] == {"pending": [{"loss": 1.0}], "number": 3}


def reading(monkeypatch, name: str, number: int) -> None:
    """Makes every read of a file of this name fail, as with a broken disk or a lost mount."""
    opened = io.open

    def failing(file, *args, **options):
        if Path(str(file)).name == name:
            raise OSError(number, os.strerror(number), str(file))
        return opened(file, *args, **options)

    monkeypatch.setattr(io, "open", failing)  # Path.read_text
    monkeypatch.setattr(builtins, "open", failing)


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.EACCES])
@pytest.mark.parametrize("name", ["step.txt", digests.DIGESTS, "_METADATA"])
def test_a_read_error_stops_in_one_line_and_renames_nothing(copy, spec, monkeypatch, number, name):
    before = sorted(copy.rglob("*"))
    lines = []
    with monkeypatch.context() as patched:
        reading(patched, name, number)
        with pytest.raises(UserError, match=rf"/\d/.*{name}: {os.strerror(number)}; ") as error:
            restored(copy, spec, lines)
        with pytest.raises((UserError, OSError), match=os.strerror(number)):
            steps.load_params(copy, abstract_state(spec).params, "init_from")
    assert "\n" not in str(error.value) and not lines and sorted(copy.rglob("*")) == before
    assert restored(copy, spec, lines)[1] == {"number": 6} and not lines


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EACCES])
@pytest.mark.parametrize(("call", "name"), [("scandir", "checkpoints"), ("stat", "6"), ("stat", "params")])
def test_a_folder_that_cannot_be_listed_once_loses_no_step(copy, spec, monkeypatch, number, call, name):
    before, lines, left = sorted(copy.rglob("*")), [], []
    real = getattr(os, call)

    def failing(path, *args, **options):
        if left and not isinstance(path, int) and Path(path).name == name:
            left.pop()
            raise OSError(number, os.strerror(number), str(path))
        return real(path, *args, **options)

    monkeypatch.setattr(os, call, failing)
    for read in (restored, lambda *a: steps.load_params(copy, abstract_state(spec).params, "init_from")):
        left[:] = [1]
        with pytest.raises((UserError, OSError), match=os.strerror(number)) as error:
            read(copy, spec, lines)
        assert "missing" not in str(error.value) and "\n" not in str(error.value)
        assert not left and not lines and sorted(copy.rglob("*")) == before
    assert restored(copy, spec, lines)[1] == {"number": 6} and not lines


def test_a_read_error_of_orbax_itself_renames_nothing(copy, spec, monkeypatch):
    text = f"Error reading \"/x/y\": any words [os_error_code='{errno.EIO}']"
    with Checkpoints(copy, 3, {}, print) as store:
        monkeypatch.setattr(store._orbax, "restore", lambda *args, **options: (_ for _ in ()).throw(ValueError(text)))
        with pytest.raises(UserError, match=r"checkpoints/6 cannot be read: /x/y: Input/output error; check the disk"):
            store.restore(abstract_state(spec))
    assert committed_steps(copy / "checkpoints") == [6, 4, 2]


@pytest.mark.slow
@pytest.mark.parametrize("number", [errno.EIO, errno.ENOTCONN, errno.ETIMEDOUT, errno.EMFILE, errno.ENOMEM])
@pytest.mark.parametrize("when", ["save", "wait_until_finished"])
def test_every_fault_in_a_save_is_one_line_and_keeps_the_steps_before(copy, spec, monkeypatch, number, when):
    def fail(*args, **options):
        raise ValueError(f'UNKNOWN: Error writing "a/0": Failed writing: "/x/y": ... [os_error_code=\'{number}\']')

    with pytest.raises(StorageError, match=rf"checkpoints.* cannot be written: {os.strerror(number)}") as error:
        with Checkpoints(copy, 3, {}, print) as store:
            monkeypatch.setattr(store._orbax, when, fail)
            store.save(8, state_of(spec, 8), {})
            store.wait()
    assert "Earlier checkpoints are kept" in str(error.value) and "make room" not in str(error.value)
    assert committed_steps(copy / "checkpoints") == [6, 4, 2]


@pytest.mark.parametrize("item", ["params", "optimizer"])
@pytest.mark.parametrize("change", ["dtype", "shape", "name"])
def test_a_leaf_that_does_not_fit_is_refused_by_name_and_not_cast(copy, spec, item, change):
    like = abstract_state(spec)
    tree = like.params if item == "params" else like.opt_state
    changed = []

    def other(path, leaf):
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        if changed or not name.endswith("head.kernel"):
            return leaf
        changed.append(name)
        dtype, shape = (np.int32, leaf.shape) if change == "dtype" else (leaf.dtype, (*leaf.shape[:-1], 9))
        return jax.ShapeDtypeStruct(shape, dtype, sharding=leaf.sharding)

    tree = jax.tree_util.tree_map_with_path(other, tree)
    (name,) = changed
    lines = {
        "dtype": f"{name} is float32 instead of int32",
        "shape": rf"{name} has the shape \(16, 5\) instead of \(16, 9\)",
    }
    if change == "name":
        tree = {"renamed": like.params if item == "params" else like.opt_state}
        lines["name"] = "which the network does not have"
    like = dataclasses.replace(like, **{"params" if item == "params" else "opt_state": tree})
    before = sorted(copy.rglob("*"))
    with pytest.raises(UserError, match=rf"checkpoints/6 cannot be read: {item}.* ?{lines[change]}"):
        with Checkpoints(copy, 3, {}, print) as store:
            store.restore(like)
    assert sorted(copy.rglob("*")) == before
    if item == "params":
        with pytest.raises(
            UserError, match=rf"init_from: checkpoint .*/6 does not fit its config.json.*{lines[change]}"
        ):
            steps.load_params(copy, like.params, "init_from")


def test_strays_are_skipped_and_interrupted_saves_removed(copy, spec):
    folder = copy / "checkpoints"
    (folder / "99").mkdir()
    (folder / "0100").mkdir()
    shutil.copytree(folder / "6" / "params", folder / "7" / "params")  # copied in part
    (folder / "8.saving.orbax-checkpoint-tmp-3" / "params").mkdir(parents=True)
    lines = []
    assert restored(copy, spec, lines)[1] == {"number": 6}
    assert {p.name for p in folder.iterdir()} == {"2", "4", "6", "7.damaged", "99.stray", "0100.stray"}
    assert any("99 is not a complete checkpoint" in line for line in lines)


def test_a_stray_alone_does_not_prevent_a_start(tmp_path, spec):
    (tmp_path / "checkpoints" / "99").mkdir(parents=True)
    assert restored(tmp_path, spec, []) is None


@pytest.mark.parametrize("source", ["2", "6"])
def test_a_complete_step_under_another_number_is_skipped(copy, spec, source):
    shutil.copytree(copy / "checkpoints" / source, copy / "checkpoints" / "99")
    lines = []
    state, position = restored(copy, spec, lines)
    assert position == {"number": 6} and int(state.step) == 6 and same(state, state_of(spec, 6))
    assert f"it holds step {source}" in lines[0] and "99" in lines[0]
    assert committed_steps(copy / "checkpoints") == [6, 4, 2]


def test_a_name_that_int_does_not_parse_is_not_a_step(copy, spec):
    (copy / "checkpoints" / "²").mkdir()
    assert restored(copy, spec, [])[1] == {"number": 6}


@pytest.mark.parametrize("kept", [True, False], ids=["emptied steps", "emptied directory"])
def test_a_run_that_lost_its_checkpoints_does_not_start_again(copy, spec, kept):
    for step in (copy / "checkpoints").iterdir():
        shutil.rmtree(step)
        if kept:
            step.mkdir()
    for _ in range(2):
        with pytest.raises(UserError, match="has no complete checkpoint"):
            restored(copy, spec, [])


def test_a_rollback_to_the_start_allows_a_new_start(copy, spec):
    with Checkpoints(copy, 3, {}, print) as store:
        store.drop(0)
    assert restored(copy, spec, []) is None


def test_an_error_is_raised_after_the_save_in_progress_finishes(tmp_path, spec):
    with pytest.raises(KeyError, match="the first"), Checkpoints(tmp_path, 2, {}, print) as store:
        store.save(3, state_of(spec, 3), {"number": 3})
        raise KeyError("the first")
    assert restored(tmp_path, spec, [])[1] == {"number": 3}


@pytest.fixture
def small_disk(tmp_path):
    """A directory on a file system of four megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = os.getuid() == 0 and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], capture_output=True
    )
    if not mounted or mounted.returncode:
        pytest.skip("a small tmpfs cannot be mounted: not root, or not allowed here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


# Two runs on a small disk, in their own process because Orbax's threads leave warnings behind. The fault comes at the
# second save: first a full disk, then a limit on file size.
FULL = """
import json, resource, shutil, sys
from pathlib import Path
from types import SimpleNamespace
from mae_jax.checkpoints.saver import Checkpoints
from mae_jax.checkpoints.steps import committed_steps
from mae_jax.runtime.errors import StorageError
from mae_jax.train import loop
from tests.conftest import tiny_config

disk = Path(sys.argv[1])
config = tiny_config.__wrapped__()()
config.checkpoint.every_epochs = 0.01  # every step
save, limit = Checkpoints.save, resource.getrlimit(resource.RLIMIT_FSIZE)

def fault_after_two(self, step, state, position):
    save(self, step, state, position)
    if step == 2:
        self.wait()
        fault()

def fill():
    (disk / "filler").write_bytes(bytes(shutil.disk_usage(disk).free - 8192))

def restrict():
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, limit[1]))

for name, fault, repair in (
    ("full", fill, lambda: (disk / "filler").unlink()),
    ("limit", restrict, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit)),
):
    Checkpoints.save = fault_after_two
    try:
        loop.run(config, disk / name)
    except StorageError as error:
        said = str(error)
    repair()
    Checkpoints.save = save
    kept = committed_steps(disk / name / "checkpoints")
    left = [p.name for p in (disk / name / "checkpoints").iterdir() if not p.name.isdigit()]
    print(json.dumps([name, said, kept, left, "accuracy" in loop.run(config, disk / name)]), flush=True)
"""


@pytest.mark.slow
def test_a_full_disk_and_a_limit_stop_the_run_with_the_earlier_steps_kept(small_disk, environment):
    run = subprocess.run(
        [sys.executable, "-c", FULL, str(small_disk)],
        capture_output=True, text=True, env=environment, cwd=Path(__file__).parents[2], timeout=300,
    )  # fmt: skip
    rows = {row[0]: row[1:] for row in map(json.loads, (x for x in run.stdout.splitlines() if x.startswith("[")))}
    assert rows.keys() == {"full", "limit"}, run.stderr[-2000:]
    for name, (message, kept, left, finished) in rows.items():
        assert kept[0] == 2 and not left and finished
        assert message.startswith(f"{small_disk}/{name}/checkpoints") and " bytes free on its disk" in message
    assert "No space left" in rows["full"][0] and "a file may have at most 8192 bytes" in rows["limit"][0]


def test_an_unwritable_directory_is_refused_immediately(small_disk, spec):
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(StorageError, match="Read-only file system"):
        Checkpoints(small_disk / "run", 2, {}, print)


def test_a_finished_run_without_its_checkpoint_is_named(copy, spec):
    (copy / contents.RESULTS).write_text("{}")
    shutil.rmtree(copy / "checkpoints")
    with pytest.raises(UserError, match=r"init_from=.*has results.json, but its checkpoints are missing"):
        steps.load_params(copy, abstract_state(spec).params, "init_from")


def test_weights_are_read_without_a_warning(copy, spec, caplog):
    with caplog.at_level("WARNING", logger="absl"):
        _, step = steps.load_params(copy, abstract_state(spec).params, "init_from")
    assert step == 6 and not caplog.records


def test_weights_of_another_run_are_verified(copy, spec):
    path = copy / "checkpoints" / "6" / "config" / "metadata"
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(UserError, match=r"init_from: checkpoint .*/6 is damaged: config/metadata has \d+ bytes"):
        steps.load_params(copy, abstract_state(spec).params, "init_from")


@pytest.mark.parametrize("what", ["", "checkpoints"])
@pytest.mark.parametrize("resumed", [False, True])
def test_a_directory_removed_during_the_run_is_reported_and_not_created_again(copy, spec, what, resumed):
    with pytest.raises(StorageError, match="checkpoints was removed or emptied during the run; restore it"):
        with Checkpoints(copy, 3, {}, print) as store:
            if resumed:
                store.restore(abstract_state(spec))
            else:
                store.save(8, state_of(spec, 8), {})
                store.wait()
            shutil.rmtree(copy / what)
            store.save(10, state_of(spec, 10), {})
    assert not list(copy.glob("checkpoints/*"))


def test_threads_print_nothing_after_a_failed_save(tmp_path, monkeypatch):
    lines = []
    monkeypatch.setattr(sys, "unraisablehook", lambda what: lines.append(str(what.exc_value)))
    with Checkpoints(tmp_path, 1, {}, print):
        for text in ("Event loop is closed", "something else"):
            sys.unraisablehook(SimpleNamespace(exc_value=RuntimeError(text)))
    sys.unraisablehook(SimpleNamespace(exc_value=RuntimeError("Event loop is closed")))
    assert lines == ["something else", "Event loop is closed"]


def test_a_full_disk_for_tensorboard_is_named_and_hides_no_other_error(small_disk):
    def fill() -> None:
        with open(small_disk / "filler", "wb") as file, contextlib.suppress(OSError):
            file.write(bytes(8 << 20))

    options = {"first_step": 0, "evaluated": True, "steps": 9, "profile": False}
    with pytest.raises(OSError) as caught, MetricsLog(small_disk, tensorboard=False, **options) as writers:
        writers.scalars(1, {"loss": 1.0})
        fill()
        writers.tensorboard = True
        writers.scalars(2, {"loss": 1.0})  # the file of the first has room for it
    assert caught.value.errno == errno.ENOSPC and caught.value.filename == str(small_disk / "events.out.tfevents")
    (small_disk / "filler").unlink()
    with pytest.raises(KeyError, match="the first"), MetricsLog(small_disk, tensorboard=True, **options) as writers:
        writers.scalars(1, {"loss": 1.0})
        fill()
        for step in range(100):
            writers._clu.write_scalars(step, {"loss": 1.0})
        raise KeyError("the first")
