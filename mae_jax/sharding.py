"""The device mesh and where arrays lie on it; the start of several processes.

Axes: `data` (each device its own rows of the batch) and `fsdp` (rows too, and parameters and
optimiser state split as well).
"""

import math
import os

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from mae_jax import signals
from mae_jax.errors import UserError

MIN_SPLIT = 2**12  # elements; smaller arrays are copied to every device


def start_processes() -> None:
    """Joins the other processes, where the environment says that there are some.

    Slurm and Open MPI are recognised by JAX itself; elsewhere set JAX_COORDINATOR_ADDRESS (host:port),
    JAX_NUM_PROCESSES and JAX_PROCESS_ID.
    """
    if jax.distributed.is_initialized():
        return
    count, arguments = os.environ.get("JAX_NUM_PROCESSES"), ()
    if count:
        try:
            arguments = os.environ["JAX_COORDINATOR_ADDRESS"], int(count), int(os.environ["JAX_PROCESS_ID"])
        except KeyError as error:
            raise UserError(f"JAX_NUM_PROCESSES={count} is set, but {error.args[0]} is not") from None
        except ValueError as error:
            raise UserError(f"JAX_NUM_PROCESSES={count} or JAX_PROCESS_ID is no number: {error}") from None
    elif all(int(os.environ.get(name, 1)) < 2 for name in ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")):
        return
    with signals.ends("nothing was changed", hard=True):  # though there are several: none has begun
        jax.distributed.initialize(*arguments)
    signals.take_back()


def make_mesh(fsdp: int = 1) -> Mesh:
    """All devices as a grid of (data, fsdp)."""
    devices = jax.device_count()
    if devices % fsdp:
        raise UserError(f"sharding.fsdp={fsdp} does not divide the {devices} devices")
    return jax.make_mesh((devices // fsdp, fsdp), ("data", "fsdp"), axis_types=(AxisType.Auto, AxisType.Auto))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows over all devices."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def replicated(mesh: Mesh) -> NamedSharding:
    """The same on every device."""
    return NamedSharding(mesh, PartitionSpec())


def split_shape(shape: tuple[int, ...], mesh: Mesh) -> tuple[int, ...]:
    """The shape in which an array is split over `fsdp`.

    Where `fsdp` divides none of its axes, as 5 divides none of ViT-B's, the largest is made up to a multiple.
    """
    fsdp = mesh.shape["fsdp"]
    if math.prod(shape) < MIN_SPLIT or any(n % fsdp == 0 for n in shape):
        return shape
    axis = max(range(len(shape)), key=lambda i: shape[i])
    return (*shape[:axis], -(-shape[axis] // fsdp) * fsdp, *shape[axis + 1 :])


def fit(tree, shapes):
    """Each array with the shape of its place in `shapes`: zeros are added at the end of an axis, or cut off."""

    def one(leaf, like):
        if leaf.shape == like.shape:
            return leaf
        added = [(0, max(0, n - m), 0) for m, n in zip(leaf.shape, like.shape, strict=True)]
        leaf = jax.lax.pad(leaf, jax.numpy.zeros((), leaf.dtype), added)
        return leaf[tuple(map(slice, like.shape))]

    return jax.tree.map(one, tree, shapes)


def parameter_shardings(shapes, mesh: Mesh):
    """For each array, a split of its largest axis that `fsdp` divides; others and small ones are copied."""
    fsdp = mesh.shape["fsdp"]

    def place(leaf) -> NamedSharding:
        fitting = [i for i, n in enumerate(leaf.shape) if n % fsdp == 0]
        if fsdp == 1 or leaf.size < MIN_SPLIT or not fitting:
            return replicated(mesh)
        axis = max(fitting, key=lambda i: leaf.shape[i])
        return NamedSharding(mesh, PartitionSpec(*(None,) * axis, "fsdp"))

    return jax.tree.map(place, shapes)


def local_rows(rows: int) -> slice:
    """The rows of a global batch that this process loads; contiguous, in the order of processes."""
    share = rows // jax.process_count()
    return slice(jax.process_index() * share, (jax.process_index() + 1) * share)


def any_process(value: bool) -> bool:
    """Whether `value` is true in any process; all of them must call it together."""
    if jax.process_count() == 1:
        return value
    return bool(multihost_utils.process_allgather(np.array(value)).any())


def to_host(leaf: jax.Array) -> np.ndarray:
    """The whole array; all processes that hold a part of it must call together."""
    return np.asarray(leaf if leaf.is_fully_addressable else multihost_utils.process_allgather(leaf, tiled=True))


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Makes global arrays from each process's own rows."""
    sharding = batch_sharding(mesh)
    return {k: jax.make_array_from_process_local_data(sharding, v) for k, v in batch.items()}
