"""The one exception that is shown to a user as a single line, without a stack trace."""

import re

# Control characters, line ends, and what stands for bytes that are no UTF-8: no name of ours has them.
UNUSABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def printable(text: str, keep: str = "\n\t") -> str:
    """`text` in which nothing commands a terminal: control characters, which a file name may hold, are escaped."""
    return "".join(c if c.isprintable() or c in keep else ascii(c)[1:-1] for c in text)


class UserError(ValueError):
    """A mistake in a config, a file or a command line.

    The message is one line: it names the field or file, the value, what is allowed and what to do. It stays one
    where a name in it holds line ends: these are escaped.
    """

    def __init__(self, message: str):
        super().__init__(printable(message, keep=""))


class StorageError(UserError):
    """A file could not be written: the disk is full, a limit or a right is in the way."""


class Stopped(BaseException):
    """A signal asked the run to stop; its state is saved. The process ends with EXIT_STOPPED.

    No `Exception`, like KeyboardInterrupt: what catches those would take it for a damaged file.
    """


EXIT_USER_ERROR = 2
EXIT_STOPPED = 75  # EX_TEMPFAIL: start the same command again
