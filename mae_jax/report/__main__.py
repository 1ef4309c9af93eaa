"""`python -m mae_jax.report RUN_DIR... --out DIR`: writes the report from the files of runs."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mae_jax.runtime import signals
from mae_jax.runtime.command import call
from mae_jax.runtime.disk import disk_line
from mae_jax.runtime.errors import UserError, printable
from mae_jax.runtime.parser import Existing, Number, Parser, user_path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments to `parser`."""
    parser.add_argument(
        "run_dirs",
        nargs="+",
        type=Existing("a run directory or a study's directory"),
        metavar="DIR",
        help="a run directory (it holds run.json and predictions.csv), or a study's directory for all of its runs",
    )
    parser.add_argument(
        "--out",
        type=user_path,
        metavar="DIR",
        help="where to write index.html, the tables and figures/ (default for one DIR: DIR/report)",
    )
    parser.add_argument("--title", help="the page's heading")
    parser.add_argument(
        "--fraction",
        type=Number(float, 0, 1, open="low"),
        metavar="SHARE",
        help="the share of the labels, above 0 and at most 1, of the second confusion matrix (default: nearest to 0.1)",
    )
    parser.add_argument(
        "--target",
        type=Number(float, 0, 1, open="low"),
        metavar="F1",
        help="the macro F1 that is enough, above 0 and at most 1 (default: 0.02 below the best with the most labels)",
    )
    parser.add_argument("--png", action="store_true", help="write each figure as PNG, too")
    parser.add_argument(
        "--no-pictures",
        action="store_true",
        help="show no test images (examples and mistakes), for data whose license forbids passing them on",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the report and prints its table. Returns the exit code, which is 2 for a mistake in the input."""
    parser = Parser(prog="python -m mae_jax.report", description=__doc__)
    add_arguments(parser)
    try:
        return run(parser.parse_args(sys.argv[1:] if argv is None else argv))
    except UserError as error:
        return _refused(error)


def run(args: argparse.Namespace) -> int:
    """The same as `main`, for parsed arguments."""
    try:
        out = args.out or default_out(args.run_dirs)
        with signals.blocked():  # only now: these load numpy, and below scipy and matplotlib
            from mae_jax.report.directories import expand, study_settings
        run_dirs, notes = expand(args.run_dirs)
        with signals.blocked():
            from mae_jax.report import tables
            from mae_jax.report.page import write_report

        given = {"title": args.title, "target": args.target, "pictures": False if args.no_pictures else None}
        settings = study_settings(args.run_dirs) | {name: value for name, value in given.items() if value is not None}
        report = write_report(run_dirs, out, notes=notes, fraction=args.fraction, png=args.png, **settings)
    except (UserError, OSError) as error:
        return _refused(error)
    for note in [*notes, *report.notes]:
        print(f"note: {note}", file=sys.stderr)
    print(tables.table_text(report.rows))
    print(f"\n{tables.reference_text(report.rows)}")
    if report.frozen:
        print(f"\n{report.frozen}")
    if report.answer:
        print(f"\n{report.answer_text}")
    print(f"\nreport: {report.paths['page']}")
    return 0


def default_out(places: Sequence[Path]) -> Path:
    """DIR/report for a single DIR. Raises UserError for several."""
    if len(places) > 1:
        raise UserError("--out is missing; with several DIR, name a directory for the report")
    return places[0] / "report"


def _refused(error: UserError | OSError) -> int:
    """Prints the error as one line without control characters. Returns the exit code."""
    line = disk_line(error) if isinstance(error, OSError) else str(error)
    print(f"error: {printable(line, keep='')}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    call(main)
