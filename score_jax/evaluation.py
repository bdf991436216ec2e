"""Numbers of a trained model under plain names, each beside what real data gives: what `measures` are made of.

Every figure stands with its n. A comparison of samples with data means little without the same comparison of data with
data, so fresh data of the same size go through the same functions.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from score_jax import metrics
from score_jax.arrays import example_keys, split
from score_jax.data import toy
from score_jax.distributions import GaussianMixture
from score_jax.likelihood import VariationalBound, bits_per_dim, log_likelihood
from score_jax.metrics import Classifier, ScoreError
from score_jax.score import ScoreModel
from score_jax.training.step import level_sigmas
from score_jax.types import Array, ArrayLike, InputError, Key, ScoreFn

Numbers = dict[str, Any]

_STREAM = 0x6576616C
_EXACT_DIMS = 16  # dimensions up to which the divergence is exact: as many derivatives as there are


def score_error(key: Key, model: ScoreModel, oracle: GaussianMixture, levels: int) -> ScoreError:
    """Returns the error of the model's score against the exact one at the `level_sigmas`, 2,048 draws each."""
    ts = model.sde.time(-2 * jnp.log(level_sigmas(model.sde, levels)))
    return jax.jit(lambda key, model: metrics.score_error(key, model, oracle, model.sde, ts))(key, model)


def by_sigma(sigmas: ArrayLike, values: ArrayLike) -> dict[str, float]:
    """Returns `{σ/α: value}`, the form in which files report by noise level; ascending where `sigmas` is."""
    return {f"{sigma:.4g}": float(v) for sigma, v in zip(np.asarray(sigmas), np.asarray(values), strict=True)}


def distances(key: Key, samples: np.ndarray, data: np.ndarray, fresh: np.ndarray) -> Numbers:
    """Compares samples `(n, *S)` with data; `data_*` compares `fresh` data, as many, with these."""

    @jax.jit
    def compare(a: Array, b: Array) -> dict[str, Array]:
        return {
            "sliced_wasserstein2": metrics.sliced_wasserstein(key, a, b),
            "mmd2": metrics.mmd(a, b),
            "energy_distance": metrics.energy_distance(a, b),
        }

    numbers: Numbers = {k: float(v) for k, v in compare(samples, data).items()}
    return numbers | {f"data_{k}": float(v) for k, v in compare(fresh, data).items()}


def mode_weights(samples: np.ndarray, name: str) -> Numbers:
    """Returns the shares of the modes of the toy `name` in samples `(n, 2)`, and in its density."""
    modes = toy.modes(name)
    if modes is None:
        raise InputError(f"the toy {name!r} has no modes to be weighed")
    expected = np.bincount(toy.groups(name), toy.components(name).weights)
    found = metrics.mode_weights(samples, modes)
    return {
        "mode_coverage": float(metrics.mode_coverage(samples, modes, weights=expected)),
        "mode_weights": np.asarray(found.weights).round(4).tolist(),
        "data_mode_weights": expected.round(4).tolist(),
    }


def class_shares(classifier: Classifier, samples: np.ndarray, held_out: tuple[np.ndarray, np.ndarray]) -> Numbers:
    """Returns how sure the classifier is of samples and how it spreads them over classes, beside held-out images."""
    report = metrics.classification_report(classifier, samples, held_out)
    return {
        "held_out_accuracy": report.held_out_accuracy,
        "held_out_confidence": report.held_out_confidence,
        "confidence": report.confidence,
        "class_shares": report.class_shares.round(4).tolist(),
        "data_class_shares": report.data_shares.round(4).tolist(),
        "class_total_variation": report.total_variation,
    }


class Flow(NamedTuple):
    """How the likelihood of the probability flow is integrated.

    Attributes:
      t_min: where the flow starts, the least noisy time that training knew.
      t_max: where it ends, in the prior of that time: the SDE's, or less for a network trained with less noise.
      n_probes: of Hutchinson's estimate; examples of few dimensions need none.
      tolerance: relative and absolute, of the integration.
      batch_size: examples at once; the last batch is filled up and cut.
    """

    t_min: float
    t_max: float
    n_probes: int
    tolerance: float
    batch_size: int


class LogProb(NamedTuple):
    """Log-densities `(n,)` in nats, NaN where the flow did not arrive; calls of the network; how they were found."""

    values: np.ndarray
    nfe: int
    convention: str


def log_prob(key: Key, model: ScoreModel, x: np.ndarray, labels: np.ndarray | None, flow: Flow) -> LogProb:
    """Returns the log-density of examples under the probability flow, in the units of training.

    Args:
      key: `()`, of the probes.
      model: the score function.
      x: examples `(n, *S)` as they are trained on; images of grey levels dequantized.
      labels: classes `(n,)` of a conditional model, −1 for none.
      flow: how.
    """
    exact = x[0].size <= _EXACT_DIMS

    @jax.jit
    def batch(keys, x, labels, model):
        options: dict[str, Any] = {"t_min": flow.t_min, "t_max": flow.t_max}
        options |= {"rtol": flow.tolerance, "atol": flow.tolerance}
        options |= {} if exact else {"key": keys, "n_probes": flow.n_probes}
        found = log_likelihood(model.sde, model.given(label=labels), x, **options)
        return found.log_prob, jnp.full(len(x), found.nfe)

    values, calls = _in_batches(partial(batch, model=model), key, x, labels, flow.batch_size)
    smallest, largest = (_noise(model, t) for t in (flow.t_min, flow.t_max))
    given = "" if labels is None or (labels < 0).all() else "of p(x|y) given the label y; "
    how = "exact divergence" if exact else f"Hutchinson's estimate with {flow.n_probes} probes"
    convention = (
        f"{given}probability flow from t = {flow.t_min:g} (σ/α = {smallest:.3g}) to the prior at t = {flow.t_max:g} "
        f"(σ/α = {largest:.3g}), {how}, tolerance {flow.tolerance:g}"
    )
    return LogProb(values, int(calls.max()), convention)


