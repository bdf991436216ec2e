"""Whether samples and training images can be told apart by their features: by a classifier, and along random lines."""

import jax

from score_jax import metrics
from score_jax.lab.experiment import Numbers
from score_jax.lab.measures.measured import Measured, keys

_ROWS = 1000  # of each side: a classifier is trained five times


def feature_tests(measured: Measured) -> Numbers:
    """Returns the accuracy of a classifier (½: it can't tell), and the sliced 2-Wasserstein distance."""
    if measured.feature_network is None:
        return {}
    a, b = measured.features.rows[:_ROWS], measured.reference.rows[:_ROWS]
    n = min(len(a), len(b))
    test, lines, errors = keys(measured.seed, 10)[7:]
    accuracy, error = metrics.c2st(test, a[:n], b[:n])
    sliced = jax.jit(lambda a, b: metrics.sliced_wasserstein(lines, a, b))
    spread = metrics.bootstrap(errors, sliced, a[:n], b[:n], n_resamples=20)
    told = {"n": n, **measured.reference.conditions}
    return {
        "feature_c2st": {"value": accuracy, "standard_error": error, **told},
        "feature_sliced_wasserstein2": {"value": float(sliced(a[:n], b[:n])), "standard_error": spread, **told},
    }
