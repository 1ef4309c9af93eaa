"""`python -m mae_jax.report RUN_DIR... --out DIR`: the report from files alone."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mae_jax.cli import call
from mae_jax.errors import UserError, disk_line
from mae_jax.report import tables
from mae_jax.report.page import write_report
from mae_jax.report.runs import clean


def main(argv: Sequence[str] | None = None) -> int:
    """Write the report, print its table; returns the exit code, 2 for a mistake in the input."""
    parser = argparse.ArgumentParser(
        prog="python -m mae_jax.report",
        description="Compare trained classifiers from the files in their run directories.",
    )
    parser.add_argument(
        "run_dirs",
        nargs="+",
        type=Path,
        metavar="RUN_DIR",
        help="a directory that holds run.json and predictions.csv",
    )
    parser.add_argument(
        "--out",
        required=True,
        type=Path,
        metavar="DIR",
        help="where to write index.html, the tables and figures/",
    )
    parser.add_argument("--title", help="the page's heading")
    args = parser.parse_args(argv)
    try:
        report = write_report(args.run_dirs, args.out, title=args.title)
    except (UserError, OSError) as error:
        said = disk_line(error) if isinstance(error, OSError) else error
        print(f"error: {clean(said)}", file=sys.stderr)
        return 2
    for note in report.notes:
        print(f"note: {note}", file=sys.stderr)
    print(tables.table_text(report.rows))
    print(f"\n{tables.reference_text(report.rows)}")
    if report.frozen:
        print(f"\n{report.frozen}")
    print(f"\nreport: {report.paths['page']}")
    return 0


if __name__ == "__main__":
    call(main)
