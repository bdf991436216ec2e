"""Tweedie moment projected diffusions, TMPD (Boys et al. 2023): MMPS's system with a diagonal in place of its matrix.

    ∇ log p_t(y | x) ≈ Jᵀ Aᵀ (σ_y² + A V Aᵀ 1)⁻¹ (y − A x̂0),        V = (σ²/α) J

(algorithm 1: the sums of the rows, which one vector–Jacobian product gives, stand for the diagonal.) Exact on Gaussians
with a diagonal A V Aᵀ, as masks of independent elements have; elsewhere a sum may be far from the diagonal, even
negative, as where A mixes elements (`experiments/posterior_benchmark`, ill-posed). `mmps` solves the whole system.
"""

import jax.numpy as jnp

from score_jax import arrays
from score_jax.conditioning.observed import estimate, require_problem
from score_jax.conditioning.operators import Operator, require_linear
from score_jax.sde import SDE
from score_jax.types import Array, ArrayLike, ScoreFn


def tmpd(sde: SDE, score_fn: ScoreFn, operator: Operator, y: Array, *, noise_std: ArrayLike) -> ScoreFn:
    """Returns the posterior score by TMPD: a score call and two vector–Jacobian products a call.

    Args:
      sde: the noising process.
      score_fn: of p_t(x).
      operator: A, linear.
      y: the observation in the units of x0, `(B, …)`, or `(1, …)` for one that all rows share.
      noise_std: σ_y; 0 of an exact observation.

    Raises:
      InputError: for an operator that is not linear, y that it doesn't give, or negative noise.

    Examples:
      Data N(0, 1), of which y = 2 was seen with noise of variance 1: N(1, 1/2), and at t = 1 and x = 0 the score 1/1.5.

      >>> operator, y = conditioning.operators.Mask(np.ones(1)), jnp.full((1, 1), 2.0)
      >>> score = conditioning.tmpd(sde.EDM(), lambda x, t: -x / (1 + t**2), operator, y, noise_std=1.0)
      >>> print(f"{jax.jit(score)(jnp.zeros((1, 1)), 1.0)[0, 0]:.2f}")
      0.67
    """
    require_linear("tmpd", operator)
    fitting = require_problem("tmpd", operator, y, noise_std)

    def guided(x: Array, t: Array) -> Array:
        found = estimate(sde, score_fn, x, t)
        seen = operator(found.x0)
        spread = found.pull(operator.adjoint(jnp.ones_like(seen)))
        variance = arrays.expand_right(noise_std, seen) ** 2 + operator(
            arrays.expand_right(found.covariance, x) * spread
        )
        return found.score + found.pull(operator.adjoint((fitting(found.x0) - seen) / variance))

    return guided
