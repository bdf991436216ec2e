"""How probable held-out examples are by the probability flow: bits per dimension of images, nats of other data."""

from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from score_jax import likelihood as likelihoods
from score_jax.data import random_rows
from score_jax.distributions import GaussianMixture
from score_jax.lab.experiment import Numbers, Run
from score_jax.lab.measures.batches import in_batches, mean_of
from score_jax.lab.measures.measured import Measured, keys, labels_of
from score_jax.likelihood import bits_per_dim, log_likelihood
from score_jax.score import ScoreModel
from score_jax.types import Key

_EXACT_DIMS = 16  # dimensions up to which the divergence is exact: as many derivatives as there are


def held_out_likelihood(measured: Measured) -> Numbers:
    """Returns how probable held-out examples are, where their likelihood is asked for."""
    return likelihood_of_run(measured.run, measured.seed)


def likelihood_of_run(run: Run, seed: int, *, t_min: float | None = None, t_max: float | None = None) -> Numbers:
    """Returns how probable `likelihood_n` held-out examples are by the probability flow; nothing where that is 0.

    Images of grey levels have bits per dimension, dequantized whether or not training's were; what else there is has a
    density, in nats. Labels are left out where the model can do without.

    Args:
      run: a trained model.
      seed: of the probes.
      t_min: where the flow starts; else the least noisy time of training.
      t_max: where the flow ends, in the prior; else the SDE's.
    """
    how, data, sde = run.experiment.evaluation, run.experiment.data, run.model.sde
    if not how.likelihood_n:
        return {}
    run.sampling.require_score()
    data.require_held_out()
    key_noise, key_probes = keys(seed, 4)[2:]
    x, labels = held_out_examples(run, how.likelihood_n, key_noise, dequantize=True)
    flow = FlowIntegration(
        how.t_min if t_min is None else t_min,
        float(sde.t_max if t_max is None else t_max),
        how.likelihood_probes,
        how.likelihood_tolerance,
        run.sampling.batch_size,
        run.sampling.mesh,
    )
    grey_levels = data.held_out.grey_levels
    if grey_levels:
        low, high = run.examples.value_range
        return bits(key_probes, run.model, x, labels, flow, grey_levels=grey_levels, data_range=high - low)
    likelihoods.refuse_grey_levels(data.train.batch(random_rows(data.train, 1000))["x"])
    # The oracle's is the density of all classes together.
    oracle = data.oracle if labels is None or (labels < 0).all() else None
    return nats(key_probes, run.model, x, labels, flow, oracle=oracle)


