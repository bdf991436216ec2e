"""The loss of held-out examples by noise level."""

from collections.abc import Callable

import numpy as np

from score_jax import training
from score_jax.data import random_rows
from score_jax.lab.experiment import OF_OBJECTIVE, Experiment, Numbers
from score_jax.lab.measures.measured import Measured, by_sigma, labels_of
from score_jax.training import TrainState
from score_jax.training.step import level_sigmas

_EXAMPLES = 256


def held_out_loss(measured: Measured) -> Numbers:
    """Returns the loss per dimension of 256 held-out examples by noise level, of the same noise whatever the model."""
    return loss_of_state(measured.run.experiment)(measured.run.state)


def loss_of_state(experiment: Experiment) -> Callable[[TrainState], Numbers]:
    """Returns `state -> numbers`, compiled once for all states of a training.

    Raises:
      InputError: where nothing was held out.
    """
    data, levels = experiment.data, experiment.evaluation.levels
    data.require_held_out()
    mesh = experiment.placement.mesh
    rows = max(_EXAMPLES // mesh.size, 1) * mesh.size
    batch = data.held_out.batch(np.resize(random_rows(data.held_out, rows), rows))
    label = labels_of(experiment.examples, batch)
    stacked = {"x": batch["x"][None]} | ({} if label is None else {"label": label[None]})
    own = training.own_rows(rows, mesh)
    placed = training.put_batches({name: x[:, own] for name, x in stacked.items()}, mesh)
    ema = experiment.sampling.ema
    make = lambda: training.make_eval_step(
        experiment.model, experiment.objective, mesh=mesh, prepare=experiment.prepare, levels=levels, ema=ema
    )
    evaluate = experiment.once("held-out loss", make, of=OF_OBJECTIVE, levels=levels, ema=ema)
    sigmas = level_sigmas(experiment.model.sde, levels)
    return lambda state: {"loss_by_sigma": by_sigma(sigmas, evaluate(state, placed))}
