"""Pseudo-inverse guidance, ΠGDM (Song et al. 2023): the estimate's uncertainty taken for an isotropic Gaussian's.

    p(x0 | x_t) ≈ N(x̂0, r² I),        ∇ log p_t(y | x) ≈ Jᵀ Aᵀ (r² A Aᵀ + σ_y² I)⁻¹ (y − A x̂0),        J = ∂x̂0/∂x

(eq. 7.) With r² = Var[x0 | x_t] of data N(·, d² I) it is exact for these. Released code multiplies the term by r² and
leaves the rest to the sampler's step; here it is the score that the equation is.
"""

import jax.numpy as jnp

from score_jax import arrays
from score_jax.conditioning.observed import estimate, remaining_variance, require_problem
from score_jax.conditioning.operators import Decomposed, regularised_inverse, require_decomposed
from score_jax.sde import SDE
from score_jax.types import Array, ArrayLike, ScoreFn, require_positive


def pigdm(
    sde: SDE, score_fn: ScoreFn, operator: Decomposed, y: Array, *, noise_std: ArrayLike, data_std: ArrayLike = 1.0
) -> ScoreFn:
    """Returns the posterior score by ΠGDM: a score call and a vector–Jacobian product a call.

    Args:
      sde: the noising process.
      score_fn: of p_t(x).
      operator: A, with its singular values.
      y: the observation in the units of x0, `(B, …)`, or `(1, …)` for one that all rows share.
      noise_std: σ_y; 0 of an exact observation.
      data_std: d, of which r² = σ² d²/(σ² + α² d²).

    Raises:
      InputError: for an operator without singular values, y that it doesn't give, or negative noise.

    Examples:
      Data N(0, 1), of which y = 2 was seen with noise of variance 1: N(1, 1/2), and at t = 1 and x = 0 the score 1/1.5.

      >>> operator, y = conditioning.operators.Mask(np.ones(1)), jnp.full((1, 1), 2.0)
      >>> score = conditioning.pigdm(sde.EDM(), lambda x, t: -x / (1 + t**2), operator, y, noise_std=1.0)
      >>> print(f"{jax.jit(score)(jnp.zeros((1, 1)), 1.0)[0, 0]:.2f}")
      0.67
    """
    require_decomposed("pigdm", operator)
    require_positive("pigdm", data_std=data_std)
    fitting = require_problem("pigdm", operator, y, noise_std)

    def guided(x: Array, t: Array) -> Array:
        found = estimate(sde, score_fn, x, t)
        variance = remaining_variance(sde, t, data_std)
        ridge = jnp.asarray(noise_std, variance.dtype) ** 2 / variance
        back = regularised_inverse(operator, fitting(found.x0) - operator(found.x0), ridge)
        return found.score + found.pull(back / arrays.expand_right(variance, x))

    return guided
