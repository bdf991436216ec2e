"""The error of a score function against the exact score, by noise level.

At each time t, with x_t from the exactly noised distribution and D dimensions,

    error(t)    = σ(t)² E‖s(x_t, t) − ∇ log p_t(x_t)‖² / D
    relative(t) = E‖s(x_t, t) − ∇ log p_t(x_t)‖² / E‖∇ log p_t(x_t)‖²

`error` is in noise units: s = −ε/σ for the predicted noise ε, so it is the mean squared difference, per dimension,
between the learned and the best noise predictor. It has one scale at every level (predicting 0 costs at most 1) and
is the excess of the σ²-weighted denoising loss, 2J/D, over its minimum.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from score_jax import arrays
from score_jax.distributions import Distribution
from score_jax.sde import SDE
from score_jax.types import Array, ArrayLike, InputError, Key, ScoreFn


class ScoreError(NamedTuple):
    """Score error at L noise levels, each field `(L,)`; `sigma` is σ/α, what a level is known by everywhere."""

    t: Array
    sigma: Array
    error: Array
    relative: Array
    standard_error: Array  # of `error`, from the spread over the n draws


def score_error(
    key: Key, sde: SDE, score_fn: ScoreFn, distribution: Distribution, *, ts: ArrayLike, n: int = 2048
) -> ScoreError:
    """Measures how far `score_fn` is from the exact score of `distribution` noised by `sde`, at every time of `ts`.

    One compiled loop over the levels with n points in memory at a time; pure, so it may be jitted by the caller.

    Args:
      key: random key, ().
      sde: the noising process.
      score_fn: `(x (n, *S), t ()) -> score`.
      distribution: the data's law, from `score_jax.distributions`.
      ts: times (L,).
      n: draws at each level, at least 2.

    Examples:
      A score of 0 misses all of that of data N(0, 1/4), and in noise units σ²/(1/4 + σ²).

      >>> law = distributions.Gaussian(jnp.zeros(1), 0.25)
      >>> found = metrics.score_error(key, sde.EDM(), lambda x, t: 0 * x, law, ts=jnp.array([0.5, 50.0]))
      >>> print(np.array(found.relative).round(2), np.array(found.error).round(1))
      [1. 1.] [0.5 1. ]
    """
    ts = jnp.asarray(ts)
    if ts.ndim != 1 or n < 2:
        raise InputError(f"score_error takes times of shape (L,) and n of at least 2, got {ts.shape} and n = {n}")

    def at_level(level: tuple[Key, Array]) -> tuple[Array, Array, Array]:
        key, t = level
        noised = distribution.perturbed(sde, t)
        x = noised.sample(key, n)
        exact = noised.score(x)
        squared = arrays.sum_dims((score_fn(x, t) - exact) ** 2)
        scale = (sde.variance(t) / x[0].size).astype(x.dtype)
        error = scale * squared
        return error.mean(), error.std(ddof=1) / n**0.5, squared.mean() / arrays.sum_dims(exact**2).mean()

    error, standard_error, relative = jax.lax.map(at_level, (arrays.split(key, len(ts)), ts))
    return ScoreError(ts, jnp.exp(-0.5 * sde.log_snr(ts)), error, relative, standard_error)
