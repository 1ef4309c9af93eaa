"""How a command ends: one line and an exit code for what a user can fix, a stack trace for a bug in mae_jax."""

import contextlib
import errno
import io
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from mae_jax.runtime import limits, peers, signals
from mae_jax.runtime.disk import disk_line, entries, exists, is_dir, is_file
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
    _fill_closed_streams()
    try:
        signals.release()  # in case the command blocked them during its imports
        code = _code_of(command, *args)
        if sys.stdout is not None:
            sys.stdout.flush()  # fails here rather than at exit, where Python would replace the exit code
        sys.exit(code)
    except UserError as error:
        _end(f"error: {error}", EXIT_USER_ERROR)
    except Stopped as stop:
        _end(str(stop), EXIT_STOPPED)
    except KeyboardInterrupt:
        _end("interrupted; rerun the same command to resume from what is saved", EXIT_STOPPED)
    except OSError as error:
        if not error.errno:
            raise
        if (
            error.errno == errno.EPIPE and error.filename is None and sys.stdout
        ):  # the reader has closed the pipe, as `| head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(EXIT_USER_ERROR)
        if error.filename is None and _full(sys.stdout, "\n"):
            _end(f"error: the output of this command cannot be written: {error.strerror}", EXIT_USER_ERROR)
        if error.errno == errno.EAGAIN and error.filename is None:  # of fork
            _end(f"error: {limits.no_more_threads()}", EXIT_USER_ERROR)
        _end(f"error: {disk_line(error)}", EXIT_USER_ERROR)
    except MemoryError as error:
        detail = f" ({error})" if str(error) else ""
        _end(f"error: out of memory{detail}; {_LESS}", EXIT_USER_ERROR)
    except RuntimeError as error:
        if str(error) == "can't start new thread":
            _end(f"error: {limits.no_more_threads()}", EXIT_USER_ERROR)
        if not str(error).startswith("RESOURCE_EXHAUSTED"):  # XLA's out-of-memory errors start like this
            raise
        _end(f"error: out of memory on the device ({str(error).splitlines()[0][:200]}); {_LESS}", EXIT_USER_ERROR)


def _code_of(command: Callable[..., Any], *args: Any) -> Any:
    """What `command` returns or exits with; argparse exits with 0 after --help."""
    try:
        return command(*args) or 0
    except SystemExit as end:
        return end.code or 0


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
    for stream in (sys.stdout, sys.stderr):
        _full(stream)
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
    special = exists(path) and not is_file(path)
    why = "it is a folder" if is_dir(path) else "it is not a regular file" if special else ""
    if not why:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            new = not exists(path)
            with open(path, "ab"):
                pass
            if new:
                path.unlink()
        except OSError as error:
            why = error.strerror or str(error)
    if why:
        raise UserError(f"{option}={path} cannot be written: {why}; name a file")
    return path


def refuse_filled(folder: Path, option: str) -> None:
    """Raises UserError that names `option` if something is at `folder`, other than an empty folder."""
    if exists(folder) and (not is_dir(folder) or entries(folder)):
        raise UserError(f"{option}={folder} exists and is not empty; choose another")


def refuse_old_file(path: Path, option: str, ending: str) -> None:
    """Raises UserError that names `option` if something is at `path`, or it has another ending, such as .onnx."""
    if path.suffix.lower() != ending or exists(path):
        why = "exists" if exists(path) else "is not allowed"
        raise UserError(f"{option}={path} {why}; name a new file ending in {ending}")


def say(line: str) -> None:
    """Prints a line and flushes it. Control characters are escaped."""
    print(printable(line), flush=True)


def _end(line: str, code: int) -> NoReturn:
    close_bars()
    with contextlib.suppress(OSError, ValueError):  # nobody reads it, or its disk is full
        print(printable(line, keep=""), file=sys.stderr)
    for stream in (sys.stdout, sys.stderr):
        _full(stream)
    sys.exit(code)


def _fill_closed_streams() -> None:
    """Opens /dev/null for standard streams that are closed: the next file would take their place, and their text."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free


def _full(stream: io.TextIOBase | Any, text: str = "") -> bool:
    """Whether a stream cannot take `text` and what it holds. If so, both are dropped, so that the exit code is kept."""
    if stream is None:
        return False
    try:
        stream.write(text)
        stream.flush()
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return True
    return False
