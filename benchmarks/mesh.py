"""A train step on a mesh of several devices against the same batch on one: what cutting costs, and what is exchanged.

    python benchmarks/mesh.py

The digits U-Net, 64 images an update, on 1, 2, 4 and 8 virtual devices of the CPU. These share its cores, so that no
mesh can be faster here and the ratio is what it costs to cut and to exchange: of a speed-up it says nothing. Each mesh
is a fresh process, in which the same step on one of its devices takes turns with it. Bytes are of one device, read from
the compiled program: operands of the collectives in an update, and the state. Expected of data parallelism: all-reduce
of the bytes of the parameters, and of the loss.
"""

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the configs are no part of the installed package

from timing import Row, alternate, child, compare, main, seconds

from configs import digits
from score_jax import training
from score_jax.lab import build, run
from score_jax.lab.experiment import Experiment
from score_jax.lab.sharing import Shared
from score_jax.training import collectives

MESHES = [(1, 1), (2, 1), (1, 2), (4, 1), (1, 4), (8, 1), (2, 4), (1, 8)]
BATCH = 64


def make_step(experiment: Experiment) -> tuple[Callable[[], Any], str, Any]:
    """Returns a call that makes an update of the same batch, the text of its program, and the state before it."""
    source, placement = experiment.data.train, experiment.placement
    rows = {name: values[None] for name, values in source.batch(np.arange(BATCH)).items() if name in ("x", "label")}
    batches = training.put_batches(rows, placement.mesh)
    first = training.place(run.first_state(experiment), placement)
    step: Any = run.train_step(experiment)
    program = step.lower(first, batches).compile()
    held = [training.place(first, placement)]

    def update() -> Any:
        held[0], report = program(held[0], batches)
        return report

    return update, program.as_text(), first


def measure_child(data: str, fsdp: str, channels: str, pairs: str) -> Row:
    """Measures one mesh, of all devices of this process."""
    config = digits.get_config()
    config.network.unet.channels, config.training.batch_size = int(channels), BATCH
    config.mesh.update(data=int(data), fsdp=int(fsdp), min_size=2**10)
    experiment = build.experiment(config)
    alone = training.make_placement(devices=jax.devices()[:1])
    update, text, state = make_step(experiment)
    by_itself, _, whole = make_step(replace(experiment, placement=alone, shared=Shared()))
    for call in (update, by_itself):
        seconds(call)
    load = os.getloadavg()[0]
    step, one, ratio = compare(*alternate(lambda: seconds(update), lambda: seconds(by_itself), int(pairs)))
    exchanged = collectives.operand_bytes(collectives.collectives(text))
    return {
        "data × fsdp": f"{data} × {fsdp}",
        "step, s": step,
        "on one device, s": one,
        "ratio": ratio,
        "parameters, bytes": sum(leaf.nbytes for leaf in jax.tree.leaves(whole.params)),
        "all-reduce, bytes": exchanged.get("all-reduce", 0),
        "all-gather, bytes": exchanged.get("all-gather", 0),
        "state on a device, KiB": sum(leaf.addressable_shards[0].data.nbytes for leaf in _arrays(state)) / 2**10,
        "load before": round(load, 1),
    }


def _arrays(state: Any) -> list[Any]:
    return jax.tree.leaves((state.params, state.ema, state.opt_state))


def measure(quick: bool) -> Row:
    """Measures every mesh, or with `quick` a narrow network on two."""
    channels, pairs, meshes = ("8", "2", MESHES[1:3]) if quick else ("32", "15", MESHES)
    return {"rows": [_in_process(data, fsdp, channels, pairs) for data, fsdp in meshes]}


def _in_process(data: int, fsdp: int, channels: str, pairs: str) -> Row:
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={data * fsdp}"
    return child(__file__, str(data), str(fsdp), channels, pairs, XLA_FLAGS=flags, JAX_PLATFORMS="cpu")


if __name__ == "__main__":
    main(measure, __doc__, measure_child)
