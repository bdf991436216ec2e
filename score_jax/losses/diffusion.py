"""Objectives at every noise level of an SDE at once: `score_fn` is `(x, t) -> score`, results are nats, `(B,)`.

Each draws one t per example from `times`, noises x_0 to x_t, and weights the level's loss. The published losses are
arguments: NCSN `times=discrete(ts), weighting=sigma2` on VE, DDPM the same on `Tabulated`, score SDE
`times=uniform()`, EDM `times=lognormal(), weighting=edm(sigma_data)`.
"""

from collections.abc import Callable

import jax.numpy as jnp

from score_jax import arrays
from score_jax.kernels import Gaussian, Kernel
from score_jax.losses import weighting as weightings
from score_jax.losses.matching import control_variate
from score_jax.losses.times import Times, uniform
from score_jax.losses.weighting import Weighting
from score_jax.sde import SDE
from score_jax.types import Array, Key, ScoreFn, StaticScoreFn


def diffusion_loss(
    key: Key,
    sde: SDE,
    score_fn: ScoreFn,
    x0: Array,
    *,
    times: Times = uniform(),
    weighting: Weighting = weightings.sigma2,
    noise: Kernel = Gaussian(1.0),
    control: Weighting | None = None,
) -> Array:
    """Returns w(t)·½‖s(x_t, t) − ∇log p(x_t|x_0)‖², `(B,)`: denoising score matching at every level.

    Computed as (w/σ²)·½‖σ s + ε‖², which stays exact where 1/σ² overflows the difference (Song et al. 2021, eq. 7).
    With another law of the noise, x_t = α x_0 + σ z and −ε becomes ∇ log q(z): the minimiser is the score of the data
    so noised.

    Args:
      key: `()` or `(B,)`.
      sde: the noising process.
      score_fn: `(x, t) -> score`, t `(B,)`.
      x0: data, `(B, *S)`.
      times: how t is drawn, with its weight (`losses.times`).
      weighting: w(t), `(sde, t) -> (B,)` (`losses.weighting`).
      noise: law of z, the kernel around 0 at σ = 1; of variance 1 if σ is to mean the standard deviation.
      control: coefficient of the control variate (`losses.control_variate`), `(sde, t) -> (B,)` such as
        `weighting.small_noise(scale)`; it costs one more call of `score_fn`.

    Examples:
      Data N(0, 1) at σ = t have the score −x/(1 + t²), which leaves ½ Var(ε | x_t) = 1/4 at t = 1.

      >>> x0, score = jax.random.normal(jax.random.key(1), (4096, 1)), lambda x, t: -x / (1 + t[:, None] ** 2)
      >>> times = losses.times.discrete(jnp.ones(1))
      >>> print(f"{losses.diffusion_loss(key, sde.EDM(), score, x0, times=times).mean():.2f}")
      0.25
    """
    key = arrays.example_keys(key, len(x0))
    t, weight = times(arrays.fold_in(key, 0), sde, len(x0))
    alpha, sigma = arrays.expand_right(sde.alpha(t), x0), arrays.expand_right(sde.sigma(t), x0)
    origin = jnp.zeros_like(x0)
    z = noise.sample(arrays.fold_in(key, 1), origin)
    target = noise.score(z, origin)
    values = 0.5 * arrays.sum_dims((sigma * score_fn(alpha * x0 + sigma * z, t) - target) ** 2)
    if control is not None:
        clean = control_variate(sigma * score_fn(alpha * x0, t), target, noise.information(x0))
        values = values - arrays.expand_right(control(sde, t), values) * clean
    return arrays.expand_right(weight * weighting(sde, t) / sde.variance(t), values) * values


def perturbed(
    objective: Callable[[Key, StaticScoreFn, Array], Array],
    sde: SDE,
    *,
    times: Times = uniform(),
    weighting: Weighting = weightings.sigma2,
) -> Callable[[Key, ScoreFn, Array], Array]:
    """Lifts an objective at one density to every noise level: `(key, score_fn, x0) -> (B,)`.

    The objective sees noise units: u = x_t/σ with score σ·s(σu, t), so J_u = σ² J_x and the weight is w/σ². A
    finite-difference step is then relative to σ, and every level's objective has one scale.

    Args:
      objective: `(key, score_fn, x) -> (B,)`, such as `losses.sliced_score_matching`.
      sde: the noising process.
      times: how t is drawn, with its weight.
      weighting: w(t), multiplying J_x.

    Examples:
      Data N(0, 1) at σ = 1 are N(0, 2): the mean of sliced score matching is −(1/2)/2 by their score, times σ².

      >>> x0, score = jax.random.normal(jax.random.key(1), (4096, 1)), lambda x, t: -x / (1 + t[:, None] ** 2)
      >>> times = losses.times.discrete(jnp.ones(1))
      >>> loss = losses.perturbed(losses.sliced_score_matching, sde.EDM(), times=times)
      >>> print(f"{loss(key, score, x0).mean():.2f}")
      -0.25
    """

    def loss(key: Key, score_fn: ScoreFn, x0: Array) -> Array:
        key = arrays.example_keys(key, len(x0))
        t, weight = times(arrays.fold_in(key, 0), sde, len(x0))
        x, _ = sde.perturb(arrays.fold_in(key, 1), x0, t)
        sigma = arrays.expand_right(sde.sigma(t), x)
        values = objective(arrays.fold_in(key, 2), lambda u: sigma * score_fn(sigma * u, t), x / sigma)
        return arrays.expand_right(weight * weighting(sde, t) / sde.variance(t), values) * values

    return loss
