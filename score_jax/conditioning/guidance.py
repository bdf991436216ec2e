"""Guidance: score functions that lean towards a condition, made of others.

Bayes' rule ∇ log p_t(x | y) = ∇ log p_t(x) + ∇ log p_t(y | x) at every noise level is all there is to it. Where both
terms are exact and the scale is 1, so is the result; any other scale w gives the score of p_t(x) p_t(y | x)^w at each t
by itself, which is not the noised law of p(x) p(y | x)^w: what is sampled is neither, and depends on the path.

A scale is a number, `(B,)` numbers, or a function of t that returns either: `guidance_interval` makes one that acts on
an interval of noise levels.
"""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from score_jax import arrays
from score_jax.score import ScoreModel, ScoreWithVariance
from score_jax.sde import SDE
from score_jax.types import Array, ArrayLike, InputError, ScoreFn

Scale: TypeAlias = ArrayLike | Callable[[Array], ArrayLike]
NoisedLogProb: TypeAlias = Callable[[Array, Array], Array]  # (x (B, *S), t () or (B,)) -> (B,)


def guidance_interval(
    sde: SDE, scale: ArrayLike, *, low: float = 0.0, high: float = np.inf
) -> Callable[[Array], Array]:
    """Returns t -> `scale` where low ≤ σ(t)/α(t) ≤ high, 1 elsewhere: guidance on an interval of noise levels.

    (Kynkäänniemi et al. 2024, eq. 5.)

    Raises:
      InputError: unless 0 ≤ low < high.

    Examples:
      >>> scale = conditioning.guidance_interval(sde.EDM(), 3.0, low=0.5, high=2.0)
      >>> print(scale(jnp.array([0.1, 1.0, 10.0])))
      [1. 3. 1.]
    """
    if not 0 <= low < high:
        raise InputError(f"guidance_interval: an interval of σ/α goes from low to a higher high, got {low} and {high}")

    def at(t: Array) -> Array:
        ratio = jnp.exp(-0.5 * sde.log_snr(t))
        return jnp.where((ratio >= low) & (ratio <= high), jnp.asarray(scale, ratio.dtype), 1)

    return at


def classifier_free(conditional: ScoreFn, unconditional: ScoreFn, scale: Scale) -> ScoreFn:
    """Returns s_u + w (s_c − s_u): 0 is the unconditional score, 1 the conditional one, more is sharper.

    (Ho & Salimans 2022, eq. 6, whose w is this one less 1.) Two calls of a network a call, also where the scale is 0 or
    1; `class_guided` makes one of a class-conditional network. With a worse model of the same condition in place of the
    unconditional one it is autoguidance (Karras et al. 2024, eq. 3).

    Examples:
      Of N(2, 1) beside N(0, 1), at 0: three times as far as from 0 to 2.

      >>> guided = conditioning.classifier_free(lambda x, t: 2 - x, lambda x, t: -x, 3.0)
      >>> print(guided(jnp.zeros((1, 1)), 1.0))
      [[6.]]
    """

    def score_fn(x: Array, t: Array) -> Array:
        return _extrapolated(conditional(x, t), unconditional(x, t), scale_at(scale, x, t))

    return score_fn


def class_guided(model: ScoreModel, label: Array, scale: Scale) -> ScoreWithVariance:
    """Returns `classifier_free` of one class-conditional network, whose two scores are one call on twice the rows.

    The two rows of an example stand beside each other, so that devices which share a batch exchange nothing. A learned
    variance is that of the conditional step, of the same call.

    Args:
      model: trained with labels, and without (label −1).
      label: classes `(B,)`; of rows with −1 the score is the unconditional one.
      scale: w.

    Examples:
      A network whose score is its label: 1, −1 of none, and −1 + 3 (1 + 1).

      >>> network = adapters.plain(lambda params, x, cond, label, key: 0 * x + label[:, None], lambda *_: {})
      >>> model = score.ScoreModel({"params": {}}, sde.EDM(), network, parameterization.Score())
      >>> guided = conditioning.class_guided(model, jnp.array([1]), 3.0)
      >>> print(jax.jit(guided)(jnp.zeros((1, 1)), 1.0))
      [[5.]]
    """

    labels = jnp.stack([label, jnp.full_like(label, -1)], axis=1).reshape(-1)
    twice = lambda v: jnp.repeat(v, 2, axis=0) if jnp.ndim(v) else v

    def score_fn(x: Array, t: Array) -> Array:
        both = model(twice(x), twice(t), label=labels)
        return _extrapolated(both[::2], both[1::2], scale_at(scale, x, t))

    def variance(x: Array, t: Array, s: Array) -> Array:
        return model.variance(twice(x), twice(t), twice(s), label=labels)[::2]

    return ScoreWithVariance(score_fn, variance)


