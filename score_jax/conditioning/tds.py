"""The twisted diffusion sampler, TDS (Wu et al. 2023): particles guided by an approximate posterior score, and weighed.

    q(x_s | x_t) = N((x + σ²_{t|s} (score + ∇ log ψ_t(x)))/α_{t|s}, σ̃² I),        ψ_t(x) = p(y | x̂0(x)), smoothed

(algorithm 1, and `particles` for the weights.) Whatever ψ gets wrong the weights put right, given enough particles; in
high dimensions that is more than there are.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from score_jax import arrays
from score_jax.conditioning.observed import estimate, remaining_variance, require_problem
from score_jax.conditioning.operators import Decomposed, is_observed, require_decomposed
from score_jax.conditioning.particles import log_normal, particle_sampler, require_one_observation
from score_jax.sampling import Sampler
from score_jax.sde import SDE
from score_jax.types import Array, ArrayLike, Key, ScoreFn, require_positive


class _Found(NamedTuple):
    """At x and t: the score, log ψ and its gradient."""

    score: Array
    log_twist: Array
    gradient: Array


def tds(
    sde: SDE,
    score_fn: ScoreFn,
    operator: Decomposed,
    y: Array,
    *,
    noise_std: ArrayLike,
    data_std: ArrayLike = 1.0,
    threshold: ArrayLike = 0.5,
) -> Sampler:
    """Returns `twisted` by ΠGDM's Gaussian, ψ_t(x) = N(y; A x̂0, r² A Aᵀ + σ_y² I): with one particle it is `pigdm`.

    A score call and a vector–Jacobian product a step, and one of each at the start.

    Args:
      sde: the noising process.
      score_fn: of p_t(x).
      operator: A, with its singular values.
      y: the observation in the units of x0, `(1, …)`.
      noise_std: σ_y; 0 of an exact observation.
      data_std: d, of which r² = σ² d²/(σ² + α² d²).
      threshold: share of the particles, at whose effective number they are drawn again.

    Raises:
      InputError: for an operator without singular values, y that it doesn't give, several observations, negative noise.

    Examples:
      Data N(0, 1), of which y = 2 was seen with noise of a standard deviation of 0.1: a mean of 2/1.01.

      >>> edm, score, y = sde.EDM(0.01, 10.0), lambda x, t: -x / (1 + t**2), jnp.full((1, 1), 2.0)
      >>> operator, x = conditioning.operators.Mask(np.ones(1)), edm.prior_sample(key, (4096, 1))
      >>> sampler = conditioning.tds(edm, score, operator, y, noise_std=0.1)
      >>> print(f"{sampling.sample(key, sampler, x, sampling.grids.karras(edm, 40)).mean():.1f}")
      2.0
    """
    require_decomposed("tds", operator)
    require_one_observation("tds", y)
    require_positive("tds", data_std=data_std)
    fitting = require_problem("tds", operator, y, noise_std)

    def log_twist(x0: Array, t: Array) -> Array:
        misfit = operator.observed_spectrum(fitting(x0) - operator(x0))
        values = operator.singular_values(misfit)
        left, noise = (
            arrays.expand_right(v, misfit) for v in (remaining_variance(sde, t, data_std), jnp.square(noise_std))
        )
        return log_normal(misfit, values**2 * left + noise, is_observed(values))

    return _twisted("tds", sde, score_fn, log_twist, threshold)


def twisted(
    sde: SDE, score_fn: ScoreFn, log_twist: Callable[[Array, Array], Array], *, threshold: ArrayLike = 0.5
) -> Sampler:
    """Returns TDS's sampler for any twist: a score call and a vector–Jacobian product a step, and one at the start.

    Args:
      sde: the noising process.
      score_fn: of p_t(x).
      log_twist: `(x0 (K, *S), t ()) -> (K,)`, log ψ_t of the denoised estimate, up to a number that hangs on t
        alone; at the last time of the grid log p(y | x0), which decides what is sampled.
      threshold: share of the particles, at whose effective number they are drawn again.

    Examples:
      Data N(0, 1), of which y = 2 was seen with noise of a standard deviation of 0.1: a mean of 2/1.01.

      >>> edm, score = sde.EDM(0.01, 10.0), lambda x, t: -x / (1 + t**2)
      >>> sampler = conditioning.twisted(edm, score, lambda x0, t: -50 * (2 - x0[:, 0]) ** 2)
      >>> x = sampling.sample(key, sampler, edm.prior_sample(key, (4096, 1)), sampling.grids.karras(edm, 40))
      >>> print(f"{x.mean():.1f}")
      2.0
    """
    return _twisted("twisted", sde, score_fn, log_twist, threshold)


def _twisted(
    owner: str, sde: SDE, score_fn: ScoreFn, log_twist: Callable[[Array, Array], Array], threshold: ArrayLike
) -> Sampler:
    def find(x: Array, t: Array) -> tuple[_Found, Array]:
        found = estimate(sde, score_fn, x, t)
        value, back = jax.vjp(lambda x0: log_twist(x0, t), found.x0)
        return _Found(found.score, value, found.pull(back(jnp.ones_like(value))[0])), value

    def move(key: Key, x: Array, found: _Found, t: Array, s: Array) -> tuple[Array, _Found, Array]:
        alpha, added = (arrays.expand_right(v, x) for v in sde.transition(t, s))
        std = arrays.expand_right(jnp.sqrt(sde.posterior_variance(t, s)), x)
        z = arrays.normal(key, x)
        # Of the proposal's mean against the transition's; without noise there is nothing to propose.
        shift = jnp.where(std > 0, added / alpha * found.gradient, 0)
        moved = (x + added * found.score) / alpha + shift + std * z
        relative = shift / jnp.where(std > 0, std, 1)
        ratio = -arrays.sum_dims(relative * (z + 0.5 * relative))
        after, log_psi = find(moved, s)
        return moved, after, ratio + log_psi - found.log_twist

    return particle_sampler(owner, find, move, threshold, calls_at_start=1)
