"""The report of a sweep over mask ratios and visible weights: `write_sweep`."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mae_jax.report.sweep.page import Written, write_sweep

__all__ = ["Written", "write_sweep"]


def __getattr__(name: str) -> Any:
    if name in __all__:  # lazy: `python -m mae_jax.report.sweep --help` loads no library
        from mae_jax.report.sweep import page

        return getattr(page, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
