"""Child processes that train the runs of a study side by side, each on its own GPU or CPU cores."""

import contextlib
import importlib.util
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from mae_jax.config.fields import RunConfig
from mae_jax.runtime import hardware
from mae_jax.runtime.errors import Stopped, UserError
from mae_jax.study.board import Board

ROOT = str(Path(__file__).resolve().parents[2])
ONE_GPU = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Place:
    """What one worker may use: CPU cores (empty: all of them), or GPUs by number or name, joined by ","."""

    cores: tuple[int, ...] = ()
    gpus: str = ""

    def __str__(self) -> str:
        if self.gpus:
            return f"GPU {self.gpus}"
        return f"{'core' if len(self.cores) == 1 else 'cores'} {', '.join(map(str, self.cores))}"


def gpu_names() -> list[str]:
    """The NVIDIA GPUs that JAX would use, by the names that CUDA_VISIBLE_DEVICES takes; [] if JAX cannot use them."""
    platforms = os.environ.get("JAX_PLATFORMS", "")
    plugins = ("jax_cuda12_plugin", "jax_cuda13_plugin")
    if (platforms and not {"cuda", "gpu"} & {*platforms.split(",")}) or not any(
        importlib.util.find_spec(plugin) for plugin in plugins
    ):
        return []
    if ONE_GPU in os.environ:
        return [name.strip() for name in os.environ[ONE_GPU].split(",") if name.strip()]
    return [str(number) for number in range(len(hardware.nvidia_gpus()))]


def shares(cores: Sequence[int], count: int) -> list[Place]:
    """`count` places with equally many of `cores`, or one core each if there are fewer."""
    each = max(1, len(cores) // count)
    return [Place(tuple(cores[(k * each) % len(cores) :][:each])) for k in range(count)]


class Worker:
    """One child process, seen from the parent."""

    def __init__(self, place: Place):
        self.place = place
        ours, theirs = socket.socketpair()
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [ROOT, os.environ.get("PYTHONPATH")]))}
        if place.gpus:
            environment[ONE_GPU] = place.gpus
        command = [sys.executable, "-m", "mae_jax.study.worker", str(theirs.fileno())]
        command += [",".join(map(str, place.cores))] if place.cores and hasattr(os, "sched_setaffinity") else []
        with theirs:
            # Its own session: Ctrl-C in a terminal reaches only the parent, which then stops its workers.
            self.process = subprocess.Popen(
                command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, env=environment, start_new_session=True
            )
        self.connection = Connection(ours.detach())

    def send(self, *message: Any) -> None:
        """Sends a message. A worker that has ended says so when its answer is received."""
        with contextlib.suppress(OSError):
            self.connection.send(message)

    def receive(self) -> tuple[Any, ...]:
        """The next message of the worker: its progress, ("answer", value) or ("failed", error).

        If the process has ended, ("failed", UserError that says how).
        """
        try:
            return self.connection.recv()
        except (EOFError, OSError):
            return "failed", UserError(f"its process {self.process.pid} {self.ended()}")

    def ended(self) -> str:
        """How the process ended, in words."""
        code = self.process.wait()
        if code >= 0:
            return f"ended with exit code {code}; its message is above"
        name = signal.Signals(-code).name
        likely = ", by the system if memory ran out" if code == -signal.SIGKILL else ""
        return f"was killed by {name}{likely}"

    @property
    def lives(self) -> bool:
        return self.process.poll() is None

    def stop(self) -> None:
        """Asks the process to save its run and end."""
        if self.lives:
            self.process.send_signal(signal.SIGTERM)

    def close(self) -> None:
        """Ends the process, which saves a run in progress, and waits for it."""
        self.connection.close()
        self.process.wait()


def call(workers: Sequence[Worker], board: Board | None, *message: Any) -> list[Any]:
    """The answers of all workers to the same message, which they work on at the same time. Raises what they raise.

    `board` shows their progress.
    """
    for worker in workers:
        worker.send(*message)
    return [_answer(number, worker, board) for number, worker in enumerate(workers)]


def _answer(number: int, worker: Worker, board: Board | None) -> Any:
    while True:
        kind, *values = worker.receive()
        if kind == "answer":
            return values[0]
        if kind == "failed":
            raise values[0]
        if board:
            board.show(number, kind, values)


Job = list[int]  # numbers of runs that one worker does one after the other


class Team:
    """Workers, and the file of checked images that they share. A context: at its end all workers have ended."""

    def __init__(self, places: Sequence[Place], images: str = ""):
        """`images`: the pickled `DataCache` that every worker reads first; "" if the workers open the images."""
        self.images = images
        self.workers = [self._start(place) for place in places]

    def _start(self, place: Place) -> Worker:
        worker = Worker(place)
        if self.images:
            worker.send("open", self.images)
        return worker

    def __enter__(self) -> "Team":
        return self

    def __exit__(self, *error: Any) -> None:
        for worker in self.workers:
            worker.connection.close()  # all, before waiting for one
        for worker in self.workers:
            worker.close()

    def seconds_per_update(self, config: RunConfig) -> float:
        """Seconds of an update of `config` in each worker while all of them compute: the mean. Raises their errors."""
        times = call(self.workers, None, "time", config)
        return sum(times) / len(times)

    def do(
        self,
        jobs: Sequence[Job],
        message: Callable[[int], tuple[Any, ...]],
        board: Board,
        signals_received: list[int],
    ) -> Iterator[tuple[int, str | Exception]]:
        """Does all jobs, in order, each in the next worker that is free. Yields (number, outcome or error) of each run.

        `message` gives what a worker is sent for run `number`. A worker whose process is lost is replaced. After a
        signal all workers save their runs, and Stopped is raised.
        """
        waiting = list(jobs)
        busy: dict[int, Job] = {}  # of each worker that works: the runs left, with the current one first
        stopping = False
        while True:
            if signals_received and not stopping:
                stopping = True
                for number in busy:
                    self.workers[number].stop()
            for number in range(len(self.workers)):
                if waiting and not stopping and number not in busy:
                    self._begin(number, waiting.pop(0), busy, message, board)
            if not busy:
                return
            places = {self.workers[number].connection: number for number in busy}
            for connection in wait(list(places), timeout=0.5):
                number = places[connection]  # pyright: ignore[reportArgumentType]  # it is one of these
                kind, *values = self.workers[number].receive()
                if kind not in ("answer", "failed"):
                    board.show(number, kind, values)
                    continue
                run, *rest = busy.pop(number)
                board.end(number)
                if not self.workers[number].lives or isinstance(values[0], Stopped):
                    self.workers[number].close()
                    if not stopping:
                        self.workers[number] = self._start(self.workers[number].place)
                if not isinstance(values[0], Stopped):
                    yield run, values[0]
                elif stopping:
                    board.say(f"{board.names[run]}: {values[0].kept}")
                else:  # somebody stopped this process alone
                    yield run, UserError(f"its process was stopped by a signal; {values[0].kept}")
                if rest and not stopping:
                    self._begin(number, rest, busy, message, board)

    def _begin(self, number: int, job: Job, busy: dict[int, Job], message: Callable, board: Board) -> None:
        busy[number] = list(job)
        board.begin(number, job[0])
        self.workers[number].send(*message(job[0]))
