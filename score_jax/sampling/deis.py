"""DEIS: a multistep exponential integrator of the probability flow in the estimates of the noise."""

import jax.numpy as jnp

from score_jax import arrays
from score_jax.sampling import multistep
from score_jax.sampling.base import Sampler
from score_jax.sampling.multistep import Multistep
from score_jax.sde import SDE
from score_jax.types import Array, Key, ScoreFn


def deis(sde: SDE, score_fn: ScoreFn, *, order: int = 3, lower_order: str = "never") -> Sampler:
    """Steps t → s by DEIS, ε̂ a polynomial in λ (Zhang & Chen 2023, in the variable log ρ).

        x_s = (α_s/α_t) x_t − α_s (σ_t/α_t) ∫_0^1 h e^{−uh} p(u) du,        h = λ_s − λ_t,

    p through the estimates of ε at t and the `order − 1` times before. Of order 1 it is `ddim`. This is the form that
    diffusers releases, with lower_order="last" in runs of fewer than 15 steps, "never" in longer ones. Measured
    (`experiments/studies/few_steps`), "never" is ahead in short runs too, but on `grids.uniform`. The authors' ρAB,
    polynomials in ρ = σ/α, is `lms`.

    Args:
      sde: the noising process.
      score_fn: `(x, t) -> score`; called once a step.
      order: 1, 2 or 3.
      lower_order: where orders are limited: "never", "last", "denoised" or "long", see `multistep`.

    Raises:
      InputError: for another order or word.

    Examples:
      The flow of data N(0, 1/4) takes one standard deviation at σ = 10 to one at the end, 1/2.

      >>> edm, score = sde.EDM(0.01, 10.0), lambda x, t: -x / (0.25 + t**2)
      >>> x, ts = jnp.array([[10.0]]), sampling.grids.log_snr(edm, 40)
      >>> print(f"{sampling.sample(key, sampling.deis(edm, score), x, ts)[0, 0]:.2f}")
      0.50
    """
    multistep.require_order("deis", order)
    limited = multistep.limit("deis", lower_order)

    def step(left, key: Key, state: Multistep, t: Array, s: Array) -> Multistep:
        del key
        t, s = (jnp.asarray(v, state.times.dtype) for v in (t, s))
        h = multistep.log_step(sde, t, s)
        estimate = -arrays.expand_right(sde.sigma(t), state.x) * score_fn(state.x, t)
        places = multistep.log_places(sde, t, h, jnp.append(t, state.times), state.known + 1)
        count = limited(places, h, state.known + 1, left(s))
        density, whole = multistep.decaying(h)
        integral = multistep.integral(density, whole, places, [estimate, *state.estimates], count)
        x = multistep.linear_in_noise(sde, state.x, integral, t, s)
        return multistep.advanced(state, x, state.x, estimate, t, s, count)

    return multistep.sampler(multistep.starter(sde, order - 1), step)
