"""What a train step of an experiment needs on each device, from shapes alone: compiled, and never run.

Of the state and the batches the bytes are exact: shapes and shardings say them. Temporaries (activations, gradients,
copies) are the account of XLA's compiler for the backend in force.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import numpy as np

from score_jax import training
from score_jax.devices import cut_rows
from score_jax.lab import run
from score_jax.lab.experiment import Experiment
from score_jax.lab.planning.flops import flops
from score_jax.lab.planning.liveness import peak_bytes
from score_jax.lab.sharing import Shared
from score_jax.training import TrainState, sharding
from score_jax.training.collectives import Collective, collectives
from score_jax.training.loop import for_device
from score_jax.types import PyTree

# The program isn't run: the same memory, sooner
_UNOPTIMIZED = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


class Memory(NamedTuple):
    """Bytes on each device.

    Attributes:
      parameters: of the network, as are its fixed arrays.
      average: of the parameters' average.
      optimizer: of its moments.
      others: the step, the run's key.
      batches: of a dispatch.
      temporaries: what a dispatch needs beside these, at most at once.
    """

    parameters: int
    average: int
    optimizer: int
    others: int
    batches: int
    temporaries: int

    @property
    def state(self) -> int:
        """What stays there from step to step."""
        return self.parameters + self.average + self.optimizer + self.others

    @property
    def needed(self) -> int:
        """All of it."""
        return self.state + self.batches + self.temporaries


class Exchange(NamedTuple):
    """Collectives of one kind in a step.

    Attributes:
      operands: bytes of them on a device.
      sent: bytes that a device sends, in rings.
    """

    operands: float
    sent: float


class Needs(NamedTuple):
    """What a step needs.

    Attributes:
      batch_size: examples a step, over all devices.
      memory: on each device.
      flops: of a step's products, on all devices together.
      exchanged: by each device in a step, by kind.
    """

    batch_size: int
    memory: Memory
    flops: int
    exchanged: dict[str, Exchange]


def state_of(experiment: Experiment) -> TrainState:
    """Returns shapes, dtypes and shardings of the state of a training."""
    first = lambda variables: training.create(jax.random.key(experiment.seed), variables, experiment.training.optimizer)
    return sharding.described(jax.eval_shape(first, experiment.model.variables), experiment.placement)


def batches_of(experiment: Experiment, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns those of the batches of one dispatch."""
    k, cut = experiment.training.every.dispatch, cut_rows(experiment.placement.mesh, 1)
    example = for_device(experiment.data.train.batch(np.arange(1)))
    return {
        name: jax.ShapeDtypeStruct((k, batch_size, *x.shape[1:]), x.dtype, sharding=cut) for name, x in example.items()
    }


def bytes_on_device(tree: PyTree) -> int:
    """Returns what each device holds of arrays that are described with their shardings."""
    return sum(
        int(np.prod(x.sharding.shard_shape(x.shape), dtype=np.int64)) * x.dtype.itemsize for x in jax.tree.leaves(tree)
    )


def needs(experiment: Experiment, batch_size: int) -> Needs:
    """Returns what a train step of so many examples needs.

    Raises:
      InputError: where the devices cannot share the batch.
    """
    how, mesh = experiment.training, experiment.placement.mesh
    training.check_batch_size(batch_size, mesh, accumulation=how.accumulation)
    state, batches = state_of(experiment), batches_of(experiment, batch_size)
    traced = _traced(experiment, state, batches)
    program = traced.lower().compile(compiler_options=_UNOPTIMIZED)
    steps = how.every.dispatch
    return Needs(
        batch_size,
        _memory(state, batches, program.memory_analysis()),
        flops(traced.jaxpr) // steps,
        _exchanged(collectives(program.as_text()), steps),
    )


def alive_at_once(experiment: Experiment, batch_size: int) -> int:
    """Returns the bytes of values alive at once on a device as a step is traced: `liveness.peak_bytes` of its rows."""
    one = training.make_placement(devices=jax.devices()[:1])
    alone = replace(experiment, placement=one, shared=Shared())
    batches = batches_of(alone, batch_size // experiment.placement.mesh.size)
    return peak_bytes(_traced(alone, state_of(alone), batches).jaxpr)


def _traced(experiment: Experiment, *args: PyTree) -> Any:
    step: Any = run.train_step(experiment)
    return step.trace(*args)


def _exchanged(found: Sequence[Collective], steps: int) -> dict[str, Exchange]:
    """By kind, of the collectives of a dispatch of so many steps."""
    of = lambda kind: [one for one in found if one.kind == kind]
    return {
        kind: Exchange(
            sum(one.operand * one.times for one in of(kind)) / steps, sum(one.sent for one in of(kind)) / steps
        )
        for kind in dict.fromkeys(one.kind for one in found)
    }


def _memory(state: TrainState, batches: PyTree, said: Any) -> Memory:
    parts = [{"params": state.params, "fixed": state.fixed}, state.ema, state.opt_state, batches]
    parameters, average, optimizer, of_batches = (bytes_on_device(part) for part in parts)
    new = said.output_size_in_bytes - said.alias_size_in_bytes  # what is no state: the report
    others = bytes_on_device(state) - parameters - average - optimizer
    return Memory(parameters, average, optimizer, others, of_batches, said.temp_size_in_bytes + new)
