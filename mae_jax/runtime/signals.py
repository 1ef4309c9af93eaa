"""Handling of SIGTERM, SIGINT and SIGHUP: a run saves its state, then exits with EXIT_STOPPED."""

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn

from mae_jax.runtime.blocking import HEARD
from mae_jax.runtime.errors import EXIT_STOPPED, Stopped

GRACE = 20.0  # seconds to wait for code that handles no signal, such as a compiler, before a hard exit
_received: list[int] | None = None  # the signals received so far, while they are collected
_note: Callable[[int, FrameType | None], None] | None = None  # the handler that collects them
_alone = False  # whether they are collected for a process that belongs to one command
_at_once: list[tuple[str, bool]] = []  # (`what`, `hard`) of the open `interruptible` blocks


def release() -> None:
    """Delivers blocked signals. SIGTERM and SIGHUP without a handler interrupt as Ctrl-C does."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if threading.current_thread() is threading.main_thread() and signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HEARD)


@contextlib.contextmanager
def blocked() -> Iterator[None]:
    """Blocks signals inside. While an extension module loads, their exception would become an ImportError."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, HEARD)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def collect_signals(alone: bool = False) -> Iterator[list[int]]:
    """Collects SIGTERM, SIGINT and SIGHUP in a list, so that a run can save and stop.

    A second signal stops it immediately: with `alone`, for a process that belongs to one command, the process ends
    without cleanup; otherwise KeyboardInterrupt is raised. A nested context yields the list of the outer one.
    """
    global _received, _note, _alone
    if _received is not None or threading.current_thread() is not threading.main_thread():
        yield _received if _received is not None else []
        return

    def note(number: int, frame: FrameType | None) -> None:
        if _swallows(frame):  # it would print an exception and drop it, so send the signal again soon
            threading.Timer(0.02, signal.pthread_kill, (threading.main_thread().ident, number)).start()
            return
        first = not received
        received.append(number)
        if first and _at_once:
            raise stopped(received, _at_once[-1][0])
        if not first and alone:
            _end(stopped(received, "what was saved last is kept"))
        if not first:
            signal.default_int_handler(number, frame)

    received, _note = [], note
    _received, _alone = received, alone
    old = {n: signal.signal(n, note) for n in _not_ignored()}
    woken, waker = socket.socketpair()
    waker.setblocking(False)
    before, closed = signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False), threading.Event()
    watcher = threading.Thread(target=_watch, args=(woken, closed), name="signals", daemon=True)
    watcher.start()
    if alone:  # signals were blocked until here
        release()
    try:
        yield received
    finally:
        _received, _note, _alone = None, None, False
        signal.set_wakeup_fd(before)
        for number, handler in old.items():
            signal.signal(number, handler)
        closed.set()
        waker.close()  # ends the watcher's recv
        watcher.join()
        woken.close()


def of_a_command() -> bool:
    """Whether this process belongs to one command, rather than to a notebook or a user's script."""
    return _alone


def take_back() -> None:
    """Sets the handlers of `collect_signals` again, because jax.distributed replaces that of SIGTERM."""
    if _note is not None and threading.current_thread() is threading.main_thread():
        for number in _not_ignored():
            signal.signal(number, _note)


def _not_ignored() -> list[signal.Signals]:
    """The signals to collect. Not SIGHUP if it is ignored: nohup does that so that a process outlives its terminal."""
    return [n for n in HEARD if n != signal.SIGHUP or signal.getsignal(n) != signal.SIG_IGN]


def _swallows(frame: FrameType | None) -> bool:
    """Whether Python is in a finalizer or a callback of the garbage collector; both swallow exceptions."""
    while frame is not None:
        if frame.f_code.co_name in ("__del__", "_xla_gc_callback"):
            return True
        frame = frame.f_back
    return False


def _watch(woken: socket.socket, closed: threading.Event) -> None:
    """Ends the process if the main thread handles no signal in time. Only inside a hard `interruptible` block."""
    number = woken.recv(1)
    while number and number[0] not in HEARD:
        number = woken.recv(1)
    if not number or closed.wait(GRACE):
        return
    while not closed.wait(0.1):
        with contextlib.suppress(IndexError):  # the main thread has just left the block
            what, hard = _at_once[-1]
            if hard:
                _end(stopped([number[0]], what))


def _end(stop: Stopped) -> NoReturn:
    """Ends the process immediately, as SIGKILL would. Saved files stay complete."""
    with contextlib.suppress(OSError, ValueError):  # nobody reads it, or its disk is full
        print(stop, file=sys.stderr, flush=True)
    os._exit(EXIT_STOPPED)


@contextlib.contextmanager
def interruptible(what: str, hard: bool = False) -> Iterator[None]:
    """A block without unsaved work: a signal raises `Stopped` immediately. `what` tells the user what was kept.

    `hard`: the whole process has no unsaved work, so it may be ended if the block handles no signal for GRACE seconds,
    as a compiler does not. Only for a single process; several must stop together.
    """
    if _received is None:
        yield
        return
    _at_once.append((what, hard))
    try:
        if _received:
            raise stopped(_received, what)
        yield
    finally:
        _at_once.pop()


def stopped(received: list[int], what: str) -> Stopped:
    """The exception for the signals in `received`. `what` tells the user what was kept."""
    name = signal.Signals(received[0]).name if received else "a signal to another process"
    stop = Stopped(f"stopped by {name}; {what}; rerun the same command to resume")
    stop.kept = what
    return stop
