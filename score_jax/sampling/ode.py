"""Deterministic samplers of the probability flow  dx = (f x − ½ g² score) dt, and their stochastic relatives.

In the coordinates y = x/α and ς = σ/α the flow is  dy/dς = ε̂ = −σ·score  whatever the SDE; DDIM is Euler there.
"""

import jax.numpy as jnp

from score_jax import arrays
from score_jax.sampling.base import Sampler, one_step
from score_jax.sampling.sde import StepVariance
from score_jax.sde import SDE
from score_jax.types import Array, ArrayLike, Key, ScoreFn


def euler(sde: SDE, score_fn: ScoreFn) -> Sampler:
    """Steps t → s by Euler on the probability flow: x − (f x − ½ g² score)(t − s).

    Examples:
      The flow of data N(0, 1/4) takes one standard deviation at σ = 10 to one at the end, 1/2, in many small steps.

      >>> edm, score = sde.EDM(0.01, 10.0), lambda x, t: -x / (0.25 + t**2)
      >>> x, ts = jnp.array([[10.0]]), sampling.grids.karras(edm, 500)
      >>> print(f"{sampling.sample(key, sampling.euler(edm, score), x, ts)[0, 0]:.2f}")
      0.50
    """

    def step(key: Key, x: Array, t: Array, s: Array) -> Array:
        drift, diffusion = arrays.expand_right(sde.drift(t), x), arrays.expand_right(sde.diffusion(t), x)
        return x - (drift * x - 0.5 * diffusion**2 * score_fn(x, t)) * arrays.expand_right(t - s, x)

    return one_step(step)


def ddim(sde: SDE, score_fn: ScoreFn, *, eta: ArrayLike | StepVariance = 0.0) -> Sampler:
    """Steps t → s by re-noising the denoised estimate: α_s x̂_0 + √(σ_s² − τ²) ε̂ + τ z (Song et al. 2020, eq. 12).

    τ² = η² σ²_{t|s} σ_s²/σ_t². η = 0 is Euler in x/α coordinates, η = 1 is `ancestral` with the posterior variance.

    Args:
      sde: the noising process.
      score_fn: `(x, t) -> score`.
      eta: η, or τ² itself as a function `(x, t, s)`, `()` or `(B,)`, no more than σ_s².

    Examples:
      The flow of data N(0, 1/4) takes one standard deviation at σ = 10 to one at the end, 1/2, in many small steps.

      >>> edm, score = sde.EDM(0.01, 10.0), lambda x, t: -x / (0.25 + t**2)
      >>> x, ts = jnp.array([[10.0]]), sampling.grids.karras(edm, 500)
      >>> print(f"{sampling.sample(key, sampling.ddim(edm, score), x, ts)[0, 0]:.2f}")
      0.50
    """
    chosen = eta if callable(eta) else lambda x, t, s: eta**2 * sde.posterior_variance(t, s)

    def step(key: Key, x: Array, t: Array, s: Array) -> Array:
        score = score_fn(x, t)
        added = jnp.where(s < t, chosen(x, t, s), 0)
        kept = arrays.safe_sqrt(jnp.maximum(sde.variance(s) - added, 0)) * sde.sigma(t)
        mean = arrays.expand_right(sde.alpha(s), x) * sde.denoise(x, t, score) - arrays.expand_right(kept, x) * score
        if isinstance(eta, int | float) and eta == 0:
            return mean  # no noise to draw
        return mean + arrays.expand_right(arrays.safe_sqrt(added), x) * arrays.normal(key, x)

    return one_step(step)
