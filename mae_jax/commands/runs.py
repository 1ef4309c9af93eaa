"""List runs and studies, compare two, or free the disk space of finished ones.

mae-jax runs [DIR]
mae-jax runs --compare RUN_A RUN_B
mae-jax runs [DIR] --clean [--yes]

Without options, the command prints a table of all runs and studies below DIR (default runs/) with state, size on disk
and scores.

--compare prints the fields that differ, and the difference in accuracy on the common test images with a bootstrap
interval. --clean asks, then removes the optimizer states of finished runs. You can still report, export and predict
with such a run and start other runs from it, but you cannot resume it.
"""

import argparse
from pathlib import Path

from mae_jax.runtime import signals
from mae_jax.runtime.command import say
from mae_jax.runtime.disk import readable
from mae_jax.runtime.errors import UserError
from mae_jax.runtime.parser import Existing
from mae_jax.runtime.text import count

SUMMARY = "list runs and studies with scores and size; compare two; free disk space"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `mae-jax runs`."""
    parser.add_argument(
        "directory",
        metavar="DIR",
        nargs="?",
        type=Existing("a directory that contains runs"),
        help="directory of runs (default: runs)",
    )
    parser.add_argument(
        "--compare",
        nargs=2,
        type=Existing("two run directories"),
        metavar=("RUN_A", "RUN_B"),
        help="print how two runs differ",
    )
    parser.add_argument("--clean", action="store_true", help="remove the optimizer states of finished runs")
    parser.add_argument("--yes", action="store_true", help="do not ask before removing")


def main(options: argparse.Namespace) -> None:
    """Prints the table or the comparison, or removes optimizer states."""
    if options.yes and not options.clean:
        raise UserError("--yes works only with --clean; add --clean, or omit --yes")
    with signals.blocked():
        from mae_jax.study import overview
    if options.compare:
        for line in overview.compare(*options.compare):
            say(line)
        return
    directory = options.directory or Path("runs")
    entries = overview.find(directory)
    if options.clean:
        clean([entry.path for entry in entries if entry.state == "finished"], options.yes)
    else:
        say(overview.table(entries, directory))


def clean(places: list[Path], yes: bool) -> None:
    """Removes the optimizer states of the runs, after asking unless `yes`."""
    with signals.blocked():
        from mae_jax.checkpoints import cleaning
    sizes = {place: size for place in places if (size := cleaning.droppable(place))}
    if not sizes:
        say("no finished run has an optimizer state; nothing to remove")
        return
    for place, size in sizes.items():
        say(f"{readable(size):>10}  {place}")
    if not yes:
        try:
            answer = input(
                f"remove the optimizer states of {count(len(sizes), 'run')} ({readable(sum(sizes.values()))})? [y/N] "
            )
        except EOFError:
            answer = ""
        if answer.strip().lower() not in ("y", "yes"):
            say("nothing was removed")
            return
    freed = sum(cleaning.drop(place) for place in sizes)
    say(f"removed: {readable(freed)}")
