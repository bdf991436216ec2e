"""Churn: raising the noise before a step of the probability flow (Karras et al. 2022, algorithm 2).

In the coordinates y = x/α and ς = σ/α the flow is  dy/dς = ε̂ = −σ·score  whatever the SDE. A step from t to s first
adds the noise that takes ς to (1 + γ) ς; the solver, here a function, then goes down from there to s.
"""

from collections.abc import Callable

import jax.numpy as jnp

from score_jax import arrays
from score_jax.sampling.base import Sampler, one_step
from score_jax.sde import SDE
from score_jax.types import Array, ArrayLike, InputError, Key, ScoreFn

Slope = Callable[[Array, Array], Array]  # (y, t) -> dy/dς
Solver = Callable[[Slope, Array, Array, Array], Array]  # (slope, y, t raised, s) -> y at s


def noise_ratio(sde: SDE, t: ArrayLike) -> Array:
    """Returns ς = σ/α."""
    return sde.sigma(t) / sde.alpha(t)


def churned(
    owner: str,
    sde: SDE,
    score_fn: ScoreFn,
    solver: Solver,
    *,
    calls: int,
    churn: ArrayLike,
    s_min: ArrayLike,
    s_max: ArrayLike,
    s_noise: ArrayLike,
) -> Sampler:
    """Returns the sampler whose step raises the noise by `churn`, then goes down to s by the solver.

    At t_max, too, the noise is raised, as published: 80 to 88 with γ = 0.1, where the score is then evaluated; s_max
    prevents it. `Tabulated` has no times beyond t_max, so that its noise is raised to that of t_max at most.

    Args:
      owner: name of the sampler, for errors.
      sde: the noising process.
      score_fn: `(x, t) -> score`.
      solver: one step of the flow.
      calls: how often it calls the score.
      churn: γ of a step, S_churn/n in the paper and at most √2 − 1: σ̂ = (1 + γ) σ/α.
      s_min: σ/α below which no noise is added.
      s_max: σ/α above which no noise is added.
      s_noise: factor of the added noise.

    Raises:
      InputError: for a concrete churn outside [0, √2 − 1].
    """
    if isinstance(churn, int | float) and not 0 <= churn <= 2**0.5 - 1:
        raise InputError(f"{owner}: churn is the γ of one step, S_churn/n, within [0, √2 − 1 = 0.4142], got {churn}")

    def slope(y: Array, t: Array) -> Array:
        alpha, sigma = arrays.expand_right(sde.alpha(t), y), arrays.expand_right(sde.sigma(t), y)
        return -sigma * score_fn(alpha * y, t)

    def step(key: Key, x: Array, t: Array, s: Array) -> Array:
        start = noise_ratio(sde, t)
        gamma = jnp.where((start >= s_min) & (start <= s_max) & (s < t), churn, 0.0).astype(start.dtype)
        t_raised = jnp.where(gamma > 0, sde.time(-2 * jnp.log((1 + gamma) * start)), t)
        raised = jnp.where(gamma > 0, noise_ratio(sde, t_raised), start)  # less than asked for where a table ends
        # As a product: a fused raised² − start² of equal numbers is not 0, and its root is 2e-4 of them.
        extra = s_noise * arrays.safe_sqrt(jnp.maximum((raised - start) * (raised + start), 0))
        y = x / arrays.expand_right(sde.alpha(t), x) + arrays.expand_right(extra, x) * arrays.normal(key, x)
        return arrays.expand_right(sde.alpha(s), x) * solver(slope, y, t_raised, s)

    return one_step(step, calls)
