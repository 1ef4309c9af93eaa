"""Cores, memory, GPUs and cache directory of this machine, found without starting JAX."""

import glob
import os
import shutil
import subprocess
from pathlib import Path

MEMINFO = Path("/proc/meminfo")
CGROUPS = (  # memory limit and usage of a container, cgroup v2 and v1
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"), Path("/sys/fs/cgroup/memory/memory.usage_in_bytes")),
)


def cores() -> int:
    """The number of CPU cores that this process may use."""
    return len(core_numbers())


def core_numbers() -> list[int]:
    """The numbers of the CPU cores that this process may use."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def available_memory() -> int | None:
    """Free memory in bytes, within the limit of a container if there is one. None if the system does not report it."""
    candidates = []
    try:
        lines = MEMINFO.read_text().splitlines()
        candidates += [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    except (OSError, ValueError, IndexError):
        pass
    for limit, used in CGROUPS:
        try:
            candidates.append(max(0, int(limit.read_text()) - int(used.read_text())))
        except (OSError, ValueError):  # no such file, or no limit ("max")
            continue
    return min(candidates, default=None)


def nvidia_gpus() -> list[str]:
    """The NVIDIA GPUs of this machine, whether or not JAX can use them."""
    if devices := sorted(glob.glob("/dev/nvidia[0-9]*")):
        return devices
    if not shutil.which("nvidia-smi"):  # WSL has nvidia-smi but no such device files
        return []
    try:
        done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [line for line in done.stdout.splitlines() if line.startswith("GPU ")] if done.returncode == 0 else []


def cache_directory() -> Path | None:
    """The directory of the compilation cache; None without a home directory."""
    if place := os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return Path(place)
    try:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # HOME is not set, and the user id is not known
        return None
    return home / "mae_jax" / "xla"
