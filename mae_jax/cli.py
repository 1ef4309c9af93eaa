"""How a command ends: one line and an exit code for what a user can mend, a stack trace for our mistakes."""

import errno
import io
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from mae_jax.errors import EXIT_STOPPED, EXIT_USER_ERROR, Stopped, UserError, printable

_DISK = {getattr(errno, name): name for name in "ENOSPC EDQUOT EFBIG EROFS EACCES EPERM EIO ENAMETOOLONG".split()}
_LESS = "a larger train.accumulation, a smaller train.batch_size or eval.batch_size, or train.remat=True need less"


def call(command: Callable[..., Any], *args: Any) -> NoReturn:
    """Calls `command` and ends the process: 0, or the number that it returns.

    A UserError, and a file that cannot be read or written, ends with one line and exit code 2; a signal after
    which all is saved, with 75.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # terminals that do not know every character
    try:
        sys.exit(command(*args) or 0)
    except UserError as error:
        _end(f"error: {error}", EXIT_USER_ERROR)
    except Stopped as stop:
        _end(str(stop), EXIT_STOPPED)
    except KeyboardInterrupt:
        _end("interrupted; the same command goes on from what is saved", EXIT_STOPPED)
    except BrokenPipeError:  # the reader of our output has gone, as with `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_USER_ERROR)
    except OSError as error:
        if error.errno not in _DISK:
            raise
        _end(f"error: {_disk_line(error)}", EXIT_USER_ERROR)
    except RuntimeError as error:
        if not str(error).startswith("RESOURCE_EXHAUSTED"):  # so XLA's errors begin
            raise
        _end(f"error: the device has not enough memory ({str(error).splitlines()[0][:200]}); {_LESS}", EXIT_USER_ERROR)


def say(line: str) -> None:
    """Prints a line at once; names in it command no terminal."""
    print(printable(line), flush=True)


def _end(line: str, code: int) -> NoReturn:
    print(printable(line, keep=""), file=sys.stderr)
    sys.exit(code)


def _disk_line(error: OSError) -> str:
    """Path, reason, and free bytes where room is what is missing."""
    line = f"{error.filename or 'a file'}: {error.strerror}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        at = Path(error.filename or ".").absolute()
        free = shutil.disk_usage(next(p for p in (at, *at.parents) if p.exists())).free
        line += f" ({free} bytes free on its disk); make room, then start the same command again"
    return line
