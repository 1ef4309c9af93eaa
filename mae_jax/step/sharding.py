"""The device mesh and the placement of arrays on it.

The mesh has two axes. `data` splits the rows of a batch. `fsdp` splits rows, parameters and optimizer state.
"""

import math

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from mae_jax.runtime.errors import UserError

MIN_SPLIT = 2**12  # elements; smaller arrays are copied to every device


def make_mesh(fsdp: int = 1) -> Mesh:
    """All devices as a mesh (data, fsdp). Raises UserError if `fsdp` does not divide their number."""
    devices = jax.device_count()
    if devices % fsdp:
        raise UserError(f"sharding.fsdp={fsdp} does not divide the {devices} devices; use a divisor of {devices}")
    return jax.make_mesh((devices // fsdp, fsdp), ("data", "fsdp"), axis_types=(AxisType.Auto, AxisType.Auto))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Splits rows over all devices."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def replicated(mesh: Mesh) -> NamedSharding:
    """Copies an array to every device."""
    return NamedSharding(mesh, PartitionSpec())


def split_shape(shape: tuple[int, ...], mesh: Mesh) -> tuple[int, ...]:
    """The shape an array needs to be split over `fsdp`.

    If `fsdp` divides none of its axes, as 5 divides none of ViT-B's, the largest axis is padded to a multiple.
    """
    fsdp = mesh.shape["fsdp"]
    if math.prod(shape) < MIN_SPLIT or any(n % fsdp == 0 for n in shape):
        return shape
    axis = max(range(len(shape)), key=lambda i: shape[i])
    return (*shape[:axis], -(-shape[axis] // fsdp) * fsdp, *shape[axis + 1 :])


def pad_or_crop(tree, shapes):
    """Pads each array with zeros, or crops it, at the end of its axes, to the corresponding shape in `shapes`."""

    def one(leaf, like):
        if leaf.shape == like.shape:
            return leaf
        padding = [(0, max(0, n - m), 0) for m, n in zip(leaf.shape, like.shape, strict=True)]
        leaf = jax.lax.pad(leaf, jax.numpy.zeros((), leaf.dtype), padding)
        return leaf[tuple(map(slice, like.shape))]

    return jax.tree.map(one, tree, shapes)


def parameter_shardings(shapes, mesh: Mesh):
    """Splits the largest axis of each array that `fsdp` divides. Small and indivisible arrays are replicated."""
    fsdp = mesh.shape["fsdp"]

    def place(leaf) -> NamedSharding:
        fitting = [i for i, n in enumerate(leaf.shape) if n % fsdp == 0]
        if fsdp == 1 or leaf.size < MIN_SPLIT or not fitting:
            return replicated(mesh)
        axis = max(fitting, key=lambda i: leaf.shape[i])
        return NamedSharding(mesh, PartitionSpec(*(None,) * axis, "fsdp"))

    return jax.tree.map(place, shapes)


def to_host(leaf: jax.Array | np.ndarray) -> np.ndarray:
    """The whole array on the host. All processes that hold a part of it must call this together."""
    if isinstance(leaf, np.ndarray):
        return leaf
    return np.asarray(leaf if leaf.is_fully_addressable else multihost_utils.process_allgather(leaf, tiled=True))


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Builds global arrays from the rows that each process holds."""
    sharding = batch_sharding(mesh)
    return {k: jax.make_array_from_process_local_data(sharding, v) for k, v in batch.items()}
