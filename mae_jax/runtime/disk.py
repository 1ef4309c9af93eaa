"""What went wrong with a disk, in one line: path, reason, free bytes, and what to do."""

import errno
import resource
import shutil
from pathlib import Path

from mae_jax.runtime.errors import StorageError, UserError


def disk_line(error: OSError) -> str:
    """Path and reason of a file that cannot be read or written, and free bytes where room is what is missing."""
    line = f"{error.filename or 'a file'}: {error.strerror or error}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        if error.filename:
            at = Path(error.filename).absolute()
            free = shutil.disk_usage(next(p for p in (at, *at.parents) if p.exists())).free
            line += f" ({free} bytes free on its disk)"
        line += "; make room, then start the same command again"
    return line


_DISK = {
    getattr(errno, name): name
    for name in (
        "ENOSPC EDQUOT EFBIG EROFS EACCES EPERM EIO ENAMETOOLONG EISDIR ENOTDIR EEXIST ENOENT ELOOP ESTALE".split()
    )
}


def cannot_write(error: BaseException | None) -> bool:
    """Whether `error`, or what it came from, says that a file could not be written for want of room or rights."""
    words = ("no space left", "file too large", "disk quota", "read-only file system", "permission denied")
    while error is not None:
        if isinstance(error, OSError) or any(word in str(error).lower() for word in words):
            return True
        error = error.__cause__ or error.__context__
    return False


def storage_error(path: Path, error: BaseException) -> StorageError:
    """One line on a file that could not be written: path, reason, free bytes."""
    existing = next(p for p in (path, *path.parents) if p.exists())
    free = shutil.disk_usage(existing).free
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    limits = "" if limit == resource.RLIM_INFINITY else f", a file may have at most {limit} bytes"
    reason = error.strerror if isinstance(error, OSError) and error.strerror else _first_line(error)
    return StorageError(
        f"{path} cannot be written: {reason} ({free} bytes free on its disk{limits}); the checkpoints before it "
        f"are kept: make room, then start the same command again"
    )


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


def _unwritable(workdir: Path, error: OSError) -> UserError:
    advice = (
        "choose another" if isinstance(error, FileExistsError | NotADirectoryError) else "make room, or choose another"
    )
    free = ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        place = next(p for p in (workdir, *workdir.parents) if p.exists())
        free = f" ({shutil.disk_usage(place).free} bytes free on its disk)"
    return UserError(f"workdir {workdir} cannot be written: {error.strerror}{free}; {advice}")
