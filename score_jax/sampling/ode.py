"""Deterministic samplers of the probability flow  dx = (f x − ½ g² score) dt, and their stochastic relatives.

In the coordinates y = x/α and ς = σ/α the flow is  dy/dς = ε̂ = −σ·score  whatever the SDE; DDIM is Euler there, Heun
its second-order version.
"""

import jax.numpy as jnp

from score_jax import arrays
from score_jax.sampling.base import Sampler, one_step
from score_jax.sde import SDE
from score_jax.types import Array, ArrayLike, InputError, Key, ScoreFn


def euler(sde: SDE, score_fn: ScoreFn) -> Sampler:
    """Steps t → s by Euler on the probability flow: x − (f x − ½ g² score)(t − s)."""

    def step(key: Key, x: Array, t: Array, s: Array) -> Array:
        drift, diffusion = arrays.expand_right(sde.drift(t), x), arrays.expand_right(sde.diffusion(t), x)
        return x - (drift * x - 0.5 * diffusion**2 * score_fn(x, t)) * arrays.expand_right(t - s, x)

    return one_step(step)


def ddim(sde: SDE, score_fn: ScoreFn, *, eta: ArrayLike = 0.0) -> Sampler:
    """Steps t → s by re-noising the denoised estimate: α_s x̂_0 + √(σ_s² − τ²) ε̂ + τ z (Song et al. 2020, eq. 12).

    τ² = η² σ²_{t|s} σ_s²/σ_t². η = 0 is Euler in x/α coordinates, η = 1 is `ancestral` with the posterior variance.
    """

    def step(key: Key, x: Array, t: Array, s: Array) -> Array:
        score = score_fn(x, t)
        added = eta**2 * sde.posterior_variance(t, s)
        kept = arrays.root(jnp.maximum(sde.variance(s) - added, 0)) * sde.sigma(t)
        mean = arrays.expand_right(sde.alpha(s), x) * sde.denoise(x, t, score) - arrays.expand_right(kept, x) * score
        if isinstance(eta, int | float) and eta == 0:
            return mean  # no noise to draw
        return mean + arrays.expand_right(arrays.root(added), x) * arrays.normal(key, x)

    return one_step(step)


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

    At t_max, too, the noise is raised, as published: 80 to 88 with γ = 0.1, where the score is then evaluated; s_max
    prevents it. `Tabulated` has no times beyond t_max, so that its noise is raised to that of t_max at most.

    Args:
      sde: the noising process.
      score_fn: `(x, t) -> score`; called twice a step.
      churn: γ of a step, S_churn/n in the paper and at most √2 − 1: σ̂ = (1 + γ) σ/α.
      s_min: σ/α below which no noise is added.
      s_max: σ/α above which no noise is added.
      s_noise: factor of the added noise.

    Raises:
      InputError: for a concrete churn outside [0, √2 − 1].
    """
    if isinstance(churn, int | float) and not 0 <= churn <= 2**0.5 - 1:
        raise InputError(f"heun: churn is the γ of one step, S_churn/n, within [0, √2 − 1 = 0.4142], got {churn}")

    def noise_ratio(t: Array) -> Array:
        return sde.sigma(t) / sde.alpha(t)

    def slope(y: Array, t: Array) -> Array:
        alpha, sigma = arrays.expand_right(sde.alpha(t), y), arrays.expand_right(sde.sigma(t), y)
        return -sigma * score_fn(alpha * y, t)

    def step(key: Key, x: Array, t: Array, s: Array) -> Array:
        start = noise_ratio(t)
        gamma = jnp.where((start >= s_min) & (start <= s_max) & (s < t), churn, 0.0).astype(start.dtype)
        t_raised = jnp.where(gamma > 0, sde.time(-2 * jnp.log((1 + gamma) * start)), t)
        raised = jnp.where(gamma > 0, noise_ratio(t_raised), start)  # less than asked for where a table ends
        # As a product: a fused raised² − start² of equal numbers is not 0, and its root is 2e-4 of them.
        extra = s_noise * arrays.root(jnp.maximum((raised - start) * (raised + start), 0))
        y = x / arrays.expand_right(sde.alpha(t), x) + arrays.expand_right(extra, x) * arrays.normal(key, x)
        width = arrays.expand_right(noise_ratio(s) - raised, x)
        first = slope(y, t_raised)
        second = slope(y + width * first, s)
        return arrays.expand_right(sde.alpha(s), x) * (y + 0.5 * width * (first + second))

    return one_step(step, calls=2)
