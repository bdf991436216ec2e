"""Stochastic samplers: discretisations of the reverse-time SDE  dx = (f x − g² score) dt + g dw̄.

With the transition from s to t > s,  x_t = α_{t|s} x_s + σ_{t|s} z,

    α_{t|s} = α_t/α_s,        σ²_{t|s} = σ_t² − α²_{t|s} σ_s² = −σ_t² expm1(λ_t − λ_s),    λ = log-SNR,

none of them knows which SDE it runs on. A step from t to s = t leaves x as it is.

Score SDE's released predictors take steps of a size of their own: at N times uniform from t_max to its ε, each of them
1/N long or that of a table of N (`sde.discretize`), where the times are (t_max − ε)/(N − 1) apart; the last keeps its
mean without the noise, which is the released noise removal. `num_scales=N` on `grids.score_sde(sde, N, t_end=ε)` is
that, without a `sde.denoise` after it.
"""

from collections.abc import Callable
from typing import TypeAlias

import jax.numpy as jnp

from score_jax import arrays
from score_jax.sampling.base import Sampler, one_step
from score_jax.sde import SDE
from score_jax.types import Array, InputError, Key, ScoreFn, require_at_least

StepVariance: TypeAlias = Callable[[Array, Array, Array], Array]  # (x at t, t, s) -> variance of the noise added


def euler_maruyama(sde: SDE, score_fn: ScoreFn, *, probability_flow: bool = False, num_scales: int = 0) -> Sampler:
    """Steps t → s by Euler–Maruyama on the reverse SDE: x − (f x − g² score)(t − s) + g√(t − s) z.

    Args:
      sde: the noising process.
      score_fn: `(x, t) -> score`.
      probability_flow: half the score and no noise, as released: that is `euler`.
      num_scales: N of score SDE's released steps, of 1/N each: see the module. 0: steps are as long as the grid's.

    Examples:
      Draws of data N(0, 1/4) have a standard deviation of 1/2.

      >>> edm, score = sde.EDM(0.01, 10.0), lambda x, t: -x / (0.25 + t**2)
      >>> x, ts = edm.prior_sample(key, (4096, 1)), sampling.grids.karras(edm, 100)
      >>> print(f"{sampling.sample(key, sampling.euler_maruyama(edm, score), x, ts).std():.1f}")
      0.5
    """
    require_at_least("euler_maruyama", 0, num_scales=num_scales)

    def step(key: Key, x: Array, t: Array, s: Array) -> Array:
        drift, diffusion = sde.drift(t), sde.diffusion(t)
        dt = jnp.where(s < t, 1 / num_scales, 0) if num_scales else t - s
        drift, variance = arrays.expand_right(drift * dt, x), arrays.expand_right(diffusion**2 * dt, x)
        mean = x - drift * x + _share(probability_flow) * variance * score_fn(x, t)
        if probability_flow:
            return mean
        std = arrays.expand_right(diffusion * arrays.safe_sqrt(_kept(dt, s, num_scales)), x)
        return mean + std * arrays.normal(key, x)

    return one_step(step)


