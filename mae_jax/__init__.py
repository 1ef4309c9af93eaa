"""Masked autoencoders for histopathology in JAX: how few labels are enough?

import mae_jax

model = mae_jax.load("runs/demo")  # a run directory, a bundle, or weights from other code
result = model.predict(images)  # uint8 array of shape (b, h, w, 3), file names, or a folder
features = model.embed(images)
"""

from mae_jax.runtime.version import __version__

TYPE_CHECKING = False  # as in typing, which takes a while to import: commands block signals first
if TYPE_CHECKING:
    from typing import Any

    from mae_jax.predict.loading import load

__all__ = ["__version__", "load"]


def __getattr__(name: str) -> "Any":
    """Imports `load` on first use, so that `import mae_jax` alone does not start JAX."""
    if name == "load":
        from mae_jax.predict.loading import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
