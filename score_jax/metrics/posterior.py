"""Whether samples are of p(x | y), by truths and observations: x* ~ p(x), y ~ p(y | x*), X_1 … X_L given y.

    energy score    E‖X − x*‖ − ½ E‖X − X'‖, least in the mean for the posterior (Gneiting & Raftery 2007, eq. 21)
    rank            of f(x*) among f(X_1) … f(X_L): uniform on 0 … L for draws of the posterior, whatever f
                    (simulation-based calibration; Talts et al. 2018, theorem 1)
    coverage        how often the central interval between two of the X holds f(x*): by its ranks

The energy score is of the whole law and cannot be won by a wrong one. Ranks see only what f shows them: draws of the
prior, whatever y, have uniform ranks too.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from score_jax import arrays
from score_jax.types import Array, ArrayLike, InputError


def energy_scores(samples: ArrayLike, truth: ArrayLike) -> Array:
    """Returns the energy score of each observation, `(N,)`, unbiased for independent samples.

    Args:
      samples: `(N, L, *S)`, L ≥ 2 for each truth.
      truth: `(N, *S)`.

    Raises:
      InputError: for shapes that don't fit.

    Examples:
      Samples ±1 of a truth 0 and of a truth 3: 1 − ½·2 and 3 − ½·2.

      >>> samples = jnp.array([[[-1.0], [1.0]], [[-1.0], [1.0]]])
      >>> print(jax.jit(metrics.energy_scores)(samples, jnp.array([[0.0], [3.0]])))
      [0. 2.]
    """
    samples, truth = _pairs(samples, truth)

    def one(x: Array, at: Array) -> Array:
        norm = lambda v: arrays.safe_sqrt((v**2).sum(-1))
        # Row by row: L × L differences of all at once would be L times the samples.
        apart = jax.lax.map(lambda row: norm(x - row[None]).sum(), x).sum() / (len(x) * (len(x) - 1))
        return norm(x - at[None]).mean() - 0.5 * apart

    return jax.lax.map(lambda pair: one(*pair), (samples, truth), batch_size=16)


def posterior_ranks(samples: ArrayLike, truth: ArrayLike, directions: ArrayLike) -> Array:
    """Returns how many samples are below the truth along each direction, `(N, P)`, in 0 … L.

    Args:
      samples: `(N, L, *S)`.
      truth: `(N, *S)`.
      directions: `(P, D)`.

    Raises:
      InputError: for shapes that don't fit.

    Examples:
      >>> samples, truth = jnp.arange(4.0).reshape(1, 4, 1), jnp.array([[1.5]])
      >>> print(metrics.posterior_ranks(samples, truth, jnp.array([[1.0], [-1.0]])))  # 0 and 1 are below; then −2, −3
      [[2 2]]
    """
    samples, truth = _pairs(samples, truth)
    directions = jnp.asarray(directions, arrays.wide(samples.dtype))
    if directions.ndim != 2 or directions.shape[1] != samples.shape[2]:
        raise InputError(f"directions are (P, {samples.shape[2]}) for such examples, got {directions.shape}")
    samples, truth = samples.astype(directions.dtype), truth.astype(directions.dtype)
    along = lambda x: jnp.einsum("...d,pd->...p", x, directions, precision="highest")
    return (along(samples) < along(truth)[:, None]).sum(1)


class RankCalibration(NamedTuple):
    """Of ranks along one or more directions.

    Attributes:
      coverage: share of truths inside the central interval.
      coverage_error: its standard error over observations.
      nominal: what it is for draws of the posterior.
      deviation: largest distance between the ranks' distribution function and the uniform one, mean over directions.
      p_value: of that deviation by Kolmogorov's law, the least over directions times their number (Bonferroni).
    """

    coverage: float
    coverage_error: float
    nominal: float
    deviation: float
    p_value: float


def rank_calibration(found: ArrayLike, n_samples: int, *, level: float = 0.9) -> RankCalibration:
    """Returns how far ranks `(N, P)` among `n_samples` are from those of the posterior.

    Args:
      found: `posterior_ranks`.
      n_samples: L.
      level: of the central interval: the nearest that L + 1 places allow is `nominal`.

    Raises:
      InputError: for ranks outside 0 … L, or a level that is not between 0 and 1.

    Examples:
      Each of the ranks 0 to 19 equally often, as of draws of the posterior.

      >>> found = metrics.rank_calibration(np.arange(200)[:, None] % 20, n_samples=19)
      >>> print(f"{found.coverage:.2f} {found.nominal:.2f} {found.p_value:.2f}")
      0.90 0.90 1.00
    """
    found = np.asarray(found)
    whole = np.issubdtype(found.dtype, np.integer) and found.ndim == 2 and found.size > 0
    if not whole or found.min() < 0 or found.max() > n_samples or not 0 < level < 1:
        raise InputError(
            f"rank_calibration takes ranks (N, P) in 0 … {n_samples} and a level between 0 and 1, got {found.shape}, "
            f"level {level}"
        )
    outside = round((1 - level) / 2 * (n_samples + 1))
    inside = ((found >= outside) & (found <= n_samples - outside)).mean(1)
    by_direction = [_kolmogorov(column, n_samples) for column in found.T]
    return RankCalibration(
        float(inside.mean()),
        float(inside.std(ddof=1) / len(inside) ** 0.5) if len(inside) > 1 else float("nan"),
        (n_samples + 1 - 2 * outside) / (n_samples + 1),
        float(np.mean([one[0] for one in by_direction])),
        min(1.0, len(by_direction) * min(one[1] for one in by_direction)),
    )


def _kolmogorov(found: np.ndarray, n_samples: int) -> tuple[float, float]:
    """Statistic and p-value of uniform ranks: exact ones for a continuous law, on the safe side for L + 1 places."""
    from scipy import stats  # deferred: a fifth of a command's start

    below = (found[:, None] <= np.arange(n_samples + 1)).mean(0)
    statistic = np.abs(below - np.arange(1, n_samples + 2) / (n_samples + 1)).max()
    return float(statistic), float(stats.kstwo.sf(statistic, len(found)))


def _pairs(samples: ArrayLike, truth: ArrayLike) -> tuple[Array, Array]:
    """Flattens examples: `(N, L, D)` and `(N, D)`."""
    samples, truth = jnp.asarray(samples), jnp.asarray(truth)
    if samples.ndim < 3 or samples.shape[1] < 2 or truth.shape != (len(samples), *samples.shape[2:]):
        raise InputError(
            f"samples are (N, L, *S), two or more for each of the truths (N, *S), got {samples.shape}, {truth.shape}"
        )
    return samples.reshape(*samples.shape[:2], -1), truth.reshape(len(truth), -1)
