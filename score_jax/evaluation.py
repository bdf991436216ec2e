"""What `evaluate` measures of a trained model: plain numbers under plain names, each beside what real data gives.

Every figure stands with its n. A comparison of samples with data means little without the same comparison of data with
data, so fresh data of the same size go through the same functions.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from score_jax import metrics
from score_jax.arrays import example_keys, split
from score_jax.data import toy
from score_jax.distributions import GaussianMixture
from score_jax.likelihood import VariationalBound, bits_per_dim, log_likelihood
from score_jax.metrics import ScoreError
from score_jax.sampling import grids
from score_jax.score import ScoreModel
from score_jax.types import Array, Key, ScoreFn

Numbers = dict[str, Any]

_STREAM = 0x6576616C


def score_error(key: Key, model: ScoreModel, oracle: GaussianMixture, levels: int) -> ScoreError:
    """Returns the error of the model's score against the exact one at `levels` noise levels, 2,048 draws each."""
    ts = grids.log_snr(model.sde, levels)
    return jax.jit(lambda key, model: metrics.score_error(key, model, oracle, model.sde, ts))(key, model)


def of_points(key: Key, samples: np.ndarray, data: np.ndarray, fresh: np.ndarray, name: str) -> Numbers:
    """Compares samples `(n, D)` with points of the data set `name`; `data_*` compares `fresh` points with these."""

    @jax.jit
    def distances(a: Array, b: Array) -> dict[str, Array]:
        return {
            "sliced_wasserstein2": metrics.sliced_wasserstein(key, a, b),
            "mmd2": metrics.mmd(a, b),
            "energy_distance": metrics.energy_distance(a, b),
        }

    numbers: Numbers = {"n": len(samples)}
    numbers |= {k: float(v) for k, v in distances(samples, data).items()}
    numbers |= {f"data_{k}": float(v) for k, v in distances(fresh, data).items()}
    modes = toy.modes(name) if name in toy.TOYS else None
    if modes is not None:
        expected = np.bincount(toy.groups(name), toy.components(name).weights)
        found = metrics.mode_weights(samples, modes)
        numbers["mode_coverage"] = float(metrics.mode_coverage(samples, modes, weights=expected))
        numbers["mode_weights"] = np.asarray(found.weights).round(4).tolist()
        numbers["data_mode_weights"] = expected.round(4).tolist()
    return numbers


def of_images(
    samples: np.ndarray,
    train: Mapping[str, np.ndarray],
    held_out: Mapping[str, np.ndarray],
    conditional: tuple[np.ndarray, np.ndarray] | None,
) -> Numbers:
    """Judges images by a classifier trained on the real ones, and by their nearest training neighbours.

    Args:
      samples: drawn without a label, in [0, 1].
      train: "x" in [0, 1] and, where the data has them, "label".
      held_out: likewise, never trained on.
      conditional: samples drawn with labels, and these labels; None for an unconditional model.
    """
    copies = metrics.memorisation(samples, train["x"], held_out["x"])
    numbers: Numbers = {
        "n": len(samples),
        "nearest_neighbour_distance": copies.sample_distance,
        "held_out_nearest_neighbour_distance": copies.held_out_distance,
        "nearest_neighbour_ratio": copies.ratio,
        "copies": copies.copies,
    }
    if "label" in train:
        numbers |= _classified(samples, train, held_out, conditional)
    return numbers


def _classified(samples, train, held_out, conditional) -> Numbers:
    classifier = metrics.train_classifier(train["x"], train["label"])
    real = held_out["x"], held_out["label"]
    report = metrics.classification_report(classifier, samples, real)
    numbers: Numbers = {
        "held_out_accuracy": report.held_out_accuracy,
        "held_out_confidence": report.held_out_confidence,
        "confidence": report.confidence,
        "class_shares": report.class_shares.round(4).tolist(),
        "data_class_shares": report.data_shares.round(4).tolist(),
        "class_total_variation": report.total_variation,
    }
    if conditional is not None:
        images, labels = conditional
        judged = metrics.classification_report(classifier, images, real, labels=labels)
        numbers |= {"conditional_accuracy": judged.accuracy, "conditional_n": len(labels)}
    return numbers


def likelihood(
    key: Key,
    model: ScoreModel,
    x: np.ndarray,
    labels: np.ndarray | None,
    *,
    levels: int,
    data_range: float,
    t_min: float,
    t_max: float,
    n_probes: int,
    tolerance: float,
    batch_size: int,
) -> Numbers:
    """Returns bits per dimension of dequantized images under the probability flow, with what they are to mean.

    Args:
      key: `()`, of the probes.
      model: the score function.
      x: images `(n, H, W, C)` in the range of training, dequantized.
      labels: classes `(n,)` of a conditional model, −1 for none.
      levels: number of grey levels.
      data_range: width of the range of training.
      t_min: where the flow starts, the least noisy time that training knew.
      t_max: where it ends, in the prior of that time: the SDE's, or less for a network trained with less noise.
      n_probes: of Hutchinson's estimate.
      tolerance: relative and absolute, of the integration.
      batch_size: images at once; the last batch is filled up and cut.
    """
    sde = model.sde

    @jax.jit
    def batch(keys, x, labels, model):
        options: dict[str, Any] = {"t_min": t_min, "t_max": t_max, "rtol": tolerance, "atol": tolerance}
        found = log_likelihood(sde, model.given(label=labels), x, key=keys, n_probes=n_probes, **options)
        bits = bits_per_dim(found.log_prob, dims=x[0].size, data_range=data_range, levels=levels)
        return bits, jnp.full(len(x), found.nfe)

    bits, calls = _in_batches(partial(batch, model=model), key, x, labels, batch_size)
    arrived = bits.value[np.isfinite(bits.value)]
    sigma, largest = (float(np.exp(-0.5 * sde.log_snr(t))) for t in (t_min, t_max))
    given = "" if labels is None or (labels < 0).all() else ", of p(x|y) given the label y"
    flow = (
        f"probability flow from t = {t_min:g} (σ/α = {sigma:.3g}) to the prior at t = {t_max:g} (σ/α = {largest:.3g}), "
        f"Hutchinson's estimate with {n_probes} probes, tolerance {tolerance:g}"
    )
    return {
        **_mean("bits_per_dim", arrived),
        "bits_per_dim_not_integrated": len(bits.value) - len(arrived),
        "bits_per_dim_sigma": sigma,
        "bits_per_dim_convention": f"{bits.convention}{given}; {flow}",
        "bits_per_dim_nfe": int(calls.max()),
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
    values = np.asarray(evaluate(state, batches))
    return {"loss_by_sigma": {f"{sigma:.4g}": float(v) for sigma, v in zip(sigmas, values, strict=True)}}


def keys(seed: int, n: int) -> Key:
    """Returns n keys of an evaluation: of a stream of their own, apart from training's (0 to 4) and sampling's."""
    return split(jax.random.fold_in(jax.random.key(seed), _STREAM), n)
