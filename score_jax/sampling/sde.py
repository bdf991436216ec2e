"""Stochastic samplers: discretisations of the reverse-time SDE  dx = (f x − g² score) dt + g dw̄.

With the transition from s to t > s,  x_t = α_{t|s} x_s + σ_{t|s} z,

    α_{t|s} = α_t/α_s,        σ²_{t|s} = σ_t² − α²_{t|s} σ_s² = −σ_t² expm1(λ_t − λ_s),    λ = log-SNR,

none of them knows which SDE it runs on. A step from t to s = t leaves x as it is.
"""

from collections.abc import Callable
from typing import TypeAlias

from score_jax import arrays
from score_jax.sampling.base import Sampler, one_step
from score_jax.sde import SDE
from score_jax.types import Array, InputError, Key, ScoreFn

StepVariance: TypeAlias = Callable[[Array, Array, Array], Array]  # (x at t, t, s) -> variance of the noise added


def euler_maruyama(sde: SDE, score_fn: ScoreFn) -> Sampler:
    """Steps t → s by Euler–Maruyama on the reverse SDE: x − (f x − g² score)(t − s) + g√(t − s) z."""

    def step(key: Key, x: Array, t: Array, s: Array) -> Array:
        drift, diffusion = arrays.expand_right(sde.drift(t), x), arrays.expand_right(sde.diffusion(t), x)
        dt = arrays.expand_right(t - s, x)
        reverse = drift * x - diffusion**2 * score_fn(x, t)
        return x - reverse * dt + diffusion * arrays.root(dt) * arrays.normal(key, x)

    return one_step(step)


def reverse_diffusion(sde: SDE, score_fn: ScoreFn) -> Sampler:
    """Steps t → s by (2 − α_{t|s}) x + σ²_{t|s} score + σ_{t|s} z (Song et al. 2021, eq. 46).

    The forward discretisation run backwards: SMLD's sampler on VE, score SDE's discretisation of DDPM on Tabulated.
    """

    def step(key: Key, x: Array, t: Array, s: Array) -> Array:
        alpha, variance = (arrays.expand_right(v, x) for v in sde.transition(t, s))
        return (2 - alpha) * x + variance * score_fn(x, t) + arrays.root(variance) * arrays.normal(key, x)

    return one_step(step)


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
    """
    noise_variance = step_variance(sde, variance)

    def step(key: Key, x: Array, t: Array, s: Array) -> Array:
        alpha, added = (arrays.expand_right(v, x) for v in sde.transition(t, s))
        std = arrays.root(noise_variance(x, t, s))
        std = arrays.expand_right(std, x) if std.ndim <= 1 else std
        return (x + added * score_fn(x, t)) / alpha + std * arrays.normal(key, x)

    return one_step(step)
