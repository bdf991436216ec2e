"""Langevin dynamics: sampling a density from its score alone.

One convention throughout, the NCSN paper's:  x ← x + (ε/2) score + √ε z,  ε = `step_size`. Code that writes
x + τ score + √(2τ) z has τ = ε/2. At a finite step the chain is biased: for N(0, v) its stationary variance is
v/(1 − ε/(4v)); MALA's accept step removes the bias where the density is known.

`langevin` and `mala` sample one fixed density. `annealed_langevin` and `langevin_corrector` are samplers that take
their steps at s, the noise level a step arrives at; `consistent_annealed` steps from t to s. Their `noise` is where
`interpolate` mixes the draws of two keys.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from score_jax import arrays
from score_jax.sampling.base import Sampler, one_step
from score_jax.sde import SDE
from score_jax.types import (
    Array,
    ArrayLike,
    InputError,
    Key,
    ScoreFn,
    StaticScoreFn,
    require_at_least,
    require_positive,
)

Noise: TypeAlias = Callable[[Key, Array], Array]  # (key (B,), x (B, *S)) -> z (B, *S), standard normal


def _proposal_mean(x: Array, score: Array, step_size: Array) -> Array:
    return x + 0.5 * step_size * score


def _repeat(key: Key, x: Array, n_steps: int, step: Callable[[Key, Array], Array]) -> Array:
    return jax.lax.fori_loop(0, n_steps, lambda i, x: step(arrays.fold_in(key, i), x), x)


def langevin(
    key: Key,
    score_fn: StaticScoreFn,
    x: Array,
    *,
    step_size: ArrayLike,
    n_steps: int,
    noise: Noise = arrays.normal,
) -> Array:
    """Takes `n_steps` unadjusted Langevin steps x + (ε/2) score + √ε z from x.

    Args:
      key: `()` or `(B,)`.
      score_fn: score of the target, `(B, *S) -> (B, *S)`.
      x: start of the B chains, `(B, *S)`.
      step_size: ε, one number or one per chain `(B,)`.
      n_steps: number of steps.
      noise: draws z.

    Examples:
      At a step of ε = 1 the draws of N(0, 1) have a variance of 1/(1 − 1/4) = 1.33.

      >>> x = sampling.langevin(key, lambda x: -x, jnp.zeros((4096, 1)), step_size=1.0, n_steps=20)
      >>> print(f"{x.var():.1f}")
      1.3
    """
    require_positive("langevin", step_size=step_size)
    require_at_least("langevin", 1, n_steps=n_steps)
    step_size = arrays.expand_right(step_size, x)

    def step(key: Key, x: Array) -> Array:
        return _proposal_mean(x, score_fn(x), step_size) + arrays.safe_sqrt(step_size) * noise(key, x)

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

    Examples:
      The variance of N(0, 1), whatever the step: `langevin` would have 1.33.

      >>> log_prob = lambda x: -0.5 * x[:, 0] ** 2
      >>> x, info = sampling.mala(key, log_prob, jnp.zeros((4096, 1)), step_size=1.0, n_steps=20)
      >>> print(f"{x.var():.1f} {info.acceptance_rate.mean():.1f}")
      1.0 0.9
    """
    require_positive("mala", step_size=step_size)
    require_at_least("mala", 1, n_steps=n_steps)
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
        accept = jnp.log(arrays.unit_uniform(key_accept, value)) < log_ratio

        def choose(new: Array, old: Array) -> Array:
            return jnp.where(accept.reshape(accept.shape + (1,) * (old.ndim - 1)), new, old)

        return choose(y, x), choose(value_y, value), choose(score_y, score), accepted + accept.astype(accepted.dtype)

    keys = arrays.example_keys(key, len(x))
    start = (x, *evaluate(x), jnp.zeros(len(x), jnp.int32))
    x, _, _, accepted = jax.lax.fori_loop(0, n_steps, step, start)
    return x, MALAInfo(accepted / n_steps)


