"""The lock of a run directory: only one process at a time may use it."""

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from mae_jax.runtime.disk import exists, is_dir, naming, unwritable
from mae_jax.runtime.errors import UserError

FILE = ".lock"
NO_LOCKS = frozenset({errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOLCK})  # the file system has no locks


@contextlib.contextmanager
def held(workdir: Path, leader: bool = True) -> Iterator[None]:
    """Creates the run directory and locks it inside the context. Of several processes only the `leader` does so.

    Raises UserError if the directory cannot be written, or if another process holds the lock.
    """
    if not leader:
        yield
        return
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        file = open(workdir / FILE, "a+", encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise unwritable(workdir, error) from None
    with file:
        try:
            _lock(file)
        except BlockingIOError:
            raise UserError(
                f"workdir {workdir} is in use by process {_holder(file)}; wait for it, stop it, or choose another "
                f"--workdir"
            ) from None
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise unwritable(workdir, error) from None
        try:  # unbuffered, because closing a failed buffer would write again
            file.truncate(0)
            os.write(file.fileno(), f"{os.getpid()} on {os.uname().nodename}".encode())
        except OSError as error:
            raise unwritable(workdir, error) from None
        yield
        with contextlib.suppress(OSError):
            file.truncate(0)


def _lock(file: TextIO) -> None:
    """Locks a file. Raises BlockingIOError if it is in use, and OSError.

    Tries again after a moment, because `is_held` of another process has the lock while it asks for it.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        time.sleep(0.1)
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def refuse_unusable(workdir: Path) -> None:
    """Raises UserError if the run directory cannot be created or written. Creates nothing; `held` decides."""
    place = workdir
    while not exists(place) and place != place.parent:
        place = place.parent
    number = 0
    if not is_dir(place):
        number = errno.EEXIST if place == workdir else errno.ENOTDIR
    elif not os.access(place, os.W_OK | os.X_OK):
        number = errno.EACCES
    if number:
        raise unwritable(workdir, OSError(number, os.strerror(number), str(workdir)))


def is_held(workdir: Path) -> bool:
    """Whether a process uses the run directory; False where the file system has no locks. Raises OSError."""
    try:
        with naming(workdir / FILE), open(workdir / FILE, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    return False


def _holder(file: TextIO) -> str:
    """The process that holds the lock. Waits a moment, because a new holder may not have written its name yet."""
    holder = ""
    for _ in range(20):
        file.seek(0)
        with naming(file.name):
            holder = file.read().strip()
        process, _, machine = holder.partition(" on ")
        if holder and (machine != os.uname().nodename or _lives(process)):
            break
        time.sleep(0.1)
    return holder or "unknown"


def _lives(process: str) -> bool:
    try:
        os.kill(int(process), 0)
    except (ValueError, OverflowError, ProcessLookupError):
        return False
    except PermissionError:  # a process of another user
        return True
    return True
