"""Two names for one array: its path in our variables and its name in a source's state dict.

A source lists an `Entry` for every array of a network, and that list is all there is: loading, exporting and the shapes
that either side expects are read off it.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from score_jax.interop.torch_files import Tensor
from score_jax.pickles import printable
from score_jax.types import InputError, PyTree

Tensors: TypeAlias = Mapping[str, Tensor | np.ndarray]  # a state dict


class Entry(NamedTuple):
    """One array.

    Args:
      path: in our variables, such as ("params", "in", "kernel").
      shape: of the array there.
      name: in the source's state dict.
      ours: its axes there, a letter each, such as "HWIO"; "1" is an axis of length one that the source does without.
      theirs: its axes in the source, such as "OIHW".
      part: (i, n) where the source's first axis has n arrays in turn, of which this is number i.
    """

    path: tuple[str, ...]
    shape: tuple[int, ...]
    name: str
    ours: str
    theirs: str
    part: tuple[int, int] = (0, 1)

    @property
    def source_shape(self) -> tuple[int, ...]:
        """The shape in the source."""
        kept = {axis: n for axis, n in zip(self.ours, self.shape, strict=True) if axis != "1"} | {"1": 1}
        first, *rest = (kept[axis] for axis in self.theirs)
        return (first * self.part[1], *rest)


def rearrange(array: np.ndarray, old: str, new: str) -> np.ndarray:
    """Returns the array with its axes `old` in the order `new`, axes "1" dropped or inserted; a view."""
    kept = [axis for axis in old if axis != "1"]
    array = array.reshape([n for n, axis in zip(array.shape, old, strict=True) if axis != "1"])
    array = array.transpose([kept.index(axis) for axis in new if axis != "1"])
    return np.expand_dims(array, [i for i, axis in enumerate(new) if axis == "1"])


def to_variables(entries: Sequence[Entry], tensors: Tensors) -> PyTree:
    """Returns a network's variables, float32, from a source's state dict.

    Raises:
      InputError: for a tensor that is missing, one too many, or one of another shape or kind than the network's.
    """
    _require_names(entries, tensors)
    parts = {e.path: _checked(e, tensors[e.name])[e.part[0] :: e.part[1]] for e in entries}
    flat = {e.path: rearrange(parts[e.path], e.theirs, e.ours) for e in entries}
    # Copies: a view would keep the file mapped and change with it.
    return traverse_util.unflatten_dict({path: jnp.array(array, jnp.float32) for path, array in flat.items()})


def to_tensors(entries: Sequence[Entry], variables: PyTree) -> dict[str, np.ndarray]:
    """Returns a source's state dict from a network's variables.

    Raises:
      InputError: for variables of another network.
    """
    flat = traverse_util.flatten_dict(variables)
    expected = {e.path: e.shape for e in entries}
    if {path: np.shape(leaf) for path, leaf in flat.items()} != expected:
        differing = sorted("/".join(p) for p in flat.keys() | expected if np.shape(flat.get(p)) != expected.get(p))
        raise InputError(
            f"the variables are not this network's: {differing[0]} is missing, unknown or of another shape"
        )
    tensors = {e.name: np.empty(e.source_shape, flat[e.path].dtype) for e in entries}
    for e in entries:
        tensors[e.name][e.part[0] :: e.part[1]] = rearrange(np.asarray(flat[e.path]), e.ours, e.theirs)
    return tensors


# What parallel training, compilation, checkpointed activations and averaging leave in names, and a counter beside them.
_WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"}
_COUNTER = "n_averaged"


def unwrapped(name: str) -> str:
    """Returns a name without the wrappers that training put around the network, or around parts of it."""
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def named(state: Any, what: str) -> dict[str, Tensor | np.ndarray]:
    """Returns a state dict under the network's own names, see `unwrapped`.

    Raises:
      InputError: for anything but a dict of tensors by name.
    """
    if not isinstance(state, dict) or not state:
        raise InputError(f"has no {what}: expected a list with a dict of tensors, or such a dict")
    for name, tensor in state.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor | np.ndarray):
            raise InputError(f"its {what} holds {printable(name)}, which is no tensor")
    short = {unwrapped(name): tensor for name, tensor in state.items()}
    if len(short) < len(state):
        raise InputError(f'its {what} has names both with and without "module." or the like: which are meant?')
    return {name: tensor for name, tensor in short.items() if name != _COUNTER}


def _require_names(entries: Sequence[Entry], tensors: Tensors) -> None:
    expected = {e.name for e in entries}
    for what, names in [("lacks", expected - tensors.keys()), ("has unknown", tensors.keys() - expected)]:
        if names:
            others = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise InputError(f"{what} {printable(min(names))}{others}: not a checkpoint of the network it looks like")


def _checked(entry: Entry, tensor: Tensor | np.ndarray) -> np.ndarray:
    if tuple(tensor.shape) != entry.source_shape:
        raise InputError(f"{entry.name} has shape {tuple(tensor.shape)}, expected {entry.source_shape}")
    array = read_array(entry.name, tensor)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise InputError(f"{entry.name} holds {array.dtype}, expected floating point numbers")
    return array


def read_array(name: str, tensor: Tensor | np.ndarray) -> np.ndarray:
    """Returns the numbers of a tensor; what is wrong with it is reported under its name."""
    try:
        return tensor.array() if isinstance(tensor, Tensor) else tensor
    except InputError as error:
        raise InputError(f"{name}: {error}") from error


def shapes(module: Any, *args: Any) -> dict[tuple[str, ...], tuple[int, ...]]:
    """Returns path and shape of every variable that `module.init(key, *args)` would make, without making them."""
    variables = jax.eval_shape(module.init, jax.random.key(0), *args)
    return {path: leaf.shape for path, leaf in traverse_util.flatten_dict(variables).items()}
