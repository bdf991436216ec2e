"""Standard errors of any statistic of rows, from what it is on the two halves of random splits of the rows.

Each resample splits the rows of every array into halves S and S', drawn without replacement, and

    standard error² = mean of (½ (T(S) − T(S')))² over the splits.

Why: with e_i = 1 for rows in S and −1 in S', a statistic with a linear and a quadratic term, ψ and h, is

    T(S) = T + (1/n) Σ e_i ψ_i + (1/n²) Σ (e_i + e_j) h_ij + (1/n²) Σ e_i e_j h_ij,

of which half the difference has what is odd in e. Of that the linear term has the variance that new data would give it,
the pairs twice that. So the error is right for √n-statistics (means, Fréchet, MMD, Wasserstein and energy distances of
different laws), within a fifth for PRDC, whose balls are larger on halves, and too large, by √2 in the mean square, for
distances of equal laws, whose linear term vanishes. There it also varies by about itself from one data set to the next,
however large n, since it hangs on the few directions in which two sets happen to differ. What is even in e does not:
with `variance=half_sums`, Var ½ (T(S) + T(S')), comes the error that a distance has if the laws are equal, by which to
tell whether they are. (Half-sampling as it is known, McCarthy 1966 and Shao & Wu 1989, is the sum of both: √3 too large
there.)

Resampling with replacement (Efron 1979) is not offered. It repeats rows, and a row and its double are a pair at
distance
0: that adds to MMD, KID and energy distance what they leave out in order to be unbiased, and gives the balls of PRDC
neighbours at distance 0. Subsets of m out of n scaled by √(m/n) (Politis & Romano 1994) are for m much smaller than n,
where Fréchet distances are mostly bias.

What is left open: the bias of the statistic itself, such as a Fréchet distance's C/n, is no part of the spread; and
statistics that hang on single rows, such as maxima, do not have the terms above. With R splits the error is known to
about 1/√(2R), 10 % for 50.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import numpy as np

from score_jax.types import InputError, Key, PyTree, require_at_least

Variance: TypeAlias = Callable[[np.ndarray, np.ndarray], float]  # of values (R,) on S and (R,) on S'


def half_differences(s: np.ndarray, s_prime: np.ndarray) -> float:
    """Returns the mean square of ½ (T(S) − T(S')), whose mean is 0, since S and S' are exchangeable.

    Examples:
      Of ½ (1 − 3) and ½ (3 − 1) the mean square is 1.

      >>> metrics.half_differences(np.array([1.0, 3.0]), np.array([3.0, 1.0]))
      1.0
    """
    return float((((s - s_prime) / 2) ** 2).mean())


def half_sums(s: np.ndarray, s_prime: np.ndarray) -> float:
    """Returns the variance of ½ (T(S) + T(S')): that of a distance of equal laws, and too small for any other.

    Examples:
      Of ½ (1 + 3) and ½ (3 + 1) there is no variance.

      >>> metrics.half_sums(np.array([1.0, 3.0]), np.array([3.0, 1.0]))
      0.0
    """
    return float(((s + s_prime) / 2).var(ddof=1))


def bootstrap(
    key: Key,
    statistic: Callable[..., PyTree],
    *arrays: Any,
    n_resamples: int = 50,
    variance: Variance = half_differences,
) -> PyTree:
    """Returns the standard error of `statistic(*arrays)`, where the rows of every array are independent draws.

    Args:
      key: random key, ().
      statistic: `(*arrays) -> number`, or a tuple or other tree of numbers (PRDC); called twice a resample.
      *arrays: (n_i, *S), or lists, such as the `Moments` of n_i equally large parts of the rows for
        `frechet_of_parts`; at least 4 rows or parts each. Rows of one array are split apart from those of another: rows
        that belong together are to be one array. With G parts the error is known to 1/√(2(G − 1)) at best.
      n_resamples: R, random splits.
      variance: `half_differences`; `half_sums` for the error that a distance has if the laws are equal.

    Returns:
      Standard errors, in the structure of what `statistic` returns.

    Raises:
      InputError: for fewer rows than that, or fewer than 2 resamples.

    Examples:
      The mean of 10,000 draws of variance 1 has a standard error of 1/√10,000.

      >>> rows = np.random.default_rng(0).normal(size=10_000)
      >>> print(f"{metrics.bootstrap(key, np.mean, rows):.2f}")
      0.01
    """
    require_at_least("bootstrap", 2, n_resamples=n_resamples)
    sizes = [len(array) for array in arrays]
    if not arrays or min(sizes) < 4:
        raise InputError(f"bootstrap takes arrays of at least 4 rows each, got {sizes}")
    keys = jax.random.split(key, (len(arrays), n_resamples))
    splits = [_halves(k, n) for k, n in zip(keys, sizes, strict=True)]
    pairs = [
        statistic(*(_rows(array, split[r, side]) for array, split in zip(arrays, splits, strict=True)))
        for r, side in np.ndindex(n_resamples, 2)
    ]
    # An odd row is left out: 2⌊n/2⌋ of n have that much more variance.
    used = np.mean([2 * (n // 2) / n for n in sizes])

    def error(*values: Any) -> float:
        s, s_prime = np.asarray(values, np.float64).reshape(-1, 2).T
        return float((used * variance(s, s_prime)) ** 0.5)

    return jax.tree.map(error, *pairs)


def _halves(keys: Key, n: int) -> np.ndarray:
    """Returns S and S' of every resample, (R, 2, ⌊n/2⌋)."""
    order = jax.vmap(lambda key: jax.random.permutation(key, n))(keys)
    return np.asarray(order)[:, : 2 * (n // 2)].reshape(len(keys), 2, n // 2)


def _rows(array: Any, index: np.ndarray) -> Any:
    return [array[i] for i in index] if isinstance(array, Sequence) else array[index]
