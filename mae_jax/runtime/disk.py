"""Storage errors as one line: the path, the reason, and what to do about that reason."""

import contextlib
import errno
import os
import re
import resource
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from mae_jax.runtime.errors import StorageError, UserError

# Errors of a single path, such as a missing permission or a folder in place of a file. All other error numbers are
# faults of the storage itself and affect every file on it.
OF_ONE_PATH = frozenset(
    {
        errno.EACCES,
        errno.EEXIST,
        errno.EISDIR,
        errno.ELOOP,
        errno.ENAMETOOLONG,
        errno.ENOENT,
        errno.ENOTDIR,
        errno.EPERM,
    }
)
# Errors of reading or writing an open file, which name no path.
_OF_OPEN_FILES = frozenset(
    {
        errno.EDQUOT,
        errno.EFBIG,
        errno.EIO,
        errno.EMFILE,
        errno.ENFILE,
        errno.ENODEV,
        errno.ENOSPC,
        errno.ENXIO,
        errno.EREMOTEIO,
        errno.EROFS,
        errno.ESTALE,
    }
)
_OF_MOUNTS_OR_CONNECTIONS = frozenset({errno.EHOSTDOWN, errno.ENOTCONN, errno.ETIMEDOUT})
_OF_CONNECTIONS = frozenset(
    {
        errno.EADDRINUSE,
        errno.EADDRNOTAVAIL,
        errno.ECONNABORTED,
        errno.ECONNREFUSED,
        errno.ECONNRESET,
        errno.EHOSTUNREACH,
        errno.ENETDOWN,
        errno.ENETRESET,
        errno.ENETUNREACH,
        errno.EPIPE,
    }
)
_TENSORSTORE = re.compile(r"\[os_error_code='(\d+)'\]")  # tensorstore's messages end like this
_QUOTED = re.compile(r'"(/[^"]*)"')
_REASONS = {os.strerror(number): number for number in errno.errorcode}


def disk_line(error: OSError) -> str:
    """One line for a file that cannot be read or written: path, reason, and what to do about that reason.

    An error without a path need not be one of a file: a process cannot be started, or a port is in use.
    """
    path = path_of(error)
    return f"{path or _subject(error.errno)}: {reason(error, path)}"


def is_of_storage(error: OSError) -> bool:
    """Whether an error has a path, or is typical of reading or writing an open file."""
    return path_of(error) is not None or error.errno in _OF_OPEN_FILES | _OF_MOUNTS_OR_CONNECTIONS


def _subject(number: int | None) -> str:
    """What an error is about if it names no path."""
    if number in _OF_OPEN_FILES:
        return "a file"
    if number in _OF_MOUNTS_OR_CONNECTIONS:
        return "a file or a connection"
    return "a connection" if number in _OF_CONNECTIONS else "the system refuses a request of this process"


def reason(error: OSError, path: Path | None) -> str:
    """The reason of `error`, which occurred at `path`, and advice."""
    text = error.strerror or (os.strerror(error.errno) if error.errno else str(error)) or type(error).__name__
    about, advice = _advice(error.errno, path)
    return text + (f" ({about})" if about else "") + (f"; {advice}, then run the same command again" if advice else "")


def path_of(error: OSError) -> Path | None:
    """The path in an error, if it has one: errors on open files may hold a file descriptor instead."""
    return Path(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes | os.PathLike) else None


def _advice(number: int | None, path: Path | None) -> tuple[str, str]:
    """A detail about the cause, and what to do. Each is "" if nothing useful is known."""
    if path is None and number not in (*_OF_OPEN_FILES, *_OF_MOUNTS_OR_CONNECTIONS, errno.ENOMEM):
        return "", ""
    if number == errno.ENOSPC:
        counted = _file_system(path)
        if counted is not None and counted.f_files and not counted.f_favail:  # some file systems report no inode counts
            return "no free inodes on its disk", "remove files that you no longer need"
        return _free(path), "make room"
    if number == errno.EDQUOT:
        return _free(path), "make room within your quota"
    if number == errno.EFBIG:
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
        if limit != resource.RLIM_INFINITY:
            return f"{_free(path)}, a file may have at most {limit} bytes", "raise that limit (ulimit -f)"
        return _free(path), "choose a file system that takes larger files"
    if number in (errno.EMFILE, errno.ENFILE):
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return f"at most {limit} in this process", "close other programs, or raise that limit (ulimit -n)"
    if number == errno.ENAMETOOLONG:
        return "", "choose a shorter name"
    if number in (errno.ENOENT, errno.ELOOP, errno.EEXIST, errno.ENOTDIR) and (link := _broken_link(path)):
        return f"{'it' if link == path else link} is a broken link", "restore what the link names, or remove the link"
    if number == errno.ENOENT:
        return "", "restore it, or correct the path"
    if number == errno.EROFS:
        return "", "choose another place, or mount the file system with write access"
    if number in (errno.EACCES, errno.EPERM):
        return "", "correct its permissions, or choose another place"
    if number == errno.EISDIR:
        return "a file is needed in its place", "move the folder away"
    if number in (errno.ENOTDIR, errno.EEXIST):
        place = _existing(path)
        name = "it" if place is None or path is None or place == path.absolute() else place
        kind = "a pipe" if place is not None and _is_pipe(place) else "a file"
        return f"{name} is {kind}, and a folder is needed there", f"move {'it' if name == 'it' else 'that'} away"
    if number in (errno.ENXIO, errno.ESPIPE) and path is not None and _is_pipe(path):
        return "it is a pipe", "put a regular file in its place"
    if number == errno.ENOMEM:
        return "", "free memory"
    if number in (errno.EINVAL, errno.ENOTTY, None):
        return "", ""
    return "", "check the disk or the mount"  # EIO, ESTALE, ENOTCONN, ETIMEDOUT and their kind