def held_out_examples(run: Run, n: int, key: Key, *, dequantize: bool) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns n held-out examples, or all, in the range of training, and labels as `labels_of` has them."""
    source = run.experiment.data.held_out
    prepare = replace(run.experiment.prepare, dequantize=dequantize, flip=False)
    batch = source.batch(random_rows(source, n))
    return np.asarray(prepare(key, jnp.asarray(batch["x"]))), labels_of(run.experiment.examples, batch)


class FlowIntegration(NamedTuple):
    """How the likelihood of the probability flow is integrated.

    Attributes:
      t_min: where the flow starts, the least noisy time that training knew.
      t_max: where it ends, in the prior of that time: the SDE's, or less for a network trained with less noise.
      n_probes: of Hutchinson's estimate; examples of few dimensions need none.
      tolerance: relative and absolute, of the integration.
      batch_size: examples at once; the last batch is filled up and cut.
      mesh: of the devices that share a batch.
    """

    t_min: float
    t_max: float
    n_probes: int
    tolerance: float
    batch_size: int
    mesh: Mesh


class LogProb(NamedTuple):
    """Log-densities `(n,)` in nats, NaN where the flow did not arrive; calls of the network; how they were found."""

    values: np.ndarray
    nfe: int
    convention: str


def log_prob(key: Key, model: ScoreModel, x: np.ndarray, labels: np.ndarray | None, flow: FlowIntegration) -> LogProb:
    """Returns the log-density of examples under the probability flow, in the units of training.

    Args:
      key: `()`, of the probes.
      model: the score function.
      x: examples `(n, *S)` as they are trained on; images of grey levels dequantized.
      labels: classes `(n,)` of a conditional model, −1 for none.
      flow: how.
    """
    exact = x[0].size <= _EXACT_DIMS

    batch = partial(_log_prob, flow=flow, exact=exact)
    values, calls = in_batches(batch, key, model, x, labels, size=flow.batch_size, mesh=flow.mesh)
    smallest, largest = (_noise(model, t) for t in (flow.t_min, flow.t_max))
    given = "" if labels is None or (labels < 0).all() else "of p(x|y) given the label y; "
    how = "exact divergence" if exact else f"Hutchinson's estimate with {flow.n_probes} probes"
    convention = (
        f"{given}probability flow from t = {flow.t_min:g} (σ/α = {smallest:.3g}) to the prior at t = {flow.t_max:g} "
        f"(σ/α = {largest:.3g}), {how}, tolerance {flow.tolerance:g}"
    )
    return LogProb(values, int(calls.max()), convention)


@partial(jax.jit, static_argnames=("flow", "exact"))
def _log_prob(keys, model, x, labels, *, flow, exact):
    options: dict[str, Any] = {"t_min": flow.t_min, "t_max": flow.t_max}
    options |= {"rtol": flow.tolerance, "atol": flow.tolerance}
    options |= {} if exact else {"key": keys, "n_probes": flow.n_probes}
    found = log_likelihood(model.sde, model.conditioned(label=labels), x, **options)
    return found.log_prob, jnp.full(len(x), found.nfe)


def _noise(model: ScoreModel, t: float) -> float:
    return float(np.exp(-0.5 * model.sde.log_snr(t)))


def bits(
    key: Key,
    model: ScoreModel,
    x: np.ndarray,
    labels: np.ndarray | None,
    flow: FlowIntegration,
    *,
    grey_levels: int,
    data_range: float,
) -> Numbers:
    """Returns bits per dimension of dequantized images under the probability flow, with what they are to mean.

    Args:
      key: `()`, of the probes.
      model: the score function.
      x: images `(n, H, W, C)` in the range of training, dequantized.
      labels: classes `(n,)` of a conditional model, −1 for none.
      flow: how.
      grey_levels: their number.
      data_range: width of the range of training.
    """
    found = log_prob(key, model, x, labels, flow)
    of_images = bits_per_dim(jnp.asarray(found.values), dims=x[0].size, data_range=data_range, grey_levels=grey_levels)
    return _of_flow("bits_per_dim", np.asarray(of_images.value), found, of_images.convention, _noise(model, flow.t_min))


def nats(
    key: Key,
    model: ScoreModel,
    x: np.ndarray,
    labels: np.ndarray | None,
    flow: FlowIntegration,
    *,
    oracle: GaussianMixture | None,
) -> Numbers:
    """Returns the mean log-density, in nats, of examples that have one: points, vectors, floating-point arrays.

    Args:
      key: `()`, of the probes.
      model: the score function.
      x: examples `(n, *S)` as they are.
      labels: classes `(n,)` of a conditional model, −1 for none.
      flow: how.
      oracle: the exact density, whose mean at the same examples is given too, of data noised to `flow.t_min` as the
        flow's is; None where it is not known.
    """
    found = log_prob(key, model, x, labels, flow)
    units = f"nats per example, log p(x) of {x[0].size} numbers in the data's own units, not dequantized"
    numbers = _of_flow("log_likelihood", found.values, found, units, _noise(model, flow.t_min))
    arrived = np.isfinite(found.values)
    if arrived.any():
        numbers["log_likelihood_per_dim"] = numbers["log_likelihood"] / x[0].size
    if oracle is not None and arrived.any():
        exact = oracle.perturbed(model.sde, jnp.asarray(flow.t_min)).log_prob(jnp.asarray(x[arrived]))
        numbers["exact_log_likelihood"] = float(np.asarray(exact, np.float64).mean())
    return numbers


def _of_flow(name: str, values: np.ndarray, found: LogProb, units: str, sigma: float) -> Numbers:
    """The mean of what arrived under `name`, its error and number, and what it is to mean."""
    arrived = values[np.isfinite(values)]
    return {
        **mean_of(name, arrived),
        f"{name}_not_integrated": len(values) - len(arrived),
        f"{name}_sigma": sigma,
        f"{name}_convention": f"{units}; {found.convention}",
        f"{name}_nfe": found.nfe,
    }
