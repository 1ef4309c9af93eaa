"""One line now and then: where a run is, how fast it goes, and what time is left."""

import sys
import time
from collections import deque
from collections.abc import Sequence

from mae_jax.runtime.errors import printable

WINDOW = 60.0  # seconds over which the rate is measured


def duration(seconds: float) -> str:
    """75 -> "1:15", 3700 -> "1:01:40"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Progress:
    """Prints progress of one run, or of several in a row with the time left for all of them.

    `costs` are the expected costs of the runs in any unit; what one unit takes is measured on the way.
    """

    def __init__(self, every_seconds: float, costs: Sequence[float] = (), stream=None, quiet: bool = False):
        """`quiet` prints nothing, for all processes but one."""
        self.every, self.quiet = every_seconds, quiet
        self.costs = list(costs)
        self.stream = stream or sys.stdout
        self.run = -1
        self._spent, self._done = 0.0, 0.0  # seconds and cost of what has been measured

    def start(self, label: str, steps: int, first: int, images_per_step: int) -> None:
        """A run begins at step `first` of `steps`."""
        self.run += 1
        self.label, self.steps, self.images = label, steps, images_per_step
        self._began = time.monotonic()
        self.back(first)

    def back(self, first: int) -> None:
        """The run that is under way goes on from step `first`."""
        self.first, self._shown = first, time.monotonic()
        self._recent: deque[tuple[int, float]] = deque([(first, self._shown)])

    def skip(self) -> None:
        """The next run of the row is there already."""
        self.run += 1
        self.costs[self.run] = 0.0

    def update(self, step: int, text: str) -> None:
        """`step` updates are done; prints if it is time."""
        now = time.monotonic()
        if step == self.first + 1:
            self._recent.clear()  # the first step compiles; the rate is measured after it
        self._recent.append((step, now))
        while len(self._recent) > 2 and now - self._recent[1][1] > WINDOW:
            self._recent.popleft()
        if now - self._shown < self.every and step != self.steps:
            return
        self._shown = now
        done, seconds = step - self._recent[0][0], max(now - self._recent[0][1], 1e-9)
        line = f"{self.label} · step {step}/{self.steps} · {text}"
        if done > 0:
            rate = done / seconds
            line += f" · {rate * self.images:.0f} images/s · {duration((self.steps - step) / rate)} left"
            line += self._all_left(step, (self.steps - step) / rate)
        self.say(line)

    def _all_left(self, step: int, here: float) -> str:
        if not self.costs:
            return ""
        spent = self._spent + time.monotonic() - self._began
        done = self._done + self.costs[self.run] * (step - self.first) / max(1, self.steps)
        later = sum(self.costs[self.run + 1 :])
        if not later or not done:
            return ""
        return f" ({duration(here + later * spent / done)} for all)"

    def finish(self) -> None:
        """The run has ended."""
        self._spent += time.monotonic() - self._began
        self._done += self.costs[self.run] if self.costs else 0.0

    def say(self, line: str) -> None:
        """Prints a line at once."""
        if not self.quiet:
            print(printable(line), file=self.stream, flush=True)
