"""`mae-jax prepare`: its output, interrupted starts, and reading what it wrote."""

import dataclasses
import errno
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import cloudpickle
import numpy as np
import pytest
from PIL import Image

from mae_jax.data import loaders, prepared, splits
from mae_jax.data.transforms import CenterResize, Decode
from mae_jax.datasets import prepare as preparing
from mae_jax.datasets.tiles import slides
from mae_jax.runtime.errors import UserError
from mae_jax.step import sharding
from mae_jax.train.build import build

ROOT = Path(__file__).parents[2]


def command(*arguments: str, **options) -> subprocess.Popen:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "none"}
    line = [sys.executable, "-m", "mae_jax", "prepare", *arguments]
    return subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def test_the_command_prepares_and_says_so(trees, tmp_path):
    process = command("cam16", "--source", str(trees / "cam16"), "--data_dir", str(tmp_path))
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0 and err == ""
    assert f"cam16 is prepared in {tmp_path}/cam16/1.0.0" in out and "left out: nothing" in out
    assert len(prepared.unlabeled("cam16", tmp_path)) == 16


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cam17", "--source", "."], "cam17 cannot be prepared; use one of raabin_wbc, cam16, prcc"),
        (["cam16", "--source", "/nowhere"], "--source /nowhere is not a folder"),
        (["cam16", "--source", "{trees}/raabin_wbc"], "--source: '{trees}/raabin_wbc/train/data' is not a folder"),
        (["prcc:x", "--source", "."], "prcc:x is not known; use prcc:tile16"),
        (["prcc", "--source", ".", "--tile", "250"], "prcc has no such option; use prcc:tile250"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(trees, tmp_path, arguments, message):
    arguments = [a.replace("{trees}", str(trees)) for a in arguments]
    process = command(*arguments, "--data_dir", str(tmp_path))
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2 and err.count("\n") == 1
    assert message.replace("{trees}", str(trees)) in err
    assert not list(tmp_path.glob("*/*/dataset_info.json"))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_stopped_start_leaves_nothing_that_looks_finished(trees, tmp_path, number):
    pausing = (
        "import time; from mae_jax.data import prepared; prepared.make_index = lambda e: (print('here', flush=True), "
        "time.sleep(60)); from mae_jax.runtime.command import call; from mae_jax.datasets.prepare import prepare; "
        f"call(lambda: prepare('cam16', {str(trees / 'cam16')!r}, {str(tmp_path)!r}, lambda line: None))"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, "-c", pausing], env=environment, stdout=pipe, stderr=pipe, text=True)
    assert process.stdout.readline() == "here\n"  # all records are written
    with pytest.raises(UserError, match="is being prepared .* by another process"):
        preparing.prepare("cam16", trees / "cam16", tmp_path, print)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    if number == signal.SIGTERM:  # it removes its own files and prints so
        assert (process.returncode, err) == (
            75,
            "stopped by SIGTERM; nothing was changed; rerun the same command to resume\n",
        )
        assert [path.name for path in tmp_path.rglob("*")] == [".preparing", "cam16.lock"]
    assert prepared.versions("cam16", tmp_path) == []
    with pytest.raises(UserError, match="is not prepared"):
        prepared.unlabeled("cam16", tmp_path)
    preparing.prepare("cam16", trees / "cam16", tmp_path, lambda line: None)
    assert len(prepared.unlabeled("cam16", tmp_path)) == 16
    assert not [path for path in (tmp_path / ".preparing").iterdir() if path.is_dir()]


