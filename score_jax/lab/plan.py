"""Says what a training costs on devices that are not there: memory, operations, exchange, time; nothing is run.

    python experiments/plan.py --config=configs/digits.py --config.mesh.data=8 --config.mesh.fsdp=1 --device=h100
    python experiments/plan.py --config=configs/ddpm.py --config.mesh.data=2 --config.mesh.fsdp=4 --json=plan.json

The mesh of mesh.data × mesh.fsdp devices (-1 counts as 1) is made of virtual ones, of this machine's processor, for
which the train step is compiled from shapes alone: a laptop plans for a pod. Bytes of parameters, average, optimizer
and batches are exact; those of temporaries are the account of XLA's compiler for CPUs, FLOPs are those of matrix
products and convolutions, exchanged bytes are read from the compiled program. Step time, examples/s and hours are
estimates, of the published figures of --device at --utilisation of its peak; "cpu" is this machine, measured. Kernels'
launches are in none of them: what a small network takes on a large device is more. It says whether the batch fits with
--reserve of the memory left free, and the largest found that does. --interconnect=GB/s replaces what a device sends to
others, as between nodes. The data are read for the shape of their examples.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from absl import flags

from score_jax import backend
from score_jax.devices import AXES
from score_jax.lab import build, command, settings
from score_jax.lab.experiment import Experiment
from score_jax.lab.planning import accelerators, planned, text
from score_jax.lab.sharing import Shared
from score_jax.training.logging import write_json
from score_jax.types import InputError, Key, Network, PyTree


def define() -> None:
    """Defines the flags; lets JAX start with as many devices as the mesh has."""
    backend.use_virtual_devices(command.attempt(devices_asked_for))
    command.define_config()
    known = ", ".join([*accelerators.PUBLISHED, accelerators.HERE])
    flags.DEFINE_string("device", "h100", f"what the devices are: {known}")
    flags.DEFINE_float("utilisation", 0.4, "share of the peak that products reach")
    flags.DEFINE_float("reserve", 0.1, "share of the memory that is left free")
    flags.DEFINE_float("interconnect", None, "GB/s that a device sends to the others; by default as published")
    flags.DEFINE_string("json", None, "file to write the numbers into")


def devices_asked_for() -> int:
    """Returns the number of devices of the mesh that the command line and the config file ask for."""
    config = command.read_file(command.given("config"))
    count = 1
    for axis in AXES:
        asked = command.given(f"config.mesh.{axis}")
        size = (config if asked is None else command.overridden(config, f"mesh.{axis}", asked)).mesh[axis]
        count *= max(size, 1)  # what is no number of devices is told by the mesh
    return count


def main() -> None:
    """Prints the plan of the experiment that the flags describe."""
    given, config = flags.FLAGS, flags.FLAGS.config
    on = planned.on_accelerator(
        _accelerator(config.mesh.data * config.mesh.fsdp),
        dtype=config.network.dtype,
        precision=config.device.matmul_precision,
        share=config.device.memory_fraction,
        utilisation=given.utilisation,
        reserve=given.reserve,
    )
    option, shared = f"network.{config.network.name}.remat", Shared()
    remat = config.network.get(config.network.name, {}).get("remat")
    experiment = _built(shared, {})
    other = None if remat is None else _built(shared, {option: not remat})
    plan = planned.plan_of(experiment, on, rematerialised=remat, other=other)
    print(*text.lines(plan, option), sep="\n")
    if given.json:
        write_json(Path(given.json), plan.as_json())


def _accelerator(devices: int) -> accelerators.Accelerator:
    given = flags.FLAGS
    found = accelerators.accelerator(given.device, abs(devices))
    if given.interconnect is None:
        return found
    if given.interconnect <= 0:
        raise InputError(f"--interconnect is GB/s, above 0, got {given.interconnect}")
    return found._replace(sends=given.interconnect * 1e9)


def _built(shared: Shared, changes: Mapping[str, Any]) -> Experiment:
    """The experiment of the flags, with other values of some settings."""
    return build.experiment(settings.changed(flags.FLAGS.config, changes), shared=shared, initial=_shapes)


def _shapes(network: Network, key: Key, *example: Any) -> PyTree:
    """The shapes of a network's first arrays, which need no memory."""
    return jax.eval_shape(network.init, key, *example)


if __name__ == "__main__":
    command.run(main, define)
