"""Several processes watch one another: a process that is lost ends the others with one line and exit code 2.

JAX by itself ends them with a C++ stack trace, or waits forever in a collective operation. Process 0 holds a TCP
connection to each other process. Both sides send heartbeats; a connection that closes, or is silent for too long,
means that the process is lost.
"""

import contextlib
import ctypes
import os
import secrets
import selectors
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

from mae_jax.runtime.errors import EXIT_STOPPED, EXIT_USER_ERROR, UserError, printable

LIMIT = "MAE_JAX_PEER_TIMEOUT"  # environment variable: seconds
DEFAULT_LIMIT = 300.0  # longer than the pauses of virtual machines and network file systems
_FAILED_AT_MOST = 60.0  # seconds until a process that failed alone ends the others, which may have a message themselves
_COUNTS = ("JAX_NUM_PROCESSES", "SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
_TOKEN_LENGTH = 32

last_step: Callable[[], int | None] | None = None  # the newest saved step of the current run
_watch: "_Watch | None" = None
_missing: list[int] = []  # in process 0, while the others connect


def expected() -> bool:
    """Whether the environment says that this is one of several processes."""
    counts = (os.environ.get(name, "") for name in _COUNTS)
    return any(count.isdigit() and int(count) > 1 for count in counts)


def limit() -> float:
    """Seconds without a heartbeat after which a process counts as lost. Raises UserError if they are not valid."""
    text = os.environ.get(LIMIT, "")
    try:
        seconds = float(text) if text else DEFAULT_LIMIT
    except ValueError:
        seconds = 0.0
    if not 1 <= seconds <= 1e6:
        raise UserError(f"{LIMIT}={text} is not a number of seconds from 1 to 1000000")
    return seconds


@contextlib.contextmanager
def joining(seconds: float) -> Iterator[None]:
    """Ends this process with one line if the processes do not find one another in time."""

    def end() -> None:
        who = f"process {', '.join(map(str, _missing))} has not" if _missing else "not all processes have"
        _end(
            f"{who} joined within {seconds:g} s ({LIMIT}); look at the messages of the other processes, then run the "
            f"same command again"
        )

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def watch(me: int, count: int, host: str, client: Any, seconds: float) -> None:
    """Starts to watch the other processes. All of them must call this together, within `joining`.

    `client` is the key-value store of `jax.distributed`, through which process 0 publishes its port. `host` is the
    machine of process 0.
    """
    global _watch
    key = "mae_jax/peers"
    if me == 0:
        token = secrets.token_hex(_TOKEN_LENGTH // 2)
        with _server() as server:
            client.key_value_set(key, f"{server.getsockname()[1]} {token}")
            connections = _accept(server, token, count)
    else:
        port, token = client.blocking_key_value_get(key, int(seconds * 1000)).split()
        try:
            connection = socket.create_connection((host, int(port)), timeout=seconds)
        except OSError as error:
            raise UserError(f"process 0 on {host} cannot be reached at port {port}: {error}; open the port") from None
        connection.sendall(f"{token} {me}\n".encode())
        connections = {0: connection}
    _watch = _Watch(me, connections, seconds)
    _catch_abort()
    threading.Thread(target=_watch.run, name="peers", daemon=True).start()


def _server() -> socket.socket:
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", 0))


def _accept(server: socket.socket, token: str, count: int) -> dict[int, socket.socket]:
    """The connections of the other processes. Strangers, who do not know the token, are dropped."""
    connections: dict[int, socket.socket] = {}
    while len(connections) < count - 1:
        _missing[:] = [number for number in range(1, count) if number not in connections]
        connection, _ = server.accept()
        connection.settimeout(10)
        with contextlib.suppress(OSError, ValueError):
            hello = b""
            while not hello.endswith(b"\n") and len(hello) < 100 and (more := connection.recv(1)):
                hello += more
            sent, number = hello.decode("ascii").split()
            if secrets.compare_digest(sent, token):
                connections[int(number)] = connection
                continue
        connection.close()
    _missing.clear()
    return connections


@dataclass
class _Peer:
    number: int
    connection: socket.socket
    heard: float  # time.monotonic()
    received: bytes = b""
    closed: bool = False
    exit_code: int | None = None  # of a process that has ended by itself
    ended: float = 0.0  # when
    noted: bool = False  # whether it knows that this process has ended

    @property
    def failed(self) -> bool:
        return self.exit_code not in (None, 0, EXIT_STOPPED)


class _Watch:
    def __init__(self, me: int, connections: dict[int, socket.socket], seconds: float):
        self.me, self.seconds = me, seconds
        self.interval = min(5.0, max(0.1, seconds / 20))
        self.peers = [_Peer(number, connection, time.monotonic()) for number, connection in connections.items()]
        self.lock = threading.Lock()  # of sending
        self.failing = False  # whether this process ends because of an error of its own

    def run(self) -> None:
        selector = selectors.DefaultSelector()
        for peer in self.peers:
            peer.connection.setblocking(False)
            selector.register(peer.connection, selectors.EVENT_READ, peer)
        before = sent = time.monotonic()
        while True:
            ready = selector.select(self.interval)
            now = time.monotonic()
            if now - before > 3 * self.interval + 1:  # this process itself was paused
                for peer in self.peers:
                    peer.heard = now
            before = now
            for key, _ in ready:
                if not self._read(key.data, now):
                    selector.unregister(key.data.connection)
            if now - sent >= self.interval:
                sent = now
                self.send("alive")
            if not self.failing:
                self._judge(now)

    def _read(self, peer: _Peer, now: float) -> bool:
        """Reads what a process has sent. Returns whether its connection is still open."""
        try:
            more = peer.connection.recv(4096)
        except BlockingIOError:
            return True
        except OSError:
            more = b""
        peer.heard = now
        *lines, peer.received = (peer.received + more).split(b"\n")
        for line in lines:
            word, _, rest = line.decode("utf-8", "replace").partition(" ")
            if word == "ended" and rest.isdigit():
                peer.exit_code, peer.ended = int(rest), now
                self.send("noted", [peer])
            elif word == "noted":
                peer.noted = True
            elif word == "lost" and not self.failing:
                _end_run(rest)
        peer.closed = not more
        return not peer.closed

    def _judge(self, now: float) -> None:
        for peer in self.peers:
            if peer.exit_code is None and peer.closed:
                self._lost(peer, "is gone")
            elif peer.exit_code is None and now - peer.heard > self.seconds:
                self._lost(peer, f"has not answered for {self.seconds:g} s ({LIMIT})")
            elif peer.failed and now - peer.ended > min(self.seconds, _FAILED_AT_MOST):
                self.report_failed(peer)

    def report_failed(self, peer: _Peer) -> NoReturn:
        self._lost(peer, f"ended with exit code {peer.exit_code}, see its message")

    def _lost(self, peer: _Peer, how: str) -> NoReturn:
        line = f"process {peer.number} {how}"
        if self.me == 0:  # the others have no connection among themselves
            self.send(f"lost {line}", [other for other in self.peers if other is not peer])
        _end_run(line)

    def send(self, line: str, to: list[_Peer] | None = None) -> None:
        """Sends a line to these processes, by default to all."""
        with self.lock:
            for peer in self.peers if to is None else to:
                with contextlib.suppress(OSError):  # its end is noticed where it is read
                    peer.connection.send(f"{line}\n".encode())


def watching() -> bool:
    """Whether this process is one of several that watch one another."""
    return _watch is not None


def settle() -> None:
    """Called after an exception, which the loss of another process may have caused: JAX raises it in any type.

    If so, this ends the process. Returns once all other processes have sent a heartbeat.
    """
    if _watch is None:
        return
    time.sleep(min(1.0, 2 * _watch.interval))  # a closed connection is noticed meanwhile
    called = time.monotonic()
    while True:
        for peer in _watch.peers:
            if peer.failed:
                _watch.report_failed(peer)
        if all(peer.exit_code is not None or peer.heard > called for peer in _watch.peers):
            return
        time.sleep(0.05)


def ended(code: int) -> None:
    """Tells the other processes that this one ends with an exit code, so that it does not count as lost."""
    if _watch is not None:
        _watch.failing = code not in (0, EXIT_STOPPED)
        _watch.send(f"ended {code}")
        # A connection that closes with unread data is reset, and its other end may lose the line.
        until = time.monotonic() + 2
        while time.monotonic() < until and not all(peer.noted or peer.closed for peer in _watch.peers):
            time.sleep(0.01)


def _end_run(what: str) -> NoReturn:
    """Ends this process because another one is lost."""
    steps: list[int | None] = []

    def read(saved: Callable[[], int | None]) -> None:
        with contextlib.suppress(Exception):
            steps.append(saved())

    if last_step:
        reading = threading.Thread(target=read, args=(last_step,), daemon=True)
        reading.start()
        reading.join(5)  # storage may have failed with the other process
    step = steps[0] if steps else None
    _end(f"{what}; the same command resumes from {f'step {step}' if step else 'what is saved'}")


def _end(line: str) -> NoReturn:
    """Ends the process immediately, as SIGKILL would. Saved files stay complete."""
    with contextlib.suppress(OSError):
        os.write(2, printable(f"error: {line}", keep="").encode("utf-8", "replace") + b"\n")
    os._exit(EXIT_USER_ERROR)


def _catch_abort() -> None:
    """Lets this module end the process where JAX aborts it, as it does when process 0 is lost."""
    ctypes.CDLL(None).signal(int(signal.SIGABRT), _on_abort)


@ctypes.CFUNCTYPE(None, ctypes.c_int)
def _on_abort(number: int) -> None:
    time.sleep(3)  # the watching thread ends the process meanwhile, if another one is lost
    watch = _watch
    for peer in watch.peers if watch else ():
        if watch and peer.failed:
            watch.report_failed(peer)
        if peer.closed:
            _end_run(f"process {peer.number} has ended")
    print("JAX aborted this process; TF_CPP_MIN_LOG_LEVEL=3 shows its reason", file=sys.stderr, flush=True)