def test_a_file_that_cannot_grow_ends_with_one_line(trees, tmp_path):
    """A limit on the size of files simulates a full disk."""
    line = [sys.executable, "-m", "mae_jax", "prepare", "cam16", "--source", str(trees / "cam16")]
    done = subprocess.run(
        ["sh", "-c", 'ulimit -f 4 && exec "$@"', "sh", *line, "--data_dir", str(tmp_path)],
        env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "none", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert f"error: cam16: {tmp_path}" in done.stderr and ": File too large (" in done.stderr
    assert "raise that limit (ulimit -f), then run the same command again, or name another --data_dir" in done.stderr
    assert not list(tmp_path.rglob("dataset_info.json"))


@pytest.mark.parametrize(
    ("number", "file", "message"),
    [
        (
            errno.ENOSPC,
            "",
            r"cam16: {data}: No space left on device \(.* bytes free on its disk\); make room, .* --data_dir$",
        ),
        (
            errno.ENOSPC,
            "data/x",
            r"cam16: {data}/x: No space left on device \(\d+ bytes free on its disk\); make room, ",
        ),
        (
            errno.EMFILE,
            "source/x",
            r"cam16: {source}/x: Too many open files \(at most \d+ in this process\); close other",
        ),
        (errno.EIO, "source/x", "cam16: {source}/x: Input/output error; check the disk or the mount, [^-]*$"),
        (
            errno.EACCES,
            "data/x",
            "cam16: {data}/x: Permission denied; correct its permissions, or name another --data_dir",
        ),
        (errno.ECONNREFUSED, "", "cam16: the system refuses a request: Connection refused$"),
    ],
)
def test_an_error_of_the_system_has_its_path_and_fitting_advice(tmp_path, number, file, message):
    path = [str(tmp_path / file)] if file else []
    with (
        pytest.raises(UserError, match="^" + message.format(data=tmp_path / "data", source=tmp_path / "source")),
        preparing._staging("cam16", tmp_path / "data"),
    ):
        raise OSError(number, os.strerror(number), *path)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EIO, errno.ENOTSUP])
def test_a_file_system_without_locks_is_not_another_process(tmp_path, monkeypatch, number):
    def fail(*args):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", fail)
    with preparing._staging("cam16", tmp_path) as staging:
        assert staging.is_dir()


def test_a_data_dir_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    where = tmp_path / "file" / "data"
    with (
        pytest.raises(
            UserError, match=f"^--data_dir {where} cannot be written: {where}.*: Not a directory .*--data_dir$"
        ),
        preparing._staging("cam16", where),
    ):
        pass


def test_preparing_twice_is_reported(trees, prepared_sets):
    lines: list[str] = []
    place = preparing.prepare("cam16", trees / "cam16", prepared_sets[0], lines.append)
    assert lines == [f"cam16 is already prepared; remove {place} to prepare it again"]


def test_a_data_set_that_is_not_prepared_names_the_command(tiny_config, tmp_path):
    config = tiny_config("pretrain")
    config.data.update(source="cam16+prcc", prepared_dir=str(tmp_path))
    with pytest.raises(UserError) as error:
        splits.unlabeled(config.data)
    printed = str(error.value)
    assert f"mae-jax prepare cam16 --source DIR --data_dir {tmp_path}" in printed and "\n" not in printed
    assert "camelyon16.grand-challenge.org" in printed


def test_names_and_splits_that_do_not_fit_are_refused(tiny_config, prepared_sets):
    data = tiny_config().data
    data.prepared_dir = str(prepared_sets[0])
    for fields, message in (
        ({"source": "cam16", "train_split": "Tain"}, "data.train_split=Tain is not in cam16; it has test, train, val"),
        ({"source": "cam16", "train_split": "Train", "test_split": "train"}, "is data.test_split or val_split, too"),
        ({"source": "cam16", "test_split": "TestC"}, "data.test_split=TestC is not in cam16"),
        ({"source": "prcc:tile50", "test_split": "auto"}, "prcc:tile50 has no labels"),
        ({"source": "raabin_wbc:x", "train_split": "Train"}, "use raabin_wbc"),
    ):
        data.update(fields)
        with pytest.raises(UserError, match="^[^\n]*$") as error:
            splits.labeled(data)
        assert message in str(error.value)
    data.source = "cam16+cam16"
    with pytest.raises(UserError, match="names a source twice"):
        splits.unlabeled(data)


