"""Kernel distance: MMD² of two sets of features under a cubic kernel (Bińkowski et al. 2018, KID for Inception's).

    k(x, y) = (x·y/F + 1)³
    MMD²    = mean_{i≠j} k(x_i, x_j) + mean_{i≠j} k(y_i, y_j) − 2 mean_{i,j} k(x_i, y_j)

unbiased, whatever the number of rows: for equal laws it averages to 0 and is often negative. It is the mean over
subsets of s rows of each side, drawn without replacement, of which one at a time is in memory (3 s² + 2 s F numbers).
"""

import jax
import jax.numpy as jnp

from score_jax.metrics.rows import two_sets
from score_jax.types import Array, ArrayLike, InputError, Key, require_at_least


def kid(key: Key, a: ArrayLike, b: ArrayLike, *, subset_size: int = 1000, n_subsets: int = 100) -> tuple[Array, Array]:
    """Returns the kernel distance of two sets of features and the standard error of it.

    With t the standard deviation over subsets, and n the rows of the smaller side,

        standard error² = t² (s/(n − s) + 1/n_subsets):

    what would be seen over new data, by the delete-(n − s) jackknife (Shao & Wu 1989), which removes that subsets share
    rows, and what would be seen over new draws of subsets. Where the two laws are equal the first term is too large, by
    up to (n − s)/s: the error is then on the safe side. Published values come with t itself (torch-fidelity), which is
    that of a set of s rows, or with t/√n_subsets, which is blind to the data: neither is the error of this value.

    Args:
      key: random key, ().
      a: features (N, F).
      b: features (M, F).
      subset_size: s, at most N and M. Where it is N or M there is nothing to tell the error from: NaN.
      n_subsets: how many; with n_subsets · s of several n, more of them change little.

    Returns:
      `(value, standard_error)`, each ().

    Raises:
      InputError: for features of other shapes, or subsets larger than the sets.

    Examples:
      Of features 0 and features 1 it is 1³ + 2³ − 2·1³, whatever the subsets.

      >>> value, error = metrics.kid(key, jnp.zeros((8, 1)), jnp.ones((8, 1)), subset_size=4, n_subsets=10)
      >>> print(f"{value:.2f} {error:.2f}")
      7.00 0.00
    """
    a, b = two_sets(a, b)
    require_at_least("kid", 2, subset_size=subset_size)
    require_at_least("kid", 1, n_subsets=n_subsets)
    n = min(len(a), len(b))
    if subset_size > n:
        raise InputError(
            f"kid: subset_size {subset_size} is more than the {n} rows there are: give at most half of them"
        )

    def of_subset(key: Key) -> Array:
        keys = jax.random.split(key)
        x, y = (
            jnp.take(rows, jax.random.permutation(k, len(rows))[:subset_size], 0)
            for k, rows in zip(keys, (a, b), strict=True)
        )
        return _cubic_mmd(x, y)

    values = jax.lax.map(of_subset, jax.random.split(key, n_subsets))
    if subset_size == n or n_subsets == 1:
        return values.mean(), jnp.full((), jnp.nan, values.dtype)
    over_data, over_draws = subset_size / (n - subset_size), 1 / n_subsets
    return values.mean(), values.std(ddof=1) * (over_data + over_draws) ** 0.5


def _cubic_mmd(x: Array, y: Array) -> Array:
    """Returns MMD² of as many rows x as y.

    The kernels' differences are summed, entry by entry, since float32 sums of the kernels themselves would round away
    what is small beside them: with S the sum and T the trace of k(x_i, y_j),
    mean_{i≠j}(k_xx + k_yy − k_xy − k_yx) + 2 ((S − T)/(m − 1) − T)/m² is the estimate.
    """
    m = len(x)

    def kernel(u: Array, v: Array) -> Array:
        return (jnp.matmul(u, v.T, precision=jax.lax.Precision.HIGHEST) / x.shape[1] + 1) ** 3

    cross = kernel(x, y)
    difference = kernel(x, x) + kernel(y, y) - cross - cross.T
    apart = (difference.sum() - jnp.trace(difference)) / (m * (m - 1))
    trace = jnp.trace(cross)
    return apart + 2 * ((cross.sum() - trace) / (m - 1) - trace) / m**2