def annealed_langevin(
    sde: SDE,
    score_fn: ScoreFn,
    *,
    step_size: ArrayLike,
    n_steps: int,
    sigma_min: ArrayLike | None = None,
    noise: Noise = arrays.normal,
) -> Sampler:
    """Takes `n_steps` Langevin steps at s with ε = step_size·(σ_s/σ_min)² (Song & Ermon 2019, algorithm 1).

    Run it on `grids.levels(sde, sigmas)`. Where α is not 1, x is carried over from t as x α_s/α_t, so that on every SDE
    x/α is the chain of the variance-exploding one. Two conventions are published, with a factor of two between them:

        ε form (NCSN's paper, its toy code, this package):   x + (ε_i/2) score + √ε_i z,    ε_i = ε σ_i²/σ_L²
        α form (NCSN's image code, NCSNv2's paper and code): x + α_i score + √(2α_i) z,    α_i = step_lr σ_i²/σ_L²

    so `step_size` = ε = 2·step_lr. The 2e-5 that NCSN's paper prints is `step_size=2e-5`, the 2e-5 of its released
    sampler `step_size=4e-5`. `noise_levels.step_size` computes one.

    Args:
      sde: the noising process.
      score_fn: `(x, t) -> score`.
      step_size: ε at σ_min.
      n_steps: Langevin steps at each level.
      sigma_min: the smallest level; `sde.sigma(sde.t_min)` unless given.
      noise: draws z.

    Examples:
      Draws of data N(0, 1/4) have a standard deviation of 1/2.

      >>> edm, score = sde.EDM(0.01, 10.0), lambda x, t: -x / (0.25 + t**2)
      >>> sampler = sampling.annealed_langevin(edm, score, step_size=0.5, n_steps=20, sigma_min=1.0)
      >>> ts = sampling.grids.levels(edm, sde.geometric_sigmas(10.0, 0.01, 20))
      >>> print(f"{sampling.sample(key, sampler, edm.prior_sample(key, (1024, 1)), ts).std():.1f}")
      0.5
    """
    smallest = sde.sigma(sde.t_min) if sigma_min is None else sigma_min
    require_positive("annealed_langevin", step_size=step_size, sigma_min=smallest)
    require_at_least("annealed_langevin", 1, n_steps=n_steps)

    def step(key: Key, x: Array, t: Array, s: Array) -> Array:
        scaled = step_size * (sde.sigma(s) / smallest) ** 2
        x = arrays.expand_right(jnp.exp(sde.log_alpha(s) - sde.log_alpha(t)), x) * x
        return langevin(key, lambda x: score_fn(x, s), x, step_size=scaled, n_steps=n_steps, noise=noise)

    return one_step(step, n_steps)


