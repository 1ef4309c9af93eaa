"""Several JAX processes: joining them, sharing a batch, and agreeing on a condition."""

import contextlib
import os

import jax
import numpy as np
from jax._src import distributed
from jax.experimental import multihost_utils

from mae_jax.runtime import disk, peers, signals
from mae_jax.runtime.command import say
from mae_jax.runtime.errors import UserError


def start_processes() -> None:
    """Joins the other processes, if the environment says that there are any, and watches them. Raises UserError.

    JAX recognizes Slurm and Open MPI itself; elsewhere set JAX_COORDINATOR_ADDRESS (host:port), JAX_NUM_PROCESSES and
    JAX_PROCESS_ID. `peers.LIMIT` sets how long the processes wait for one another.
    """
    if jax.distributed.is_initialized():
        return
    count = os.environ.get("JAX_NUM_PROCESSES")
    arguments: tuple[str, int, int] | None = None
    if count:
        try:
            arguments = os.environ["JAX_COORDINATOR_ADDRESS"], int(count), int(os.environ["JAX_PROCESS_ID"])
        except KeyError as error:
            raise UserError(f"JAX_NUM_PROCESSES={count} is set, but {error.args[0]} is not") from None
        except ValueError as error:
            raise UserError(f"JAX_NUM_PROCESSES={count} or JAX_PROCESS_ID is not a number: {error}") from None
    elif not peers.expected():
        return
    seconds = peers.limit()
    later = int(seconds) + 60  # JAX has its own limits; it ends processes in words that no user understands
    with signals.interruptible("nothing was changed", hard=True):  # safe here: no process has started to work
        with peers.joining(seconds):
            try:
                jax.distributed.initialize(
                    *(arguments or (None, None, None)), initialization_timeout=later, heartbeat_timeout_seconds=later
                )
            except (RuntimeError, ValueError) as error:
                raise UserError(f"the processes cannot join: {disk.first_line(error)}") from None
            joined = distributed.global_state
            if joined.num_processes > 1:
                host = str(joined.coordinator_address).rpartition(":")[0].strip("[]")
                peers.watch(joined.process_id, joined.num_processes, host, joined.client, seconds)
    signals.take_back()


def local_rows(rows: int) -> slice:
    """The rows of a global batch that this process loads: contiguous blocks, in the order of the processes."""
    share = rows // jax.process_count()
    return slice(jax.process_index() * share, (jax.process_index() + 1) * share)


def any_process(value: bool) -> bool:
    """Whether `value` is true in any process. All processes must call this together."""
    if jax.process_count() == 1:
        return value
    return bool(multihost_utils.process_allgather(np.array(value)).any())


def at_once(what: str, hard: bool = False):
    """`signals.interruptible` in a single process. With several it does nothing: none may leave the others."""
    return signals.interruptible(what, hard) if jax.process_count() == 1 else contextlib.nullcontext()


def note(line: str) -> None:
    """Prints a line in the first process only."""
    if jax.process_index() == 0:
        say(line)
