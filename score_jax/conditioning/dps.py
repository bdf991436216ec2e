"""Diffusion posterior sampling (Chung et al. 2023): the likelihood of the denoised estimate in place of p_t(y | x).

    ∇ log p_t(y | x) ≈ ∇_x log N(y; A x̂0(x), σ_y² I)

(eq. 16, for Gaussian noise.) It forgets how uncertain x̂0 is, and so pulls far too hard while that is larger than σ_y:
on a Gaussian of variance d² observed through A = 1 the factor of y − x̂0 is 1/σ_y² where it should be 1/(σ_y² + r²),
r² = Var[x0 | x_t]. A scale below 1 makes up for that at some levels. Any differentiable function observes, and any
differentiable likelihood: `likelihood_guidance`. What was released steps by another rule, `dps_ancestral`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from score_jax import arrays
from score_jax.conditioning.guidance import Scale, scale_at
from score_jax.conditioning.observed import estimate, require_problem
from score_jax.sampling import Sampler, ancestral
from score_jax.sampling.base import one_step
from score_jax.sde import SDE
from score_jax.types import Array, ArrayLike, Key, ScoreFn, require_at_least, require_positive


def dps(sde: SDE, score_fn: ScoreFn, operator: Any, y: Array, *, noise_std: ArrayLike, scale: Scale = 1.0) -> ScoreFn:
    """Returns s + scale·∇_x log N(y; A x̂0(x), noise_std² I): a score call and a vector–Jacobian product a call.

    Args:
      sde: the noising process.
      score_fn: of p_t(x).
      operator: A, linear or any differentiable function of a batch, row by row.
      y: the observation in the units of x0, `(B, …)`, or `(1, …)` for one that all rows share.
      noise_std: σ_y, positive.
      scale: a number, or a function of t.

    Raises:
      InputError: for y that the operator doesn't give, or noise that is not positive.

    Examples:
      Data N(0, 1), of which y = 2 was seen with noise of variance 1: at t = 1 and x = 0 too much, where 1/1.5 is right.

      >>> operator, y = conditioning.operators.Mask(np.ones(1)), jnp.full((1, 1), 2.0)
      >>> score = conditioning.dps(sde.EDM(), lambda x, t: -x / (1 + t**2), operator, y, noise_std=1.0)
      >>> print(f"{jax.jit(score)(jnp.zeros((1, 1)), 1.0)[0, 0]:.2f}")
      1.00
    """
    require_positive("dps", noise_std=noise_std)
    fitting = require_problem("dps", operator, y, noise_std)
    misfit = lambda x0: arrays.sum_dims((fitting(x0) - operator(x0)) ** 2)
    log_likelihood = lambda x0: -0.5 * misfit(x0) / jnp.asarray(noise_std, arrays.wide(x0.dtype)) ** 2
    return likelihood_guidance(sde, score_fn, log_likelihood, scale)


def likelihood_guidance(
    sde: SDE, score_fn: ScoreFn, log_likelihood: Callable[[Array], Array], scale: Scale = 1.0
) -> ScoreFn:
    """Returns s + scale·∇_x log p(y | x̂0(x)): a score call and a vector–Jacobian product a call.

    Args:
      sde: the noising process.
      score_fn: of p_t(x).
      log_likelihood: `x0 (B, *S) -> (B,)`, log p(y | x0) of the y that was observed, up to a constant, row by row:
        `operators.log_counts` for counts of light, or any other.
      scale: a number, or a function of t.

    Examples:
      Data N(0, 1) at t = 1 and x = 0: the slope of log p(y | x̂_0), 2 − x̂_0, times that of x̂_0 = x/2.

      >>> log_likelihood = lambda x0: -0.5 * (2 - x0[:, 0]) ** 2
      >>> score = conditioning.likelihood_guidance(sde.EDM(), lambda x, t: -x / (1 + t**2), log_likelihood)
      >>> print(f"{jax.jit(score)(jnp.zeros((1, 1)), 1.0)[0, 0]:.2f}")
      1.00
    """

    def guided(x: Array, t: Array) -> Array:
        found = estimate(sde, score_fn, x, t)
        gradient = jax.grad(lambda x0: log_likelihood(x0).sum())(found.x0)
        return found.score + arrays.expand_right(scale_at(scale, x, t), x) * found.pull(gradient)

    return guided


def dps_ancestral(sde: SDE, score_fn: ScoreFn, operator: Any, y: Array, *, step_size: ArrayLike = 1.0) -> Sampler:
    """Steps t → s as released: `ancestral`, and from its result ζ ∇_x ‖y − A x̂0(x)‖ (algorithm 1, and section C.2).

    The step doesn't depend on how large the misfit is, nor on σ_y or the grid, so that the law that is
    sampled depends on the number of steps. The norm is each row's, as of the released batches of one. A score call and
    a vector–Jacobian product a step.

    Args:
      sde: the noising process.
      score_fn: of p_t(x).
      operator: A, linear or any differentiable function of a batch, row by row.
      y: the observation in the units of x0, `(B, …)`, or `(1, …)` for one that all rows share.
      step_size: ζ; 0.3 to 1 as published, on 1,000 steps for images in [−1, 1].

    Raises:
      InputError: for y that the operator doesn't give, or a negative step size.

    Examples:
      Data N(0, 1), of which y = 2 was seen: steps of this size end there, whatever noise it had.

      >>> edm, score, y = sde.EDM(0.01, 10.0), lambda x, t: -x / (1 + t**2), jnp.full((1, 1), 2.0)
      >>> operator, x = conditioning.operators.Mask(np.ones(1)), edm.prior_sample(key, (4096, 1))
      >>> sampler = conditioning.dps_ancestral(edm, score, operator, y, step_size=0.3)
      >>> print(f"{sampling.sample(key, sampler, x, sampling.grids.karras(edm, 40)).mean():.1f}")
      2.0
    """
    require_at_least("dps_ancestral", 0, step_size=step_size)
    fitting = require_problem("dps_ancestral", operator, y, 0)
    length = lambda x0: arrays.safe_sqrt(arrays.sum_dims((fitting(x0) - operator(x0)) ** 2))

    def step(key: Key, x: Array, t: Array, s: Array) -> Array:
        alpha, added = sde.transition(t, s)
        # What makes ancestral's (x + σ²_{t|s} score)/α_{t|s} move by −ζ ∇‖y − A x̂0‖.
        scale = step_size * alpha / jnp.where(added > 0, added, 1)
        guided = likelihood_guidance(sde, score_fn, lambda x0: -length(x0), scale)
        sampler = ancestral(sde, guided)
        return sampler.step(key, sampler.init(x), t, s).x

    return one_step(step)
