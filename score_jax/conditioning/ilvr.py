"""Iterative latent variable refinement, ILVR (Choi et al. 2021): after a step, the observed part is that of noised y.

    x_s ← x'_s + A⁺ A (y_s − x'_s),        x'_s ~ p(x_s | x_t),    y_s ~ N(α_s A⁺ y, σ_s² I)

(algorithm 1, whose φ is A⁺ A of a reduction: `Downsample`, `bicubic`.) `replacement` puts y in before the step too,
and without noise after it; here all of x carries the noise of its level, and the share that is refined may end early.
"""

import jax.numpy as jnp

from score_jax import arrays
from score_jax.conditioning.operators import Decomposed
from score_jax.conditioning.replacement import impose, lifted
from score_jax.sampling import Sampler
from score_jax.sampling.base import one_step, require_one_step
from score_jax.sde import SDE
from score_jax.types import Array, ArrayLike, Key, require_at_least


def ilvr(sampler: Sampler, sde: SDE, operator: Decomposed, y: Array, *, low: ArrayLike = 0.0) -> Sampler:
    """Refines every step of `sampler` by an observation without noise: the score calls of the sampler, no more.

    Args:
      sampler: a one-step sampler.
      sde: its noising process.
      operator: A, with its singular values.
      y: the observation in the units of x0, `(B, …)`, or `(1, …)` for one that all rows share.
      low: σ/α below which steps are left as they are, the conditioning range of the paper.

    Raises:
      InputError: for a multistep sampler, an operator without singular values, y that the operator or x doesn't fit.

    Examples:
      Data N(0, I) of which the first of two elements was seen, 3; the other has its own law, N(0, 1).

      >>> edm, score, y = sde.EDM(0.01, 10.0), lambda x, t: -x / (1 + t**2), jnp.array([[3.0, 0.0]])
      >>> operator = conditioning.operators.Mask(np.array([1, 0]))
      >>> sampler = conditioning.ilvr(sampling.heun(edm, score), edm, operator, y)
      >>> x = sampling.sample(key, sampler, edm.prior_sample(key, (4096, 2)), sampling.grids.karras(edm, 40))
      >>> print(f"{x[:, 0].mean():.1f} {x[:, 1].std():.1f}")
      3.0 1.0
    """
    require_one_step("ilvr", sampler)
    require_at_least("ilvr", 0, low=low)
    known = lifted("ilvr", operator, y)

    def step(key: Key, x: Array, t: Array, s: Array) -> Array:
        x0 = known(x)
        key_noise, key_step = arrays.split(key)
        x = sampler.step(key_step, sampler.init(x), t, s).x
        refined = impose(operator, x, operator(sde.perturb(key_noise, x0, s)[0]))
        acts = (s < t) & (jnp.exp(-0.5 * sde.log_snr(s)) >= low)
        return jnp.where(arrays.expand_right(acts, x) > 0, refined, x)

    return one_step(step, sampler.calls)
