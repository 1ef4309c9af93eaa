"""Compare trained classifiers from the files in their run directories."""

SUMMARY = "write the page, tables and figures that compare finished runs"


def run_argv(argv: list[str]) -> int:
    """The same as `python -m mae_jax.report`."""
    from mae_jax.report import __main__ as report

    return report.main(argv)
