"""Shows the progress of runs that are trained side by side: one bar each on a terminal, an occasional line in a log."""

import time
from collections.abc import Sequence
from typing import Any

from mae_jax.runtime.progress import Progress, corrected, for_all


class _Place(Progress):
    """The progress of one worker, with the time left for the whole study."""

    def __init__(self, board: "Board", every_seconds: float, position: int):
        super().__init__(every_seconds, position=position)
        self._board, self.printed = board, board.printed

    def _all_left(self, here: float) -> str:
        left = self._board.seconds_left()
        return for_all(left) if left else ""


class Board:
    """The runs of all workers."""

    def __init__(self, names: Sequence[str], costs: Sequence[float], every_seconds: float, places: int):
        """`names` and expected seconds (`costs`) of all runs, 0 for a run that needs no work.

        `places`: the number of workers.
        """
        self.names, self.costs = names, costs
        self.printed: set[str] = set()  # by the runs of all workers, see `Progress.describe`
        self._places = [_Place(self, every_seconds, k) for k in range(places)]
        self._running: dict[int, int] = {}  # the run of each worker
        self._shares: dict[int, float] = {}  # done share of each run that is begun
        self._began = time.monotonic()

    def begin(self, place: int, run: int) -> None:
        """Worker `place` begins run number `run`, counted from 0."""
        self._running[place], self._shares[run] = run, 0.0
        self.say(f"[{run + 1}/{len(self.names)}] {self.names[run]}")

    def end(self, place: int) -> None:
        """The run of worker `place` has ended."""
        self._shares[self._running.pop(place)] = 1.0
        self._places[place].drop_bar()

    def show(self, place: int, kind: str, values: Sequence[Any]) -> None:
        """Shows a message of worker `place`: a call of one of the methods of `Progress`."""
        if kind == "start":
            _, steps, first, images = values
            name = self.names[self._running[place]] if place in self._running else values[0]
            self._places[place].start(name, steps, first, images)
        elif kind == "update":
            if place in self._running:
                self._shares[self._running[place]] = values[0] / max(1, self._places[place].steps)
            self._places[place].update(*values)
        else:
            getattr(self._places[place], kind)(*values)

    def seconds_left(self) -> float:
        """Expected seconds until all runs are finished; 0 if no costs are known."""
        places = len(self._places)
        done = sum(self.costs[run] * share for run, share in self._shares.items())
        left = (sum(self.costs) - done) / places
        return left * corrected(time.monotonic() - self._began, done / places)

    def say(self, line: str) -> None:
        """Prints a line above the bars."""
        self._places[0].say(line)