def test_mixtures_of_prepared_sets_and_folders(tiny_config, prepared_sets, trees):
    config = tiny_config("pretrain")
    config.data.update(source="prcc:tile50+folder+cam16", dir=str(trees / "cam16" / "test"), weights=(1.0, 1.0, 2.0))
    config.data.prepared_dir = str(prepared_sets[0])
    unlabeled = splits.unlabeled(config.data)
    assert [len(s) for s in unlabeled.sources] == [32, 8, 16]
    for source, kept, held in zip(unlabeled.sources, unlabeled.train_idx, unlabeled.val_idx, strict=True):
        assert not {source.groups[i] for i in kept} & {source.groups[i] for i in held}
    task = build(config, sharding.make_mesh(1))
    per_epoch = task.resolved.steps_per_epoch
    seen = [task.epoch_images(step) for step in (per_epoch, 2 * per_epoch)]
    assert list(seen[0]) == ["epoch_images/prcc:tile50", "epoch_images/test", "epoch_images/cam16"]
    for epoch in seen:
        assert sum(epoch.values()) == per_epoch * 16 and epoch["epoch_images/cam16"] == per_epoch * 8
    assert "cam16" in task.about["images per epoch and source"]


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_come_from_the_records(prepared_sets, workers):
    source = prepared.unlabeled("cam16", prepared_sets[0])
    stream = loaders.train_batches(
        [source], None, [Decode(), CenterResize(8)], batch_size=8, seed=0, workers=workers, threads=2
    )
    batches = [next(stream) for _ in range(2)]
    stream.close()
    assert sorted(np.concatenate([b["index"] for b in batches]).tolist()) == list(range(16))
    for batch in batches:
        for image, index in zip(batch["image"], batch["index"], strict=True):
            plain = CenterResize(8)(Decode()({"image": source.read(int(index))}))["image"]
            np.testing.assert_array_equal(image, plain)


