"""The child process of a study whose runs are trained side by side: it runs what it is sent over a socket.

    python -m mae_jax.study.worker DESCRIPTOR [CORES]

`team` starts it. DESCRIPTOR is the number of the open socket, CORES are the CPU cores to use, such as 2,3. The process
ends when the socket closes: it saves the run in progress first, as after a signal.
"""

from mae_jax.runtime.blocking import block

if __name__ == "__main__":
    block()  # until the imports are done

import contextlib
import itertools
import os
import pickle
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

if __name__ == "__main__" and sys.argv[2:]:  # before JAX counts the cores
    os.sched_setaffinity(0, [int(core) for core in sys.argv[2].split(",")])

from absl import logging

from mae_jax.config.fields import RunConfig
from mae_jax.runtime import signals
from mae_jax.runtime.command import call_computing, quiet_libraries
from mae_jax.runtime.disk import naming
from mae_jax.runtime.errors import EXIT_STOPPED, Stopped
from mae_jax.runtime.progress import Progress

EVERY_SECONDS = 0.2  # between two messages about the progress of a run


class Sender(Progress):
    """A `Progress` that sends each call to the parent process, which draws it."""

    def __init__(self, connection: Connection):
        super().__init__(0.0)
        self._connection, self._sent = connection, 0.0
        self._held: list[tuple[Any, ...]] | None = None  # messages of a run before its first step

    def hold(self) -> None:
        """Keeps lines until the run starts, and sends them together, so that those of two runs do not mix."""
        self._held = []

    def release(self) -> None:
        """Sends the lines that were kept."""
        held, self._held = self._held or [], None
        for kind, messages in itertools.groupby(held, key=lambda message: message[0]):
            if kind == "say":
                self.send("say", "\n".join(line for _, line in messages))
            else:
                for message in messages:
                    self.send(*message)

    def start(self, label: str, steps: int, first: int, images_per_step: int) -> None:
        self.release()
        self.steps, self.first = steps, first
        self.send("start", label, steps, first, images_per_step)

    def back(self, first: int) -> None:
        self.first = first
        self.send("back", first)

    def update(self, step: int, text: str) -> None:
        if step in (self.first + 1, self.steps) or time.monotonic() - self._sent > EVERY_SECONDS:
            self._sent = time.monotonic()
            self.send("update", step, text)

    def finish(self) -> None:
        self.send("finish")

    def say(self, line: str) -> None:
        self._send_or_hold("say", line)

    def describe(self, kind: str, lines: Sequence[str]) -> None:
        self._send_or_hold("describe", kind, lines)

    def _send_or_hold(self, *message: Any) -> None:
        if self._held is None:
            self.send(*message)
        else:
            self._held.append(message)

    def send(self, kind: str, *values: Any) -> None:
        """Sends a message. Does nothing if the parent has gone: the run is then saved and ends."""
        with contextlib.suppress(OSError):
            self._connection.send((kind, *values))


class Server:
    """Answers the messages of the parent, one after the other."""

    def __init__(self, connection: Connection):
        from mae_jax.data.splits import DataCache
        from mae_jax.runtime import machine

        machine.keep_memory()
        self.connection, self.progress = connection, Sender(connection)
        self.cache = DataCache()
        self._messages: queue.SimpleQueue[tuple | None] = queue.SimpleQueue()
        self._busy = threading.Event()
        threading.Thread(target=self._listen, name="parent", daemon=True).start()

    def _listen(self) -> None:
        try:
            while True:
                self._messages.put(self.connection.recv())
        except (EOFError, OSError):
            self._messages.put(None)
            if self._busy.is_set():
                os.kill(os.getpid(), signal.SIGTERM)

    def serve(self, signals_received: list[int]) -> None:
        """Answers until the parent closes the socket. Raises Stopped after a signal."""
        while True:
            try:
                message = self._messages.get(timeout=0.5)
            except queue.Empty:
                message = ("wait",)
            if message is None:
                return
            self._busy.set()
            try:
                if signals_received:
                    raise signals.stopped(signals_received, "it had not begun")
                if message[0] == "wait":
                    continue
                answer = getattr(self, message[0])(*message[1:])
                if message[0] != "open":
                    self.progress.send("answer", answer)
            except BaseException as error:
                self.progress.send("failed", sendable(error))
                if not isinstance(error, Exception):
                    raise
            finally:
                self._busy.clear()

    def open(self, path: str) -> None:
        """Takes the images that the parent has already checked."""
        with naming(path), open(path, "rb") as file:
            self.cache = pickle.load(file)

    def plan(self, runs: list[tuple[Path, RunConfig]], folder: str) -> Any:
        """Plans the runs, and saves what was read of their images in `folder`, for `open` of other workers."""
        from mae_jax.study import plan, side_by_side
        from mae_jax.train.loop import checking

        planned = plan.make(runs, self.cache, checking(self.progress))
        side_by_side.keep(self.cache, folder)
        return planned

    def time(self, config: RunConfig) -> float:
        """Seconds of an update of this run, with other workers timing theirs at the same time."""
        from mae_jax.study import plan

        return plan.step_seconds(config, self.cache)

    def run(self, directory: Path, config: RunConfig, clean: bool) -> str:
        """Runs one run, and returns its outcome in words."""
        from mae_jax.study.attempt import attempt

        self.progress.hold()
        try:
            return attempt(directory, config, self.progress, self.cache, clean)
        finally:
            self.progress.release()


def sendable(error: BaseException) -> BaseException:
    """`error`, or another one with its text if it cannot be pickled, with the stack trace as a note if it is a bug."""
    try:
        pickle.loads(pickle.dumps(error))
        same = error
    except Exception:
        same = RuntimeError(str(error))  # such as JaxRuntimeError, which is one
    if not isinstance(error, Stopped):
        same.add_note("".join(traceback.format_exception(error)))
    return same


def main() -> None:
    logging.set_verbosity(logging.FATAL)
    quiet_libraries()
    with signals.collect_signals(alone=True) as signals_received, Connection(int(sys.argv[1])) as connection:

        def serve() -> None:
            try:
                Server(connection).serve(signals_received)
            except Stopped:  # the parent says so, once for all of its workers
                os._exit(EXIT_STOPPED)

        call_computing(serve)


if __name__ == "__main__":
    main()
