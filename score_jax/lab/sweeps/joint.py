"""Which trainings can go together in one program (`run.train_together`): those of points that differ in numbers only.

These numbers are traced: learning rates, noise levels, weights, whatever the sections below have that is no whole
number. A seed is none, it is in the state and the data. Where a number chooses what is computed, as a 0 that turns
something off, or an object of the user's own asks for its value, the trainings that differ in it are apart.

A traced number is of the arrays' precision, where a run of its own may round later: the parameters are equal up to
that. Whether it can be traced is found out from shapes, before anything is trained.
"""

from collections.abc import Hashable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from score_jax.devices import cut_rows, replicated
from score_jax.lab import memory, records, run
from score_jax.lab.experiment import OF_TRAINING, Experiment
from score_jax.training import checkpoint
from score_jax.training.loop import for_device

_SECTIONS = ("sde", "parameterization", "objective", "weighting", "times", "optimizer")
_FURTHER = ("training.ema_decay",)
_APART = ("optimizer.b1", "optimizer.b2")  # of whose 1 − b, 0.001 say, a float32 of b has three digits less
_AT_ONCE = 64  # each has open files, and threads that gather and save


class Part(NamedTuple):
    """Trainings that go together: their places, and the numbers in which they differ, by dotted key."""

    places: tuple[int, ...]
    names: tuple[str, ...] = ()


def parts(experiments: Sequence[Experiment]) -> list[Part]:
    """Returns which of the trainings go together; every place is in one part, which may have it alone."""
    kinds: dict[Hashable, list[int]] = {}
    for place, experiment in enumerate(experiments):
        kinds.setdefault(_kind(experiment) if may_be_joint(experiment) else place, []).append(place)
    return [part for places in kinds.values() for part in _parts_of_kind(experiments, places)]


def numbers(experiment: Experiment) -> dict[str, float]:
    """Returns the settings of the training that may be traced, by dotted key."""
    traced = lambda key: (key.split(".")[0] in _SECTIONS or key in _FURTHER) and key not in _APART
    return {key: value for key, value in _flat(experiment).items() if isinstance(value, float) and traced(key)}


def may_be_joint(experiment: Experiment) -> bool:
    """Whether a training can go together with any: of points, whole, of settings alone, without loggers."""
    named, points = experiment.with_numbers is not None, len(experiment.examples.shape) == 1
    whole = experiment.placement.mesh.shape["fsdp"] == 1 and not experiment.placement.rules
    return named and points and whole and not experiment.training.loggers and jax.process_count() == 1


def _flat(experiment: Experiment) -> dict[str, Any]:
    return checkpoint.binding({name: experiment.settings[name] for name in OF_TRAINING})


def _kind(experiment: Experiment) -> Hashable:
    """What trainings have in common that differ in numbers and seed only."""
    others = _flat(experiment) | {name: bool(value) for name, value in numbers(experiment).items()}
    state = jax.eval_shape(partial(run.first_state, experiment))
    return records.digest(others), str(state), experiment.training.every, experiment.model.apply


def _parts_of_kind(experiments: Sequence[Experiment], places: Sequence[int]) -> Iterator[Part]:
    first, names = experiments[places[0]], _differing(experiments, places)
    n = min(_at_once(first), len(places))
    if n == 1 or _can_be_traced(first, names, n):
        for start in range(0, len(places), n):
            yield Part(tuple(places[start : start + n]), tuple(names))
        return
    stubborn = [name for name in names if not _can_be_traced(first, [name], n)]
    equal: dict[Hashable, list[int]] = {}
    for place in places:
        values = numbers(experiments[place])
        equal.setdefault(tuple(values[name] for name in stubborn) if stubborn else place, []).append(place)
    for some in equal.values():
        yield from _parts_of_kind(experiments, some)


def _differing(experiments: Sequence[Experiment], places: Sequence[int]) -> list[str]:
    values = [numbers(experiments[place]) for place in places]
    return [name for name in values[0] if len({of_one[name] for of_one in values}) > 1]


def _at_once(experiment: Experiment) -> int:
    """How many are known to fit into half of the memory; the rest is for what the step makes in between."""
    how, shape = experiment.training, experiment.data.train.shape
    of_one = memory.of_parameters(experiment.model.variables)
    of_one += memory.of_batches(shape, how.batch_size, how.every.dispatch)
    return max(min(_AT_ONCE, memory.available() // 2 // of_one), 1)


def _can_be_traced(experiment: Experiment, names: Sequence[str], n: int) -> bool:
    """Whether the step of n such trainings can be made, and leaves arrays as it found them."""
    return experiment.once("traced", lambda: _traced(experiment, names, n), of=OF_TRAINING, names=list(names), n=n)


def _traced(experiment: Experiment, names: Sequence[str], n: int) -> bool:
    how, mesh = experiment.training, experiment.placement.mesh
    rows = experiment.data.train.batch(np.zeros(how.batch_size, np.int64))
    whole, cut = replicated(mesh), cut_rows(mesh, 2)  # as they will be: what is traced here is not traced again
    several = lambda sharding, *axes: lambda x: jax.ShapeDtypeStruct((*axes, *x.shape), x.dtype, sharding=sharding)
    batches = jax.tree.map(several(cut, n, how.every.dispatch), for_device(rows))
    states = jax.tree.map(several(whole, n), jax.eval_shape(partial(run.first_state, experiment)))
    number = jax.ShapeDtypeStruct((n,), jnp.result_type(float), weak_type=True, sharding=whole)
    try:
        after, _ = jax.eval_shape(run.joint_step(experiment, names), dict.fromkeys(names, number), states, batches)
    except Exception:  # whatever it is that asks for a number's value raises
        return False
    kinds = lambda tree: [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(tree)]
    return kinds(after) == kinds(states)