def classifier_guidance(score_fn: ScoreFn, log_prob_fn: NoisedLogProb, scale: Scale = 1.0) -> ScoreFn:
    """Returns s + w ∇_x log p_t(y | x) (Sohl-Dickstein et al. 2015; Song et al. 2021, eq. 14; Dhariwal & Nichol 2021).

    Args:
      score_fn: of p_t(x).
      log_prob_fn: `(x, t) -> (B,)`, log p_t(y | x) of the y that is wanted, up to a constant, row by row: a classifier
        that was trained on noised data, say. One that knows clean data only, at x or at the denoised x, is not it.
      scale: w; 1 is Bayes' rule.

    Examples:
      Data N(0, 1), of which y = 2 was seen with noise of variance 1: by the exact p_t(y | x), which is
      N(x/(1 + t²), 1 + t²/(1 + t²)), the score is that of N(1, 1/2), 1/1.5 at t = 1 and x = 0.

      >>> log_prob = lambda x, t: -0.5 * (2 - x[:, 0] / (1 + t**2)) ** 2 / (1 + t**2 / (1 + t**2))
      >>> guided = conditioning.classifier_guidance(lambda x, t: -x / (1 + t**2), log_prob)
      >>> print(f"{jax.jit(guided)(jnp.zeros((1, 1)), 1.0)[0, 0]:.2f}")
      0.67
    """

    def guided(x: Array, t: Array) -> Array:
        gradient = jax.grad(lambda x: log_prob_fn(x, t).sum())(x)
        return score_fn(x, t) + arrays.expand_right(scale_at(scale, x, t), x) * gradient

    return guided


def product_of_scores(score_fns: Sequence[ScoreFn], weights: Sequence[Scale] | None = None) -> ScoreFn:
    """Returns Σ_i w_i s_i, the score of Π_i p_{i,t}^{w_i} at each t by itself: a product of experts.

    Args:
      score_fns: one or more.
      weights: 1 each unless given. With s_u of weight 1 − Σ w_i beside conditional scores of weights w_i it is the
        conjunction of conditions of Liu et al. 2022 (eq. 11); a negative weight is the negation of its condition.

    Raises:
      InputError: for no score function, or weights of another number.

    Examples:
      N(0, 1) times N(2, 1) is N(1, 1/2) but for a constant: a score of 2 (1 − x).

      >>> product = conditioning.product_of_scores([lambda x, t: -x, lambda x, t: 2 - x])
      >>> print(product(jnp.zeros((1, 1)), 1.0))
      [[2.]]
    """
    chosen = [1.0] * len(score_fns) if weights is None else list(weights)
    if not score_fns or len(chosen) != len(score_fns):
        raise InputError(
            f"product_of_scores: one weight for each score function, got {len(chosen)} for {len(score_fns)}"
        )

    def score_fn(x: Array, t: Array) -> Array:
        terms = [
            arrays.expand_right(scale_at(weight, x, t), x) * one(x, t)
            for weight, one in zip(chosen, score_fns, strict=True)
        ]
        return jnp.sum(jnp.stack(terms), 0)

    return score_fn


def mixture_of_scores(
    score_fns: Sequence[ScoreFn], log_prob_fns: Sequence[NoisedLogProb], weights: ArrayLike
) -> ScoreFn:
    """Returns Σ_k r_k s_k with r_k ∝ w_k p_{k,t}(x), the exact score of the mixture Σ_k w_k p_k at every noise level.

    Args:
      score_fns: of each p_k.
      log_prob_fns: `(x, t) -> (B,)`, log p_{k,t}(x) of each, all up to the same constant: of energies, or exact ones.
      weights: `(K,)`, positive.

    Raises:
      InputError: for lists of different lengths.

    Examples:
      Of N(−3, 1) and N(3, 1): at 4 the score is that of the second.

      >>> scores = [lambda x, t, m=m: m - x for m in (-3, 3)]
      >>> log_probs = [lambda x, t, m=m: -0.5 * (x[:, 0] - m) ** 2 for m in (-3, 3)]
      >>> mixture = conditioning.mixture_of_scores(scores, log_probs, np.ones(2))
      >>> print(f"{jax.jit(mixture)(jnp.full((1, 1), 4.0), 1.0)[0, 0]:.2f}")
      -1.00
    """
    if not len(score_fns) == len(log_prob_fns) == np.size(weights) > 0:
        found = f"{len(score_fns)}, {len(log_prob_fns)} and {np.size(weights)}"
        raise InputError(f"mixture_of_scores: as many score functions as log-densities and weights, got {found}")

    def score_fn(x: Array, t: Array) -> Array:
        logs = jnp.stack([log_prob(x, t) for log_prob in log_prob_fns])
        shares = jax.nn.softmax(logs + jnp.log(jnp.asarray(weights, logs.dtype))[:, None], axis=0)
        scores = jnp.stack([one(x, t) for one in score_fns])
        return (jax.vmap(arrays.expand_right)(shares, scores) * scores).sum(0)

    return score_fn


def _extrapolated(towards: Array, away: Array, scale: Array) -> Array:
    return away + arrays.expand_right(scale, away) * (towards - away)


def scale_at(scale: Scale, x: Array, t: Array) -> Array:
    """Returns a scale at the times t of x, `()` or `(B,)`."""
    return jnp.asarray(scale(t) if callable(scale) else scale, x.dtype)
