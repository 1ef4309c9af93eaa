"""`python -m mae_jax.report.sweep RUN_DIR... --out DIR`: the report of a sweep from files alone."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mae_jax.cli import call
from mae_jax.errors import UserError, disk_line
from mae_jax.report.runs import clean
from mae_jax.report.sweep.page import write_sweep


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the report, prints its table; returns the exit code, 2 for a mistake in the input."""
    parser = argparse.ArgumentParser(
        prog="python -m mae_jax.report.sweep",
        description="Compare autoencoders of several mask ratios and visible weights from their run directories.",
    )
    parser.add_argument("run_dirs", nargs="+", type=Path, metavar="RUN_DIR", help="pre-trainings and classifiers")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="where to write the report")
    parser.add_argument("--title", help="the page's heading")
    parser.add_argument("--pictures", type=Path, metavar="PNG", help="a sheet of reconstructions for the page")
    args = parser.parse_args(argv)
    try:
        written = write_sweep(args.run_dirs, args.out, title=args.title, pictures=args.pictures)
    except (UserError, OSError) as error:
        said = disk_line(error) if isinstance(error, OSError) else error
        print(f"error: {clean(said)}", file=sys.stderr)
        return 2
    print(f"{written.text}\n\nreport: {written.page}")
    return 0


if __name__ == "__main__":
    call(main)
