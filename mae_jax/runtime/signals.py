"""SIGTERM and SIGINT: a run saves and ends, with an exit code of its own."""

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn

from mae_jax.runtime.errors import EXIT_STOPPED, Stopped

GRACE = 20.0  # seconds for code that hears no signal, such as a compiler, where nothing is lost by ending it
HEARD = (signal.SIGTERM, signal.SIGINT)
_got: list[int] | None = None  # the signals so far, while somebody watches for them
_note: Callable[[int, FrameType | None], None] | None = None  # the handler that collects them
_at_once: list[tuple[str, bool]] = []  # what to say of a signal that ends the work where it is; whether hard


def hold() -> None:
    """Lets signals wait until `release` or `watched(alone=True)`: for a command, before what takes long to import."""
    signal.pthread_sigmask(signal.SIG_BLOCK, HEARD)


def release() -> None:
    """The signals that were held back come now; SIGTERM as Ctrl-C does, where nothing else heeds it."""
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HEARD)


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Lets signals wait within: an extension that is being loaded makes an ImportError of what they raise."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, HEARD)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def watched(alone: bool = False) -> Iterator[list[int]]:
    """Collects SIGTERM and SIGINT in a list, so that a run can save and end. A second one ends at once.

    `alone`: the process is a command's, and a second signal ends it without a word from what is torn down; else it
    raises KeyboardInterrupt. Within another such context it gives that one's list.
    """
    global _got, _note
    if _got is not None or threading.current_thread() is not threading.main_thread():
        yield _got if _got is not None else []
        return

    def note(number: int, frame: FrameType | None) -> None:
        if _swallows(frame):  # an exception would be printed there and forgotten: once more, in a moment
            threading.Timer(0.02, signal.pthread_kill, (threading.main_thread().ident, number)).start()
            return
        first = not got
        got.append(number)
        if first and _at_once:
            raise stopped(got, _at_once[-1][0])
        if not first and alone:
            _end(stopped(got, "what was saved last is kept"))
        if not first:
            signal.default_int_handler(number, frame)

    got, _note = [], note
    _got = got
    old = {n: signal.signal(n, note) for n in HEARD}
    woken, waker = socket.socketpair()
    waker.setblocking(False)
    before, closed = signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False), threading.Event()
    watcher = threading.Thread(target=_watch, args=(woken, closed), name="signals", daemon=True)
    watcher.start()
    if alone:  # held back until here
        release()
    try:
        yield got
    finally:
        _got = _note = None
        signal.set_wakeup_fd(before)
        for number, handler in old.items():
            signal.signal(number, handler)
        closed.set()
        waker.close()  # ends the reading
        watcher.join()
        woken.close()


def take_back() -> None:
    """Sets the handlers again, within `watched`: jax.distributed puts one of its own in the place of SIGTERM's."""
    if _note is not None and threading.current_thread() is threading.main_thread():
        for number in HEARD:
            signal.signal(number, _note)


def _swallows(frame: FrameType | None) -> bool:
    """Whether Python is within what it calls for its own housekeeping."""
    while frame is not None:
        if frame.f_code.co_name in ("__del__", "_xla_gc_callback"):
            return True
        frame = frame.f_back
    return False


def _watch(woken: socket.socket, closed: threading.Event) -> None:
    """Ends the process where the main thread does not hear a signal in time, but within a hard `ends` alone."""
    number = woken.recv(1)
    while number and number[0] not in HEARD:
        number = woken.recv(1)
    if not number or closed.wait(GRACE):
        return
    while not closed.wait(0.1):
        with contextlib.suppress(IndexError):  # the main thread has just left
            what, hard = _at_once[-1]
            if hard:
                _end(stopped([number[0]], what))


def _end(said: Stopped) -> NoReturn:
    """Ends the process where it is, as SIGKILL would; whatever is saved stays whole."""
    print(said, file=sys.stderr, flush=True)
    os._exit(EXIT_STOPPED)


@contextlib.contextmanager
def ends(what: str, hard: bool = False) -> Iterator[None]:
    """Work that holds nothing which is not saved: within, a signal raises `Stopped` at once; `what` says what is kept.

    `hard`: true of the whole process, so that it may be ended where the work hears no signal for GRACE seconds, as a
    compiler does. Only for a process that works alone; several must stop together.
    """
    if _got is None:
        yield
        return
    _at_once.append((what, hard))
    try:
        if _got:
            raise stopped(_got, what)
        yield
    finally:
        _at_once.pop()


def stopped(got: list[int], what: str) -> Stopped:
    """The exception for the signals in `got`; `what` says what is saved."""
    name = signal.Signals(got[0]).name if got else "a signal to another process"
    return Stopped(f"stopped by {name}; {what}; rerun the same command to resume")
