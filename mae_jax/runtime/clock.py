"""Where the time of a run goes: wall seconds of its parts, each second counted once."""

import contextlib
import functools
import threading
import time
from collections.abc import Iterator, Mapping

import jax

from mae_jax.runtime.progress import duration

COMPILING = "compiling"
_COMPILED = ("jaxpr_to_mlir_module_duration", "backend_compile_duration")  # events of JAX; the second reads its cache
_open: list["Clock"] = []  # the clocks with an open part, the innermost last


class Clock:
    """Counts the seconds of each part. A part inside another one, and compiling, do not count for the outer one."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._parts: list[str] = []
        self._since = 0.0
        self._thread = threading.get_ident()

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """The block counts as `name`. Only the thread that made the clock may call this."""
        _listen()
        self._count()
        self._parts.append(name)
        _open.append(self)
        try:
            yield
        finally:
            self._count()
            _open.pop()
            self._parts.pop()

    def _count(self) -> None:
        """Adds the time since the last call to the innermost open part."""
        now = time.monotonic()
        if self._parts:
            self.add({self._parts[-1]: now - self._since})
        self._since = now

    def add(self, seconds: Mapping[str, float]) -> None:
        """Adds the seconds of each part."""
        for name, value in seconds.items():
            self.seconds[name] = self.seconds.get(name, 0.0) + value

    def compiled(self, seconds: float) -> None:
        """Moves seconds of the open part to COMPILING, if the thread of this clock has compiled."""
        if threading.get_ident() == self._thread:
            self.add({COMPILING: seconds, self._parts[-1]: -seconds})


@functools.cache
def _listen() -> None:
    """Lets JAX report how long it compiles, once in a process."""

    def note(event: str, duration_secs: float, **_: str | int) -> None:
        if _open and event.endswith(_COMPILED):
            _open[-1].compiled(duration_secs)

    jax.monitoring.register_event_duration_secs_listener(note)


def in_words(seconds: Mapping[str, float]) -> str:
    """The parts that took at least a second, the longest first, such as "training steps 1:25, compiling 0:41"."""
    longest = sorted(seconds.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {duration(value)}" for name, value in longest if value >= 1)
