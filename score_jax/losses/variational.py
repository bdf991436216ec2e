"""DDPM's variational bound, term by term, and the objective that learns the variances of its steps.

Down the levels t_1 > … > t_N the model steps from t to s by N(x_s; (x + σ²_{t|s} score)/α_{t|s}, v), as
`sampling.ancestral` does, and ends with a decoder of x_0. With x_t = α x_0 + σ ε,

    −log p(x_0) ≤ KL(q(x_{t_1}|x_0) ‖ prior) + Σ_{t → s} KL(q(x_s|x_t, x_0) ‖ p(x_s|x_t)) − log p(x_0|x_{t_N})

(Ho et al. 2020, eq. 5), and since q(x_s|x_t, x_0) is that step at score −ε/σ_t and variance β̃ = σ²_{t|s} σ_s²/σ_t²,

    KL = Σ_dims ½ [β̃/v − 1 − log(β̃/v) + (σ²_{t|s}/α_{t|s})² (score + ε/σ_t)²/v].

For steps of length dt this is g²·½‖score + ε/σ‖² dt: the likelihood-weighted loss is the bound in continuous time.
"""

import math
from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from score_jax import arrays
from score_jax.losses.times import Times, discrete
from score_jax.sde import SDE
from score_jax.types import Array, ArrayLike, InputError, Key, require_at_least

# (x0, mean, variance) -> log p(x0) per example, (B,)
Decoder: TypeAlias = Callable[[Array, Array, Array], Array]
# (x, t, s) -> (score, variance of the step from t to s)
ScoreAndVariance: TypeAlias = Callable[[Array, Array, Array], tuple[Array, Array]]


def _spread(value: Array, x: Array) -> Array:
    """Broadcasts a variance, `()`, `(B,)` or `(B, *S)`, to x."""
    return jnp.broadcast_to(arrays.expand_right(value, x) if jnp.ndim(value) <= 1 else value.astype(x.dtype), x.shape)


def gaussian_kl(difference: Array, variance_q: Array, variance_p: Array) -> Array:
    """Returns KL(N(m, variance_q) ‖ N(m + difference, variance_p)) in nats, element by element.

    Examples:
      KL(N(0, 1) ‖ N(2, 1)) is 2²/2.

      >>> print(losses.variational.gaussian_kl(jnp.array([2.0]), jnp.ones(1), jnp.ones(1)))
      [2.]
    """
    excess = (variance_q - variance_p) / variance_p
    # excess − log1p(excess): the sum of β̃/v − 1 and −log(β̃/v) without cancellation near v = β̃.
    return 0.5 * (excess - jnp.log1p(excess) + difference**2 / variance_p)


def step_kl(sde: SDE, score: Array, eps: Array, *, variance: Array, t: Array, s: Array) -> Array:
    """Returns KL(q(x_s|x_t, x_0) ‖ p(x_s|x_t)), `(B,)`.

    Args:
      sde: the noising process.
      score: of the model at x_t, `(B, *S)`.
      eps: the noise of x_t, `(B, *S)`.
      variance: v of the model's step, `()`, `(B,)` or `(B, *S)`.
      t: level, `()` or `(B,)`.
      s: the level below, so that β̃ > 0.

    Examples:
      The exact score of data 0 is −ε/σ; with twice the exact variance a step costs ½(log 2 − ½) = 0.097 nats.

      >>> edm, eps = sde.EDM(), jnp.ones((1, 1))
      >>> kl = lambda v: losses.variational.step_kl(edm, -eps / 2, eps, variance=v, t=2.0, s=1.0)
      >>> print(f"{jax.jit(kl)(2 * edm.posterior_variance(2.0, 1.0))[0]:.3f}")
      0.097
    """
    alpha, added = sde.transition(t, s)
    # In units of σ_t: (σ²_{t|s}/(α_{t|s} σ_t))·(σ_t·score + ε).
    scale = arrays.expand_right(added / (alpha * sde.sigma(t)), eps)
    difference = scale * (arrays.expand_right(sde.sigma(t), eps) * score + eps)
    posterior = _spread(sde.posterior_variance(t, s), eps)
    return arrays.sum_dims(gaussian_kl(difference, posterior, _spread(variance, eps)))


