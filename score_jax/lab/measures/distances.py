"""Distances of samples to data: of points, vectors and sequences, in their own units."""

import jax
import numpy as np

from score_jax import metrics
from score_jax.data.order import permutation
from score_jax.lab.experiment import Numbers
from score_jax.lab.measures.measured import Measured, keys
from score_jax.types import Array, InputError, Key


def distances(measured: Measured) -> Numbers:
    """Returns distances to held-out data; to the training set, under names that say so, where there are none."""
    if len(measured.run.examples.shape) == 3:
        raise InputError("distances between arrays of pixels tell little of images: these have other measures")
    held_out = len(measured.run.experiment.data.held_out) > 0
    data = (measured.held_out if held_out else measured.train)["x"]
    data = data[permutation(len(data), 0)]  # which may come class by class
    n = min(len(measured.drawn), len(data) // 2)
    if n < 2:
        raise InputError(
            f"distances take 4 {'held-out' if held_out else 'training'} examples, 2 to compare samples with and 2 to "
            f"compare with these, got {len(data)}"
        )
    found = compared(keys(measured.seed, 2)[1], measured.samples[:n], data[:n], data[n : 2 * n])
    return {"distances_n": n} | (found if held_out else {f"train_{name}": value for name, value in found.items()})


def compared(key: Key, samples: np.ndarray, data: np.ndarray, fresh: np.ndarray) -> Numbers:
    """Compares samples `(n, *S)` with data; `data_*` compares `fresh` data, as many, with these."""
    numbers: Numbers = {k: float(v) for k, v in _distances(key, samples, data).items()}
    return numbers | {f"data_{k}": float(v) for k, v in _distances(key, fresh, data).items()}


@jax.jit
def _distances(key: Key, a: Array, b: Array) -> dict[str, Array]:
    return {
        "sliced_wasserstein2": metrics.sliced_wasserstein(key, a, b),
        "mmd2": metrics.mmd(a, b),
        "energy_distance": metrics.energy_distance(a, b),
    }