def reverse_diffusion(sde: SDE, score_fn: ScoreFn, *, probability_flow: bool = False, num_scales: int = 0) -> Sampler:
    """Steps t → s by (2 − α_{t|s}) x + σ²_{t|s} score + σ_{t|s} z (Song et al. 2021, eq. 46).

    The forward discretisation run backwards: SMLD's sampler on VE, score SDE's discretisation of DDPM on Tabulated.

    Args:
      sde: the noising process.
      score_fn: `(x, t) -> score`.
      probability_flow: half the score and no noise (Song et al. 2021, appendix D.3).
      num_scales: N of score SDE's released steps, `sde.discretize`: see the module. 0: those of the grid.

    Examples:
      Draws of data N(0, 1/4) have a standard deviation of 1/2.

      >>> edm, score = sde.EDM(0.01, 10.0), lambda x, t: -x / (0.25 + t**2)
      >>> x, ts = edm.prior_sample(key, (4096, 1)), sampling.grids.karras(edm, 100)
      >>> print(f"{sampling.sample(key, sampling.reverse_diffusion(edm, score), x, ts).std():.1f}")
      0.5
    """
    require_at_least("reverse_diffusion", 0, num_scales=num_scales)

    def step(key: Key, x: Array, t: Array, s: Array) -> Array:
        alpha, variance = released_transition(sde, t, s, num_scales) if num_scales else sde.transition(t, s)
        factor, added = arrays.expand_right(2 - alpha, x), arrays.expand_right(variance, x)
        mean = factor * x + _share(probability_flow) * added * score_fn(x, t)
        if probability_flow:
            return mean
        std = arrays.expand_right(arrays.safe_sqrt(_kept(variance, s, num_scales)), x)
        return mean + std * arrays.normal(key, x)

    return one_step(step)


def released_transition(sde: SDE, t: Array, s: Array, n: int) -> tuple[Array, Array]:
    """Returns `sde.discretize(t, n)`, and no step at all where s = t."""
    alpha, variance = sde.discretize(t, n)
    return jnp.where(s < t, alpha, 1), jnp.where(s < t, variance, 0)


def _share(probability_flow: bool) -> float:
    return 0.5 if probability_flow else 1.0


def _kept(variance: Array, s: Array, num_scales: int) -> Array:
    """The variance of the noise that is added: none on the last of score SDE's own steps, to 0."""
    return jnp.where(s > 0, variance, 0) if num_scales else variance


def step_variance(sde: SDE, variance: str | StepVariance) -> StepVariance:
    """Returns the variance of a reverse step as a function `(x, t, s)`: see `ancestral`.

    Raises:
      InputError: for an unknown name.
    """
    if callable(variance):
        return variance
    named: dict[str, StepVariance] = {
        "posterior": lambda x, t, s: sde.posterior_variance(t, s),
        "transition": lambda x, t, s: sde.transition(t, s)[1],
    }
    if variance not in named:
        raise InputError(
            f"ancestral: variance must be one of {sorted(named)} or a function (x, t, s), got {variance!r}"
        )
    return named[variance]


def ancestral(sde: SDE, score_fn: ScoreFn, *, variance: str | StepVariance = "posterior") -> Sampler:
    """Steps t → s by (x + σ²_{t|s} score)/α_{t|s} + std·z (Ho et al. 2020, algorithm 2).

    Args:
      sde: the noising process.
      score_fn: `(x, t) -> score`.
      variance: std² of the added noise: "posterior", σ²_{t|s} σ_s²/σ_t², that of q(x_s | x_t, x_0) ("fixedsmall",
        DDIM with η = 1); "transition", σ²_{t|s} ("fixedlarge"); or a function `(x, t, s)` giving it, `(B, *S)`, `(B,)`
        or `()`, such as `ScoreModel.variance` where it is learned.

    Raises:
      InputError: for an unknown variance.

    Examples:
      Draws of data N(0, 1/4) have a standard deviation of 1/2.

      >>> edm, score = sde.EDM(0.01, 10.0), lambda x, t: -x / (0.25 + t**2)
      >>> x, ts = edm.prior_sample(key, (4096, 1)), sampling.grids.karras(edm, 100)
      >>> print(f"{sampling.sample(key, sampling.ancestral(edm, score), x, ts).std():.1f}")
      0.5
    """
    noise_variance = step_variance(sde, variance)

    def step(key: Key, x: Array, t: Array, s: Array) -> Array:
        alpha, added = (arrays.expand_right(v, x) for v in sde.transition(t, s))
        std = arrays.safe_sqrt(noise_variance(x, t, s))
        std = arrays.expand_right(std, x) if std.ndim <= 1 else std
        return (x + added * score_fn(x, t)) / alpha + std * arrays.normal(key, x)

    return one_step(step)
