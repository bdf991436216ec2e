"""Estimates what each reproduction takes on one A100, and writes it into README.md beside: nothing is run.

    python -m experiments.reproduce.estimates

    hours of training = steps · FLOPs of a step/(0.4 · peak)
    hours of sampling = 50,000 · calls · FLOPs of a forward pass of one image/(0.4 · peak)

The FLOPs are those of the traced programs' products, the peak that of TF32, 0.4 of it what is assumed to be reached.
The disk holds the checkpoints that the config keeps (parameters, their average, Adam's two moments, four bytes each)
and the samples.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.reproduce.published import RESULTS, Result
from experiments.studies import study
from score_jax import data
from score_jax.lab import build, command, run
from score_jax.lab.experiment import Experiment
from score_jax.lab.planning import accelerators, compiled
from score_jax.lab.planning.flops import flops
from score_jax.score import network_output

_IMAGES, _SAMPLES, _UTILISATION = (50_000, 32, 32, 3), 50_000, 0.4


def made_up(classes: bool) -> data.ArraySource:
    """Returns data of CIFAR-10's shape."""
    images = np.random.default_rng(0).integers(0, 256, _IMAGES, np.uint8)
    label = np.arange(len(images)) % 10 if classes else None
    return data.ArraySource(images, label)


def row(name: str, result: Result) -> dict[str, Any]:
    """Returns what a reproduction is estimated to take."""
    config = command.read_file(result.config)
    shapes = lambda network, key, *example: jax.eval_shape(network.init, key, *example)
    experiment = build.experiment(config, data=made_up(config.data.labels), initial=shapes)
    peak = _UTILISATION * accelerators.accelerator("a100", 1).peak(config.network.dtype, "default")
    parameters = sum(leaf.size for leaf in jax.tree.leaves(experiment.model.variables["params"]))
    kept = config.training.keep_last + config.training.steps // (config.training.keep_every or config.training.steps)
    return {
        "name": name,
        "parameters": f"{parameters:,}",
        "steps": f"{config.training.steps:,}",
        "training, hours": round(config.training.steps * _of_step(experiment) / peak / 3600, 1),
        "samples, hours": round(_SAMPLES * result.calls * _of_call(experiment) / peak / 3600, 1),
        "disk, GB": round((4 * 4 * parameters * kept + _SAMPLES * 32 * 32 * 3 * 4) / 1e9),
        "published": ", ".join(f"{key} {value:g}" for key, value in result.numbers.items()),
        "released": result.checkpoint,
    }


def _of_step(experiment: Experiment) -> float:
    """The FLOPs of a train step."""
    how = experiment.training
    state, batches = compiled.state_of(experiment), compiled.batches_of(experiment, how.batch_size)
    step: Any = run.train_step(experiment)
    return flops(step.trace(state, batches).jaxpr) / how.every.dispatch


def _of_call(experiment: Experiment) -> float:
    """The FLOPs of the network's output for one image."""
    x, t = jnp.zeros((1, *experiment.examples.shape)), jnp.full(1, experiment.model.sde.t_max)
    label = jnp.zeros(1, jnp.int32) if experiment.examples.names else None
    return flops(jax.make_jaxpr(network_output)(experiment.model, x, t, label))


def main() -> None:
    """Writes the table."""
    rows = [row(name, result) for name, result in RESULTS.items()]
    text = study.table(rows)
    print(text)
    study.write(Path(__file__).parent, text, {}, name="estimates")


if __name__ == "__main__":
    main()
