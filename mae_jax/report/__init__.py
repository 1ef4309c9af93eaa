"""The report: reads run directories and writes tables, figures and one page; needs no jax."""

from mae_jax.report.page import Report, write_report

__all__ = ["Report", "write_report"]
