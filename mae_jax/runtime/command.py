"""How a command ends: one line and an exit code for what a user can fix, a stack trace for our mistakes."""

import errno
import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from mae_jax.runtime import signals
from mae_jax.runtime.disk import disk_line
from mae_jax.runtime.errors import EXIT_STOPPED, EXIT_USER_ERROR, Stopped, UserError, printable
from mae_jax.runtime.progress import close_bars

_LESS = "a larger train.accumulation, a smaller train.batch_size or eval.batch_size, or train.remat=True need less"


def call(command: Callable[..., Any], *args: Any) -> NoReturn:
    """Calls `command` and ends the process with exit code 0, or with the number that it returns.

    A UserError, and a file that cannot be read or written, ends with one line and exit code 2; a signal, with 75
    after everything is saved.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # terminals that do not know every character
    try:
        signals.release()  # if the command held them back during its imports
        sys.exit(command(*args) or 0)
    except UserError as error:
        _end(f"error: {error}", EXIT_USER_ERROR)
    except Stopped as stop:
        _end(str(stop), EXIT_STOPPED)
    except KeyboardInterrupt:
        _end("interrupted; rerun the same command to resume from what is saved", EXIT_STOPPED)
    except OSError as error:
        if not error.errno:
            raise
        if error.errno == errno.EPIPE and error.filename is None:  # the reader of our output is gone: `| head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(EXIT_USER_ERROR)
        _end(f"error: {disk_line(error)}", EXIT_USER_ERROR)
    except RuntimeError as error:
        if not str(error).startswith("RESOURCE_EXHAUSTED"):  # so XLA's errors begin
            raise
        _end(f"error: the device has not enough memory ({str(error).splitlines()[0][:200]}); {_LESS}", EXIT_USER_ERROR)


def call_computing(command: Callable[..., Any]) -> NoReturn:
    """`call` for a command that may fail, or be stopped, while a step is computed.

    When the interpreter exits, it frees arrays that such a step still reads and may crash, which loses the exit code.
    So the process exits without that cleanup. Several processes disconnect first, as jax.distributed does.
    """
    try:
        call(command)
    except SystemExit as end:
        jax = sys.modules.get("jax")
        if not end.code or jax is None or jax.distributed.is_initialized():
            raise
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(end.code)


def out_file(path: Path, option: str) -> Path:
    """`path`, after checking that a file can be written there; makes the folders above it.

    Raises UserError that names `option`.
    """
    special = path.exists() and not path.is_file()
    why = "it is a folder" if path.is_dir() else "it is not a regular file" if special else ""
    if not why:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            new = not path.exists()
            with open(path, "ab"):
                pass
            if new:
                path.unlink()
        except OSError as error:
            why = error.strerror or str(error)
    if why:
        raise UserError(f"{option}={path} cannot be written: {why}; name a file")
    return path


def say(line: str) -> None:
    """Prints a line at once; control characters in it are escaped."""
    print(printable(line), flush=True)


def _end(line: str, code: int) -> NoReturn:
    close_bars()
    print(printable(line, keep=""), file=sys.stderr)
    sys.exit(code)
