"""Networks of any library as one kind of function: `apply(variables, x, cond, label, key) -> F`.

A `Network` is the static half of a network, its arrays being the other half, `variables`:

    linen(module)            a Flax Linen module `(x, cond, label, *, train)`
    nnx(module)              a Flax NNX module `(x, cond[, label])`
    plain(function, init)    a function of parameters: everything else, Equinox included
    uncertain(network)       one of these, and how uncertain it is at each noise level

Each is a frozen dataclass, equal to another made of equal parts, so that a jitted function of a `ScoreModel` is not
traced again for a network that was rebuilt. `variables` are nested dicts of arrays: "params", and collections that
training leaves fixed. Rows never see each other, and with a key each draws from its own.
"""

import sys
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from inspect import signature
from typing import TYPE_CHECKING, Any, TypeAlias

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

from score_jax import networks
from score_jax.types import Array, InputError, Key, Network, PyTree

if TYPE_CHECKING:  # deferred: a fifth of a second of every command's start
    from flax import nnx as flax_nnx

_Path: TypeAlias = tuple[Hashable, ...]  # of an array in an NNX module: names of attributes, and places in lists


@dataclass(frozen=True)
class Linen:
    """A Flax Linen module `(x (B, *S), cond (B,), label, *, train) -> F`; the key is its rng "dropout"."""

    module: nn.Module

    def __call__(self, variables: PyTree, x: Array, cond: Array, label: Array | None, key: Key | None) -> Array:
        """Returns F; keys `(B,)` turn on `train`."""
        apply: Callable[..., Any] = self.module.apply  # F alone, since nothing is mutable
        if key is None:
            return apply(variables, x, cond, label, train=False)

        def one(key, x, cond, label):
            return apply(variables, x, cond, label, train=True, rngs={"dropout": key})

        return _by_row(one, key, x, cond, label)

    def init(self, key: Key, x: Array, cond: Array, label: Array | None) -> PyTree:
        """Returns the module's variables, drawn from `key`."""
        return self.module.init(key, x, cond, label)


@dataclass(frozen=True)
class NNX:
    """A Flax NNX module taken apart: see `nnx`."""

    graphdef: "flax_nnx.GraphDef[Any]"
    keys: Mapping[_Path, tuple[int, ...]] = field(hash=False)  # shapes of the keys of random streams
    counts: Mapping[_Path, tuple[int, ...]] = field(hash=False)  # of the numbers of draws from them
    values: Mapping[str, Mapping[_Path, Array]] = field(compare=False, repr=False)  # collection -> where -> array

    def __call__(self, variables: PyTree, x: Array, cond: Array, label: Array | None, key: Key | None) -> Array:
        """Returns F, of the module in eval mode, or with keys `(B,)` in train mode."""
        if key is None:
            return _called(self._module(variables, jax.random.key(0), train=False), x, cond, label)

        def one(key, x, cond, label):
            return _called(self._module(variables, key, train=True), x, cond, label)

        return _by_row(one, key, x, cond, label)

    def init(self, key: Key, x: Array, cond: Array, label: Array | None) -> PyTree:
        """Returns copies of the values that the instance had: they were drawn when it was made."""
        del key, x, cond, label
        # Copies, since a train step donates what it is given.
        return {name: unflatten_dict(_named(jax.tree.map(jnp.copy, found))) for name, found in self.values.items()}

    def _module(self, variables: PyTree, key: Key, *, train: bool) -> "flax_nnx.Module":
        """The module of these variables, every random stream starting from a key of its own, folded from `key`."""
        from flax import nnx as flax_nnx

        arrays = {
            path: jax.random.split(jax.random.fold_in(key, i), shape)
            for i, (path, shape) in enumerate(self.keys.items())
        }
        arrays |= {path: jnp.zeros(shape, jnp.uint32) for path, shape in self.counts.items()}
        for name, places in self.values.items():
            given = flatten_dict(variables[name])
            arrays |= {path: given[named] for path, named in zip(places, _named(places), strict=True)}
        module = flax_nnx.merge(self.graphdef, flax_nnx.State(unflatten_dict(arrays)))
        (module.train if train else module.eval)()
        # Statistics of a batch would be those of one row, and rows don't see each other: the fixed ones are used.
        module.set_attributes(use_running_average=True, raise_if_not_found=False)
        return module


