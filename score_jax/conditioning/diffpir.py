"""Plug-and-play restoration, DiffPIR (Zhu et al. 2023): the denoised estimate moved towards y, with no derivative.

    x̂0_y = argmin_x ‖y − A x‖²/σ_y² + λ (α²/σ²) ‖x − x̂0‖² = x̂0 + Aᵀ (A Aᵀ + c I)⁻¹ (y − A x̂0),    c = λ σ_y² α²/σ²

(eqs. 13 and 14.) It is the posterior's estimate where the prior says nothing but N(x̂0, σ²/(λα²) I): for λ = 1 where the
data spread far wider than σ/α. With λ = 1 + σ²/(α² d²) it is exact on N(·, d² I), as `pigdm` is.
"""

import jax.numpy as jnp

from score_jax import arrays
from score_jax.conditioning.guidance import Scale, scale_at
from score_jax.conditioning.observed import estimate_alone, require_problem
from score_jax.conditioning.operators import Decomposed, regularised_inverse, require_decomposed
from score_jax.sde import SDE
from score_jax.types import Array, ArrayLike, ScoreFn, require_positive


def diffpir(
    sde: SDE, score_fn: ScoreFn, operator: Decomposed, y: Array, *, noise_std: ArrayLike, strength: Scale = 1.0
) -> ScoreFn:
    """Returns s + (α/σ²)(x̂0_y − x̂0): a score call a call.

    The published sampler re-noises the estimate with a share ζ of fresh noise:
    `ddim(sde, diffpir(…), eta=lambda x, t, s: ζ * sde.variance(s))`.

    Args:
      sde: the noising process.
      score_fn: of p_t(x).
      operator: A, with its singular values.
      y: the observation in the units of x0, `(B, …)`, or `(1, …)` for one that all rows share.
      noise_std: σ_y; 0 of an exact observation, which x̂0_y then agrees with.
      strength: λ, a number or a function of t; published values are 1 to 20.

    Raises:
      InputError: for an operator without singular values, y that it doesn't give, or negative noise.

    Examples:
      Data N(0, 1), of which y = 2 was seen with noise of variance 1: N(1, 1/2), and at t = 1 and x = 0 the score 1/1.5.

      >>> operator, y = conditioning.operators.Mask(np.ones(1)), jnp.full((1, 1), 2.0)
      >>> options = {"noise_std": 1.0, "strength": lambda t: 1 + t**2}
      >>> score = conditioning.diffpir(sde.EDM(), lambda x, t: -x / (1 + t**2), operator, y, **options)
      >>> print(f"{jax.jit(score)(jnp.zeros((1, 1)), 1.0)[0, 0]:.2f}")
      0.67
    """
    require_decomposed("diffpir", operator)
    if not callable(strength):
        require_positive("diffpir", strength=strength)
    fitting = require_problem("diffpir", operator, y, noise_std)

    def guided(x: Array, t: Array) -> Array:
        x0, score = estimate_alone(sde, score_fn, x, t)
        ratio = jnp.exp(sde.log_snr(t))  # α²/σ²
        ridge = scale_at(strength, ratio, t) * jnp.asarray(noise_std, ratio.dtype) ** 2 * ratio
        moved = regularised_inverse(operator, fitting(x0) - operator(x0), ridge)
        return score + arrays.expand_right(sde.alpha(t) / sde.variance(t), x) * moved

    return guided
