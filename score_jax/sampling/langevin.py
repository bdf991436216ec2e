"""Langevin dynamics: sampling a density from its score alone.

One convention throughout, the NCSN paper's:  x ← x + (ε/2) score + √ε z,  ε = `step_size`. Code that writes
x + τ score + √(2τ) z has τ = ε/2. At a finite step the chain is biased: for N(0, v) its stationary variance is
v/(1 − ε/(4v)); MALA's accept step removes the bias where the density is known.

`langevin` and `mala` sample one fixed density. `annealed_langevin` and `langevin_corrector` are samplers that take
their steps at s, the noise level a step arrives at.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from score_jax import arrays
from score_jax.sampling.base import Sampler, one_step
from score_jax.sde import SDE
from score_jax.types import Array, ArrayLike, Key, ScoreFn, StaticScoreFn, require_positive


def _proposal_mean(x: Array, score: Array, step_size: Array) -> Array:
    return x + 0.5 * step_size * score


def _repeat(key: Key, x: Array, n_steps: int, step: Callable[[Key, Array], Array]) -> Array:
    return jax.lax.fori_loop(0, n_steps, lambda i, x: step(arrays.fold_in(key, i), x), x)


def langevin(key: Key, score_fn: StaticScoreFn, x: Array, *, step_size: ArrayLike, n_steps: int) -> Array:
    """Takes `n_steps` unadjusted Langevin steps x + (ε/2) score + √ε z from x.

    Args:
      key: `()` or `(B,)`.
      score_fn: score of the target, `(B, *S) -> (B, *S)`.
      x: start of the B chains, `(B, *S)`.
      step_size: ε, one number or one per chain `(B,)`.
      n_steps: number of steps.
    """
    require_positive("langevin", step_size=step_size)
    step_size = arrays.expand_right(step_size, x)

    def step(key: Key, x: Array) -> Array:
        return _proposal_mean(x, score_fn(x), step_size) + jnp.sqrt(step_size) * arrays.normal(key, x)

    return _repeat(arrays.example_keys(key, len(x)), x, n_steps, step)


class MALAInfo(NamedTuple):
    """What a MALA run did: the share of accepted proposals of each chain, `(B,)`."""

    acceptance_rate: Array


def mala(
    key: Key, log_prob: Callable[[Array], Array], x: Array, *, step_size: ArrayLike, n_steps: int
) -> tuple[Array, MALAInfo]:
    """Takes `n_steps` Metropolis-adjusted Langevin steps: exact for any step size (Roberts & Tweedie 1996).

    Args:
      key: `()` or `(B,)`.
      log_prob: log-density up to a constant, `(B, *S) -> (B,)`.
      x: start of the B chains, `(B, *S)`.
      step_size: ε of the proposal x + (ε/2) score + √ε z.
      n_steps: number of steps.

    Returns:
      `(x, info)` with `info.acceptance_rate` `(B,)`.
    """
    require_positive("mala", step_size=step_size)
    step_size = arrays.expand_right(step_size, x)

    def evaluate(x: Array) -> tuple[Array, Array]:
        value, pullback = jax.vjp(log_prob, x)
        return value, pullback(jnp.ones_like(value))[0]

    def log_proposal(to: Array, origin: Array, score: Array) -> Array:
        return -arrays.sum_dims((to - _proposal_mean(origin, score, step_size)) ** 2 / (2 * step_size))

    def step(i, carry):
        x, value, score, accepted = carry
        key_noise, key_accept = arrays.split(arrays.fold_in(keys, i))
        y = _proposal_mean(x, score, step_size) + jnp.sqrt(step_size) * arrays.normal(key_noise, x)
        value_y, score_y = evaluate(y)
        log_ratio = value_y - value + log_proposal(x, y, score_y) - log_proposal(y, x, score)
        accept = jnp.log(arrays.uniform(key_accept, value)) < log_ratio

        def choose(new: Array, old: Array) -> Array:
            return jnp.where(accept.reshape(accept.shape + (1,) * (old.ndim - 1)), new, old)

        return choose(y, x), choose(value_y, value), choose(score_y, score), accepted + accept.astype(accepted.dtype)

    keys = arrays.example_keys(key, len(x))
    start = (x, *evaluate(x), jnp.zeros(len(x), jnp.int32))
    x, _, _, accepted = jax.lax.fori_loop(0, n_steps, step, start)
    return x, MALAInfo(accepted / n_steps)


def annealed_langevin(
    sde: SDE, score_fn: ScoreFn, *, step_size: ArrayLike, n_steps: int, sigma_min: ArrayLike | None = None
) -> Sampler:
    """Takes `n_steps` Langevin steps at s with ε = step_size·(σ_s/σ_min)² (Song & Ermon 2019, algorithm 1).

    Run it on `grids.levels(sde, sigmas)`. Released code counts its step as `step_lr` = step_size/2.

    Args:
      sde: the noising process.
      score_fn: `(x, t) -> score`.
      step_size: ε at σ_min.
      n_steps: Langevin steps at each level.
      sigma_min: the smallest level; `sde.sigma(sde.t_min)` unless given.
    """
    smallest = sde.sigma(sde.t_min) if sigma_min is None else sigma_min
    require_positive("annealed_langevin", step_size=step_size, n_steps=n_steps, sigma_min=smallest)

    def step(key: Key, x: Array, t: Array, s: Array) -> Array:
        scaled = step_size * (sde.sigma(s) / smallest) ** 2
        return langevin(key, lambda x: score_fn(x, s), x, step_size=scaled, n_steps=n_steps)

    return one_step(step)


def langevin_corrector(sde: SDE, score_fn: ScoreFn, *, snr: ArrayLike, n_steps: int = 1) -> Sampler:
    """Takes `n_steps` steps x + δ score + √(2δ) z at s, δ = 2 (snr ‖z‖/‖score‖)² (Song et al. 2021, algorithm 4).

    Norms are per example, so that no sample depends on its batch; the published code averages them over the batch and,
    on VP, multiplies δ by 1 − β. Meant for images: where norms concentrate, δ hardly depends on x. In a few dimensions
    ‖score‖ comes near 0, δ has heavy tails and the correction is biased: use `annealed_langevin` there.

    Args:
      sde: the noising process.
      score_fn: `(x, t) -> score`.
      snr: the "signal-to-noise ratio" r of the step.
      n_steps: corrector steps at each level.
    """
    require_positive("langevin_corrector", snr=snr, n_steps=n_steps)

    def step(key: Key, x: Array, t: Array, s: Array) -> Array:
        def correct(key: Key, x: Array) -> Array:
            score, z = score_fn(x, s), arrays.normal(key, x)
            size = arrays.sum_dims(score**2)
            # A score of exactly 0 (a network before its first step) names no step: x stays where it is.
            ratio = jnp.where(size > 0, arrays.sum_dims(z**2) / jnp.where(size > 0, size, 1), 0)
            step_size = arrays.expand_right(4 * snr**2 * ratio, x)
            return _proposal_mean(x, score, step_size) + jnp.sqrt(step_size) * z

        return _repeat(key, x, n_steps, correct)

    return one_step(step)
