"""The exceptions that a user sees as one line without a stack trace, and the exit codes."""

import re
import sys
from types import TracebackType

# Names must not contain control characters, line breaks, or surrogates (bytes that are not UTF-8).
UNUSABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def printable(text: str, keep: str = "\n\t") -> str:
    """`text` with control characters escaped: file names may contain them, and a terminal would obey them."""
    return "".join(c if c.isprintable() or c in keep else ascii(c)[1:-1] for c in text)


class UserError(ValueError):
    """A mistake in a config, a file or a command line.

    The message is one line: it names the field or file, the value, what is allowed and what to do. Line breaks in
    names are escaped.
    """

    def __init__(self, message: str):
        super().__init__(printable(message, keep=""))

    def _render_traceback_(self) -> list[str]:
        """What IPython and Jupyter show instead of a stack trace."""
        return [f"error: {self}"]


class StorageError(UserError):
    """A file could not be written, for example because the disk is full or a permission is missing."""


class Stopped(BaseException):
    """A signal asked the run to stop; its state is saved. The process ends with EXIT_STOPPED.

    Like KeyboardInterrupt, it is not an `Exception`, so that code which handles damaged files does not catch it.
    """

    kept = ""  # what is saved, in words

    def _render_traceback_(self) -> list[str]:
        """What IPython and Jupyter show instead of a stack trace."""
        return [str(self)]


def end_scripts_in_one_line() -> None:
    """Makes a script end as the commands do where it calls `run` and a UserError or Stopped is not caught.

    That is one line and an exit code; other exceptions are shown as before. Notebooks are not affected.
    """
    global _shown_before
    if sys.excepthook is _show_in_one_line:
        return
    _shown_before, sys.excepthook = sys.excepthook, _show_in_one_line


def _show_in_one_line(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if not isinstance(error, UserError | Stopped):
        _shown_before(kind, error, trace)
        return
    print(error if isinstance(error, Stopped) else f"error: {error}", file=sys.stderr, flush=True)
    raise SystemExit(EXIT_STOPPED if isinstance(error, Stopped) else EXIT_USER_ERROR)


_shown_before = sys.excepthook
EXIT_USER_ERROR = 2
EXIT_STOPPED = 75  # EX_TEMPFAIL: rerun the same command to resume
