"""Cores, memory, GPUs and the cache directory of this machine."""

import shutil
import subprocess

from mae_jax.runtime import hardware


def test_memory_within_a_container(monkeypatch, tmp_path):
    (tmp_path / "meminfo").write_text("MemTotal: 4000 kB\nMemAvailable: 3000 kB\n")
    (tmp_path / "max").write_text("1000000\n")
    (tmp_path / "current").write_text("400000\n")
    monkeypatch.setattr(hardware, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(hardware, "CGROUPS", ((tmp_path / "max", tmp_path / "current"),))
    assert hardware.available_memory() == 600000
    (tmp_path / "max").write_text("max\n")
    assert hardware.available_memory() == 3000 * 1024
    (tmp_path / "meminfo").unlink()
    assert hardware.available_memory() is None


def test_gpus_are_found_by_their_files_or_by_the_driver(monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(hardware.glob, "glob", lambda pattern: ["/dev/nvidia1", "/dev/nvidia0"])
    assert hardware.nvidia_gpus() == ["/dev/nvidia0", "/dev/nvidia1"]
    monkeypatch.setattr(hardware.glob, "glob", lambda pattern: [])
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}")
    done = subprocess.CompletedProcess([], 0, "GPU 0: NVIDIA H200 (UUID: x)\n  MIG 1g\n", "")
    monkeypatch.setattr(subprocess, "run", lambda *args, **options: done)
    assert hardware.nvidia_gpus() == ["GPU 0: NVIDIA H200 (UUID: x)"]
    done.returncode = 9  # a driver without a device
    assert hardware.nvidia_gpus() == []


def test_cores_are_those_that_the_process_may_use(monkeypatch):
    monkeypatch.setattr(hardware.os, "sched_getaffinity", lambda process: {0, 3, 5}, raising=False)
    assert hardware.cores() == 3


def test_the_cache_is_below_the_home_unless_a_place_is_named(monkeypatch):
    for name in ("JAX_COMPILATION_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/x")
    assert str(hardware.cache_directory()) == "/home/x/.cache/mae_jax/xla"
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert str(hardware.cache_directory()) == "/cache/mae_jax/xla"
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "/own")
    assert str(hardware.cache_directory()) == "/own"


def test_memory_is_not_known_where_the_system_does_not_tell(monkeypatch, tmp_path):
    monkeypatch.setattr(hardware, "MEMINFO", tmp_path / "none")
    monkeypatch.setattr(hardware, "CGROUPS", ())
    assert hardware.available_memory() is None
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:   3 kB\n")
    monkeypatch.setattr(hardware, "MEMINFO", tmp_path / "meminfo")
    assert hardware.available_memory() == 3 * 1024
