"""Moment-matching posterior sampling, MMPS (Rozet et al. 2024): the estimate's covariance by its own derivative.

    ∇ log p_t(y | x) ≈ Jᵀ Aᵀ (σ_y² I + A V Aᵀ)⁻¹ (y − A x̂0),        V = Cov[x0 | x_t] = (σ²/α) J,        J = ∂x̂0/∂x

(eqs. 9 and 12.) The system is solved by conjugate gradients, each step of which takes a vector–Jacobian product. Exact
on any Gaussian with as many steps as the matrix has eigenvalues; in practice one to five do.
"""

from typing import Any

import jax

from score_jax import arrays
from score_jax.conditioning.observed import conjugate_gradients, estimate, require_problem
from score_jax.sde import SDE
from score_jax.types import Array, ArrayLike, ScoreFn, require_at_least, require_positive


def mmps(sde: SDE, score_fn: ScoreFn, operator: Any, y: Array, *, noise_std: ArrayLike, n_steps: int = 1) -> ScoreFn:
    """Returns the posterior score by MMPS: a score call and n_steps + 1 vector–Jacobian products a call.

    Args:
      sde: the noising process.
      score_fn: of p_t(x).
      operator: A, linear or any differentiable function of a batch, which is linearised at x̂0.
      y: the observation in the units of x0, `(B, …)`, or `(1, …)` for one that all rows share.
      noise_std: σ_y, positive.
      n_steps: of conjugate gradients.

    Raises:
      InputError: for y that the operator doesn't give, noise that is not positive, or no step.

    Examples:
      Data N(0, 1), of which y = 2 was seen with noise of variance 1: N(1, 1/2), and at t = 1 and x = 0 the score 1/1.5.

      >>> operator, y = conditioning.operators.Mask(np.ones(1)), jnp.full((1, 1), 2.0)
      >>> score = conditioning.mmps(sde.EDM(), lambda x, t: -x / (1 + t**2), operator, y, noise_std=1.0)
      >>> print(f"{jax.jit(score)(jnp.zeros((1, 1)), 1.0)[0, 0]:.2f}")
      0.67
    """
    require_positive("mmps", noise_std=noise_std)
    require_at_least("mmps", 1, n_steps=n_steps)
    fitting = require_problem("mmps", operator, y, noise_std)

    def guided(x: Array, t: Array) -> Array:
        found = estimate(sde, score_fn, x, t)
        seen, back = jax.vjp(operator, found.x0)
        along = lambda v: jax.jvp(operator, (found.x0,), (v,))[1]
        covariance = lambda v: arrays.expand_right(found.covariance, x) * found.pull(v)
        product = lambda v: arrays.expand_right(noise_std, v) ** 2 * v + along(covariance(back(v)[0]))
        solved = conjugate_gradients(product, fitting(found.x0) - seen, n_steps)
        return found.score + found.pull(back(solved)[0])

    return guided
