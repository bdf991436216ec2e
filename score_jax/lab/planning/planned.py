"""A plan: what a training needs, whether an accelerator has it, and how long it may take there.

    step = max(FLOPs/(devices · utilisation · peak), 2 · state/bandwidth) + sent/(what a device sends a second)

of a device: its share of the products at a stated utilisation of the published peak, but no sooner than its state is
read and written once; then what it exchanges, as if nothing else went on meanwhile.
"""

from typing import Any, NamedTuple

import jax

from score_jax.lab.experiment import Experiment
from score_jax.lab.planning.accelerators import Accelerator
from score_jax.lab.planning.compiled import Needs, alive_at_once, needs
from score_jax.lab.planning.fitting import largest_batch
from score_jax.types import InputError


class On(NamedTuple):
    """Where it is to run, and what is assumed of it.

    Attributes:
      accelerator: the device.
      unit: by what products are computed.
      peak: FLOP/s of products, of one device.
      utilisation: share of the peak that is reached.
      share: of its memory that a process has.
      reserve: share of that left free, for what no compiler tells: workspace, fragments, the runtime.
    """

    accelerator: Accelerator
    unit: str
    peak: float
    utilisation: float
    share: float
    reserve: float

    @property
    def limit(self) -> float:
        """Bytes of a device that a plan may count on."""
        return self.accelerator.memory * self.share * (1 - self.reserve)


class Seconds(NamedTuple):
    """Of a step: products, the least for reading and writing the state, exchange."""

    products: float
    state: float
    exchange: float

    @property
    def step(self) -> float:
        """Of all."""
        return max(self.products, self.state) + self.exchange


class Costs(NamedTuple):
    """What is printed.

    Attributes:
      summary: what is trained on what.
      parameters: numbers of the network.
      mesh: devices along each axis.
      accumulation: micro-batches.
      steps: updates in all.
      steps_per_dispatch: of one call.
      needs: of the config's batch.
      rematerialised: whether activations are computed again; None where the network has no such option.
      alive: bytes of values alive at once on a device as the step is traced, before any compiler.
      alive_otherwise: the same with that option the other way round.
      on: the accelerator.
      seconds: of a step.
      largest: batch that fits; 0 where none does.
      largest_needed: bytes that it needs.
      most: the largest batch looked for: one that is an epoch.
    """

    summary: str
    parameters: int
    mesh: dict[str, int]
    accumulation: int
    steps: int
    steps_per_dispatch: int
    needs: Needs
    rematerialised: bool | None
    alive: int
    alive_otherwise: int | None
    on: On
    seconds: Seconds
    largest: int
    largest_needed: int
    most: int

    @property
    def devices(self) -> int:
        """How many there are."""
        return self.mesh["data"] * self.mesh["fsdp"]

    @property
    def fits(self) -> bool:
        """Whether the config's batch does."""
        return self.needs.memory.needed <= self.on.limit

    @property
    def hours(self) -> float:
        """Of the whole training."""
        return self.steps * self.seconds.step / 3600

    def as_json(self) -> dict[str, Any]:
        """Returns all numbers, with what follows from them."""
        memory = self.needs.memory
        return {
            **{name: getattr(self, name) for name in ("summary", "parameters", "mesh", "accumulation", "steps")},
            "steps_per_dispatch": self.steps_per_dispatch,
            "batch_size": self.needs.batch_size,
            "bytes_on_device": {**memory._asdict(), "needed": memory.needed},
            "rematerialised": self.rematerialised,
            "alive_at_once": self.alive,
            "alive_at_once_otherwise": self.alive_otherwise,
            "flops_a_step": self.needs.flops,
            "exchanged_a_step": {kind: found._asdict() for kind, found in self.needs.exchanged.items()},
            "device": self.on.accelerator._asdict() | self.on._asdict() | {"accelerator": self.on.accelerator.name},
            "estimated": {
                "seconds_a_step": self.seconds._asdict() | {"step": self.seconds.step},
                "examples_per_second": self.needs.batch_size / self.seconds.step,
                "hours": self.hours,
            },
            "fits": self.fits,
            "limit": int(self.on.limit),
            "largest_batch": {"batch_size": self.largest, "needed": self.largest_needed, "looked_up_to": self.most},
        }


def on_accelerator(
    accelerator: Accelerator, *, dtype: str, precision: str, share: float, utilisation: float, reserve: float
) -> On:
    """Returns an accelerator with what is assumed of it.

    Args:
      accelerator: the device.
      dtype: network.dtype.
      precision: device.matmul_precision.
      share: device.memory_fraction, which counts where a process takes no more.
      utilisation: share of the peak in (0, 1].
      reserve: share of memory in [0, 1).

    Raises:
      InputError: of a share that is none.
    """
    if not 0 < utilisation <= 1:
        raise InputError(f"--utilisation is the share of the peak that is reached, above 0 and up to 1: {utilisation}")
    if not 0 <= reserve < 1:
        raise InputError(f"--reserve is the share of memory left free, from 0 and below 1: {reserve}")
    unit, share = accelerator.unit(dtype, precision), share if accelerator.shared else 1.0
    return On(accelerator, unit, accelerator.peak(dtype, precision), utilisation, share, reserve)


def plan_of(experiment: Experiment, on: On, *, rematerialised: bool | None, other: Experiment | None) -> Costs:
    """Returns the plan of an experiment, whose parameters may be shapes alone.

    Args:
      experiment: on a mesh of as many devices as are planned for, virtual ones say.
      on: what they are.
      rematerialised: of `Costs`.
      other: the experiment with that option the other way round.
    """
    how, placement = experiment.training, experiment.placement
    parts = placement.mesh.size * how.accumulation
    most = max(len(experiment.data.train), how.batch_size) // parts * parts
    asked = needs(experiment, how.batch_size)
    of_batch = {how.batch_size: asked.memory.needed}

    def needed(batch: int) -> int:
        of_batch[batch] = needs(experiment, batch).memory.needed
        return of_batch[batch]

    needed(_another(how.batch_size, parts))
    largest = largest_batch(needed, on.limit, known=of_batch, parts=parts, most=most)
    return Costs(
        summary=experiment.summary[0],
        parameters=sum(leaf.size for leaf in jax.tree.leaves(experiment.model.variables["params"])),
        mesh={name: int(size) for name, size in placement.mesh.shape.items()},
        accumulation=how.accumulation,
        steps=how.steps,
        steps_per_dispatch=how.every.dispatch,
        needs=asked,
        rematerialised=rematerialised,
        alive=alive_at_once(experiment, how.batch_size),
        alive_otherwise=None if other is None else alive_at_once(other, how.batch_size),
        on=on,
        seconds=seconds(asked, on, placement.mesh.size),
        largest=largest,
        largest_needed=of_batch.get(largest, 0),
        most=most,
    )


def _another(batch_size: int, parts: int) -> int:
    """A batch to draw the line by: half as large, or twice where that can't be shared."""
    half = batch_size // 2 // parts * parts
    return half or 2 * batch_size


def seconds(what: Needs, on: On, devices: int) -> Seconds:
    """Returns the seconds that a step takes on so many devices."""
    device = on.accelerator
    return Seconds(
        what.flops / devices / (on.utilisation * on.peak),
        2 * what.memory.state / device.bandwidth,
        sum(found.sent for found in what.exchanged.values()) / device.sends,
    )
