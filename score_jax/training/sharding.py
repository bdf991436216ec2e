"""How a train step is spread over devices: the batch is cut along one axis, everything else is copied.

All devices form a mesh with a single axis, `data`; one device is a mesh of one, so there is no second code path.
A stack of batches `(k, B, ...)`, k steps of one dispatch, is cut along B. The state is replicated. XLA then inserts
the one reduction over devices that the gradient of a mean over the batch needs. Every random number is keyed by the
example's global index (`arrays.example_keys`), so the mesh changes the order of that reduction and nothing else.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from score_jax.types import InputError, PyTree


def data_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns the mesh of `devices` (default: all) with one axis, `data`."""
    devices = jax.devices() if devices is None else list(devices)
    return jax.make_mesh((len(devices),), ("data",), (AxisType.Auto,), devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of what every device holds whole: the train state and the metrics."""
    return NamedSharding(mesh, PartitionSpec())


def stacked_batches(mesh: Mesh, leading: int = 1) -> NamedSharding:
    """Returns the sharding of `(k, B, ...)`: cut along B, which is after so many axes."""
    return NamedSharding(mesh, PartitionSpec(*[None] * leading, "data"))


def replicate(tree: PyTree, mesh: Mesh) -> PyTree:
    """Puts a copy of every array of `tree` on every device of `mesh`.

    The copies are new buffers: a train step that is donated the result leaves `tree` alive.
    """
    return _replication(mesh)(tree)


@lru_cache(maxsize=8)
def _replication(mesh: Mesh) -> Callable[[PyTree], PyTree]:
    return jax.jit(lambda tree: tree, out_shardings=replicated(mesh))


def put_batches(batches: Mapping[str, Any], mesh: Mesh) -> dict[str, jax.Array]:
    """Puts host arrays `(k, B, ...)` on the mesh, cut along B.

    With several hosts each gives its own rows, and the result is the global array.

    Raises:
      InputError: where B is not a multiple of the number of devices.
    """
    check_batch_size(batches["x"].shape[1] * jax.process_count(), mesh)
    sharding = stacked_batches(mesh)
    return {name: jax.make_array_from_process_local_data(sharding, np.asarray(x)) for name, x in batches.items()}


def check_batch_size(batch_size: int, mesh: Mesh, *, accumulation: int = 1) -> None:
    """Checks that a batch can be cut into equal parts: one for each device and micro-batch.

    Raises:
      InputError: with the nearest sizes that can be used.
    """
    parts = mesh.size * accumulation
    if accumulation < 1:
        raise InputError(f"accumulation must be at least 1 micro-batch, got {accumulation}")
    if batch_size < 1 or batch_size % parts:
        below = max(batch_size // parts, 1) * parts
        nearest = f"{below} or {below + parts}" if batch_size > parts else f"{parts}"
        raise InputError(
            f"batch_size {batch_size} cannot be shared equally by {mesh.size} device(s) × {accumulation} "
            f"micro-batch(es): use a multiple of {parts}, such as {nearest}"
        )
