"""Progress of long work: a bar on a terminal, an occasional line in a log."""

import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TextIO

from mae_jax.runtime.errors import printable

WINDOW = 60.0  # seconds over which the rate is measured
EVERY_SECONDS = 5.0  # between two lines of `counting`
PRIOR = 60.0  # expected seconds that count as much as measured ones, so that a first run which compiles tells little
_open: set[Any] = set()  # bars on the terminal that are open


def duration(seconds: float) -> str:
    """75 -> "1:15", 3700 -> "1:01:40"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def rough(seconds: float) -> str:
    """An estimate in words: 75 -> "80 seconds", 1000 -> "17 minutes", 9000 -> "2.5 hours", 400_000 -> "4.6 days"."""
    if seconds < 95:
        return f"{max(1, round(seconds / 10)) * 10} seconds"
    if seconds < 95 * 60:
        return f"{round(seconds / 60)} minutes"
    return f"{seconds / 3600:.1f} hours" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"


def speed(images_per_second: float) -> str:
    """ "250 images/s", "2.5 images/s", or "4.0 s per image" below one image per second."""
    if images_per_second < 1:
        return f"{1 / max(images_per_second, 1e-9):.3g} s per image"
    return f"{images_per_second:.{0 if images_per_second >= 10 else 1}f} images/s"


def corrected(measured: float, expected: float) -> float:
    """The factor by which to multiply further expected seconds, if `measured` ones passed instead of `expected`."""
    return (measured + PRIOR) / (expected + PRIOR)


def for_all(seconds: float) -> str:
    """The time left for all runs, to append to that for one."""
    return f", about {rough(seconds)} for all runs"


def close_bars() -> None:
    """Removes all bars from the terminal, so that a final message does not land inside one."""
    for bar in list(_open):
        _close(bar)


def counting(what: str, say: Callable[[str], None], stream: TextIO | None = None) -> Callable[[int, int], None]:
    """Returns a callback `report(done, total)`: it draws a bar on a terminal, else calls `say` every EVERY_SECONDS."""
    bars: list[Any] = []
    out = stream or sys.stdout
    shown = time.monotonic()

    def report(done: int, total: int) -> None:
        nonlocal shown
        if _terminal(out):
            if not bars:
                bars.append(_bar(out, desc=what, total=total, unit="img"))
            bars[0].update(done - bars[0].n)
            if done >= total:
                _close(bars.pop())
        elif time.monotonic() - shown > EVERY_SECONDS:
            shown = time.monotonic()
            say(f"{what}: {done}/{total}")

    return report


class Progress:
    """Shows the progress of one run, or of several runs in sequence with the time left for all of them.

    `costs` are the expected seconds of the runs. They are corrected by those that finished runs took.
    """

    def __init__(
        self,
        every_seconds: float,
        costs: Sequence[float] = (),
        stream: TextIO | None = None,
        quiet: bool = False,
        position: int = 0,
    ):
        """`every_seconds`: time between two lines in a log. `quiet`: print nothing, for all processes but the first.

        `position`: the line of the bar, if several runs have one at the same time.
        """
        self.every_seconds, self.quiet, self.position = every_seconds, quiet, position
        self.costs = list(costs)
        self.stream = stream or sys.stdout
        self.run = -1
        self._spent, self._done = 0.0, 0.0  # measured and expected seconds of the finished runs
        self._ended = 0.0  # time at which the last run finished
        self.printed: set[str] = set()  # kinds of runs, and lines, that `describe` has printed
        self._bar: Any = None

    def start(self, label: str, steps: int, first: int, images_per_step: int) -> None:
        """Begins the next run at step `first` of `steps`."""
        self.run += 1
        self.label, self.steps, self.images = label, steps, images_per_step
        self._began = self._ended or time.monotonic()
        self.back(first)

    def back(self, first: int) -> None:
        """Restarts the current run at step `first`, for example after a rollback."""
        self.first, self._shown = first, time.monotonic()
        self._recent: deque[tuple[int, float]] = deque([(first, self._shown)])
        self.drop_bar()

    def skip(self) -> None:
        """Skips the next run, which is already finished."""
        self.run += 1
        self.costs[self.run] = 0.0

    def update(self, step: int, text: str) -> None:
        """Reports that `step` updates are done; prints `text` if it is time."""
        now = time.monotonic()
        if step == self.first + 1:
            self._recent.clear()  # the first step compiles; the rate is measured after it
        self._recent.append((step, now))
        while len(self._recent) > 2 and now - self._recent[1][1] > WINDOW:
            self._recent.popleft()
        if not self.quiet and _terminal(self.stream):
            self._draw(step, text)
            return
        if now - self._shown < self.every_seconds and step != self.steps:
            return
        self._shown = now
        line = f"{self.label} · step {step}/{self.steps} · {text}"
        if rate := self._rate():
            left = self._here_left(step, rate)
            line += f" · {speed(rate * self.images)} · {duration(left)} left{self._all_left(left)}"
        self.say(line)

    def _rate(self) -> float:
        """Updates per second over the last WINDOW, without the first, which compiles; 0 if nothing is measured yet."""
        (first, began), (last, now) = self._recent[0], self._recent[-1]
        return (last - first) / max(now - began, 1e-9)

    def _here_left(self, step: int, rate: float) -> float:
        """Expected seconds of the current run, by its `rate` (updates per second) and by what was expected of it.

        The first updates are slower than the others, so they alone tell little.
        """
        left = (self.steps - step) / rate
        if not self.costs or not self.costs[self.run]:
            return left
        measured = self._recent[-1][1] - self._recent[0][1]
        expected = self.costs[self.run] * (self.steps - step) / max(1, self.steps)
        return (measured * left + PRIOR * expected) / (measured + PRIOR)

    def _draw(self, step: int, text: str) -> None:
        if self._bar is None:
            total, initial = self.steps * self.images, self.first * self.images
            options = {"total": total, "initial": initial, "unit": "img", "position": self.position}
            self._bar = _bar(self.stream, desc=self.label, **options)
        rate = self._rate()
        left = self._all_left(self._here_left(step, rate)) if rate else ""
        self._bar.set_postfix_str(f"step {step}/{self.steps}, {text}{left}", refresh=False)
        self._bar.update(step * self.images - self._bar.n)
        if step >= self.steps:
            self.drop_bar()

    def drop_bar(self) -> None:
        """Removes the bar from the terminal."""
        if self._bar is not None:
            _close(self._bar)
        self._bar = None

    def _all_left(self, here: float) -> str:
        later = self.seconds_left()
        return for_all(here + later) if later else ""

    def seconds_left(self) -> float:
        """Expected seconds of the runs after the current one; 0 if none are known."""
        return sum(self.costs[self.run + 1 :]) * corrected(self._spent, self._done)

    def finish(self) -> None:
        """Ends the current run."""
        self.drop_bar()
        self._ended = time.monotonic()
        self._spent += self._ended - self._began
        self._done += self.costs[self.run] if self.costs else 0.0

    def counting(self, what: str) -> Callable[[int, int], None]:
        """The module's `counting`, on the stream of this object."""
        return (lambda done, total: None) if self.quiet else counting(what, self.say, self.stream)

    def describe(self, kind: str, lines: Sequence[str]) -> None:
        """Prints the lines about a run: a heading, then what it trains on and how.

        Of further runs of the same `kind`, only the heading and new warnings are printed, or nothing.
        """
        first = kind not in self.printed
        new = [line for line in lines[1:] if first or (line.strip().startswith("warning") and line not in self.printed)]
        self.printed.update([kind, *lines])
        if new:
            self.say("\n".join([lines[0], *new]))

    def say(self, line: str) -> None:
        """Prints a line above all bars and flushes it."""
        if self.quiet:
            return
        if _open:
            next(iter(_open)).write(printable(line), file=self.stream)  # redraws the bars
            self.stream.flush()
        else:
            print(printable(line), file=self.stream, flush=True)


