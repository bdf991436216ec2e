"""Thresholding: keeping the estimate of x_0 where data can be, at every step of any sampler.

A score function in, a score function out: with x̂_0 = `sde.denoise(x, t, score)` and x̂_0' its thresholded value,

    score' = score + α (x̂_0' − x̂_0)/σ²,

the score whose denoised estimate x̂_0' is. Not the score of a density, so for sampling only.
"""

from collections.abc import Callable

import jax.numpy as jnp

from score_jax import arrays
from score_jax.sde import SDE
from score_jax.types import Array, ArrayLike, InputError, ScoreFn


def thresholded(sde: SDE, score_fn: ScoreFn, change: Callable[[Array], Array]) -> ScoreFn:
    """Returns the score function whose estimate of x_0 is `change` of that of `score_fn`.

    Args:
      sde: the noising process.
      score_fn: `(x, t) -> score`.
      change: `(B, *S) -> (B, *S)`, row by row.

    Examples:
      At σ = 1 and x = 10 the estimate of data N(0, 1/4) is x̂_0 = 2, and here no more than its tanh.

      >>> edm, x = sde.EDM(), jnp.array([[10.0]])
      >>> score = sampling.thresholded(edm, lambda x, t: -x / (0.25 + t**2), jnp.tanh)
      >>> print(f"{edm.denoise(x, 1.0, score(x, 1.0))[0, 0]:.2f}")
      0.96
    """

    def changed(x: Array, t: Array) -> Array:
        score = score_fn(x, t)
        x0 = sde.denoise(x, t, score)
        # As a difference, so that where nothing changes the score is exactly what it was.
        return score + arrays.expand_right(sde.alpha(t) / sde.variance(t), x) * (change(x0) - x0)

    return changed


def clipped(sde: SDE, score_fn: ScoreFn, *, low: ArrayLike = -1.0, high: ArrayLike = 1.0) -> ScoreFn:
    """Clips the estimate of x_0 to [low, high], the data's range: DDPM's released sampler (Ho et al. 2020).

    Raises:
      InputError: for an empty range.

    Examples:
      At σ = 1 and x = 10 the estimate of data N(0, 1/4) is x̂_0 = 2, which is clipped.

      >>> edm, x = sde.EDM(), jnp.array([[10.0]])
      >>> score = sampling.clipped(edm, lambda x, t: -x / (0.25 + t**2))
      >>> print(f"{edm.denoise(x, 1.0, score(x, 1.0))[0, 0]:.2f}")
      1.00
    """
    _require_interval("clipped", low, high)
    return thresholded(sde, score_fn, lambda x0: jnp.clip(x0, low, high))


def dynamically_thresholded(
    sde: SDE, score_fn: ScoreFn, *, low: ArrayLike = -1.0, high: ArrayLike = 1.0, quantile: ArrayLike = 0.995
) -> ScoreFn:
    """Clips the estimate of x_0 to its own quantile, then shrinks that to the data's range (Saharia et al. 2022).

    In units of the range, [−1, 1]: clip to [−s, s] and divide by s, with s = max(1, the quantile of |x̂_0| over the
    elements of an example). Against saturation under strong guidance.

    Args:
      sde: the noising process.
      score_fn: `(x, t) -> score`.
      low: lower end of the data's range.
      high: its upper end.
      quantile: share of an example's elements that are not clipped, 0 to 1.

    Raises:
      InputError: for an empty range, or a concrete quantile outside [0, 1].

    Examples:
      At σ = 1 the estimate of data N(0, 1/4) is x/5 = (2, 1/2), which is shrunk by its largest element.

      >>> edm, x = sde.EDM(), jnp.array([[10.0, 2.5]])
      >>> score = sampling.dynamically_thresholded(edm, lambda x, t: -x / (0.25 + t**2), quantile=1.0)
      >>> print(np.array(edm.denoise(x, 1.0, score(x, 1.0))).round(2))
      [[1.   0.25]]
    """
    _require_interval("dynamically_thresholded", low, high)
    if isinstance(quantile, int | float) and not 0 <= quantile <= 1:
        raise InputError(f"dynamically_thresholded: quantile is a share, from 0 to 1, got {quantile}")

    def change(x0: Array) -> Array:
        middle, half = arrays.expand_right(0.5 * (low + high), x0), arrays.expand_right(0.5 * (high - low), x0)
        y = (x0 - middle) / half
        sizes = jnp.abs(y).reshape(len(y), -1)
        limit = jnp.maximum(jnp.quantile(sizes, jnp.asarray(quantile, y.dtype), axis=1), 1)
        limit = arrays.expand_right(limit, y)
        return x0 + half * (jnp.clip(y, -limit, limit) / limit - y)  # exactly x0 where that is in the range

    return thresholded(sde, score_fn, change)


def _require_interval(owner: str, low: ArrayLike, high: ArrayLike) -> None:
    if isinstance(low, int | float) and isinstance(high, int | float) and not low < high:
        raise InputError(f"{owner}: low must be below high, the range of the data, got {low} and {high}")