def consistent_annealed(
    sde: SDE,
    score_fn: ScoreFn,
    *,
    step_size: ArrayLike,
    sigma_min: ArrayLike | None = None,
    noise: Noise = arrays.normal,
) -> Sampler:
    """Steps t → s taking the share η of the noise away and adding what σ_s lacks (Jolicoeur-Martineau et al. 2020).

    With η = step_size/(2σ_min²), γ = (σ_s/α_s)/(σ_t/α_t) and κ = 1 − η, κ σ_t of noise is kept, and

        x_s = (α_s/α_t)(x + η σ_t² score) + σ_s √(1 − (κ/γ)²) z

    has noise of σ_s exactly, at every level, where annealed Langevin's is always too large. η = 1 − γ is `ddim`,
    η = 1 − γ² `ancestral`; outside [1 − γ, 1 + γ] no step is consistent (released code stops there) and the nearest
    that is is taken. One call of the score a level: for more steps take more levels. On `grids.levels` the levels are
    those published, whose last step is the explicit `sde.denoise`.

    Args:
      sde: the noising process.
      score_fn: `(x, t) -> score`.
      step_size: ε at σ_min, as for `annealed_langevin`; released code counts step_lr = ε/2 here too.
      sigma_min: the smallest level; `sde.sigma(sde.t_min)` unless given.
      noise: draws z.

    Examples:
      Draws of data N(0, 1/4) have a standard deviation of 1/2.

      >>> edm, score = sde.EDM(0.01, 10.0), lambda x, t: -x / (0.25 + t**2)
      >>> sampler = sampling.consistent_annealed(edm, score, step_size=0.2, sigma_min=1.0)
      >>> ts = sampling.grids.levels(edm, sde.geometric_sigmas(10.0, 0.01, 100))
      >>> print(f"{sampling.sample(key, sampler, edm.prior_sample(key, (4096, 1)), ts).std():.1f}")
      0.5
    """
    smallest = sde.sigma(sde.t_min) if sigma_min is None else sigma_min
    require_positive("consistent_annealed", step_size=step_size, sigma_min=smallest)

    def step(key: Key, x: Array, t: Array, s: Array) -> Array:
        gamma = jnp.exp(0.5 * (sde.log_snr(t) - sde.log_snr(s)))
        kept = jnp.clip(1 - step_size / (2 * smallest**2), -gamma, gamma)
        kept = jnp.where(s < t, kept, 1)  # from a level to itself: nothing to take away
        # As a product: exactly 0 where kept was clipped.
        added = sde.sigma(s) * arrays.safe_sqrt((gamma - kept) * (gamma + kept)) / gamma
        scale = jnp.exp(sde.log_alpha(s) - sde.log_alpha(t))
        removed, scale, added = (arrays.expand_right(v, x) for v in ((1 - kept) * sde.variance(t), scale, added))
        return scale * (x + removed * score_fn(x, t)) + added * noise(key, x)

    return one_step(step)


def interpolate(key_a: Key, key_b: Key, draw: Callable[[Key, Noise], Array], *, angles: ArrayLike) -> Array:
    """Draws samples between those of two keys: every noise is cos θ·z_a + sin θ·z_b (Song & Ermon 2020).

    Since cos² + sin² = 1, each sample by itself follows the sampler's law exactly. The row with θ = 0 is the sample of
    `key_a`, θ = π/2 that of `key_b`:

        def draw(key, noise):
            sampler = annealed_langevin(sde, score_fn, step_size=ε, n_steps=5, noise=noise)
            return sample(key, sampler, start, ts)  # published: start is one x, on every row

        row = interpolate(jax.random.key(1), jax.random.key(2), draw, angles=jnp.linspace(0, jnp.pi / 2, 15))

    The two keys are two lanes of a `vmap` in which only the draws differ: the score is evaluated once. Anything drawn
    otherwise than by `noise` would differ too, and is an error.

    Args:
      key_a: key of one example, `()`, which all rows share; that of sample i is `arrays.example_keys(key, n)[i]`.
      key_b: that of another.
      draw: `(key (B,), noise) -> x (B, *S)`: runs a sampler whose `noise` is the one given.
      angles: θ of each row, `(B,)`.

    Examples:
      Where the score is linear, so are the samples in the noise: halfway, at 45°, is the sum of the two over √2.

      >>> start, angles = jnp.zeros((3, 1)), jnp.array([0, jnp.pi / 4, jnp.pi / 2])
      >>> draw = lambda key, z: sampling.langevin(key, lambda x: -x, start, step_size=0.5, n_steps=9, noise=z)
      >>> x = sampling.interpolate(jax.random.key(1), jax.random.key(2), draw, angles=angles)
      >>> print(f"{x[1, 0] / (x[0, 0] + x[2, 0]):.3f}")
      0.707
    """
    angles = jnp.asarray(angles)
    weights = jnp.stack([jnp.cos(angles), jnp.sin(angles)])
    keys = jnp.broadcast_to(jnp.stack([key_a, key_b])[:, None], weights.shape)

    def lane(key: Key, weight: Array) -> Array:
        def noise(key: Key, like: Array) -> Array:
            return jax.lax.psum(arrays.expand_right(weight, like) * arrays.normal(key, like), "keys")

        return draw(key, noise)

    return jax.vmap(lane, out_axes=None, axis_name="keys")(keys, weights)


