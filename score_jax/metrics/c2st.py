"""Classifier two-sample test: how well a network tells two sets of rows apart (Lopez-Paz & Oquab 2017).

accuracy = ½ where nothing tells them apart;    for densities p and q, at best ½ + ¼ ∫ |p − q|
"""

import warnings

import jax
import numpy as np

from score_jax.metrics.rows import two_finite_sets
from score_jax.types import ArrayLike, InputError, Key

_FOLDS = 5
_WIDEST = 512
_ITERATIONS = 10_000


def c2st(key: Key, a: ArrayLike, b: ArrayLike) -> tuple[float, float]:
    """Returns the accuracy of a classifier that tells unseen rows of `a` from those of `b`, and its standard error.

    The test of sbibm (Lueckmann et al. 2021): rows less the mean of `a`, divided by its standard deviation, 5 folds, in
    each a perceptron of two hidden layers of 10·F units, here 512 at most, trained until its loss rests. The error is
    √(accuracy (1 − accuracy)/n) of all n rows, that of independent answers; what the classifier learned of one fold is
    not what it learned of another, which the error does not have: it is a test of the rows, given the classifier.

    Args:
      key: random key, (): of the folds and the weights at the start.
      a: (N, F).
      b: (N, F), as many rows, so that one half is chance.

    Raises:
      InputError: for other shapes, fewer rows than folds, different numbers of rows, or numbers that are not finite.

    Examples:
      What lies apart is told apart without an error.

      >>> rows = np.random.default_rng(0).normal(size=(20, 1))
      >>> accuracy, error = metrics.c2st(key, rows, rows + 100)
      >>> print(accuracy, error)
      1.0 0.0
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.model_selection import KFold, cross_val_score
    from sklearn.neural_network import MLPClassifier
    from threadpoolctl import threadpool_limits

    a, b = two_finite_sets(a, b)
    if len(a) != len(b) or len(a) < _FOLDS:
        raise InputError(
            f"c2st takes equally many rows, at least {_FOLDS} each, got {len(a)} and {len(b)}: take a subset"
        )
    deviation = a.std(0, dtype=np.float64)
    rows = (np.concatenate([a, b]) - a.mean(0, dtype=np.float64)) / np.where(deviation > 0, deviation, 1)
    width, seed = min(10 * a.shape[1], _WIDEST), int(jax.random.bits(key) >> 1)
    network = MLPClassifier((width, width), max_iter=_ITERATIONS, random_state=seed)
    folds = KFold(_FOLDS, shuffle=True, random_state=seed)
    # One thread: products this small gain little from more.
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        scores = cross_val_score(network, rows, np.repeat([0, 1], len(a)), cv=folds, scoring="accuracy")
    accuracy = float(scores.mean())
    return accuracy, (accuracy * (1 - accuracy) / len(rows)) ** 0.5
