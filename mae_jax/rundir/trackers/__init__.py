"""Experiment trackers that receive the scalars of a run, chosen by `log.trackers`: one module for each.

A tracker's module has the name of its package with `_tracker` and a function `start` that returns a `Tracker`. A
tracker that fails is dropped with one line; training continues.
"""

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from mae_jax.rundir import contents
from mae_jax.runtime.disk import is_file
from mae_jax.runtime.errors import UserError

PROJECT = "mae_jax"  # what the trackers call the project, unless their own environment variables name another
_dropped: set[str] = set()  # trackers that failed in this process: an unreachable server is waited for only once


@runtime_checkable
class Tracker(Protocol):
    """One run in a tracker."""

    id: str  # under which a resumed run continues
    place: str  # where to look at the run

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Logs values of one step. A resumed run logs the steps after its checkpoint again, with equal values."""
        ...

    def results(self, step: int, values: dict[str, float]) -> None:
        """Logs the scores of the finished run."""
        ...

    def close(self) -> None:
        """Sends what is left."""
        ...


# The function `start` of a tracker's module: it opens a new run in the tracker for a run directory, an id ("") and
# hyperparameters, or the run of that id again.
Start = Callable[[Path, str, dict[str, Any]], Tracker]


def refuse_missing(names: Sequence[str]) -> None:
    """Raises UserError for a tracker whose package is not installed."""
    for name in names:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:  # a folder of that name, such as wandb's own, is not the package
            raise UserError(
                f"log.trackers: the package of {name} is not installed; python -m pip install 'mae_jax[{name}]', or "
                f"leave {name} out"
            )


class Trackers:
    """The open trackers of one run."""

    def __init__(
        self, names: Sequence[str], workdir: Path, hyperparameters: dict[str, Any], say: Callable[[str], None]
    ):
        """Starts those of `names` (config.fields.TRACKERS), or continues what an earlier start of the run began."""
        self.say = say
        self.open: dict[str, Tracker] = {}
        file = workdir / contents.TRACKERS
        known = contents.read_object(file) if is_file(file) else {}
        for name in names:
            if name in _dropped:
                continue
            saved = known.get(name)
            saved = saved if isinstance(saved, str) else ""
            self._attempt(name, partial(self._start, name, workdir, saved, hyperparameters))
            if name in self.open and self.open[name].id != saved:
                known[name] = self.open[name].id
                contents.write_json(file, known)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Logs values of one step."""
        self._each(lambda tracker: tracker.scalars(step, values))

    def results(self, step: int, values: dict[str, float]) -> None:
        """Logs the scores of the finished run."""
        self._each(lambda tracker: tracker.results(step, values))

    def close(self) -> None:
        """Sends what is left, and ends the trackers."""
        self._each(lambda tracker: tracker.close())
        self.open.clear()

    def _start(self, name: str, workdir: Path, run_id: str, hyperparameters: dict[str, Any]) -> None:
        start: Start = importlib.import_module(f"{__name__}.{name}_tracker").start
        self.open[name] = tracker = start(workdir, run_id, hyperparameters)
        self.say(f"{name}: {tracker.place}")

    def _each(self, action: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self.open.items()):
            self._attempt(name, partial(action, tracker))

    def _attempt(self, name: str, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # of any package, and of the network
            self.open.pop(name, None)
            _dropped.add(name)
            reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
            self.say(f"warning: {name} failed; this process does not use it again: {reason[:300]}")


def title(workdir: Path) -> tuple[str, str]:
    """A group and a name for the run in `workdir`: the study's directory, or that of all runs, and its own."""
    place = workdir.resolve()
    above = place.parents[1] if place.parent.name == "cells" and len(place.parents) > 1 else place.parent
    return above.name, place.name
