"""Monte Carlo guided diffusion, MCGdiff (Cardoso et al. 2023): particles that meet the noised observation at each step.

In the spectrum v = Vᵀ x each observed direction has for its ψ what the observation is worth at the level,

    ψ_t(x) = N(α_t Uᵀy; s v, s² σ_t² + α_t² σ_y²)

which is p_t(y | x) under a flat prior. p(x_s | x_t) ψ_s(x_s) is a Gaussian then, and the proposal; the weights are
∫ p(x_s | x_t) ψ_s(x_s) dx_s / ψ_t(x_t), whatever is drawn. No derivative of the score is taken. (The paper is of
σ_y = 0, and holds an observed direction fast where the level is its noise, σ/α = σ_y/s.)
"""

import jax.numpy as jnp

from score_jax import arrays
from score_jax.conditioning.observed import require_problem
from score_jax.conditioning.operators import Decomposed, require_decomposed
from score_jax.conditioning.particles import particle_sampler, require_one_observation
from score_jax.sampling import Sampler
from score_jax.sde import SDE
from score_jax.types import Array, ArrayLike, Key, ScoreFn


def mcgdiff(
    sde: SDE,
    score_fn: ScoreFn,
    operator: Decomposed,
    y: Array,
    *,
    noise_std: ArrayLike,
    threshold: ArrayLike = 0.5,
) -> Sampler:
    """Returns MCGdiff's sampler: a score call a step.

    Args:
      sde: the noising process.
      score_fn: of p_t(x).
      operator: A, with its singular values.
      y: the observation in the units of x0, `(1, …)`.
      noise_std: σ_y; 0 of an exact observation.
      threshold: share of the particles, at whose effective number they are drawn again.

    Raises:
      InputError: for an operator without singular values, y that it doesn't give, several observations, negative noise.
    """
    require_decomposed("mcgdiff", operator)
    require_one_observation("mcgdiff", y)
    fitting = require_problem("mcgdiff", operator, y, noise_std)

    def seen(x: Array, t: Array) -> tuple[Array, Array, Array]:
        """Singular values, the observation in its places and the variance of ψ_t, all in the spectrum."""
        known = operator.observed_spectrum(fitting(x))
        values = operator.singular_values(known)
        return values, sde.alpha(t) * known, values**2 * sde.variance(t) + (sde.alpha(t) * noise_std) ** 2

    def log_normal(misfit: Array, variance: Array, values: Array) -> Array:
        """log N up to what is the same for all particles."""
        return -0.5 * arrays.sum_dims(jnp.where(values > 0, misfit**2 / jnp.where(values > 0, variance, 1), 0))

    def move(key: Key, x: Array, found: tuple, t: Array, s: Array) -> tuple[Array, tuple, Array]:
        alpha, added = sde.transition(t, s)
        spread = sde.posterior_variance(t, s).astype(x.dtype)
        mean = operator.to_spectrum((x + added * score_fn(x, t)) / alpha)
        values, known, variance = seen(x, s)
        misfit, total = known - values * mean, values**2 * spread + variance
        share = jnp.where(values > 0, 1 / jnp.where(values > 0, total, 1), 0)
        std = jnp.sqrt(spread * jnp.where(values > 0, variance * share, 1))
        moved = mean + spread * values * share * misfit + std * operator.to_spectrum(arrays.normal(key, x))
        before, known_before, variance_before = seen(x, t)
        weight = log_normal(known_before - before * operator.to_spectrum(x), variance_before, before)
        return operator.from_spectrum(moved), found, log_normal(misfit, total, values) - weight

    return particle_sampler(lambda x, t: (), move, threshold, calls=1)
