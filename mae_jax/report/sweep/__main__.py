"""`python -m mae_jax.report.sweep RUN_DIR... --out DIR`: writes the report of a sweep from the files of its runs."""

import sys
from collections.abc import Sequence

from mae_jax.runtime import signals
from mae_jax.runtime.command import call
from mae_jax.runtime.disk import disk_line
from mae_jax.runtime.errors import UserError, printable
from mae_jax.runtime.parser import Existing, Parser, user_path


def parser() -> Parser:
    """The command's arguments."""
    arguments = Parser(
        prog="python -m mae_jax.report.sweep",
        description="Compare autoencoders of several mask ratios and visible weights from their run directories.",
    )
    arguments.add_argument(
        "run_dirs",
        nargs="+",
        type=Existing("a sweep's directory or run directories"),
        metavar="DIR",
        help="directories of pre-training runs and classifiers, or a sweep's directory for all of its runs",
    )
    arguments.add_argument("--out", required=True, type=user_path, metavar="DIR", help="where to write the report")
    arguments.add_argument("--title", help="the page's heading")
    arguments.add_argument("--pictures", type=user_path, metavar="PNG", help="a sheet of reconstructions for the page")
    arguments.add_argument("--png", action="store_true", help="also write each figure as PNG")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the report and prints its table. Returns the exit code, which is 2 for a mistake in the input."""
    try:
        args = parser().parse_args(sys.argv[1:] if argv is None else argv)
        with signals.blocked():  # only now: these load numpy, scipy and matplotlib
            from mae_jax.report.sweep.page import write_sweep
            from mae_jax.rundir.contents import runs_below

        run_dirs = [run for place in args.run_dirs for run in (runs_below(place) or [place])]
        written = write_sweep(run_dirs, args.out, title=args.title, pictures=args.pictures, png=args.png)
    except (UserError, OSError) as error:
        line = disk_line(error) if isinstance(error, OSError) else str(error)
        print(f"error: {printable(line, keep='')}", file=sys.stderr)
        return 2
    print(f"{written.text}\n\nreport: {written.page}")
    return 0


if __name__ == "__main__":
    call(main)
