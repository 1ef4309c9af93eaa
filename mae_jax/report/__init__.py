"""The report: reads run directories and writes tables, figures and one page. It does not need JAX.

The steps are read (`runs`), analyze (`analysis`, `tables` and the modules next to them), draw (`figures`, `confidence`)
and render (`page`, `html`). Importing this package loads none of them; the first access to `write_report` does.
"""

import sys
from typing import TYPE_CHECKING, Any

from mae_jax.runtime.blocking import block

if TYPE_CHECKING:
    from mae_jax.report.page import Report, write_report

__all__ = ["Report", "write_report"]

if sys.argv[:1] == ["-m"]:  # python -m mae_jax.report, or of a module of it
    block()  # until the imports are done


def __getattr__(name: str) -> Any:
    if name in __all__:
        from mae_jax.report import page

        return getattr(page, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
