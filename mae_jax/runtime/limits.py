"""Limits of the system that a run meets: memory, threads, and scripts that processes import again."""

import multiprocessing
import os
import resource

from mae_jax.runtime.disk import readable
from mae_jax.runtime.errors import UserError

SCRIPT_IMPORTED = 76  # exit code of a worker process whose script starts a run while it is imported
_LEAST = 2 << 30  # bytes of address space with which JAX and its threads start


def leave_imported_script() -> None:
    """Ends a worker process that imports a script which calls `run` without a main guard.

    Worker processes that read images are spawned: each imports the script again, and would start the run again.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):  # only while a spawned process imports it
        os._exit(SCRIPT_IMPORTED)


def no_main_guard() -> UserError:
    """The error to raise in the process whose workers ended so."""
    return UserError(
        "data.workers: this script starts the run again in each process that reads images; put the call under "
        '`if __name__ == "__main__":`, or set data.workers=0'
    )


def refuse_little_memory() -> None:
    """Raises UserError if the address space of this process is too small for JAX, which would abort."""
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY and limit < _LEAST:
        raise UserError(
            f"this process may use {readable(limit)} of address space (ulimit -v), but a run needs at least "
            f"{readable(_LEAST)}; raise that limit"
        )


def no_more_threads() -> str:
    """One line for a thread or process that cannot be started, with the limits that may be the reason."""
    found = []
    for name, option in (("RLIMIT_NPROC", "-u"), ("RLIMIT_AS", "-v")):
        limit = resource.getrlimit(getattr(resource, name))[0]
        if limit != resource.RLIM_INFINITY:
            found.append(f"ulimit {option} is {limit if option == '-u' else limit >> 10}")
    return (
        f"this process cannot start another thread or process ({', '.join(found) or 'no limit is set here'}); "
        f"raise the limit of processes or memory, or lower data.threads and data.workers"
    )
