"""Denoising diffusion restoration, DDRM (Kawar et al. 2022): each singular direction by itself, without a derivative.

In coordinates x/α with noise ς = σ/α, and the spectra v̂ = Vᵀ x̂0, v_t = Vᵀ x_t/α_t, ȳ = Uᵀ y/s of the observation, whose
noise there is σ_y/s, a step to ς' is (eqs. 7 and 8, with η_b = 1 as published)

    N(v̂ + √(1 − η²) ς' (v_t − v̂)/ς, η² ς'²)             where nothing is observed, s = 0
    N(v̂ + √(1 − η²) ς' (ȳ − v̂)/(σ_y/s), η² ς'²)         where y is noisier than the level, σ_y/s > ς'
    N(ȳ, ς'² − σ_y²/s²)                                   elsewhere

It needs few steps, and takes x̂0 by the prior alone for the truth: what the observed directions say of the others is
learned of x̂0 only.
"""

import jax.numpy as jnp

from score_jax import arrays
from score_jax.conditioning.observed import estimate_alone, require_problem
from score_jax.conditioning.operators import Decomposed, observed_directions, require_decomposed
from score_jax.sampling.base import Sampler, one_step
from score_jax.sde import SDE
from score_jax.types import Array, ArrayLike, InputError, Key, ScoreFn


def ddrm(
    sde: SDE, score_fn: ScoreFn, operator: Decomposed, y: Array, *, noise_std: ArrayLike, eta: float = 0.85
) -> Sampler:
    """Returns DDRM's sampler: a score call a step.

    Args:
      sde: the noising process.
      score_fn: of p_t(x).
      operator: A, with its singular values.
      y: the observation in the units of x0, `(B, …)`, or `(1, …)` for one that all rows share.
      noise_std: σ_y; 0 of an exact observation.
      eta: η in [0, 1], the share of fresh noise; 0.85 as published.

    Raises:
      InputError: for an operator without singular values, y that it doesn't give, negative noise, or η outside [0, 1].

    Examples:
      Data N(0, 1), of which y = 2 was seen with noise of a standard deviation of 0.1: a mean of 2/1.01.

      >>> edm, score, y = sde.EDM(0.01, 10.0), lambda x, t: -x / (1 + t**2), jnp.full((1, 1), 2.0)
      >>> operator, x = conditioning.operators.Mask(np.ones(1)), edm.prior_sample(key, (4096, 1))
      >>> sampler = conditioning.ddrm(edm, score, operator, y, noise_std=0.1)
      >>> print(f"{sampling.sample(key, sampler, x, sampling.grids.karras(edm, 40)).mean():.1f}")
      2.0
    """
    require_decomposed("ddrm", operator)
    if not 0 <= eta <= 1:
        raise InputError(f"ddrm: eta is a share of fresh noise from 0 to 1, got {eta}")
    fitting = require_problem("ddrm", operator, y, noise_std)

    def step(key: Key, x: Array, t: Array, s: Array) -> Array:
        x0, _ = estimate_alone(sde, score_fn, x, t)
        spectrum = operator.to_spectrum
        at, held = spectrum(x0), spectrum(x / arrays.expand_right(sde.alpha(t), x))
        level, after = (arrays.expand_right(jnp.exp(-0.5 * sde.log_snr(time)), at) for time in (t, s))
        seen, known, spread = observed_directions(operator, fitting(x0), noise_std)
        kept = (1 - eta**2) ** 0.5 * after
        free = at + kept * (held - at) / level
        noisy = at + kept * (known - at) / jnp.where(spread > 0, spread, 1)
        exact = spread <= after
        mean = jnp.where(seen, jnp.where(exact, known, noisy), free)
        variance = jnp.where(seen & exact, after**2 - spread**2, eta**2 * after**2)
        drawn = mean + arrays.safe_sqrt(variance) * spectrum(arrays.normal(key, x))
        moved = arrays.expand_right(sde.alpha(s), x) * operator.from_spectrum(drawn)
        return jnp.where(arrays.expand_right(s < t, x) > 0, moved, x)

    return one_step(step)
