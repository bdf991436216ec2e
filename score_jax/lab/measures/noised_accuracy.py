"""How often a classifier of noised data is right, by noise level."""

from functools import lru_cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from score_jax import arrays
from score_jax.conditioning.classifier import NoisedClassifier
from score_jax.lab.experiment import Numbers, Run
from score_jax.lab.measures.batches import in_batches
from score_jax.lab.measures.likelihood import held_out_examples
from score_jax.lab.measures.measured import Measured, by_sigma, keys
from score_jax.training.step import level_sigmas
from score_jax.types import Array, Key

_EXAMPLES = 1024  # held-out ones, at most


class NoisedAccuracy(NamedTuple):
    """Of n examples: by noise level σ/α `(L,)` the share that is right, its error, and −log p of the class in nats.

    `least` is the share of the most frequent class: of one who doesn't look.
    """

    sigma: np.ndarray
    accuracy: np.ndarray
    standard_error: np.ndarray
    cross_entropy: np.ndarray
    least: float
    n: int


def noised_accuracy(measured: Measured) -> Numbers:
    """Returns the accuracy of a classifier, and its cross-entropy in nats, by noise level; nothing of a score."""
    if not measured.run.sampling.without_score:
        return {}
    found = accuracy_of(measured.run, measured.seed)
    return {
        "accuracy_by_sigma": by_sigma(found.sigma, found.accuracy),
        "cross_entropy_by_sigma": by_sigma(found.sigma, found.cross_entropy),
        "accuracy_standard_error_by_sigma": by_sigma(found.sigma, found.standard_error),
        "most_frequent_class": found.least,
        "noised_accuracy_n": found.n,
    }


def accuracy_of(run: Run, seed: int) -> NoisedAccuracy:
    """Returns how often a run's classifier is right of held-out examples at the `level_sigmas`.

    Raises:
      InputError: where nothing was held out.
    """
    data, sde = run.experiment.data, run.model.sde
    data.require_held_out()
    key_noise, key_levels = keys(seed, 8)[6:]
    dequantize = run.experiment.prepare.dequantize
    x, labels = held_out_examples(run, _EXAMPLES, key_noise, dequantize=dequantize)
    assert labels is not None
    sigmas = np.asarray(level_sigmas(sde, run.experiment.evaluation.levels))
    ts = sde.time(-2 * jnp.log(sigmas))
    batch, size = partial(_of_batch(), ts=ts), run.sampling.batch_size
    right, lost = in_batches(batch, key_levels, run.model, x, labels, size=size, mesh=run.sampling.mesh)
    accuracy = right.mean(0)
    error = np.sqrt(accuracy * (1 - accuracy) / len(x))
    least = float(np.bincount(labels).max() / len(labels))
    return NoisedAccuracy(sigmas, accuracy, error, lost.mean(0), least, len(x))


@lru_cache(maxsize=1)
def _of_batch():
    @jax.jit
    def batch(keys: Key, model: NoisedClassifier, x: Array, labels: Array, ts: Array) -> tuple[Array, Array]:
        """Whether the likeliest class is the right one, and −log p of that, `(B, L)` both."""

        def at(inputs: tuple[Array, Array]) -> tuple[Array, Array]:
            i, t = inputs
            xt, _ = model.sde.perturb(arrays.fold_in(keys, i), x, t)
            log_probs = model(xt, t)
            chosen = jnp.take_along_axis(log_probs, labels[:, None], axis=1)[:, 0]
            return log_probs.argmax(1) == labels, -chosen

        right, lost = jax.lax.map(at, (jnp.arange(len(ts)), ts))
        return right.T, lost.T

    return batch
