"""Precision, recall, density and coverage of samples among the training set, by features."""

from functools import partial

from score_jax import metrics
from score_jax.lab.experiment import Numbers
from score_jax.lab.measures.measured import Measured, keys

_PRODUCTS = 4e11  # of features, that errors may cost: about a minute on 2 cores, until `_LEAST` take longer
_LEAST = 10  # resamples: the error is known to a quarter


def precision_recall(measured: Measured) -> Numbers:
    """Returns the four of as many samples as training images; nothing where no network is chosen."""
    how = measured.run.experiment.evaluation.features
    if how is None:
        return {}
    fake, real = measured.features.rows, measured.reference.rows
    n = min(len(fake), len(real))
    k = min(how.k, n // 2 - 1)
    compare = partial(metrics.prdc, k=k)
    found = compare(real[:n], fake[:n])
    resamples = int(min(50, max(_LEAST, _PRODUCTS / (1.5 * n**2 * real.shape[1]))))
    errors = metrics.bootstrap(keys(measured.seed, 7)[6], compare, real[:n], fake[:n], n_resamples=resamples)
    told = {"n": n, "k": k, **measured.reference.conditions}
    return {
        name: {"value": value, "standard_error": error, **told}
        for name, value, error in zip(found._fields, found, errors, strict=True)
    }
