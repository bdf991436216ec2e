"""Distances between two sets of samples, and which modes a sample visits; rows are examples, of any shape.

With `X, X' ~ P` and `Y, Y' ~ Q` independent, `P` known by the rows of `a` and `Q` by those of `b`:

    sliced W2   SW2² = E_θ W2²(θ·X, θ·Y), θ uniform on the unit sphere
    W2          W2²  = min over couplings of E‖X − Y‖²
    MMD         MMD² = E k(X, X') + E k(Y, Y') − 2 E k(X, Y)
    energy      D²   = 2 E‖X − Y‖ − E‖X − X'‖ − E‖Y − Y'‖

MMD² and D² are the unbiased estimates (no point is paired with itself): for P = Q they average to 0 and are often
negative. The Wasserstein distances are those of the two empirical distributions: they stay above 0 for P = Q and
are to be read beside their value between two halves of the data.

All are pure functions of arrays, to be jitted where they are called often, but `wasserstein2`, which solves its
assignment problem on the host. Pairs are summed in blocks from coordinate differences: memory is bounded, and no
digits are lost to ‖x‖² + ‖y‖² − 2x·y.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from score_jax import arrays
from score_jax.types import Array, ArrayLike, InputError, Key

# Elements of the largest temporary: 16 MiB in float32.
_BLOCK_ELEMENTS = 2**22
# The assignment problem costs O(n³): about a second at this size.
_LARGEST_ASSIGNMENT = 2000
# Points taken from each set for the median distance.
_MEDIAN_POINTS = 512


class ModeWeights(NamedTuple):
    """Where samples lie: `weights` (M,) sum to 1 over the covered samples; `covered` is their share of all."""

    weights: Array
    covered: Array


def sliced_wasserstein(key: Key, a: ArrayLike, b: ArrayLike, *, n_projections: int = 128) -> Array:
    """Returns the sliced 2-Wasserstein distance, the root of the mean of W2² over directions.

    In one dimension the optimal coupling joins equal quantiles; for unequal sample counts the two step functions are
    integrated exactly. Directions come in orthonormal frames, which leaves the mean as it is and lowers its variance
    (Rowland et al. 2019, "Orthogonal estimation of Wasserstein distances"): a shift δ in D dimensions gives exactly
    |δ|/√D where D divides `n_projections`.

    Args:
      key: random key, ().
      a: samples (N, *S).
      b: samples (M, *S).
      n_projections: number of directions.

    Examples:
      Of a shift δ = (3, 4) it is |δ|/√2 in two dimensions.

      >>> a = jax.random.normal(key, (100, 2))
      >>> print(f"{metrics.sliced_wasserstein(key, a, a + jnp.array([[3.0, 4.0]]), n_projections=2):.2f}")
      3.54
    """
    a, b = _two_samples(a, b)
    directions = _directions(key, n_projections, a)
    i, j, weight = _quantile_coupling(len(a), len(b))

    def squared_w2(direction: Array) -> Array:
        project = partial(jnp.dot, b=direction, precision=jax.lax.Precision.HIGHEST)
        difference = jnp.sort(project(a))[i] - jnp.sort(project(b))[j]
        return (jnp.asarray(weight, a.dtype) * difference**2).sum()

    batch = max(1, _BLOCK_ELEMENTS // len(weight))
    return jnp.sqrt(jax.lax.map(squared_w2, directions, batch_size=min(batch, n_projections)).mean())


def wasserstein2(a: ArrayLike, b: ArrayLike) -> float:
    """Returns the exact 2-Wasserstein distance of two empirical distributions of equal size, at most 2,000 points each.

    Solved as an assignment problem, in float64 on the host.

    Args:
      a: samples (N, *S).
      b: samples (N, *S).

    Raises:
      InputError: for unequal or too many points.

    Examples:
      Of a shift δ = (3, 4) it is |δ|.

      >>> a = np.random.default_rng(0).normal(size=(100, 2))
      >>> print(f"{metrics.wasserstein2(a, a + np.array([3.0, 4.0])):.2f}")
      5.00
    """
    from scipy.optimize import linear_sum_assignment
    from scipy.spatial.distance import cdist

    a, b = (np.asarray(x, np.float64) for x in _two_samples(a, b))
    if len(a) != len(b) or len(a) > _LARGEST_ASSIGNMENT:
        raise InputError(
            f"wasserstein2 takes equally many points, at most {_LARGEST_ASSIGNMENT} each, got {len(a)} and {len(b)}: "
            "take random subsets, or use sliced_wasserstein"
        )
    cost = cdist(a, b, "sqeuclidean")
    if not np.isfinite(cost).all():
        return float("nan")  # as the other distances; the solver would raise
    return float(np.sqrt(cost[linear_sum_assignment(cost)].mean()))


def mmd(a: ArrayLike, b: ArrayLike, *, bandwidths: Sequence[float] | Array | None = None) -> Array:
    """Returns the unbiased estimate of MMD², squared maximum mean discrepancy (Gretton et al. 2012, eq. 3).

    The kernel is a mean of Gaussians, `k(x, y) = mean_h exp(−‖x − y‖²/(2h²))`, so MMD² is at most 2.

    Args:
      a: samples (N, *S).
      b: samples (M, *S).
      bandwidths: the lengths h. None takes ½, 1 and 2 times the median distance in the pooled sample (of at most 512
        points of each, evenly spaced in it); give numbers to compare values between different pairs of samples.

    Examples:
      Of two points that lie apart by many bandwidths it is 1 + 1 − 0, the most.

      >>> print(metrics.mmd(jnp.zeros((4, 1)), jnp.full((4, 1), 100.0), bandwidths=[1.0]))
      2.0
    """
    a, b = _two_samples(a, b)
    h = _median_bandwidths(a, b) if bandwidths is None else jnp.atleast_1d(jnp.asarray(bandwidths, a.dtype))

    def kernel(squared_distance: Array) -> Array:
        return jnp.exp(-squared_distance[None] / (2 * h[:, None] ** 2)).mean(0)

    return _distinct_mean(kernel, a) + _distinct_mean(kernel, b) - 2 * _pair_mean(kernel, a, b)


def energy_distance(a: ArrayLike, b: ArrayLike) -> Array:
    """Returns the unbiased estimate of the energy distance D² (Székely & Rizzo 2013); SciPy returns D, biased.

    Args:
      a: samples (N, *S).
      b: samples (M, *S).

    Examples:
      Of two points at a distance of 3 it is 2·3.

      >>> print(metrics.energy_distance(jnp.zeros((4, 1)), jnp.full((4, 1), 3.0)))
      6.0
    """
    a, b = _two_samples(a, b)
    return 2 * _pair_mean(jnp.sqrt, a, b) - _distinct_mean(jnp.sqrt, a) - _distinct_mean(jnp.sqrt, b)


def mode_weights(samples: ArrayLike, modes: ArrayLike, *, radius: float | None = None) -> ModeWeights:
    """Assigns each sample to its nearest mode and returns the share of each mode.

    Args:
      samples: (N, *S).
      modes: centres (M, *S).
      radius: samples farther than this from every mode belong to none. None: every sample counts.

    Returns:
      `ModeWeights(weights, covered)`; weights are all 0 where no sample lies within the radius.

    Examples:
      >>> samples, modes = jnp.array([[0.1], [0.2], [-0.1], [4.8]]), jnp.array([[0.0], [5.0]])
      >>> found = jax.jit(metrics.mode_weights)(samples, modes)
      >>> print(found.weights, found.covered)
      [0.75 0.25] 1.0
    """
    samples, modes = _two_samples(samples, modes)

    def nearest(x: Array) -> tuple[Array, Array]:
        squared = _squared_distances(x, modes)
        return squared.argmin(), squared.min()

    index, squared = jax.lax.map(nearest, samples, batch_size=_rows(modes))
    inside = jnp.ones(len(samples), bool) if radius is None else squared <= radius**2
    counts = jax.ops.segment_sum(inside.astype(samples.dtype), index, len(modes))
    return ModeWeights(counts / jnp.maximum(counts.sum(), 1), inside.mean(dtype=samples.dtype))


def mode_coverage(
    samples: ArrayLike,
    modes: ArrayLike,
    *,
    radius: float | None = None,
    weights: ArrayLike | None = None,
    share: float = 0.1,
) -> Array:
    """Returns the fraction of modes visited: those whose weight in the samples is at least `share` of the true one.

    Args:
      samples: (N, *S).
      modes: centres (M, *S).
      radius: as in `mode_weights`; samples outside it count as missing.
      weights: true weights (M,), summing to 1; None for equal ones.
      share: how much of its true weight a mode needs to count as visited.

    Examples:
      Draws of the first of two modes alone.

      >>> samples, modes = jnp.array([[0.1], [0.2], [-0.1], [0.3]]), jnp.array([[0.0], [5.0]])
      >>> print(jax.jit(metrics.mode_coverage)(samples, modes))
      0.5
    """
    found = mode_weights(samples, modes, radius=radius)
    n_modes = len(found.weights)
    true = jnp.full(n_modes, 1 / n_modes) if weights is None else jnp.asarray(weights)
    return (found.weights * found.covered >= share * true).mean(dtype=found.weights.dtype)


def _two_samples(a: ArrayLike, b: ArrayLike) -> tuple[Array, Array]:
    """Both as rows (N, D) and (M, D) of floats: an example of any shape is flattened."""
    a, b = jnp.asarray(a), jnp.asarray(b)
    if min(a.ndim, b.ndim) == 0 or a.shape[1:] != b.shape[1:] or min(a.size, b.size) == 0:
        raise InputError(f"expected samples (N, *S) and (M, *S) of one shape S, got {a.shape} and {b.shape}")
    dtype = jnp.promote_types(jnp.result_type(a, b), jnp.float32)
    return a.reshape(len(a), -1).astype(dtype), b.reshape(len(b), -1).astype(dtype)


def _directions(key: Key, n: int, like: Array) -> Array:
    """Draws (n, D) unit vectors in orthonormal frames; the signs that QR leaves open do not matter to W2."""
    dims = like.shape[1]
    frame = min(n, dims)
    gaussian = arrays.draw(jax.random.normal, key, (-(-n // frame), dims, frame), like.dtype)
    return jnp.linalg.qr(gaussian)[0].swapaxes(1, 2).reshape(-1, dims)[:n]


def _quantile_coupling(n: int, m: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pieces of [0, 1] on which both empirical quantile functions are constant: (index in a, index in b, length)."""
    edges = np.union1d(np.arange(n + 1) * m, np.arange(m + 1) * n)  # in units of 1/(nm), so exact
    return edges[:-1] // m, edges[:-1] // n, np.diff(edges) / (n * m)


