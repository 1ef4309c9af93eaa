"""`python -m mae_jax.report RUN_DIR... --out DIR`: writes the report from the files of runs."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mae_jax.runtime import signals
from mae_jax.runtime.command import call
from mae_jax.runtime.disk import disk_line
from mae_jax.runtime.errors import UserError, printable
from mae_jax.runtime.places import local


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments to `parser`."""
    parser.add_argument(
        "run_dirs",
        nargs="+",
        type=Path,
        metavar="DIR",
        help="a run directory (it holds run.json and predictions.csv), or a study's directory for all of its runs",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="where to write index.html, the tables and figures/ (default for one DIR: DIR/report)",
    )
    parser.add_argument("--title", help="the page's heading")
    parser.add_argument(
        "--fraction",
        type=float,
        metavar="SHARE",
        help="the share of the labels, above 0 and at most 1, of the second confusion matrix (default: nearest to 0.1)",
    )
    parser.add_argument(
        "--target",
        type=float,
        metavar="F1",
        help="the macro F1 that is enough, above 0 and at most 1 (default: 0.02 below the best with all labels)",
    )
    parser.add_argument("--png", action="store_true", help="write each figure as PNG, too")
    parser.add_argument(
        "--no-pictures",
        action="store_true",
        help="show no test images (examples and mistakes), for data whose license forbids passing them on",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the report and prints its table. Returns the exit code, which is 2 for a mistake in the input."""
    parser = argparse.ArgumentParser(prog="python -m mae_jax.report", description=__doc__)
    add_arguments(parser)
    return run(parser.parse_args(argv))


def run(args: argparse.Namespace) -> int:
    """The same as `main`, for parsed arguments. A UserError becomes a printed line and exit code 2."""
    try:
        if args.fraction is not None and not 0 < args.fraction <= 1:
            raise UserError(f"--fraction={args.fraction:g}: must be above 0 and at most 1, such as 0.1 for 10 %")
        if args.target is not None and not 0 <= args.target <= 1:
            raise UserError(f"--target={args.target:g}: must be a macro F1 above 0 and at most 1, such as 0.9")
        places = [local(place, "DIR") for place in args.run_dirs]
        out = local(args.out, "--out") if args.out else default_out(places)
        with signals.blocked():  # only now: these load numpy, scipy and matplotlib
            from mae_jax.report import tables
            from mae_jax.report.directories import expand, study_settings
            from mae_jax.report.page import write_report

        run_dirs, notes = expand(args.run_dirs)
        given = {"title": args.title, "target": args.target, "pictures": False if args.no_pictures else None}
        settings = study_settings(args.run_dirs) | {name: value for name, value in given.items() if value is not None}
        report = write_report(run_dirs, out, notes=notes, fraction=args.fraction, png=args.png, **settings)
    except (UserError, OSError) as error:
        print(f"error: {_line(error)}", file=sys.stderr)
        return 2
    for note in [*notes, *report.notes]:
        print(f"note: {note}", file=sys.stderr)
    print(tables.table_text(report.rows))
    print(f"\n{tables.reference_text(report.rows)}")
    if report.frozen:
        print(f"\n{report.frozen}")
    print(f"\nreport: {report.paths['page']}")
    return 0


def default_out(places: Sequence[Path]) -> Path:
    """DIR/report for a single DIR. Raises UserError for several."""
    if len(places) > 1:
        raise UserError("--out is missing; with several DIR, name a directory for the report")
    return places[0] / "report"


def _line(error: UserError | OSError) -> str:
    """The error as one line without control characters."""
    return printable(disk_line(error) if isinstance(error, OSError) else str(error), keep="")


if __name__ == "__main__":
    call(main)