def gaussian_decoder(x0: Array, mean: Array, variance: Array) -> Array:
    """Returns log N(x_0; mean, variance), `(B,)`: for data with a density.

    Examples:
      In two dimensions, at the mean of variance 1, it is −log 2π.

      >>> x0 = jnp.zeros((1, 2))
      >>> print(f"{losses.variational.gaussian_decoder(x0, x0, jnp.ones(1))[0]:.2f}")
      -1.84
    """
    return arrays.sum_dims(jax.scipy.stats.norm.logpdf(x0, mean, jnp.sqrt(_spread(variance, x0))))


def grey_level_decoder(grey_levels: int = 256) -> Decoder:
    """Returns the decoder of L grey levels 2k/(L − 1) − 1: their log-probability, `(B,)` (Ho et al. 2020, eq. 13).

    The mass of N(mean, variance) within half a grey level, 1/(L − 1), of x_0; the bins of −1 and 1 reach to infinity,
    so that the probabilities add up to 1. The mass is that of erf, where released code has a tanh approximation of it,
    and as small as it is, where released code goes no lower than 1e-12: −log p is then above its 27.6 nats.

    Examples:
      Where the mean is grey, black and white have half of the mass each.

      >>> decode, black = jax.jit(losses.variational.grey_level_decoder(2)), jnp.array([[-1.0]])
      >>> print(f"{jnp.exp(decode(black, 0 * black, jnp.ones(1)))[0]:.2f}")
      0.50
    """
    require_at_least("grey_level_decoder", 2, grey_levels=grey_levels)
    half = 1 / (grey_levels - 1)

    def decode(x0: Array, mean: Array, variance: Array) -> Array:
        std = jnp.sqrt(_spread(variance, x0))
        low = jnp.where(x0 < half - 1, -jnp.inf, (x0 - half - mean) / std)
        high = jnp.where(x0 > 1 - half, jnp.inf, (x0 + half - mean) / std)
        return arrays.sum_dims(_log_mass(low, high))

    return decode


def _log_mass(low: Array, high: Array) -> Array:
    """log(Φ(high) − Φ(low)), by the tail on which both lie, where the difference keeps its digits far out."""
    mirrored = low > 0
    low, high = jnp.where(mirrored, -high, low), jnp.where(mirrored, -low, high)
    upper, lower = (jax.scipy.stats.norm.logcdf(v) for v in (high, low))
    return upper + jnp.log1p(-jnp.exp(jnp.minimum(lower - upper, -1e-7)))


def bound_term(
    sde: SDE, score: Array, x0: Array, eps: Array, *, variance: Array, t: Array, s: Array, decoder: Decoder
) -> Array:
    """Returns the bound's term at x_t = α x_0 + σ ε, `(B,)`: the step's KL, or −log p(x_0|x_t) where s = 0."""
    last = s == 0
    x = arrays.expand_right(sde.alpha(t), x0) * x0 + arrays.expand_right(sde.sigma(t), x0) * eps
    # Where the decoder is taken, a step that exists all the same: its NaN would enter the gradient.
    kl = step_kl(sde, score, eps, variance=variance, t=t, s=jnp.where(last, 0.5 * t, s))
    return jnp.where(last, -decoder(x0, sde.denoise(x, t, score), variance), kl)


