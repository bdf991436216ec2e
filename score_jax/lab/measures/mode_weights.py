"""The shares of a known density's modes among samples."""

import numpy as np

from score_jax import metrics
from score_jax.lab.experiment import Modes, Numbers
from score_jax.lab.measures.measured import Measured
from score_jax.types import InputError


def sample_mode_weights(measured: Measured) -> Numbers:
    """Returns the shares of the modes in samples, and in the density."""
    modes = measured.run.experiment.data.modes
    if modes is None:
        raise InputError(f"the data {measured.run.examples.name!r} have no modes to be weighed")
    return weighed(measured.samples, modes)


def weighed(samples: np.ndarray, modes: Modes) -> Numbers:
    """Returns the shares of modes in samples `(n, 2)`, and their weights."""
    found = metrics.mode_weights(samples, modes.places)
    return {
        "mode_coverage": float(metrics.mode_coverage(samples, modes.places, weights=modes.weights)),
        "mode_weights": np.asarray(found.weights).round(4).tolist(),
        "data_mode_weights": modes.weights.round(4).tolist(),
    }
