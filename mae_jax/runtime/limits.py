"""Limits of the system that a run meets: memory, threads, and scripts that processes import again."""

import contextlib
import multiprocessing
import os
import re
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

from mae_jax.runtime.disk import exists, readable
from mae_jax.runtime.errors import UserError
from mae_jax.runtime.text import count

SCRIPT_IMPORTED = 76  # exit code of a worker process whose script starts a run while it is imported
_LEAST = 2 << 30  # bytes of address space with which JAX and its threads start
# Threads of a run with data.threads=8. On 2 cores a run finishes with 57 and aborts with 49; JAX and BLAS start 3 for
# each further core, and thread pools of Python one.
_THREADS, _THREADS_PER_CORE = 48, 4
_EXEMPTING = 1 << 21 | 1 << 24  # CAP_SYS_ADMIN and CAP_SYS_RESOURCE


def leave_imported_script() -> None:
    """Ends a worker process that imports a script which calls `run` or `prepare` without a main guard.

    Worker processes that read images or cut slides are spawned: each imports the script again, and would start it all
    again.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):  # only while a spawned process imports it
        os._exit(SCRIPT_IMPORTED)


@contextlib.contextmanager
def without_missing_script() -> Iterator[None]:
    """Lets processes be spawned from a script on standard input, as in `python - <<EOF`.

    Python names it the file "<stdin>", which the processes would try to import. What they compute is in mae_jax.
    """
    main = sys.modules["__main__"]
    file = getattr(main, "__file__", None)
    if file is None or exists(file):
        yield
        return
    del main.__file__
    try:
        yield
    finally:
        main.__file__ = file


def no_main_guard(field: str, start: str, alone: int) -> UserError:
    """The error to raise in the process whose workers ended so.

    `field` sets their number, `start` says what each of them starts again, and with `alone` there are none.
    """
    return UserError(
        f'{field}: this script {start}; put the call under `if __name__ == "__main__":`, or set {field}={alone}'
    )


def refuse_little_memory() -> None:
    """Raises UserError if the address space of this process is too small for JAX, which would abort."""
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY and limit < _LEAST:
        raise UserError(
            f"this process may use {readable(limit)} of address space (ulimit -v), but a run needs at least "
            f"{readable(_LEAST)}; raise that limit"
        )


def refuse_few_threads() -> None:
    """Raises UserError if the user may start too few processes and threads for a run, in which JAX would abort."""
    limit = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    if limit == resource.RLIM_INFINITY or _is_exempt():
        return
    cores = len(os.sched_getaffinity(0))
    needed, running = _THREADS + _THREADS_PER_CORE * cores, _threads_of_user()
    available = max(0, limit - running)
    if available < needed:
        raise UserError(
            f"you may have {limit} processes and threads (ulimit -u), and other programs of yours use {running}, but a "
            f"run needs {needed} on {count(cores, 'core')}; raise that limit or end other programs"
        )


def _is_exempt() -> bool:
    """Whether the limit on processes is not enforced: for root, and with certain capabilities."""
    if os.getuid() == 0:
        return True
    capabilities = re.search(r"^CapEff:\s*(\w+)", Path("/proc/self/status").read_text(), re.M)
    return capabilities is not None and bool(int(capabilities[1], 16) & _EXEMPTING)


def _threads_of_user() -> int:
    """The number of threads of this user's other processes."""
    total = 0
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # the process has just ended
            status = (place / "status").read_text(errors="replace")
            user = re.search(r"^Uid:\s*(\d+)", status, re.M)
            threads = re.search(r"^Threads:\s*(\d+)", status, re.M)
            if user and threads and int(user[1]) == os.getuid() and place.name != str(os.getpid()):
                total += int(threads[1])
    return total


def no_more_threads() -> str:
    """One line for a thread or process that cannot be started, with the limits that may be the reason."""
    limits = []
    for name, option in (("RLIMIT_NPROC", "-u"), ("RLIMIT_AS", "-v")):
        limit = resource.getrlimit(getattr(resource, name))[0]
        if limit != resource.RLIM_INFINITY:
            limits.append(f"ulimit {option} is {limit if option == '-u' else limit >> 10}")
    return (
        f"this process cannot start another thread or process ({', '.join(limits) or 'no limit is set here'}); "
        f"raise the limit of processes or memory, or lower data.threads and data.workers"
    )
