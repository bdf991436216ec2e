"""Linear multistep: Adams–Bashforth on the probability flow in x/α and σ/α, as k-diffusion's LMS and DEIS's ρAB."""

import jax.numpy as jnp

from score_jax import arrays
from score_jax.sampling import multistep
from score_jax.sampling.base import Sampler
from score_jax.sampling.multistep import Multistep
from score_jax.sde import SDE
from score_jax.types import Array, Key, ScoreFn


def lms(sde: SDE, score_fn: ScoreFn, *, order: int = 4) -> Sampler:
    """Steps t → s by x_s/α_s = x_t/α_t + ∫ p(ς) dς, ς = σ/α from that of t to that of s (k-diffusion's `sample_lms`).

    p is the polynomial through the estimates ε̂ at t and the `order − 1` times before, fewer at the start of a grid. The
    same in DEIS is ρAB (Zhang & Chen 2023). Of order 1 it is `ddim`.

    Args:
      sde: the noising process.
      score_fn: `(x, t) -> score`; called once a step.
      order: 1 to 4.

    Raises:
      InputError: for another order.

    Examples:
      The flow of data N(0, 1/4) takes one standard deviation at σ = 10 to one at the end, 1/2.

      >>> edm, score = sde.EDM(0.01, 10.0), lambda x, t: -x / (0.25 + t**2)
      >>> x, ts = jnp.array([[10.0]]), sampling.grids.karras(edm, 40)
      >>> print(f"{sampling.sample(key, sampling.lms(edm, score), x, ts)[0, 0]:.2f}")
      0.50
    """
    multistep.require_order("lms", order, highest=4)

    def noise_ratio(t: Array) -> Array:
        return jnp.exp(-0.5 * sde.log_snr(t))

    def step(left, key: Key, state: Multistep, t: Array, s: Array) -> Multistep:
        del left, key
        t, s = (jnp.asarray(v, state.times.dtype) for v in (t, s))
        width, count = jnp.where(s < t, noise_ratio(s) - noise_ratio(t), 1), state.known + 1
        estimate = -arrays.expand_right(sde.sigma(t), state.x) * score_fn(state.x, t)
        distances = (noise_ratio(jnp.append(t, state.times)) - noise_ratio(t)) / width
        values, places = [estimate, *state.estimates], multistep.places(distances, count)
        integral = multistep.integral(jnp.ones_like, jnp.ones_like(width), places, values, count)
        x = arrays.expand_right(sde.alpha(s) / sde.alpha(t), state.x) * state.x
        x = x + arrays.expand_right(sde.alpha(s) * width, x) * integral
        return multistep.advanced(state, x, state.x, estimate, t, s, count)

    return multistep.sampler(multistep.starter(sde, order - 1), step)
