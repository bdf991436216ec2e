"""Decoupled annealing, DAPS (Zhang et al. 2024): at each level to data, there to the posterior, and back to less noise.

    x̂0 = the probability flow's end from x_t;    x0 ~ N(x̂0, r² I) N(y; A x0, σ_y² I);    x_s = α_s x0 + σ_s z

(algorithm 1.) Levels are tied together by x0 alone, so that an early mistake can be undone, where a reverse SDE keeps
most of it. Were N(x̂0, r² I) p(x0 | x_t), every x_s would be of the exact posterior; the flow's end is one draw of data
near x_t and not its mean, and r a guess.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from score_jax import arrays
from score_jax.conditioning.observed import estimate_alone, remaining_variance, require_problem
from score_jax.conditioning.operators import Decomposed, regularised_inverse, require_decomposed
from score_jax.sampling import Sampler, ddim, langevin, sample
from score_jax.sampling.base import one_step
from score_jax.sde import SDE
from score_jax.types import Array, ArrayLike, InputError, Key, ScoreFn, require_at_least, require_positive

# (key (B,), operator, y, noise_std, mean (B, *S), variance () or (B,)) -> x0 (B, *S)
Draw: TypeAlias = Callable[[Key, Any, Array, ArrayLike, Array, Array], Array]


def langevin_draw(n_steps: int = 100, *, step_size: ArrayLike = 0.2) -> Draw:
    """Returns the draw of x0 by Langevin steps from x̂0, for any operator of a norm about 1, as published.

    Where y says little, r is far larger than σ_y and the steps are too short to spread x0 that far.

    Args:
      n_steps: each takes a product with A and one with Aᵀ.
      step_size: ε/2 in units of the variance 1/(1/r² + 1/σ_y²), below 2.

    Examples:
      Of N(0, 1) and y = 2 with noise of variance 1: N(1, 1/2).

      >>> operator, y, mean = conditioning.operators.Mask(np.ones(1)), jnp.full((1, 1), 2.0), jnp.zeros((4096, 1))
      >>> x0 = conditioning.langevin_draw(50, step_size=0.1)(key, operator, y, 1.0, mean, jnp.ones(()))
      >>> print(f"{x0.mean():.1f} {x0.var():.1f}")
      1.0 0.5
    """
    require_at_least("langevin_draw", 1, n_steps=n_steps)
    require_positive("langevin_draw", step_size=step_size)
    if isinstance(step_size, int | float) and not step_size < 2:
        raise InputError(f"langevin_draw: steps diverge from a step_size of 2 on, got {step_size}")

    def draw(key: Key, operator: Any, y: Array, noise_std: ArrayLike, mean: Array, variance: Array) -> Array:
        variance = arrays.per_example(variance, mean).astype(arrays.wide(mean.dtype))
        ratio = variance / jnp.asarray(noise_std, variance.dtype) ** 2  # r²/σ_y²
        by = lambda v: arrays.expand_right(v, mean)

        def score(x: Array) -> Array:
            seen, back = jax.vjp(operator, x)
            return (mean - x + by(ratio) * back(y - seen)[0]) / by(variance)

        eps = jnp.asarray(2 * step_size, variance.dtype) * variance / (1 + ratio)
        return langevin(key, score, mean, step_size=eps, n_steps=n_steps)

    return draw


def gaussian_draw(
    key: Key, operator: Decomposed, y: Array, noise_std: ArrayLike, mean: Array, variance: Array
) -> Array:
    """Draws x0 of N(mean, variance·I) N(y; A x0, noise_std² I) exactly: a draw of the first, moved by one of y.

    Examples:
      Of N(0, 1) and y = 2 with noise of variance 1: N(1, 1/2).

      >>> operator, y, mean = conditioning.operators.Mask(np.ones(1)), jnp.full((1, 1), 2.0), jnp.zeros((4096, 1))
      >>> x0 = conditioning.gaussian_draw(key, operator, y, 1.0, mean, jnp.ones(()))
      >>> print(f"{x0.mean():.1f} {x0.var():.1f}")
      1.0 0.5
    """
    require_decomposed("gaussian_draw", operator)
    key_prior, key_noise = arrays.split(key)
    x0 = mean + arrays.expand_right(jnp.sqrt(variance), mean) * arrays.normal(key_prior, mean)
    seen = operator(x0)
    noised = y + arrays.expand_right(noise_std, seen) * arrays.normal(key_noise, seen)
    ridge = jnp.asarray(noise_std, variance.dtype) ** 2 / variance
    return x0 + regularised_inverse(operator, noised - seen, ridge)


def daps(
    sde: SDE,
    score_fn: ScoreFn,
    operator: Any,
    y: Array,
    *,
    noise_std: ArrayLike,
    data_std: ArrayLike = np.inf,
    n_flow: int = 5,
    draw: Draw | None = None,
) -> Sampler:
    """Returns DAPS's sampler: n_flow score calls a step, and those products with A and Aᵀ that the draw takes.

    Args:
      sde: the noising process.
      score_fn: of p_t(x).
      operator: A, linear or any differentiable function of a batch, row by row.
      y: the observation in the units of x0, `(B, …)`, or `(1, …)` for one that all rows share.
      noise_std: σ_y, positive.
      data_std: d, of which r² = σ² d²/(σ² + α² d²); ∞ as published, r = σ/α.
      n_flow: calls of the score by which the flow is solved, the last of which denoises; published are 1 to 10.
      draw: of x0; `langevin_draw()` unless given. `gaussian_draw` is exact, for operators with their singular values.

    Raises:
      InputError: for y that the operator doesn't give, noise that is not positive, or no call.

    Examples:
      Data N(0, 1), of which y = 2 was seen with noise of a standard deviation of 0.1: a mean of 2/1.01.

      >>> edm, score, y = sde.EDM(0.01, 10.0), lambda x, t: -x / (1 + t**2), jnp.full((1, 1), 2.0)
      >>> operator, x = conditioning.operators.Mask(np.ones(1)), edm.prior_sample(key, (4096, 1))
      >>> sampler = conditioning.daps(edm, score, operator, y, noise_std=0.1, draw=conditioning.gaussian_draw)
      >>> print(f"{sampling.sample(key, sampler, x, sampling.grids.karras(edm, 40)).mean():.1f}")
      2.0
    """
    require_positive("daps", noise_std=noise_std, data_std=data_std)
    require_at_least("daps", 1, n_flow=n_flow)
    fitting, draw = require_problem("daps", operator, y, noise_std), draw or langevin_draw()

    def to_data(x: Array, t: Array) -> Array:
        """The flow by n_flow − 1 steps of DDIM towards t_min, uniform in log-SNR, and denoised."""
        levels = jnp.linspace(sde.log_snr(t), sde.log_snr(jnp.asarray(sde.t_min)), n_flow + 1)[:-1]
        ts = jnp.clip(sde.time(levels), sde.t_min, t).at[0].set(t)
        if n_flow > 1:
            x = sample(jax.random.key(0), ddim(sde, score_fn), x, ts)  # which draws nothing
        return estimate_alone(sde, score_fn, x, ts[-1])[0]

    def step(key: Key, x: Array, t: Array, s: Array) -> Array:
        key_draw, key_noise = arrays.split(key)
        mean = to_data(x, t)
        x0 = draw(key_draw, operator, fitting(mean), noise_std, mean, remaining_variance(sde, t, data_std))
        return jnp.where(s < t, sde.perturb(key_noise, x0, s)[0], x)

    return one_step(step, n_flow)
