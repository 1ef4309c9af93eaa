"""How a command ends: one line and an exit code for what a user can fix, a stack trace for a bug in mae_jax."""

import errno
import io
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from mae_jax.runtime import peers, signals
from mae_jax.runtime.disk import disk_line
from mae_jax.runtime.errors import EXIT_STOPPED, EXIT_USER_ERROR, Stopped, UserError, printable
from mae_jax.runtime.progress import close_bars

_LESS = "use a larger train.accumulation, a smaller train.batch_size or eval.batch_size, or train.remat=True"


def call(command: Callable[..., Any], *args: Any) -> NoReturn:
    """Calls `command` and exits with the number that it returns, or 0.

    A UserError, or a file that cannot be read or written, prints one line and exits with 2. A signal exits with 75
    after everything is saved.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # for terminals that lack some characters
    try:
        signals.release()  # in case the command blocked them during its imports
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
        if error.errno == errno.EPIPE and error.filename is None:  # the reader has closed the pipe, as `| head` does
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(EXIT_USER_ERROR)
        _end(f"error: {disk_line(error)}", EXIT_USER_ERROR)
    except RuntimeError as error:
        if not str(error).startswith("RESOURCE_EXHAUSTED"):  # XLA's out-of-memory errors start like this
            raise
        _end(f"error: out of memory on the device ({str(error).splitlines()[0][:200]}); {_LESS}", EXIT_USER_ERROR)


def call_computing(command: Callable[..., Any]) -> NoReturn:
    """`call` for a command that may fail or be stopped during a training step.

    A normal exit frees arrays that a running step still reads. That may crash and lose the exit code, so a process that
    fails or stops exits without this cleanup. With several processes, a stopped one exits normally, so that
    jax.distributed can disconnect; one that fails does not wait for the others, which may wait for it.
    """
    try:
        call(command)
    except SystemExit as end:
        if not isinstance(end.code, int):
            raise
        code = end.code
    except Exception:
        peers.settle()
        if not peers.watching():
            raise
        traceback.print_exc()
        code = 1
    peers.ended(code)
    if not code or "jax" not in sys.modules or (peers.watching() and code == EXIT_STOPPED):
        sys.exit(code)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def quiet_libraries() -> None:
    """Silences the C++ parts of JAX and TensorFlow, which print notes at their start. Call it before their imports."""
    # With several processes also the stack trace with which JAX ends when another process is lost: see `peers`.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "4" if peers.expected() else "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # TensorFlow computes nothing here


def out_file(path: Path, option: str) -> Path:
    """Checks that a file can be written at `path`, creates its parent folders, and returns `path`.

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
    """Prints a line and flushes it. Control characters are escaped."""
    print(printable(line), flush=True)


def _end(line: str, code: int) -> NoReturn:
    close_bars()
    print(printable(line, keep=""), file=sys.stderr)
    sys.exit(code)
