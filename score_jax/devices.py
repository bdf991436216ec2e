"""Devices as a mesh of two axes, `data` and `fsdp`, over both of which the examples of a batch are cut.

    mesh = device_mesh(fsdp=4);    found = gather(f(everywhere(model, mesh), put_rows({"x": x}, mesh)))

One device is the mesh (1, 1), so there is no second code path. The state of a training may be cut over `fsdp` as well
(`training.sharding`). Several processes have one mesh of all their devices: arrays on it are global, and `gather`
brings them to the host of each.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from score_jax.types import InputError, PyTree

AXES = ("data", "fsdp")


def device_mesh(data: int = -1, fsdp: int = 1, *, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns `devices` as a mesh of `data` × `fsdp`.

    Args:
      data: devices along the first axis; −1 takes what the other leaves.
      fsdp: likewise along the second, whose devices are neighbours: they exchange more.
      devices: all of all processes by default.

    Raises:
      InputError: of sizes that don't make up the devices.
    """
    devices = jax.devices() if devices is None else list(devices)
    return jax.make_mesh(_sizes(data, fsdp, len(devices)), AXES, (AxisType.Auto,) * len(AXES), devices=devices)


def _sizes(data: int, fsdp: int, n: int) -> tuple[int, int]:
    if any(size < 1 and size != -1 for size in (data, fsdp)):
        raise InputError(f"mesh.data and mesh.fsdp are numbers of devices, or -1 for what is left, got {data}, {fsdp}")
    if data == fsdp == -1:
        raise InputError("mesh.data and mesh.fsdp are both -1, what the other leaves: give a number for one of them")
    given = max(data, fsdp) if -1 in (data, fsdp) else data * fsdp
    if n % given or (-1 not in (data, fsdp) and n != given):
        fitting = ", ".join(str(size) for size in range(1, n + 1) if n % size == 0)
        raise InputError(
            f"a mesh of mesh.data={data} × mesh.fsdp={fsdp} cannot be made of {n} device(s): give mesh.data=-1 and "
            f"mesh.fsdp one of {fitting}"
        )
    return (n // fsdp if data == -1 else data), (n // data if fsdp == -1 else fsdp)


def sizes(mesh: Mesh) -> dict[str, int]:
    """Returns the number of devices along each axis, for what is written about a run."""
    return {name: int(mesh.shape[name]) for name in AXES}


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of what every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def cut_rows(mesh: Mesh, leading: int = 0) -> NamedSharding:
    """Returns the sharding of `(..., B, *S)` cut along B, which is after so many axes, over all devices."""
    return NamedSharding(mesh, PartitionSpec(*[None] * leading, AXES))


def replicate(tree: PyTree, mesh: Mesh) -> PyTree:
    """Puts a copy of every array of `tree` on every device of `mesh`.

    The copies are new buffers: a program that is donated the result leaves `tree` alive.
    """
    return _copying(replicated(mesh))(from_elsewhere(tree, mesh))


def from_elsewhere(tree: PyTree, mesh: Mesh) -> PyTree:
    """Brings arrays that lie on other devices to those of the mesh: a program takes them from nowhere else."""
    own = set(mesh.devices.flat)
    away = lambda x: isinstance(x, jax.Array) and x.committed and x.sharding.device_set != own
    return jax.tree.map(lambda x: jax.device_put(x, replicated(mesh)) if away(x) else x, tree)


@lru_cache(maxsize=32)
def _copying(sharding: NamedSharding) -> Callable[[PyTree], PyTree]:
    """A program, for `jax.device_put` puts no keys on the devices of other processes."""
    return jax.jit(lambda tree: tree, out_shardings=sharding)


def everywhere(tree: PyTree, mesh: Mesh) -> PyTree:
    """Returns a tree that every device holds whole, whatever parts of it lie where: parameters, to be looked at often.

    What lies so already is not copied.
    """
    leaves, structure = jax.tree.flatten(tree)
    lying = [isinstance(x, jax.Array) and x.sharding.is_equivalent_to(replicated(mesh), x.ndim) for x in leaves]
    moved = iter(replicate([x for x, there in zip(leaves, lying, strict=True) if not there], mesh))
    return jax.tree.unflatten(structure, [x if there else next(moved) for x, there in zip(leaves, lying, strict=True)])


def gather(tree: PyTree) -> PyTree:
    """Returns the arrays of a tree, wherever their parts lie, whole and as numpy, in every process.

    With several processes it is a collective: each has to call it, for the same arrays in the same order. What a
    process has to itself, numpy's arrays among them, comes back as it is.
    """
    return jax.tree.map(_gathered, tree)


def _gathered(x: Any) -> np.ndarray:
    if isinstance(x, jax.Array) and not (x.is_fully_addressable or x.is_fully_replicated):
        return np.asarray(multihost_utils.process_allgather(x, tiled=True))
    return np.asarray(x)


def shared_size(n: int, mesh: Mesh) -> int:
    """Returns the least number of rows from n on of which every device has as many."""
    return -(-n // mesh.size) * mesh.size


def put_rows(rows: Mapping[str, Any], mesh: Mesh) -> dict[str, Any]:
    """Puts arrays `(B, ...)`, the same in every process, on the mesh: cut along B, or whole where B can't be cut."""
    put = lambda x: _copying(_for_rows(len(x), mesh))(from_elsewhere(x, mesh))
    return {name: None if x is None else put(x) for name, x in rows.items()}


def _for_rows(n: int, mesh: Mesh) -> NamedSharding:
    return replicated(mesh) if n % mesh.size else cut_rows(mesh)
