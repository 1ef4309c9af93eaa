"""Write a report that compares trained classifiers: a page, tables and figures, from their run directories.

For the directory of a mask sweep, write the report on its autoencoders.
"""

import argparse
from pathlib import Path

from mae_jax.runtime.disk import is_file

SUMMARY = "write the page, tables and figures that compare finished runs"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `python -m mae_jax.report`."""
    from mae_jax.report import __main__ as report

    report.add_arguments(parser)


def main(options: argparse.Namespace) -> int:
    """Writes the report and prints its table; returns the exit code."""
    from mae_jax.report import __main__ as report
    from mae_jax.report.sweep import __main__ as sweep

    if len(options.run_dirs) != 1 or not _is_sweep(options.run_dirs[0]):
        return report.run(options)
    place = options.run_dirs[0]
    pictures = place / "reconstructions.png"
    arguments = [str(place), f"--out={options.out or report.default_out([place])}"]
    arguments += [f"--title={options.title}"] if options.title else []
    arguments += [f"--pictures={pictures}"] if is_file(pictures) else []
    return sweep.main(arguments + ["--png"] * options.png)


def _is_sweep(place: Path) -> bool:
    """True if study.json says that this is a mask sweep. The report handles a damaged study.json."""
    from mae_jax.rundir import contents

    try:
        return contents.peek(place / contents.STUDY)["config"]["task"] == "sweep"
    except (KeyError, TypeError):
        return False
