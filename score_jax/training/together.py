"""Several runs trained in one program: their states are rows of stacked arrays, and a dispatch is one of all of them.

    numbers (n,), states (n, …), batches (n, k, B, …)  ──joint step──▶  states (n, …), reports (n, …)

Each run goes its own `loop.course`, with its own data, folder, records and checkpoints; the states stay stacked on the
device, and a row is taken out when its run needs it, and put in when its run goes back to a checkpoint. A run that ends
before the others, as one that diverged, leaves a row that is updated for nobody: the program is compiled for n.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from score_jax.devices import cut_rows, replicate, replicated
from score_jax.training import signals
from score_jax.training.loop import Arrival, Asked, Course, Launched, Result, arrival, drive
from score_jax.training.sharding import Placement
from score_jax.training.state import TrainState
from score_jax.training.step import Report
from score_jax.types import Array, PyTree

_JointStep = Callable[[Mapping[str, Array], TrainState, Mapping[str, Array]], tuple[TrainState, Report]]


def train_together(
    courses: Sequence[Callable[..., Course]],
    joint_step: _JointStep,
    numbers: Sequence[Mapping[str, float]],
    *,
    placement: Placement,
) -> list[Result | Exception]:
    """Trains several runs to their ends in one process; returns the result of each, or what it raised.

    Args:
      courses: `loop.course` of each run, but for `placement` and `caught`.
      joint_step: of `step.make_joint_step`.
      numbers: of each run, by name.
      placement: of `sharding.make_placement`; the states stacked are whole on every device.

    Raises:
      KeyboardInterrupt, SystemExit: of a signal, as `loop.train`, with a checkpoint of every run.
    """
    program = _Program(joint_step, numbers, placement.mesh)
    with signals.noted() as caught:
        results = drive([course(placement=placement, caught=caught) for course in courses], program.launch)
    signals.end_if_any(caught, max((result.step for result in results if isinstance(result, Result)), default=0))
    return results


class _Program:
    """The joint step with the states, which nobody else holds: they are donated from dispatch to dispatch."""

    def __init__(self, step: _JointStep, numbers: Sequence[Mapping[str, float]], mesh: Mesh):
        self._step, self._of_runs, self._mesh = step, numbers, mesh
        self._batches: dict[int, Mapping[str, np.ndarray]] = {}
        self._numbers: Any = None
        self._states: Any = None

    def launch(self, asked: Mapping[int, Asked]) -> dict[int, Launched]:
        """Makes a dispatch of all runs that asked for the first, of which some may ask no longer."""
        for row, place in enumerate(self._batches):
            if place in asked and asked[place].afresh:
                self._states = _with_row(self._states, asked[place].state(), row)
        if self._states is None:
            self._states = _stacked_states([one.state() for one in asked.values()], self._mesh)
            self._numbers = replicate(_stacked_numbers([self._of_runs[place] for place in asked]), self._mesh)
        self._batches |= {place: one.batches for place, one in asked.items()}
        batches = jax.tree.map(lambda *parts: np.stack(parts), *self._batches.values())
        placed = jax.device_put(batches, cut_rows(self._mesh, 2))
        self._states, reports = self._step(self._numbers, self._states, placed)
        read, states = cache(partial(arrival, reports)), self._states
        return {
            place: Launched(partial(_report_of, read, row), partial(_row, states, row))
            for row, place in enumerate(self._batches)
            if place in asked
        }


def _stacked_states(states: Sequence[TrainState], mesh: Mesh) -> TrainState:
    """The states as one, by way of the host: a program that stacks them would take longer to compile than to run."""
    words = jax.device_get([replace(state, key=jax.random.key_data(state.key)) for state in states])
    stacked = jax.device_put(jax.tree.map(lambda *leaves: np.stack(leaves), *words), replicated(mesh))
    return replicate(replace(stacked, key=jax.random.wrap_key_data(stacked.key)), mesh)


@jax.jit
def _stacked_numbers(numbers: list[Mapping[str, float]]) -> dict[str, Array]:
    """Numbers that are weakly typed as Python's are, which numpy's would not be."""
    return {name: jnp.stack([of_one[name] for of_one in numbers]) for name in numbers[0]}


@jax.jit
def _row(tree: PyTree, row: int) -> PyTree:
    return jax.tree.map(lambda leaf: leaf[row], tree)


@partial(jax.jit, donate_argnums=0)
def _with_row(states: TrainState, state: TrainState, row: int) -> TrainState:
    return jax.tree.map(lambda whole, part: whole.at[row].set(part), states, state)


def _report_of(read: Callable[[], Arrival], row: int) -> Arrival:
    reports, at = read()
    return Arrival(jax.tree.map(lambda leaf: leaf[row], reports), at)
