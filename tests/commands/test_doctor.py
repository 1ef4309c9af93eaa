"""The doctor on faked machines: what is broken is named with its remedy, and nothing stops the other checks."""

import errno
import json
import os
import shutil
from importlib import metadata
from pathlib import Path

import pytest

from mae_jax.__main__ import dispatch
from mae_jax.commands import doctor
from mae_jax.commands.doctor import BROKEN, OK, OPTIONAL, WARNING
from mae_jax.runtime import hardware

CPU = {"version": "0.10.2", "devices": [{"platform": "cpu", "kind": "cpu", "bytes": None}], "correct": True}
GPU = {"platform": "gpu", "kind": "NVIDIA H200", "bytes": 2**37}


@pytest.fixture(autouse=True)
def machine(monkeypatch, tmp_path):
    """A machine without accelerators on which JAX starts at once."""
    monkeypatch.setattr(doctor, "ask_jax", lambda: CPU)
    monkeypatch.setattr(doctor, "nvidia_gpus", list)
    monkeypatch.setattr(doctor.glob, "glob", lambda pattern: [])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)


def by_name(findings) -> dict[str, doctor.Finding]:
    return {finding.name: finding for finding in findings}


def test_a_sound_machine(tmp_path, capsys):
    assert dispatch(["doctor", f"--workdir={tmp_path / 'runs'}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "nothing is broken" and "ok        JAX: 0.10.2, 1 x cpu" in lines
    assert not list(tmp_path.iterdir())  # nothing is left of the write test, and no directory is made


def test_json_has_the_same_findings(tmp_path, capsys):
    assert dispatch(["doctor", "--json", f"--workdir={tmp_path}"]) == 0
    findings = json.loads(capsys.readouterr().out)
    assert [f["name"] for f in findings][:4] == ["Python", "packages", "newest versions", "JAX"]
    assert all(f["remedy"] for f in findings if f["state"] != OK)


def test_a_gpu_that_jax_does_not_use(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(doctor, "nvidia_gpus", lambda: ["/dev/nvidia0", "/dev/nvidia1"])
    assert dispatch(["doctor", f"--workdir={tmp_path}"]) == 1
    printed = capsys.readouterr().out
    assert "broken    NVIDIA GPU: this machine has 2, but JAX computes on the CPU\n" in printed
    assert "-> python -m pip install -U 'jax[cuda12]'" in printed and printed.endswith(
        "1 broken: see the lines above\n"
    )
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert "unset JAX_PLATFORMS (now cpu)" in by_name(doctor.check_jax())["NVIDIA GPU"].remedy


def test_a_gpu_that_jax_uses(monkeypatch):
    monkeypatch.setattr(doctor, "nvidia_gpus", lambda: ["/dev/nvidia0"])
    monkeypatch.setattr(doctor, "ask_jax", lambda: CPU | {"devices": [GPU, GPU]})
    assert list(doctor.check_jax()) == [doctor.Finding("JAX", OK, "0.10.2, 2 x NVIDIA H200 of 128 GiB")]
    monkeypatch.setattr(doctor, "ask_jax", lambda: CPU | {"devices": [GPU], "correct": False})
    assert next(doctor.check_jax()).state == BROKEN


def test_jax_that_does_not_start(monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(doctor, "PROBE", "raise ImportError('libcudart.so.12: cannot open')")
    finding = next(doctor.check_jax())
    assert (finding.state, finding.detail) == (BROKEN, "ImportError: libcudart.so.12: cannot open")
    monkeypatch.setattr(doctor, "PROBE", "import time; time.sleep(60)")
    monkeypatch.setattr(doctor, "JAX_SECONDS", 0.5)
    assert next(doctor.check_jax()).detail == "JAX did not start within 0.5 s"


def test_versions_out_of_range(monkeypatch):
    monkeypatch.setattr(
        metadata, "requires", lambda name: ["numpy>=999", "no-such-package>=1", "pytest>=1", "x>=1; extra == 'more'"]
    )
    findings_by_name = by_name(doctor.check_packages())
    assert findings_by_name["packages"] == doctor.Finding("packages", BROKEN, "1 of 3 as required")
    assert (
        findings_by_name["numpy"].remedy == "python -m pip install -U 'numpy>=999'"
        and ">=999" in findings_by_name["numpy"].detail
    )
    assert findings_by_name["no-such-package"].detail == "not installed"


@pytest.mark.parametrize(
    ("version", "state", "words"),
    [
        ("3.10.14", BROKEN, "needs >=3.11, tested up to 3.13"),
        ("3.11.7", OK, "needs >=3.11, tested up to 3.13"),
        ("3.13.9", OK, "needs >=3.11, tested up to 3.13"),
        ("3.14.0", WARNING, "is newer than the newest that was tested, 3.13"),
        ("3.14.0rc1", WARNING, "is newer than the newest that was tested, 3.13"),
    ],
)
def test_python_below_within_and_above_the_tested_range(version, state, words, monkeypatch):
    monkeypatch.setattr(doctor.platform, "python_version", lambda: version)
    monkeypatch.setattr(metadata, "metadata", lambda name: {"Requires-Python": ">=3.11"})
    finding = next(doctor.check_python())
    assert finding.state == state and words in finding.detail and bool(finding.remedy) == (state != OK)


@pytest.mark.parametrize(
    ("version", "state"), [("0.7.1", BROKEN), ("0.7.2", OK), ("0.12.0.1", OK), ("0.12.7", OK), ("0.13.0.dev3", WARNING)]
)
def test_a_package_below_within_and_above_the_tested_range(version, state, monkeypatch):
    monkeypatch.setattr(metadata, "requires", lambda name: ["jax>=0.7.2"])
    monkeypatch.setattr(metadata, "version", lambda name: version if name == "jax" else "0")
    findings_by_name = by_name(doctor.check_packages())
    assert findings_by_name["packages"].state == (BROKEN if state == BROKEN else OK)
    assert ("jax" in findings_by_name) == (state == BROKEN)
    late = findings_by_name["newest versions"]
    assert late.state == (WARNING if state == WARNING else OK)
    if state == WARNING:
        assert f"jax {version} (tested: 0.12)" in late.detail
        assert "configs/demo.py:smoke" in late.remedy and "'jax==0.12.*'" in late.remedy


def test_versions_are_not_known_without_an_installation(monkeypatch):
    def none(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", none)
    finding = next(doctor.check_packages())
    assert finding.state == WARNING and "versions are not known" in finding.detail


def test_little_room(monkeypatch, tmp_path):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage._replace(free=2**20))
    assert next(doctor.check_directory("runs", tmp_path)).state == WARNING
    monkeypatch.setattr(doctor, "available_memory", lambda: 2**20)
    assert next(doctor.check_memory()).detail == "1 MiB free" and next(doctor.check_memory()).state == WARNING
    monkeypatch.setattr(doctor, "available_memory", lambda: None)
    assert next(doctor.check_memory()).detail == "not known on this system"


def test_a_directory_that_cannot_be_written(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    assert next(doctor.check_directory("runs", tmp_path / "file" / "runs")).detail.endswith("file is not a directory")

    def refuse(*args, **options):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(doctor.tempfile, "NamedTemporaryFile", refuse)
    finding = next(doctor.check_directory("runs", tmp_path))
    assert finding.state == BROKEN and finding.detail == f"{tmp_path} cannot be written: Read-only file system"


def test_no_home_is_no_cache(monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")

    def unknown():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", unknown)
    assert hardware.cache_directory() is None
    assert next(doctor.check_cache()).state == WARNING


def test_optional_programs(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    findings_by_name = by_name(doctor.check_optional())
    assert {f.state for f in findings_by_name.values()} == {OPTIONAL}
    assert (
        "mae_jax[slides]" in findings_by_name["openslide"].remedy
        and "unrar" in findings_by_name[".rar archives"].remedy
    )


def test_a_check_that_fails_does_not_stop_the_others(monkeypatch, tmp_path):
    def fail():
        raise ValueError("nonsense in a file of the system")

    monkeypatch.setattr(doctor, "cores", fail)
    findings_by_name = by_name(doctor.examine(tmp_path))
    assert (
        findings_by_name["cores"].state == BROKEN
        and "nonsense" in findings_by_name["cores"].detail
        and "openslide" in findings_by_name
    )
