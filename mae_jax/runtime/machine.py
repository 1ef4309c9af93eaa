"""Process-wide setup before JAX starts: compilation cache, malloc, dtype and attention kernel."""

import ctypes
import glob
import os
import platform
from collections import Counter

import jax

from mae_jax.runtime import hardware


def keep_compiled() -> None:
    """Turns on JAX's compilation cache, so that the next run of the same config starts quickly.

    The cache is in `$XDG_CACHE_HOME/mae_jax/xla`, by default under `~/.cache`; without a home directory it stays off.
    JAX_COMPILATION_CACHE_DIR names another place, and JAX_ENABLE_COMPILATION_CACHE=false turns the cache off.
    """
    if not jax.config.jax_compilation_cache_dir:  # pyright: ignore[reportAttributeAccessIssue]  # JAX declares none
        if (place := hardware.cache_directory()) is None:
            return
        jax.config.update("jax_compilation_cache_dir", str(place))
        if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


def devices() -> list[str]:
    """Lines for the start of a run: the devices, and a warning if JAX does not use an NVIDIA GPU of this machine."""
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
    return jax.config.jax_platforms or ""  # pyright: ignore[reportAttributeAccessIssue]  # JAX declares none of them


def keep_memory() -> bool:
    """Makes glibc's malloc keep freed memory, if JAX computes on the CPU. Returns whether it does.

    XLA allocates its temporary memory again in each step. For blocks of that size, glibc asks the kernel for pages and
    returns them, so every step pays page faults: a fifth of the step time of a small network. This setting serves
    them from the heap and never shrinks it. It affects only threads that start later, so call it before JAX lists its
    devices. MAE_JAX_KEEP_MEMORY=0 turns it off.
    """
    accelerators = glob.glob("/dev/nvidia[0-9]*") + glob.glob("/dev/accel*") + glob.glob("/dev/kfd")
    on_cpu = _forced() == "cpu" or not accelerators
    if platform.libc_ver()[0] != "glibc" or not on_cpu or os.environ.get("MAE_JAX_KEEP_MEMORY") == "0":
        return False
    arena_max, mmap_max, trim_threshold = -8, -4, -1  # M_ARENA_MAX and so on, of malloc.h
    # One arena for all threads, because those of other threads map large blocks whatever mmap_max is.
    settings = ((arena_max, 1), (mmap_max, 0), (trim_threshold, -1))
    mallopt = ctypes.CDLL(None).mallopt
    return all([mallopt(name, value) == 1 for name, value in settings])


def precision(asked: str) -> str:
    """Resolves `model.dtype`: "auto" is bfloat16 if the first device multiplies it fast, else float32."""
    if asked != "auto":
        return asked
    fast = jax.default_backend() == "tpu" or _nvidia() >= 8
    return "bfloat16" if fast else "float32"


def no_cudnn(dtype: str, head_sizes: tuple[int, ...]) -> str:
    """Why cuDNN's attention cannot be used with this dtype and these features per head; "" if it can."""
    if _nvidia() < 8:
        return f"the device, {jax.devices()[0].device_kind}, is not an NVIDIA GPU of compute capability 8 or more"
    if dtype != "bfloat16":
        return f"it does not compute in {dtype}"
    if any(size % 8 or size > 128 for size in head_sizes):
        return f"heads of {' and '.join(map(str, head_sizes))} features are not all a multiple of 8 up to 128"
    return ""


def _nvidia() -> float:
    """The compute capability of the first device; 0 if it is not an NVIDIA GPU."""
    try:
        return float(jax.devices()[0].compute_capability)
    except (AttributeError, TypeError, ValueError):  # other devices have no such attribute, or a name in it
        return 0.0