def test_reading_does_not_start_tensorflow(prepared_sets):
    code = (
        "import sys; from mae_jax.data import prepared; "
        f"source = prepared.unlabeled('cam16', {str(prepared_sets[0])!r}); source[3]; "
        "assert 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True, timeout=120)


def test_a_source_travels_to_another_process(prepared_sets):
    source = prepared.unlabeled("prcc:tile50", prepared_sets[0])
    source[0]
    sent = cloudpickle.loads(cloudpickle.dumps(source))
    assert sent[5]["image"] == source[5]["image"] and sent.fingerprint == source.fingerprint


def test_damage_is_named(trees, tmp_path):
    place = preparing.prepare("prcc:tile50", trees / "prcc", tmp_path, lambda line: None)
    records = next(place.glob("*.array_record-*"))
    undamaged = records.read_bytes()
    records.write_bytes(undamaged[:1000] + bytes([undamaged[1000] ^ 1]) + undamaged[1001:])  # one bit
    source = prepared.unlabeled("prcc:tile50", tmp_path)
    with pytest.raises(UserError, match="cannot be read from .*prepare the data set again"):
        for i in range(len(source)):
            source[i]
    records.write_bytes(undamaged)
    index = prepared.index_path(place, "train")
    index.write_bytes(index.read_bytes()[:-30])
    with pytest.raises(UserError, match="index-train.npz cannot be read"):
        prepared.unlabeled("prcc:tile50", tmp_path)
    index.unlink()  # TFDS's own command writes none
    assert list(prepared.unlabeled("prcc:tile50", tmp_path).names) == list(source.names)


def test_an_index_of_an_earlier_version_has_no_sizes(trees, tmp_path):
    preparing.prepare("prcc:tile50", trees / "prcc", tmp_path, lambda line: None)
    source = prepared.unlabeled("prcc:tile50", tmp_path)
    assert set(map(tuple, source.sizes.tolist())) == {(50, 50)} and len(source.sizes) == len(source)
    path = prepared.index_path(prepared.locate("prcc:tile50", tmp_path), "train")
    with np.load(path) as saved:
        arrays = {name: saved[name] for name in saved.files if name != "size"}
    np.savez(path, **arrays)
    again = prepared.unlabeled("prcc:tile50", tmp_path)
    assert again.sizes is None and again.fingerprint == source.fingerprint


def test_records_of_another_data_set_are_not_taken_for_ours(trees, tmp_path):
    """An undamaged file with as many records replaces another."""
    place = preparing.prepare("prcc:tile50", trees / "prcc", tmp_path / "one", lambda line: None)
    shutil.copytree(trees / "prcc", tmp_path / "turned")
    for path in (tmp_path / "turned").rglob("*.jpg"):
        with Image.open(path) as image:
            turned = image.rotate(180)
        turned.save(path)
    other = preparing.prepare("prcc:tile50", tmp_path / "turned", tmp_path / "two", lambda line: None)
    (records,) = place.glob("*.array_record-*")
    shutil.copy(next(other.glob("*.array_record-*")), records)
    with pytest.raises(UserError, match="has changed since the data set was checked .*prepare it again"):
        prepared.unlabeled("prcc:tile50", tmp_path / "one")[0]


def test_a_missing_file_of_class_names_is_refused(prepared_sets, tmp_path):
    copy = tmp_path / "raabin_wbc"
    shutil.copytree(prepared_sets[0] / "raabin_wbc", copy)
    (names,) = copy.rglob("label.labels.txt")
    names.unlink()
    with pytest.raises(
        UserError, match=r"is damaged \(label.labels.txt is missing\); remove it and prepare raabin_wbc"
    ):
        prepared.labeled("raabin_wbc", "Train", tmp_path)


def test_more_and_fewer_images_than_published_are_told():
    about = {"counts": {"train": {"a": 5, "b": 2, "c": 4}}, "groups": {"train": 3}, "left_out": {}, "assumed": {}}
    about["published"] = {"train": {"a": 3, "b": 3, "c": 4}, "test": {"a": 1}}
    lines = preparing.summary("name", Path("data"), about)
    assert "  warning: counts differ from the published ones: train a 5 (published 3), train b 2 (published 3)" in lines
    assert "  not prepared, because its folder is missing: test" in lines
    about["published"] = {"train": about["counts"]["train"]}
    assert preparing.summary("name", Path("data"), about)[-1] == "  the counts match the published ones"


def test_what_was_assumed_is_counted(trees, tmp_path):
    """Preparing counts it, because the tiles no longer show it."""
    top = tmp_path / "regions"
    shutil.copytree(trees / "prcc", top)
    pages = [Image.fromarray(np.full((100, 100, 3), value, np.uint8)) for value in (50, 200)]
    pages[0].save(top / "stack.tif", save_all=True, append_images=pages[1:])
    lines: list[str] = []
    place = preparing.prepare("prcc:tile50", top, tmp_path / "data", lines.append)
    assert "  assumed: several pages: the first is used: 1 image" in lines
    assert json.loads((place / "prepared.json").read_text())["assumed"] == {"several pages: the first is used": 1}


def test_options_of_earlier_tiles_that_cannot_be_read_are_not_taken_for_the_same(tmp_path, monkeypatch):
    cutting = slides.Cutting(tile=100)
    assert not preparing._cut_otherwise(tmp_path, cutting)  # an earlier version kept no options
    (tmp_path / prepared.ABOUT).write_text(json.dumps({"cutting": dataclasses.asdict(cutting)}))
    assert not preparing._cut_otherwise(tmp_path, dataclasses.replace(cutting, workers=3))
    assert preparing._cut_otherwise(tmp_path, dataclasses.replace(cutting, tile=200))

    def fail(path, *args, **options):
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    monkeypatch.setattr(Path, "read_text", fail)
    with pytest.raises(OSError, match="Input/output error"):
        preparing._cut_otherwise(tmp_path, cutting)