def _broken_link(path: Path | None) -> Path | None:
    """`path`, or the nearest of its parents, if it is a link to what does not exist or to itself."""
    if path is None:
        return None
    try:
        return next((p for p in (path, *path.parents) if p.is_symlink() and not os.path.exists(p)), None)
    except OSError:
        return None


def _existing(path: Path | None) -> Path | None:
    """`path`, or its nearest parent that exists."""
    if path is None:
        return None
    path = path.absolute()
    return next((p for p in (path, *path.parents) if os.path.exists(p)), None)


def _file_system(path: Path | None) -> os.statvfs_result | None:
    place = _existing(path)
    try:
        return os.statvfs(place) if place else None
    except OSError:
        return None


def _free(path: Path | None) -> str:
    place = _existing(path)
    try:
        return f"{shutil.disk_usage(place).free} bytes free on its disk" if place else ""
    except OSError:
        return ""


def _is_pipe(path: Path) -> bool:
    try:
        return stat.S_ISFIFO(path.stat().st_mode)
    except OSError:
        return False


def os_error(error: BaseException | None) -> OSError | None:
    """The storage error behind `error`: itself, its cause, or one named in its text. None if there is none.

    Tensorstore ends its messages with `[os_error_code='N']`, TensorFlow with the error text of the C library.
    """
    for one in _chain(error):
        if isinstance(one, OSError) and one.errno:
            return one
        text = str(one)
        if code := _TENSORSTORE.search(text):
            number = int(code[1])
            quoted = _QUOTED.findall(text[: code.start()])
            return OSError(number, os.strerror(number), *quoted[-1:])
        if type(one).__module__.startswith("tensorflow"):
            number = _REASONS.get(text.strip().splitlines()[0].rpartition("; ")[2]) if text.strip() else None
            if number:
                return OSError(number, os.strerror(number))
    return None


def failure(error: Exception) -> Exception | None:
    """The error to raise if memory or the storage failed while a file was read, which may be good; None if neither."""
    if isinstance(error, MemoryError):
        return error
    fault = os_error(error)
    return fault if fault is not None and fault.errno not in OF_ONE_PATH else None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def exists(path: str | Path) -> bool:
    """Whether `path` exists. Unlike Path.exists, raises OSError if the storage fails."""
    return _mode(path) is not None


def lexists(path: str | Path) -> bool:
    """Whether `path` exists, if only as a broken link. Unlike os.path.lexists, raises OSError if the storage fails."""
    return _mode(path, follow=False) is not None


def is_file(path: str | Path) -> bool:
    """Whether `path` is a regular file. Unlike Path.is_file, raises OSError if the storage fails."""
    return stat.S_ISREG(_mode(path) or 0)


def is_dir(path: str | Path) -> bool:
    """Whether `path` is a folder. Unlike Path.is_dir, raises OSError if the storage fails."""
    return stat.S_ISDIR(_mode(path) or 0)


def entries(folder: Path) -> list[Path]:
    """What is in `folder`, sorted; nothing if there is no such folder.

    Unlike Path.glob, which skips what it cannot list, raises OSError if the storage fails.
    """
    try:
        with os.scandir(folder) as scan:
            return sorted(folder / entry.name for entry in scan)
    except (FileNotFoundError, NotADirectoryError):
        return []


@contextlib.contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Names `path` in an error of reading or writing an open file, which has no path."""
    try:
        yield
    except OSError as error:
        if error.errno and error.filename is None:
            error.filename = str(path)
        raise


def read_bytes(path: Path) -> bytes:
    """The content of a file. Unlike Path.read_bytes, every OSError that it raises has the path."""
    with naming(path):
        return path.read_bytes()


def read_text(path: Path, encoding: str = "utf-8", errors: str = "strict") -> str:
    """The text of a file. Unlike Path.read_text, every OSError that it raises has the path."""
    with naming(path):
        return path.read_text(encoding=encoding, errors=errors)


def _mode(path: str | Path, follow: bool = True) -> int | None:
    """The type and permissions of `path`; None if nothing can exist there. `follow`: of what a link names."""
    try:
        return (os.stat if follow else os.lstat)(path).st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a null byte or a surrogate in the name
        return None


def not_saved(path: Path, error: OSError) -> StorageError:
    """The error to raise if a checkpoint at `path` cannot be written."""
    return StorageError(f"{path} cannot be written: {reason(error, path)}. Earlier checkpoints are kept")


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or the name of its type."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


def unwritable(workdir: Path, error: OSError) -> UserError:
    """The error to raise if a run directory cannot be created or locked."""
    why = reason(error, workdir)
    other = why.replace("choose another place", "choose another --workdir")
    return UserError(
        f"workdir {workdir} cannot be written: {other if other != why else f'{why}, or choose another --workdir'}"
    )


def readable(size: int) -> str:
    """1536 -> "1.5 KiB"."""
    value, units = float(size), ["B", "KiB", "MiB", "GiB", "TiB"]
    while value >= 1024 and len(units) > 1:
        value, units = value / 1024, units[1:]
    return f"{value:.0f} {units[0]}" if units[0] == "B" else f"{value:.1f} {units[0]}"
