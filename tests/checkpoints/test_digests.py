"""Digests of the files of a directory: every kind of damage is named, and a storage fault is none."""

import errno
import json
import os
from pathlib import Path

import pytest

from mae_jax.checkpoints import digests


@pytest.fixture
def directory(tmp_path):
    (tmp_path / "params").mkdir()
    (tmp_path / "params" / "a").write_bytes(bytes(range(200)))
    (tmp_path / "optimizer").mkdir()
    (tmp_path / "optimizer" / "m").write_bytes(b"moments")
    digests.write(tmp_path)
    return tmp_path


def test_what_was_written_is_sound_and_listed(directory):
    assert digests.problem(directory) == ""
    known = json.loads((directory / digests.DIGESTS).read_text())
    assert {name: size for name, (size, _) in known.items()} == {"optimizer/m": 7, "params/a": 200}


@pytest.mark.parametrize("bit", [0, 800, 1599])
def test_one_changed_bit_is_found(directory, bit):
    data = bytearray((directory / "params" / "a").read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    (directory / "params" / "a").write_bytes(data)
    assert digests.problem(directory) == "params/a differs from what was written (SHA-256)"


def test_other_damage_is_named(directory):
    file, manifest = directory / "params" / "a", directory / digests.DIGESTS
    file.write_bytes(b"short")
    assert digests.problem(directory) == "params/a has 5 bytes instead of 200"
    file.unlink()
    assert digests.problem(directory) == "params/a is missing"
    os.mkfifo(file)
    assert digests.problem(directory) == "params/a is not a regular file"
    for text, message in (
        ("{", "is damaged ("),
        ("[1]", "is damaged ("),
        ("{}", "names no file"),
        ('{"a": 1}', "is damaged"),
    ):
        manifest.write_text(text)
        assert digests.problem(directory).startswith(f"digests.json {message}")
    manifest.unlink()
    assert digests.problem(directory) == "digests.json is missing"
    os.mkfifo(manifest)
    assert digests.problem(directory) == "digests.json is not a regular file"


def test_an_optimizer_state_that_was_dropped_is_not_missing(directory):
    (directory / "optimizer" / "m").unlink()
    assert digests.problem(directory) == "optimizer/m is missing"
    (directory / digests.NO_OPTIMIZER).touch()
    assert digests.problem(directory) == ""
    (directory / "params" / "a").unlink()
    assert digests.problem(directory) == "params/a is missing"


def test_a_storage_fault_is_not_damage(directory, monkeypatch):
    def fails(path):
        raise OSError(5, "Input/output error", str(path))

    monkeypatch.setattr(digests, "_digest", fails)
    with pytest.raises(OSError, match="Input/output error"):
        digests.problem(directory)


def test_a_folder_that_cannot_be_listed_is_not_left_out(tmp_path, monkeypatch):
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "data").write_text("x")
    real = os.scandir

    def failing(path="."):
        if Path(path).name == "inner":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", failing)
    with pytest.raises(PermissionError):
        digests.write(tmp_path)
