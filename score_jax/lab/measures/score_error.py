"""The error of the score by noise level, of data whose density is known."""

import jax
import jax.numpy as jnp

from score_jax import devices, metrics
from score_jax.lab.experiment import Numbers, Run
from score_jax.lab.measures.measured import Measured, by_sigma, keys
from score_jax.training.step import level_sigmas
from score_jax.types import InputError


def score_error_by_sigma(measured: Measured) -> Numbers:
    """Returns E‖s − s*‖²/E‖s*‖² by noise level."""
    error = error_of(measured.run, measured.seed)
    return {"relative_score_error_by_sigma": by_sigma(error.sigma, error.relative)}


def error_of(run: Run, seed: int) -> metrics.ScoreError:
    """Returns the error of the model's score against the exact one at the `level_sigmas`, 2,048 draws each.

    Raises:
      InputError: where the exact one is not known.
    """
    run.sampling.require_score()
    oracle, sde = run.experiment.data.oracle, run.model.sde
    if oracle is None:
        raise InputError(f"the score error is of a known density, which {run.examples.name!r} has not")
    ts = sde.time(-2 * jnp.log(level_sigmas(sde, run.experiment.evaluation.levels)))
    return _FOUND(keys(seed, 1)[0], devices.everywhere(run.model, run.sampling.mesh), oracle, ts)


_FOUND = jax.jit(lambda key, model, oracle, ts: metrics.score_error(key, model.sde, model, oracle, ts=ts))
