"""How a training lies on the devices of a mesh `(data, fsdp)`: its batches, and its state.

A stack of batches `(k, B, ...)`, k steps of one dispatch, is cut along B over all devices. Of the state, parameters,
their average and the optimizer's moments are cut over `fsdp` (fully sharded data parallelism; Rajbhandari et al. 2020
call it ZeRO): an array along its largest axis that `fsdp` divides, the last of equal ones, unless it is small or a rule
says otherwise. Over `data` all are copied. So a device holds 1/fsdp of the state, and in a step

    parameters  ──all-gather over fsdp──▶  loss, gradient of the device's rows  ──reduce over all──▶  its part of the
    gradient  ──▶  its part of moments, parameters, average

Parameters are whole while a step looks at them, so a device computes of its rows what it would without `fsdp`, by the
same operations. Every random number is keyed by the example's global index (`arrays.example_keys`), so a mesh changes
the order in which the gradients of devices are added, and nothing else.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from score_jax.devices import AXES, cut_rows, device_mesh, from_elsewhere
from score_jax.types import InputError, PyTree

Rule: TypeAlias = tuple[str, Sequence[Any]]  # (pattern of a path, axis of the mesh or None for each axis of the array)

# Every array that is cut takes a collective of its own, some microseconds whatever its size; biases, gains and their
# moments are most arrays of a network and less than a hundredth of its numbers. In numbers rather than bytes, so that
# a parameter and its moments are cut alike whatever their dtypes.
MIN_SIZE = 2**14


class Placement(NamedTuple):
    """A mesh, and how a state lies on it.

    Attributes:
      mesh: of `devices.device_mesh`.
      min_size: numbers below which an array stays whole.
      rules: `(pattern, spec)`, of which the first that speaks of an array holds before the rule on size. It speaks of
        those whose path, "params.Dense_0.kernel" or "opt_state.0.mu.Dense_0.kernel", the regular expression matches in
        full and that have at least as many axes as the spec: for each an axis of the mesh, several, or None.
    """

    mesh: Mesh
    min_size: int = MIN_SIZE
    rules: tuple[Rule, ...] = ()


def make_placement(
    data: int = -1,
    fsdp: int = 1,
    *,
    min_size: int = MIN_SIZE,
    rules: Sequence[Rule] = (),
    devices: Sequence[jax.Device] | None = None,
) -> Placement:
    """Returns the placement on a mesh of `data` × `fsdp` devices.

    Args:
      data: of `devices.device_mesh`, as are `fsdp` and `devices`.
      fsdp: over how many devices the state is cut.
      min_size: of `Placement`, as are `rules`.
      rules: their axes may be lists.
      devices: all by default.

    Raises:
      InputError: of sizes that don't make up the devices, and of a rule that is none.
    """
    if min_size < 0:
        raise InputError(f"mesh.min_size is a number of an array's numbers, 0 or more, got {min_size}")
    return Placement(device_mesh(data, fsdp, devices=devices), min_size, tuple(_checked(rule) for rule in rules))


def _checked(rule: Any) -> Rule:
    try:
        if isinstance(rule, str):
            raise ValueError("no pair")
        pattern, spec = rule
        re.compile(pattern)
        axes = tuple(tuple(axis) if isinstance(axis, list) else axis for axis in spec)
        named = [name for axis in axes for name in _names(axis)]
    except (TypeError, ValueError, re.error) as error:
        raise InputError(
            "mesh.rules are pairs of a regular expression and an axis of the mesh or None for each axis of an array, "
            f"such as ('.*kernel', (None, 'fsdp')), got {rule!r}"
        ) from error
    if unknown := [name for name in named if name not in AXES]:
        raise InputError(f"mesh.rules: {pattern!r} names {unknown[0]!r}: the axes of the mesh are {', '.join(AXES)}")
    if len(set(named)) < len(named):
        raise InputError(f"mesh.rules: {pattern!r} cuts an array twice over one axis of the mesh: {spec}")
    return pattern, axes


def _names(axis: Any) -> tuple[str, ...]:
    return () if axis is None else (axis,) if isinstance(axis, str) else tuple(axis)


def shardings(tree: PyTree, placement: Placement) -> PyTree:
    """Returns the sharding of every array of a state, or of part of one, by its path and shape.

    Args:
      tree: arrays, or `jax.ShapeDtypeStruct`s.
      placement: where they are to lie.

    Raises:
      InputError: of a rule that cuts an axis into parts that are not equal.
    """
    of = lambda path, x: NamedSharding(placement.mesh, _spec(placement, _path(path), x.shape))
    return jax.tree_util.tree_map_with_path(of, tree)


def _path(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")


def _spec(placement: Placement, path: str, shape: tuple[int, ...]) -> PartitionSpec:
    for rule in placement.rules:
        if _speaks_of(rule, path, len(shape)):
            _require_equal_parts(placement.mesh, rule, path, shape)
            return PartitionSpec(*rule[1])
    return _spec_by_size(shape, placement)


def _speaks_of(rule: Rule, path: str, ndim: int) -> bool:
    pattern, axes = rule
    return len(axes) <= ndim and re.fullmatch(pattern, path) is not None


def _spec_by_size(shape: tuple[int, ...], placement: Placement) -> PartitionSpec:
    parts = placement.mesh.shape["fsdp"]
    divided = [(size, axis) for axis, size in enumerate(shape) if size % parts == 0]
    if parts == 1 or not divided or np.prod(shape, dtype=np.int64) < placement.min_size:
        return PartitionSpec()
    _, axis = max(divided)
    return PartitionSpec(*[None] * axis, "fsdp")


def _require_equal_parts(mesh: Mesh, rule: Rule, path: str, shape: tuple[int, ...]) -> None:
    pattern, axes = rule
    for place, (axis, size) in enumerate(zip(axes, shape, strict=False)):
        parts = int(np.prod([mesh.shape[name] for name in _names(axis)], dtype=np.int64))
        if size % parts:
            raise InputError(
                f"mesh.rules: {pattern!r} cuts axis {place} of {path} {tuple(shape)} into {parts} parts, which do not "
                f"divide {size}: name another axis, or None, or give a narrower pattern before it"
            )


def require_used(tree: PyTree, placement: Placement) -> None:
    """Raises InputError of a rule that speaks of no array of a state, as one that is misspelt, and as `shardings`."""
    shardings(tree, placement)
    arrays = [(_path(path), len(x.shape)) for path, x in jax.tree_util.tree_leaves_with_path(tree)]
    for rule in placement.rules:
        if not any(_speaks_of(rule, *array) for array in arrays):
            pattern, axes = rule
            raise InputError(
                f"mesh.rules: {pattern!r} matches no array of {len(axes)} axes or more: paths are written "
                f"{max(path for path, _ in arrays if path.startswith('params'))!r}"
            )


def place(state: PyTree, placement: Placement) -> PyTree:
    """Returns a copy of a state on the devices of a placement; donated to a train step it leaves `state` alive."""
    program = jax.jit(_unchanged, out_shardings=shardings(state, placement))
    return program(from_elsewhere(state, placement.mesh))


def _unchanged(tree: PyTree) -> PyTree:
    """One function for all calls, by which JAX finds the program that it has compiled."""
    return tree


def described(state: PyTree, placement: Placement) -> PyTree:
    """Returns shapes, dtypes and shardings of a state on a placement, to restore a checkpoint by."""
    with_sharding = lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
    return jax.tree.map(with_sharding, state, shardings(state, placement))


def put_batches(batches: Mapping[str, Any], mesh: Mesh) -> dict[str, jax.Array]:
    """Puts host arrays `(k, B, ...)` on the mesh, cut along B.

    With several processes each gives its own (`own_rows`), and the result is the global array.

    Raises:
      InputError: where B is not a multiple of the number of devices.
    """
    check_batch_size(batches["x"].shape[1] * jax.process_count(), mesh)
    sharding = cut_rows(mesh, 1)
    return {name: jax.make_array_from_process_local_data(sharding, np.asarray(x)) for name, x in batches.items()}


def own_rows(batch_size: int, mesh: Mesh) -> np.ndarray:
    """Returns which rows of a batch this process gives to its devices, ascending: all, where it is the only one.

    Raises:
      InputError: where the batch is not a multiple of the number of devices.
    """
    check_batch_size(batch_size, mesh)
    cut = cut_rows(mesh).addressable_devices_indices_map((batch_size,))
    return np.unique([np.arange(batch_size)[index] for index in cut.values()])


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