def _squared_distances(x: Array, points: Array) -> Array:
    # Coordinates first: the sum then runs along the points, several at a time.
    return ((x[:, None] - points.T) ** 2).sum(0)


def _rows(b: Array) -> int:
    return max(1, _BLOCK_ELEMENTS // b.size)


def _pair_mean(function: Callable[[Array], Array], a: Array, b: Array) -> Array:
    """Returns the mean of function(‖x − y‖²) over all pairs; whole rows at a time."""
    rows = min(_rows(b), len(a))
    return jax.lax.map(lambda x: function(_squared_distances(x, b)).mean(), a, batch_size=rows).mean()


def _distinct_mean(function: Callable[[Array], Array], a: Array) -> Array:
    """Returns the mean of function(‖x − x'‖²) over pairs of distinct rows."""
    n = len(a)
    if n < 2:
        raise InputError("an unbiased estimate needs at least 2 samples on each side, got 1")
    return (n * _pair_mean(function, a, a) - function(jnp.zeros((1,), a.dtype))[0]) / (n - 1)


def _median_bandwidths(a: Array, b: Array) -> Array:
    pooled = jnp.concatenate([x[:: -(-len(x) // _MEDIAN_POINTS)] for x in (a, b)])
    distances = jnp.sqrt(jax.lax.map(lambda x: _squared_distances(x, pooled), pooled, batch_size=_rows(pooled)))
    median = jnp.median(distances[np.triu_indices(len(pooled), 1)])
    # Equal points only: any length gives MMD² = 0, but 0 itself would give NaN.
    return jnp.where(median > 0, median, 1.0) * jnp.asarray([0.5, 1.0, 2.0], a.dtype)
