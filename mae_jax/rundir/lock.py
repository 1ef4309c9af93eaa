"""The lock of a run directory, which one process at a time may hold."""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from mae_jax.runtime.disk import unwritable
from mae_jax.runtime.errors import UserError


@contextlib.contextmanager
def held(workdir: Path, leader: bool = True) -> Iterator[None]:
    """Creates the run directory and locks it against other processes. Only the `leader` of several processes does so.

    Raises UserError where it cannot be written, or where another process holds it.
    """
    if not leader:
        yield
        return
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        file = open(workdir / ".lock", "a+")
    except OSError as error:
        raise unwritable(workdir, error) from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"workdir {workdir} is in use by process {_holder(file)}; wait for it, stop it, or choose another "
                f"--workdir"
            ) from None
        except OSError:
            pass  # a file system without locks
        try:  # past the buffer, which would write again when it is closed
            file.truncate(0)
            os.write(file.fileno(), f"{os.getpid()} on {os.uname().nodename}".encode())
        except OSError as error:
            raise unwritable(workdir, error) from None
        yield
        with contextlib.suppress(OSError):
            file.truncate(0)


def _holder(file: TextIO) -> str:
    """Which process holds a lock. One that has just taken it gets a moment to write so over one that was killed."""
    said = ""
    for _ in range(20):
        file.seek(0)
        said = file.read().strip()
        process, _, machine = said.partition(" on ")
        if said and (machine != os.uname().nodename or _lives(process)):
            break
        time.sleep(0.1)
    return said or "unknown"


def _lives(process: str) -> bool:
    try:
        os.kill(int(process), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:  # another user's
        return True
    return True
