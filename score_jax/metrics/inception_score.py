"""Inception score: how sure a classifier is of samples, and how evenly they fall on its classes.

    IS = exp(mean_i KL(p(·|x_i) ‖ p̄)),    p̄ = mean_i p(·|x_i)

(Salimans et al. 2016), between 1 and the number of classes K. It knows nothing of the data.
"""

import itertools
from collections.abc import Iterable
from functools import reduce
from typing import NamedTuple

import numpy as np

from score_jax.types import ArrayLike, InputError, require_at_least


def inception_score(probabilities: ArrayLike, *, n_splits: int = 10) -> tuple[float, float]:
    """Returns mean and standard deviation of the scores of `n_splits` parts, rows in the order given; as published.

    The parts share no rows, so that the standard error of the mean is std/√(n_splits − 1). The score of n rows is too
    low by up to (K − 1)/(2n) of itself, with n the rows of a part, since p̄ follows the rows that there are: compare
    values of equal n and splits. Rows are to be in random order, or classes that follow each other fall into different
    parts.

    Args:
      probabilities: of classes (N, K), rows that sum to 1; for the published score of InceptionV3 those of its logits
        without bias.
      n_splits: parts, as equal as can be.

    Raises:
      InputError: for rows that are no probabilities, or fewer of them than parts.

    Examples:
      A classifier that is sure, and finds each of four classes equally often: the most there is, K.

      >>> score, std = metrics.inception_score(np.tile(np.eye(4), (10, 1)))
      >>> print(f"{score:.2f} {std:.2f}")
      4.00 0.00
    """
    p = np.asarray(probabilities, np.float64)
    require_at_least("inception_score", 1, n_splits=n_splits)
    if p.ndim != 2 or p.shape[0] < n_splits:
        raise InputError(f"expected probabilities (N, K) of N ≥ {n_splits} rows, got shape {p.shape}")
    edges = [i * len(p) // n_splits for i in range(n_splits + 1)]
    scores = [ClassSums.of(p[start:stop]).score for start, stop in itertools.pairwise(edges)]
    return float(np.mean(scores)), float(np.std(scores))


class ClassSums(NamedTuple):
    """What the score of n rows takes, which adds up: Σ_i p(·|x_i) `(K,)`, and the sum of the entropies of the rows."""

    n: int
    probabilities: np.ndarray
    entropy: float

    @classmethod
    def of(cls, probabilities: ArrayLike) -> "ClassSums":
        """Returns the sums of rows (N, K) of probabilities.

        Raises:
          InputError: for rows that are no probabilities.
        """
        p = np.asarray(probabilities, np.float64)
        if p.ndim != 2 or p.size == 0:
            raise InputError(f"expected probabilities (N, K), got shape {p.shape}")
        if not (p >= 0).all() or not np.allclose(p.sum(1), 1, atol=1e-3):
            raise InputError(
                "rows are not probabilities, which are at least 0 and sum to 1: give a softmax of the logits"
            )
        return cls(len(p), p.sum(0), float(_entropy(p).sum()))

    @classmethod
    def merged(cls, parts: "Iterable[ClassSums]") -> "ClassSums":
        """Returns the sums of the rows of all parts."""
        return reduce(lambda a, b: cls(a.n + b.n, a.probabilities + b.probabilities, a.entropy + b.entropy), parts)

    @property
    def score(self) -> float:
        """The inception score of the rows: mean KL(p ‖ p̄) = H(p̄) − mean H(p)."""
        return float(np.exp(_entropy(self.probabilities / self.n) - self.entropy / self.n))


def _entropy(p: np.ndarray) -> np.ndarray:
    return -(p * np.log(np.where(p > 0, p, 1))).sum(-1)
