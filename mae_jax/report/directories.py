"""Run directories below a study's directory."""

import json
from collections.abc import Sequence
from pathlib import Path

from mae_jax.rundir.contents import PREDICTIONS, RUN, is_pretraining, runs_below
from mae_jax.runtime.errors import UserError, printable
from mae_jax.runtime.text import count


def expand(places: Sequence[Path]) -> tuple[list[Path], list[str]]:
    """Run directories of classifiers: `places` themselves, and for a study's directory the runs below it.

    A study's directory has no run.json, but directories one or two levels below it do. Its pre-trainings are found
    through its classifiers. Also returns lines that name runs without predictions. Raises UserError for a directory
    without runs.
    """
    found: list[Path] = []
    unfinished: list[str] = []
    for place in places:
        below = runs_below(place) if place.is_dir() and not (place / RUN).exists() else []
        if not below:
            found.append(place)  # a run, or a mistake that the reader of runs reports
            continue
        classifiers = [run for run in below if not holds_pretraining(run)]
        if not classifiers:
            raise UserError(
                f"{place}: no classifier among its {count(len(below), 'run')}; the report compares classifiers"
            )
        finished = [run for run in classifiers if (run / PREDICTIONS).exists()]
        unfinished += [printable(run.name, keep="") for run in classifiers if run not in finished]
        found += finished or classifiers[:1]
    return found, [f"not finished, and so left out: {', '.join(unfinished)}"] if unfinished else []


def holds_pretraining(run: Path) -> bool:
    """Whether run.json is of a pre-training. False if it cannot be read, which the reader of runs reports."""
    try:
        info = json.loads((run / RUN).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(info, dict) and is_pretraining(info)
