"""Precision, recall, density and coverage of samples among data, by balls around the rows of features.

With B_k(x) the ball around x that reaches to its k-th nearest other row of its own set, without the sphere,

    precision = share of fake rows in some B_k(real)            recall   = share of real rows in some B_k(fake)
    density   = mean number of B_k(real) around a fake row / k  coverage = share of B_k(real) that hold a fake row

(Kynkäänniemi et al. 2019 for the first two, Naeem et al. 2020 for the others). For equal laws density is 1 on average
and coverage 1 − 1/2^k or so where the sets are equally large; precision and recall have no such value and grow with the
number of rows: all of them are compared at equal numbers of rows and equal k only.

Distances are ‖x‖² + ‖y‖² − 2 x·y in float64 about the mean of the real rows, in blocks: rows that differ by one part in
10⁷ of their distance from it are still told apart, which float32, as features are stored in, cannot express.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from score_jax.metrics.rows import two_finite_sets
from score_jax.types import ArrayLike, InputError

_BLOCK_ELEMENTS = 2**23  # of the largest temporary, 64 MiB


class PRDC(NamedTuple):
    """What `prdc` measures."""

    precision: float
    recall: float
    density: float
    coverage: float


def prdc(real: ArrayLike, fake: ArrayLike, *, k: int = 5) -> PRDC:
    """Returns precision, recall, density and coverage; equal to the package `prdc`.

    10,000 rows of each of 2,048 features take a minute on 2 cores, and float64 copies of both in memory. For
    standard errors see `bootstrap`, whose subsets without replacement make no pairs of equal rows.

    Args:
      real: features of data (N, F), more than k rows.
      fake: features of samples (M, F), more than k rows.
      k: which neighbour a ball reaches to.

    Raises:
      InputError: for features of other shapes, numbers that are not finite, or too few rows for k.

    Examples:
      Of two clusters of data the samples are in one: all of them among data, half of the data beside one.

      >>> real = np.array([[0.0], [1.0], [2.0], [10.0], [11.0], [12.0]])
      >>> found = metrics.prdc(real, real[:3] + 0.1, k=2)
      >>> print(found.precision, found.coverage)
      1.0 0.5
    """
    x, y = two_finite_sets(real, fake)
    if not 1 <= k < min(len(x), len(y)):
        raise InputError(f"prdc: k must be at least 1 and below the {min(len(x), len(y))} rows, got {k}")
    centre = x.mean(0, dtype=np.float64)
    x, y = x - centre, y - centre
    real_radii, fake_radii = _radii(x, k), _radii(y, k)
    around = np.zeros(len(y), np.int64)  # balls of real rows around each fake row
    recalled, covered = 0, 0
    for rows, squared in _blocks(x, y):
        inside = squared < real_radii[rows, None]
        around += inside.sum(0)
        covered += int(inside.any(1).sum())
        recalled += int((squared < fake_radii[None]).any(1).sum())
    return PRDC(float((around > 0).mean()), recalled / len(x), float(around.mean() / k), covered / len(x))


def _radii(x: np.ndarray, k: int) -> np.ndarray:
    """Returns the squared distance of every row to its k-th nearest other row."""
    radii = np.empty(len(x))
    for rows, squared in _blocks(x, x):
        squared[np.arange(len(squared)), np.arange(len(x))[rows]] = np.inf
        radii[rows] = np.partition(squared, k - 1, axis=1)[:, k - 1]
    return radii


def _blocks(x: np.ndarray, y: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Yields rows of x, and their squared distances to all of y."""
    squared_y = (y**2).sum(1)
    step = max(1, _BLOCK_ELEMENTS // len(y))
    for start in range(0, len(x), step):
        rows = slice(start, min(start + step, len(x)))
        squared = x[rows] @ y.T
        squared *= -2
        squared += squared_y
        squared += (x[rows] ** 2).sum(1)[:, None]
        yield rows, squared