@dataclass(frozen=True)
class Plain:
    """A function of parameters, and what draws them; equal to another of the same two functions.

    So are networks of Equinox, whose modules take one example:

        params, static = eqx.partition(net, eqx.is_array)
        function = lambda params, x, cond, label, key: jax.vmap(eqx.combine(params, static))(x, cond)
        model = ScoreModel({"params": params}, sde, plain(function, lambda *_: params), parameterization.Eps())

    Args:
      function: `(params, x (B, *S), cond (B,), label, key) -> F`; key is None, or `(B,)` in training.
      initial: `(key, x, cond, label) -> params`, any pytree of arrays.
    """

    function: Callable[[PyTree, Array, Array, Array | None, Key | None], Array]
    initial: Callable[[Key, Array, Array, Array | None], PyTree]

    def __call__(self, variables: PyTree, x: Array, cond: Array, label: Array | None, key: Key | None) -> Array:
        """Returns F."""
        return self.function(variables["params"], x, cond, label, key)

    def init(self, key: Key, x: Array, cond: Array, label: Array | None) -> PyTree:
        """Returns `{"params": initial(...)}`."""
        return {"params": self.initial(key, x, cond, label)}


@dataclass(frozen=True)
class Uncertain:
    """A network, and beside it the log variance u of its errors: for `losses.uncertainty_weighted`.

    Each collection of its variables holds those of both, "network" and "uncertainty".

    Args:
      network: any other of this module's.
      module: `(log(σ/α)/4 (B,)) -> u (B,)`.
    """

    network: Network
    module: nn.Module = field(default_factory=networks.Uncertainty)

    def __call__(self, variables: PyTree, x: Array, cond: Array, label: Array | None, key: Key | None) -> Array:
        """Returns the network's F."""
        return self.network(_part(variables, "network"), x, cond, label, key)

    def uncertainty(self, variables: PyTree, log_sigma: Array) -> Array:
        """Returns u `(B,)` at log σ/α `(B,)`."""
        apply: Callable[..., Any] = self.module.apply
        return apply(_part(variables, "uncertainty"), log_sigma / 4)

    def init(self, key: Key, x: Array, cond: Array, label: Array | None) -> PyTree:
        """Returns the variables of both; the network's are those that it has by itself."""
        made = {
            "network": self.network.init(key, x, cond, label),
            "uncertainty": self.module.init(jax.random.fold_in(key, 1), cond),
        }
        names = {name for variables in made.values() for name in variables}
        return {name: {part: of[name] for part, of in made.items() if name in of} for name in sorted(names)}


linen = Linen
plain = Plain
uncertain = Uncertain


def nnx(module: "flax_nnx.Module") -> NNX:
    """Takes an instance of an NNX module apart, called as `module(x, cond, label)`, or without a `label` it has not.

    `init` returns the instance's own values: `nnx.Param`s are "params", all other variables and arrays (statistics of
    batches, frequencies) are "fixed". Without a key the module is in eval mode; with keys it is in train mode, but for
    statistics of batches, and its random streams start anew from each row's key. The instance is left as it is.
    """
    from flax import nnx as flax_nnx

    graphdef, *states = flax_nnx.split(module, flax_nnx.Param, flax_nnx.RngKey, flax_nnx.RngCount, ...)
    params, keys, counts, fixed = (flatten_dict(flax_nnx.to_pure_dict(state)) for state in states)
    keys, counts = ({path: leaf.shape for path, leaf in found.items()} for found in (keys, counts))
    return NNX(graphdef, keys, counts, {"params": params} | ({"fixed": fixed} if fixed else {}))


def is_nnx(module: Any) -> bool:
    """Returns whether it is an instance of an NNX module, without importing `flax.nnx`."""
    library = sys.modules.get("flax.nnx")  # whoever holds an instance has imported it
    return library is not None and isinstance(module, library.Module)


def _part(variables: PyTree, part: str) -> PyTree:
    return {name: values[part] for name, values in variables.items() if part in values}


def _called(module: Any, x: Array, cond: Array, label: Array | None) -> Array:
    if "label" in signature(module).parameters:
        return module(x, cond, label)
    if label is not None:
        raise InputError(f"labels were given to {type(module).__name__}, whose __call__ takes no `label`")
    return module(x, cond)


def _named(places: Mapping[_Path, Any]) -> dict[tuple[str, ...], Any]:
    """With names for places in lists too: keys of checkpoints are text."""
    return {tuple(map(str, path)): value for path, value in places.items()}


def _by_row(one: Callable[..., Array], key: Key, *example: Array | None) -> Array:
    """Calls `one(key (), *example (1, ...))` for each row, so that what is random in it comes from the row's own key.

    `vmap` keeps it one batched program.
    """

    def row(key, *example):
        return one(key, *jax.tree.map(lambda a: a[None], example))[0]

    return jax.vmap(row)(key, *example)