def require_times(owner: str, ts: ArrayLike) -> None:
    """Raises InputError unless concrete `ts` are two or more positive times, each below the one before."""
    if jnp.ndim(ts) != 1 or jnp.size(ts) < 2:
        raise InputError(f"{owner}: ts must be a vector of two or more times, got shape {jnp.shape(ts)}")
    if isinstance(ts, jax.core.Tracer):
        return
    values = np.asarray(ts)
    wrong = np.flatnonzero(~(values[1:] < values[:-1]))
    if wrong.size:
        t, s = values[wrong[0]], values[wrong[0] + 1]
        raise InputError(
            f"{owner}: ts must decrease strictly, from t_max down, got {t:g} → {s:g} at step {wrong[0]}: "
            "leave out one of two equal times (grids.levels has its first twice: [1:] has it once)"
        )
    if not values[-1] > 0:
        raise InputError(
            f"{owner}: ts must be positive, got {values[-2]:g} → {values[-1]:g} at the end: "
            "the decoder takes the place of a step to the data, so leave out the last"
        )


def hybrid_loss(
    key: Key,
    sde: SDE,
    score_with_variance: ScoreAndVariance,
    x0: Array,
    *,
    ts: ArrayLike,
    times: Times | None = None,
    weight: float = 1e-3 / (2 * math.log(2)),
    decoder: Decoder = grey_level_decoder(),
) -> Array:
    """Returns ½‖σ·score + ε‖² + weight·N·(the bound's term at t), `(B,)` (Nichol & Dhariwal 2021, eq. 16).

    The bound teaches the variance alone: no gradient flows from it into the score. Over uniform t its mean is `weight`
    times the bound without the prior's term. Released code counts ‖σ·score + ε‖² without the ½ and the bound in bits,
    with a weight of 0.001, all divided by D: at the default weight this loss is D/2 times that.

    Args:
      key: `()` or `(B,)`.
      sde: the noising process.
      score_with_variance: `(x, t, s) -> (score, variance)`, such as `ScoreModel.with_variance`; s is 0 for the decoder.
      x0: data, `(B, *S)`.
      ts: times t_1 > … > t_N, as of `sampling.grids`; `Tabulated.knots()[::-1]` for DDPM.
      times: how t is drawn; uniformly from `ts` unless given.
      weight: λ, of the bound in nats.
      decoder: log p(x_0|x_{t_N}), by default of images with 256 grey levels on [−1, 1], not dequantized.

    Raises:
      InputError: unless the times decrease strictly and are positive.

    Examples:
      Data 0, their exact score, and twice the variance of q(x_s|x_t, x_0): a KL of ½(log 2 − ½) = 0.097 a step.

      >>> edm, ts, decoder = sde.EDM(), jnp.array([2.0, 1.0]), losses.variational.gaussian_decoder
      >>> model = lambda x, t, s: (-x / t[:, None] ** 2, 2 * edm.posterior_variance(t, s))
      >>> options = {"times": losses.times.discrete(ts[:1]), "weight": 1 / 2}  # from 2 to 1, with weight·N = 1
      >>> loss = lambda x0: losses.hybrid_loss(key, edm, model, x0, ts=ts, decoder=decoder, **options)
      >>> print(f"{jax.jit(loss)(jnp.zeros((1, 1)))[0]:.3f}")
      0.097
    """
    require_times("hybrid_loss", ts)
    ts = jnp.asarray(ts)
    key = arrays.example_keys(key, len(x0))
    t, importance = (discrete(ts) if times is None else times)(arrays.fold_in(key, 0), sde, len(x0))
    index = jnp.abs(ts[None] - t[:, None]).argmin(1)
    s = jnp.append(ts, 0)[index + 1]
    x, eps = sde.perturb(arrays.fold_in(key, 1), x0, t)
    score, variance = score_with_variance(x, t, s)
    simple = 0.5 * arrays.sum_dims((arrays.expand_right(sde.sigma(t), x) * score + eps) ** 2)
    bound = bound_term(sde, jax.lax.stop_gradient(score), x0, eps, variance=variance, t=t, s=s, decoder=decoder)
    return importance * (simple + weight * ts.size * bound)
