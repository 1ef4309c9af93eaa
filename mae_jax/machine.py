"""What a process asks of its machine before it computes."""

import os
from pathlib import Path

import jax


def keep_compiled() -> None:
    """Keeps compiled functions on disk, so that the next start of the same config is quick.

    They lie in `$XDG_CACHE_HOME/mae_jax/xla`, by default below `~/.cache`. JAX_COMPILATION_CACHE_DIR names another
    place, and JAX_ENABLE_COMPILATION_CACHE=false turns it off.
    """
    if not jax.config.jax_compilation_cache_dir:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(home / "mae_jax" / "xla"))
        if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
