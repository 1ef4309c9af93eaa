"""The one exception that is shown to a user as a single line, without a stack trace."""


class UserError(ValueError):
    """A mistake in a config, a file or a command line.

    The message is one line: it names the field or file, the value, what is allowed and what to do.
    """


class StorageError(UserError):
    """A file could not be written: the disk is full, a limit or a right is in the way."""


class Stopped(Exception):
    """A signal asked the run to stop; its state is saved. The process ends with EXIT_STOPPED."""


EXIT_USER_ERROR = 2
EXIT_STOPPED = 75  # EX_TEMPFAIL: start the same command again
