"""The report: reads run directories and writes tables, figures and one page; needs no jax."""

import sys

from mae_jax import signals

if sys.argv[:1] == ["-m"]:  # python -m mae_jax.report, or of a module of it
    signals.hold()  # until the imports are done

from mae_jax.report.page import Report, write_report

__all__ = ["Report", "write_report"]
