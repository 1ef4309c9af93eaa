"""The one exception that is shown to a user as a single line, without a stack trace."""

import re

# Control characters, line ends, and surrogates for bytes that are not UTF-8: names must not contain them.
UNUSABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def printable(text: str, keep: str = "\n\t") -> str:
    """`text` with control characters escaped, which a file name may contain and a terminal would obey."""
    return "".join(c if c.isprintable() or c in keep else ascii(c)[1:-1] for c in text)


class UserError(ValueError):
    """A mistake in a config, a file or a command line.

    The message is one line: it names the field or file, the value, what is allowed and what to do. Line ends in a
    name are escaped.
    """

    def __init__(self, message: str):
        super().__init__(printable(message, keep=""))

    def _render_traceback_(self) -> list[str]:
        """What IPython and Jupyter show in place of a stack trace."""
        return [f"error: {self}"]


class StorageError(UserError):
    """A file could not be written: the disk is full, or a limit or permission prevents it."""


class Stopped(BaseException):
    """A signal asked the run to stop; its state is saved. The process ends with EXIT_STOPPED.

    Like KeyboardInterrupt it is not an `Exception`: code that catches those would treat it as a damaged file.
    """

    def _render_traceback_(self) -> list[str]:
        """What IPython and Jupyter show in place of a stack trace."""
        return [str(self)]


EXIT_USER_ERROR = 2
EXIT_STOPPED = 75  # EX_TEMPFAIL: start the same command again
