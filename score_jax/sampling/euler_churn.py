"""Euler's method on the probability flow in x/α and σ/α, with churn."""

import jax.numpy as jnp

from score_jax import arrays
from score_jax.sampling.base import Sampler
from score_jax.sampling.churn import Slope, churned, noise_ratio
from score_jax.sde import SDE
from score_jax.types import Array, ArrayLike, ScoreFn


def euler_churn(
    sde: SDE,
    score_fn: ScoreFn,
    *,
    churn: ArrayLike = 0.0,
    s_min: ArrayLike = 0.0,
    s_max: ArrayLike = jnp.inf,
    s_noise: ArrayLike = 1.0,
) -> Sampler:
    """Steps t → s by Euler on d(x/α)/d(σ/α), after raising the noise by `churn` (k-diffusion's `sample_euler`).

    Karras et al. 2022, algorithm 2, without its second-order correction; with no churn it is `ddim`.

    Args:
      sde: the noising process.
      score_fn: `(x, t) -> score`; called once a step.
      churn: γ of a step, S_churn over the number of steps, at most √2 − 1; see `churned`.
      s_min: σ/α below which no noise is added.
      s_max: σ/α above which no noise is added.
      s_noise: factor of the added noise.

    Raises:
      InputError: for a concrete churn outside [0, √2 − 1].

    Examples:
      Draws of data N(0, 1/4) have a standard deviation of 1/2.

      >>> edm, score = sde.EDM(0.01, 10.0), lambda x, t: -x / (0.25 + t**2)
      >>> x, ts = edm.prior_sample(key, (4096, 1)), sampling.grids.karras(edm, 100)
      >>> print(f"{sampling.sample(key, sampling.euler_churn(edm, score, churn=0.1), x, ts).std():.1f}")
      0.5
    """

    def solver(slope: Slope, y: Array, t: Array, s: Array) -> Array:
        return y + arrays.expand_right(noise_ratio(sde, s) - noise_ratio(sde, t), y) * slope(y, t)

    options = {"churn": churn, "s_min": s_min, "s_max": s_max, "s_noise": s_noise}
    return churned("euler_churn", sde, score_fn, solver, calls=1, **options)
