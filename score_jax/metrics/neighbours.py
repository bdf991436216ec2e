"""Nearest neighbours of samples in the data, and whether a sampler copies its training set.

A model that memorises puts its samples closer to the training data than fresh data lie. The yardstick is the
distance from held-out examples, drawn from the same source as the training set, to their nearest training example.

Distances are between pixels, or between the `features` of a function that knows what images have in common: a copy
moved by a pixel is far away in pixels and near in features.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np

from score_jax.types import ArrayLike, InputError

FeatureFunction: TypeAlias = Callable[[np.ndarray], ArrayLike]  # (n, *S) -> (n, *F), each row by itself

_FEATURE_BATCH = 1024  # examples whose features are taken at once


class Memorisation(NamedTuple):
    """Median nearest-neighbour distances to the training set, their ratio, and the share of likely copies."""

    sample_distance: float
    held_out_distance: float
    ratio: float
    copies: float


def nearest_neighbours(
    queries: ArrayLike, data: ArrayLike, *, k: int = 1, features: FeatureFunction | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Finds the k nearest rows of `data` to each query, exactly, in the Euclidean distance over all elements.

    Brute force in blocks of bounded memory (scikit-learn, which accumulates in float64). The distances returned are
    recomputed from differences, so that a copy has distance 0.

    Args:
      queries: (n, *S).
      data: (N, *S).
      k: neighbours of each query, nearest first.
      features: what to compare instead of the elements: `(n, *S) -> (n, *F)`, given at most 1,024 rows at a time.

    Returns:
      `(index (n, k), distance (n, k))`.

    Examples:
      >>> index, distance = metrics.nearest_neighbours(np.array([[0.75]]), np.array([[0.0], [1.0], [5.0]]))
      >>> print(index, distance)
      [[1]] [[0.25]]
    """
    from sklearn.neighbors import NearestNeighbors

    queries, data = (_rows(_featured(x, features)) for x in (queries, data))
    if queries.shape[1] != data.shape[1]:
        raise InputError(
            f"queries have {queries.shape[1]} elements each and data {data.shape[1]}: they must be of one shape"
        )
    if not 1 <= k <= len(data):
        raise InputError(f"k must be between 1 and the {len(data)} rows of data, got {k}")
    index = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(data).kneighbors(queries, return_distance=False)
    distance = np.stack([np.linalg.norm(data[column] - queries, axis=1) for column in index.T], axis=1)
    return index, distance


def memorisation(
    samples: ArrayLike, train: ArrayLike, held_out: ArrayLike, *, features: FeatureFunction | None = None
) -> Memorisation:
    """Compares the nearest-neighbour distances of samples and of held-out data to the training set.

    `ratio = median d(samples → train) / median d(held out → train)`: about 1 for a perfect sampler, towards 0 for one
    that copies, above 1 for one whose samples are unlike the data. `copies` is the share of samples nearer to the
    training set than all but 1 % of the held-out data: 0.01 for a perfect sampler.

    Args:
      samples: (n, *S).
      train: (N, *S), what the model was trained on.
      held_out: (m, *S), from the same source and not trained on; a hundred or more, for the 1 % to mean something.
      features: what to compare instead of the elements, as for `nearest_neighbours`.

    Examples:
      Samples that are the training set.

      >>> rows = np.random.default_rng(0).normal(size=(300, 2))
      >>> found = metrics.memorisation(samples=rows[:200], train=rows[:200], held_out=rows[200:])
      >>> print(found.ratio, found.copies)
      0.0 1.0
    """
    if features is not None:
        samples, train, held_out = (_featured(x, features) for x in (samples, train, held_out))
    return copying(*(nearest_neighbours(x, train)[1][:, 0] for x in (samples, held_out)))


def copying(of_samples: np.ndarray, of_held_out: np.ndarray) -> Memorisation:
    """Returns `memorisation` from the distances of samples `(n,)` and held-out data `(m,)` to the training set.

    Raises:
      InputError: where distances overflow, or half of the held-out data have none.

    Examples:
      Samples half as far from the training set as held-out data are.

      >>> found = metrics.copying(np.full(100, 0.5), np.ones(100))
      >>> print(found.ratio, found.copies)
      0.5 1.0
    """
    if not (np.isfinite(of_samples).all() and np.isfinite(of_held_out).all()):
        raise InputError("distances to the training set are beyond the range of their numbers: rescale the data")
    sample_distance, held_out_distance = float(np.median(of_samples)), float(np.median(of_held_out))
    if held_out_distance == 0:
        raise InputError(
            "half of the held-out examples are in the training set: give examples that were not trained on"
        )
    copies = float((of_samples < np.quantile(of_held_out, 0.01)).mean())
    return Memorisation(sample_distance, held_out_distance, sample_distance / held_out_distance, copies)


def _featured(x: ArrayLike, features: FeatureFunction | None) -> ArrayLike:
    x = np.asarray(x)
    if features is None or not x.size:
        return x
    parts = [np.asarray(features(x[i : i + _FEATURE_BATCH])) for i in range(0, len(x), _FEATURE_BATCH)]
    rows = [len(part) if part.ndim else 0 for part in parts]
    if sum(rows) != len(x):
        raise InputError(f"features must be one row an example: {len(x)} examples gave {sum(rows)}")
    return np.concatenate(parts)


def _rows(x: ArrayLike) -> np.ndarray:
    x = np.asarray(x)
    if x.ndim < 1 or len(x) == 0:
        raise InputError(f"expected a batch (N, *S) with at least one example, got shape {x.shape}")
    if not np.isfinite(x).all():
        raise InputError("nearest neighbours of NaN or infinite values do not exist: drop the examples that diverged")
    return x.reshape(len(x), -1).astype(np.promote_types(x.dtype, np.float32), copy=False)
