"""Heun's method on the probability flow, with churn: EDM's sampler."""

import jax.numpy as jnp

from score_jax import arrays
from score_jax.sampling.base import Sampler
from score_jax.sampling.churn import Slope, churned, noise_ratio
from score_jax.sde import SDE
from score_jax.types import Array, ArrayLike, ScoreFn


def heun(
    sde: SDE,
    score_fn: ScoreFn,
    *,
    churn: ArrayLike = 0.0,
    s_min: ArrayLike = 0.0,
    s_max: ArrayLike = jnp.inf,
    s_noise: ArrayLike = 1.0,
) -> Sampler:
    """Steps t → s by Heun on d(x/α)/d(σ/α), after raising the noise by `churn` (Karras et al. 2022, algorithm 2).

    On `grids.karras` this is the paper's sampler up to σ_min. Its last step, from σ_min to 0, is Euler's, that is
    `sde.denoise`: the n levels of its table are the n points of `grids.karras(sde, n)`, and n − 1 steps and the
    explicit last denoise make its 2n − 1 calls. That denoise has no churn, where algorithm 2 raises the noise at σ_min
    too if s_min ≤ σ_min.

    Args:
      sde: the noising process.
      score_fn: `(x, t) -> score`; called twice a step.
      churn: γ of a step, S_churn/n in the paper and at most √2 − 1; see `churned`.
      s_min: σ/α below which no noise is added.
      s_max: σ/α above which no noise is added.
      s_noise: factor of the added noise.

    Raises:
      InputError: for a concrete churn outside [0, √2 − 1].

    Examples:
      The flow of data N(0, 1/4) takes one standard deviation at σ = 10 to one at the end, 1/2.

      >>> edm, score = sde.EDM(0.01, 10.0), lambda x, t: -x / (0.25 + t**2)
      >>> x, ts = jnp.array([[10.0]]), sampling.grids.karras(edm, 40)
      >>> print(f"{sampling.sample(key, sampling.heun(edm, score), x, ts)[0, 0]:.2f}")
      0.50
    """

    def solver(slope: Slope, y: Array, t: Array, s: Array) -> Array:
        width = arrays.expand_right(noise_ratio(sde, s) - noise_ratio(sde, t), y)
        first = slope(y, t)
        second = slope(y + width * first, s)
        return y + 0.5 * width * (first + second)

    options = {"churn": churn, "s_min": s_min, "s_max": s_max, "s_noise": s_noise}
    return churned("heun", sde, score_fn, solver, calls=2, **options)
