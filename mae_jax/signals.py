"""SIGTERM and SIGINT: a run saves and ends, with an exit code of its own."""

import contextlib
import signal
import threading
from collections.abc import Iterator

from mae_jax.errors import Stopped

_got: list[int] | None = None  # the signals so far, while somebody watches for them
_at_once: list[str] = []  # what to say of a signal that ends the work where it is


@contextlib.contextmanager
def watched() -> Iterator[list[int]]:
    """Collects SIGTERM and SIGINT in a list, so that a run can save and end. A second one ends at once.

    Within another such context it gives that one's list.
    """
    global _got
    if _got is not None or threading.current_thread() is not threading.main_thread():
        yield _got if _got is not None else []
        return

    def note(number: int, frame) -> None:
        first = not got
        got.append(number)
        if first and _at_once:
            raise stopped(got, _at_once[-1])
        if not first:
            signal.default_int_handler(number, frame)

    got = _got = []
    old = {n: signal.signal(n, note) for n in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield got
    finally:
        _got = None
        for number, handler in old.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def ends(what: str) -> Iterator[None]:
    """Work that holds nothing which is not saved: within, a signal raises `Stopped` at once; `what` says what is kept.

    Only for a process that works alone; several must stop together.
    """
    if _got is None:
        yield
        return
    _at_once.append(what)
    try:
        if _got:
            raise stopped(_got, what)
        yield
    finally:
        _at_once.pop()


def stopped(got: list[int], what: str) -> Stopped:
    """The exception for the signals in `got`; `what` says what is saved."""
    name = signal.Signals(got[0]).name if got else "a signal to another process"
    return Stopped(f"stopped by {name}; {what}, the same command goes on from there")