class Parts(Progress):
    """Shows several trainings, one after the other and with equally many steps, as one run of all their steps.

    Only the last one is described.
    """

    def __init__(self, outer: Progress, count: int):
        """`outer` shows them; `count` is their number."""
        super().__init__(outer.every_seconds, stream=outer.stream, quiet=outer.quiet)
        self.outer, self.count, self._part, self._started = outer, count, 0, False

    def start(self, label: str, steps: int, first: int, images_per_step: int) -> None:
        self.steps = steps
        if not self._started:
            self._started = True
            self.outer.start(label, steps * self.count, steps * self._part + first, images_per_step)
        self.outer.label = label

    def back(self, first: int) -> None:
        self.outer.back(self.steps * self._part + first)

    def skip(self) -> None:
        self._part += 1

    def update(self, step: int, text: str) -> None:
        self.outer.update(self.steps * self._part + step, text)

    def finish(self) -> None:
        self._part += 1
        if self._part == self.count:
            self.outer.finish()

    def describe(self, kind: str, lines: Sequence[str]) -> None:
        if self._part == self.count - 1:  # the others train on parts of the same images
            self.outer.describe(kind, lines)

    def say(self, line: str) -> None:
        self.outer.say(line)


def _terminal(stream: TextIO) -> bool:
    return bool(getattr(stream, "isatty", bool)())


def _bar(stream: TextIO, **options: Any) -> Any:
    from tqdm import tqdm

    options["desc"] = printable(options["desc"], keep="")
    bar = tqdm(file=stream, unit_scale=True, leave=False, dynamic_ncols=True, mininterval=0.2, **options)
    _open.add(bar)
    return bar


def _close(bar: Any) -> None:
    bar.close()
    _open.discard(bar)
