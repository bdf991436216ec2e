"""k-diffusion's DPM2: the midpoint method on the probability flow in x/α and σ/α, with churn."""

import jax.numpy as jnp

from score_jax import arrays
from score_jax.sampling.base import Sampler
from score_jax.sampling.churn import Slope, churned, noise_ratio
from score_jax.sde import SDE
from score_jax.types import Array, ArrayLike, ScoreFn


def kdpm2(
    sde: SDE,
    score_fn: ScoreFn,
    *,
    churn: ArrayLike = 0.0,
    s_min: ArrayLike = 0.0,
    s_max: ArrayLike = jnp.inf,
    s_noise: ArrayLike = 1.0,
) -> Sampler:
    """Steps t → s by the slope at the geometric mean of σ̂ and σ_s, where Euler leads (k-diffusion's `sample_dpm_2`).

    After DPM-Solver-2 and Karras et al. 2022, algorithm 2: the noise is raised by `churn` first. The step to σ = 0,
    Euler's in k-diffusion, is the explicit last `sde.denoise`.

    Args:
      sde: the noising process.
      score_fn: `(x, t) -> score`; called twice a step.
      churn: γ of a step, S_churn over the number of steps, at most √2 − 1; see `churned`.
      s_min: σ/α below which no noise is added.
      s_max: σ/α above which no noise is added.
      s_noise: factor of the added noise.

    Raises:
      InputError: for a concrete churn outside [0, √2 − 1].

    Examples:
      The flow of data N(0, 1/4) takes one standard deviation at σ = 10 to one at the end, 1/2.

      >>> edm, score = sde.EDM(0.01, 10.0), lambda x, t: -x / (0.25 + t**2)
      >>> x, ts = jnp.array([[10.0]]), sampling.grids.karras(edm, 40)
      >>> print(f"{sampling.sample(key, sampling.kdpm2(edm, score), x, ts)[0, 0]:.2f}")
      0.50
    """

    def solver(slope: Slope, y: Array, t: Array, s: Array) -> Array:
        middle = sde.time(0.5 * (sde.log_snr(t) + sde.log_snr(s)))
        start, inside, end = (noise_ratio(sde, v) for v in (t, middle, s))
        halfway = y + arrays.expand_right(inside - start, y) * slope(y, t)
        return y + arrays.expand_right(end - start, y) * slope(halfway, middle)

    options = {"churn": churn, "s_min": s_min, "s_max": s_max, "s_noise": s_noise}
    return churned("kdpm2", sde, score_fn, solver, calls=2, **options)
