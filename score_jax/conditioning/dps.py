"""Diffusion posterior sampling (Chung et al. 2023): the likelihood of the denoised estimate in place of p_t(y | x).

    ∇ log p_t(y | x) ≈ ∇_x log N(y; A x̂0(x), σ_y² I)

(eq. 16, for Gaussian noise.) It forgets how uncertain x̂0 is, and so pulls far too hard while that is larger than σ_y:
on a Gaussian of variance d² observed through A = 1 the factor of y − x̂0 is 1/σ_y² where it should be 1/(σ_y² + r²),
r² = Var[x0 | x_t]. A scale below 1 makes up for that at some levels. Any differentiable function observes.
"""

from typing import Any

import jax

from score_jax import arrays
from score_jax.conditioning.guidance import Scale, scale_at
from score_jax.conditioning.observed import estimate, require_problem
from score_jax.sde import SDE
from score_jax.types import Array, ArrayLike, ScoreFn, require_positive


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
    """
    require_positive("dps", noise_std=noise_std)
    fitting = require_problem("dps", operator, y, noise_std)

    def guided(x: Array, t: Array) -> Array:
        found = estimate(sde, score_fn, x, t)
        seen, back = jax.vjp(operator, found.x0)
        pulled = found.pull(back((fitting(found.x0) - seen) / noise_std**2)[0])
        return found.score + arrays.expand_right(scale_at(scale, x, t), x) * pulled

    return guided
