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
from score_jax.conditioning.operators import Decomposed, is_observed, require_decomposed
from score_jax.conditioning.particles import log_normal, particle_sampler, require_one_observation
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

    Examples:
      Data N(0, 1), of which y = 2 was seen with noise of a standard deviation of 0.1: a mean of 2/1.01.

      >>> edm, score, y = sde.EDM(0.01, 10.0), lambda x, t: -x / (1 + t**2), jnp.full((1, 1), 2.0)
      >>> operator, x = conditioning.operators.Mask(np.ones(1)), edm.prior_sample(key, (4096, 1))
      >>> sampler = conditioning.mcgdiff(edm, score, operator, y, noise_std=0.1)
      >>> print(f"{sampling.sample(key, sampler, x, sampling.grids.karras(edm, 40)).mean():.1f}")
      2.0
    """
    require_decomposed("mcgdiff", operator)
    require_one_observation("mcgdiff", y)
    fitting = require_problem("mcgdiff", operator, y, noise_std)

    def seen(x: Array, t: Array) -> tuple[Array, Array, Array]:
        """Singular values, 0 but for rounding as 0, the observation in their places and the variance of ψ_t."""
        known = operator.observed_spectrum(fitting(x))
        values = operator.singular_values(known)
        values = jnp.where(is_observed(values), values, 0)
        alpha, left, noise = (arrays.expand_right(v, x[0, None]) for v in (sde.alpha(t), sde.variance(t), noise_std))
        return values, alpha * known, values**2 * left + (alpha * noise) ** 2

    def find(x: Array, t: Array) -> tuple[Array, Array]:
        values, known, variance = seen(x, t)
        log_psi = log_normal(known - values * operator.to_spectrum(x), variance, values > 0)
        return log_psi, log_psi

    def move(key: Key, x: Array, log_psi: Array, t: Array, s: Array) -> tuple[Array, Array, Array]:
        alpha, added, spread = (
            arrays.expand_right(v, x[0, None]) for v in (*sde.transition(t, s), sde.posterior_variance(t, s))
        )
        mean = operator.to_spectrum((x + added * score_fn(x, t)) / alpha)
        values, known, variance = seen(x, s)
        misfit, total = known - values * mean, values**2 * spread + variance
        counts = (values > 0) & (total > 0)
        share = jnp.where(counts, 1 / jnp.where(counts, total, 1), 0)
        std = jnp.sqrt(spread * jnp.where(counts, variance * share, 1))
        spectrum = mean + spread * values * share * misfit + std * operator.to_spectrum(arrays.normal(key, x))
        moved = operator.from_spectrum(spectrum)
        return moved, find(moved, s)[1], log_normal(misfit, total, values > 0) - log_psi

    return particle_sampler("mcgdiff", find, move, threshold, calls_at_start=0)
