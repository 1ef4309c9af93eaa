"""Process-wide setup before JAX computes: compilation cache, malloc, dtype and attention kernel."""

import ctypes
import glob
import os
import platform
from collections import Counter

import jax

from mae_jax.runtime import hardware


def keep_compiled() -> None:
    """Keeps compiled functions on disk, so that the next start of the same config is quick.

    They are in `$XDG_CACHE_HOME/mae_jax/xla`, by default below `~/.cache`; without a home directory they are not kept.
    JAX_COMPILATION_CACHE_DIR names another place, and JAX_ENABLE_COMPILATION_CACHE=false turns the cache off.
    """
    if not jax.config.jax_compilation_cache_dir:
        if (place := hardware.cache_directory()) is None:
            return
        jax.config.update("jax_compilation_cache_dir", str(place))
        if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


def devices() -> list[str]:
    """Lines for the start of a run: on which devices JAX computes, and a warning if it leaves an NVIDIA GPU idle."""
    kinds = Counter(device.device_kind for device in jax.devices())
    lines = [f"devices: {', '.join(f'{count} x {kind}' for kind, count in kinds.items())}"]
    if jax.default_backend() == "cpu" and _forced() != "cpu" and hardware.nvidia_gpus():
        lines.append(
            "warning: this machine has an NVIDIA GPU, but JAX computes on the CPU; "
            "python -m pip install -U 'jax[cuda12]', then: mae-jax doctor"
        )
    return lines


def _forced() -> str:
    """The platforms to which the user restricts JAX; "" if JAX chooses."""
    return jax.config.jax_platforms or ""


def keep_memory() -> bool:
    """Keeps memory that is freed within the process, on Linux and glibc where JAX computes on the CPU.

    XLA allocates the temporary memory of a step again at each step. glibc maps blocks of that size from the kernel and
    gives them back, so that every step touches all of its pages for the first time: a fifth of the time of a small
    network's step. Here they come from the heap, which is not given back. Only threads that start later take part, so
    this is called before JAX is asked for its devices. MAE_JAX_KEEP_MEMORY=0 turns it off. Returns whether it is on.
    """
    accelerators = glob.glob("/dev/nvidia[0-9]*") + glob.glob("/dev/accel*") + glob.glob("/dev/kfd")
    on_cpu = jax.config.jax_platforms == "cpu" or not accelerators
    if platform.libc_ver()[0] != "glibc" or not on_cpu or os.environ.get("MAE_JAX_KEEP_MEMORY") == "0":
        return False
    arena_max, mmap_max, trim_threshold = -8, -4, -1  # M_ARENA_MAX and so on, of malloc.h
    # Arenas of other threads than the first map large blocks, whatever mmap_max says: one arena for all.
    settings = ((arena_max, 1), (mmap_max, 0), (trim_threshold, -1))
    mallopt = ctypes.CDLL(None).mallopt
    return all([mallopt(name, value) == 1 for name, value in settings])


def precision(asked: str) -> str:
    """`model.dtype` with "auto" decided: bfloat16 where the first device multiplies it fast, float32 elsewhere."""
    if asked != "auto":
        return asked
    fast = jax.default_backend() == "tpu" or _nvidia() >= 8
    return "bfloat16" if fast else "float32"


def no_cudnn(dtype: str, head_sizes: tuple[int, ...]) -> str:
    """Why NVIDIA's fused attention cannot be used, in words, for heads of so many features each; "" where it can."""
    if _nvidia() < 8:
        return f"the device, {jax.devices()[0].device_kind}, is not an NVIDIA GPU of compute capability 8 or more"
    if dtype != "bfloat16":
        return f"it does not compute in {dtype}"
    if any(size % 8 or size > 128 for size in head_sizes):
        return f"heads of {' and '.join(map(str, head_sizes))} features are not all a multiple of 8 up to 128"
    return ""


def _nvidia() -> float:
    """The compute capability of the first device, 0 where it is not an NVIDIA GPU."""
    try:
        return float(jax.devices()[0].compute_capability)
    except (AttributeError, TypeError, ValueError):  # other devices have none, or a name in its place
        return 0.0