def example_norm(v: Array) -> Array:
    """Returns ‖v‖ of each example, `(B,)`."""
    return arrays.safe_sqrt(arrays.sum_dims(v**2))


def batch_norm(v: Array) -> Array:
    """Returns the mean over the batch of ‖v‖, `()`."""
    return example_norm(v).mean()


def langevin_corrector(
    sde: SDE,
    score_fn: ScoreFn,
    *,
    snr: ArrayLike,
    n_steps: int = 1,
    norm: str | Callable[[Array], Array] = "example",
    num_scales: int = 0,
) -> Sampler:
    """Takes `n_steps` steps x + δ score + √(2δ) z at s, δ = 2 (snr ‖z‖/‖score‖)² (Song et al. 2021, algorithm 4).

    Norms are per example, so that no sample depends on its batch. The published code averages them over the batch,
    here `norm="batch"`: a sample then depends on all others of its batch, and on its size. Under `pmap` and `shard_map`
    a batch is that of one device; of all devices, as the `pmean` of the published code, the norm is

        lambda v: jax.lax.pmean(batch_norm(v), axis_name)  # from score_jax.sampling.langevin import batch_norm

    On VP the code multiplies δ by 1 − β of its table, too, here `num_scales=N`; the paper doesn't.

    Meant for images: where norms concentrate, δ hardly depends on x. In a few dimensions ‖score‖ comes near 0, δ has
    heavy tails and the correction is biased: use `annealed_langevin` there. On N(0, v I) in d dimensions the chain's
    variance is (1 + snr²)(d + 2)/(d − 2) v: at snr = 0.16, 1.03 v with d = 3,072.

    Args:
      sde: the noising process.
      score_fn: `(x, t) -> score`.
      snr: the "signal-to-noise ratio" r of the step.
      n_steps: corrector steps at each level, one call of the score each.
      norm: "example"; "batch"; or a function of `(B, *S)` to `(B,)` or `()`, such as the mean over devices above.
      num_scales: N of score SDE's table, by whose α² = 1 − β at s (`sde.discretize`) δ is multiplied; 0: it isn't.

    Raises:
      InputError: for an unknown norm.

    Examples:
      The chain's variance on N(0, I) in 50 dimensions, (1 + snr²)(d + 2)/(d − 2) = 1.11.

      >>> corrector = sampling.langevin_corrector(sde.EDM(), lambda x, t: -x, snr=0.16, n_steps=100)
      >>> x = sampling.sample(key, corrector, jnp.ones((128, 50)), jnp.ones(2))
      >>> print(f"{x.var():.1f}")
      1.1
    """
    require_positive("langevin_corrector", snr=snr)
    require_at_least("langevin_corrector", 0, num_scales=num_scales)
    require_at_least("langevin_corrector", 1, n_steps=n_steps)
    named = {"example": example_norm, "batch": batch_norm}
    if isinstance(norm, str) and norm not in named:
        raise InputError(f"langevin_corrector: norm must be one of {sorted(named)} or a function of x, got {norm!r}")
    length = named[norm] if isinstance(norm, str) else norm

    def step(key: Key, x: Array, t: Array, s: Array) -> Array:
        shorter = arrays.expand_right(sde.discretize(s, num_scales)[0] ** 2, x) if num_scales else 1

        def correct(key: Key, x: Array) -> Array:
            score, z = score_fn(x, s), arrays.normal(key, x)
            size = length(score)
            # A score of exactly 0 (a network before its first step) names no step: x stays where it is.
            ratio = jnp.where(size > 0, length(z) / jnp.where(size > 0, size, 1), 0)
            step_size = arrays.expand_right(4 * (snr * ratio) ** 2, x) * shorter
            return _proposal_mean(x, score, step_size) + arrays.safe_sqrt(step_size) * z

        return _repeat(key, x, n_steps, correct)

    return one_step(step, n_steps)