def _noise(model: ScoreModel, t: float) -> float:
    return float(np.exp(-0.5 * model.sde.log_snr(t)))


def bits(
    key: Key,
    model: ScoreModel,
    x: np.ndarray,
    labels: np.ndarray | None,
    flow: Flow,
    *,
    levels: int,
    data_range: float,
) -> Numbers:
    """Returns bits per dimension of dequantized images under the probability flow, with what they are to mean.

    Args:
      key: `()`, of the probes.
      model: the score function.
      x: images `(n, H, W, C)` in the range of training, dequantized.
      labels: classes `(n,)` of a conditional model, −1 for none.
      flow: how.
      levels: number of grey levels.
      data_range: width of the range of training.
    """
    found = log_prob(key, model, x, labels, flow)
    of_images = bits_per_dim(jnp.asarray(found.values), dims=x[0].size, data_range=data_range, levels=levels)
    return _of_flow("bits_per_dim", np.asarray(of_images.value), found, of_images.convention, _noise(model, flow.t_min))


def nats(
    key: Key,
    model: ScoreModel,
    x: np.ndarray,
    labels: np.ndarray | None,
    flow: Flow,
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
        **_mean(name, arrived),
        f"{name}_not_integrated": len(values) - len(arrived),
        f"{name}_sigma": sigma,
        f"{name}_convention": f"{units}; {found.convention}",
        f"{name}_nfe": found.nfe,
    }


def bound(
    key: Key,
    terms: Callable[[Key, ScoreFn, Array], VariationalBound],
    model: ScoreModel,
    x: np.ndarray,
    labels: np.ndarray | None,
    *,
    convention: str,
    offset: float,
    batch_size: int,
) -> Numbers:
    """Returns the variational bound of images in bits per dimension, and its parts.

    Args:
      key: `()`, of the noise.
      terms: `(keys, score_fn, x) -> VariationalBound`.
      model: the score function.
      x: images `(n, H, W, C)` in the range of training.
      labels: classes `(n,)` of a conditional model, −1 for none.
      convention: what the bits are of, in words.
      offset: bits per dimension to add to the decoder's: of a density, the width of a grey level.
      batch_size: images at once; the last batch is filled up and cut.
    """

    @jax.jit
    def batch(keys, x, labels, model):
        found = terms(keys, model.given(label=labels), x)
        return found.prior, found.steps.sum(0), found.decoder

    in_bits = 1 / (x[0].size * np.log(2))
    parts = [part * in_bits for part in _in_batches(partial(batch, model=model), key, x, labels, batch_size)]
    parts[2] += offset
    means = {
        f"bound_{name}": float(part.mean()) for name, part in zip(("prior", "steps", "decoder"), parts, strict=True)
    }
    return {**_mean("bound_bits_per_dim", sum(parts)), **means, "bound_convention": convention}


def _in_batches(f: Callable[..., Any], key: Key, x: np.ndarray, labels: np.ndarray | None, size: int) -> Any:
    """f(keys, x, labels) of all rows, `size` at a time: one program, whose last batch is filled up and cut."""
    keys, size, parts = example_keys(key, len(x)), min(size, len(x)), []
    for first in range(0, len(x), size):
        rows = np.resize(np.arange(first, min(first + size, len(x))), size)
        found = f(keys[rows], x[rows], None if labels is None else labels[rows])
        parts.append(jax.tree.map(lambda v, n=len(x) - first: np.asarray(v, np.float64)[:n], found))
    return jax.tree.map(lambda *values: np.concatenate(values), *parts)


def _mean(name: str, values: np.ndarray) -> Numbers:
    """The mean of values, its standard error and their number; None for a mean or an error of too few."""
    n = len(values)
    return {
        name: float(values.mean()) if n else None,
        f"{name}_standard_error": float(values.std(ddof=1) / n**0.5) if n > 1 else None,
        f"{name}_n": n,
    }


def held_out_loss(evaluate: Callable[..., Array], state: Any, batches: Mapping[str, Array], sigmas: Array) -> Numbers:
    """Returns the mean held-out loss per dimension by noise level."""
    return {"loss_by_sigma": by_sigma(sigmas, evaluate(state, batches))}


def keys(seed: int, n: int) -> Key:
    """Returns n keys of an evaluation: of a stream of their own, apart from training's (0 to 4) and sampling's."""
    return split(jax.random.fold_in(jax.random.key(seed), _STREAM), n)
