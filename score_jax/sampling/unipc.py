"""UniPC: a multistep predictor in the estimates of x_0, whose steps are taken again with the estimate they lead to."""

import jax.numpy as jnp

from score_jax.sampling import multistep
from score_jax.sampling.base import Sampler
from score_jax.sampling.multistep import Multistep
from score_jax.sde import SDE
from score_jax.types import Array, Key, ScoreFn

# ½ B(h), which stands for the slope's integral where there are two values
_HALVES = {"bh1": lambda h, whole: 0.5 * h, "bh2": lambda h, whole: 0.5 * whole}


def unipc(sde: SDE, score_fn: ScoreFn, *, order: int = 2, variant: str = "bh2", lower_order: str = "long") -> Sampler:
    """Steps t → s by UniPC in data prediction (Zhao et al. 2023, algorithm 1).

    A step evaluates x̂_0 at t, takes the step that led to t again with it as a further value of the polynomial, and
    goes on from there to s through the estimates at t and the `order − 1` times before. The estimate at t is not taken
    again after the correction, so that a step costs one call; the last x is not corrected. Of order `order + 1`.

    Through two values the slope's integral is taken as ½ B(h), |B(h)| = h in "bh1", 1 − e^{−h} in "bh2"; elsewhere B(h)
    cancels. As released it is with lower_order="last": the correction is then of the order of its prediction.

    Args:
      sde: the noising process.
      score_fn: `(x, t) -> score`; called once a step.
      order: 1, 2 or 3.
      variant: "bh2" or "bh1".
      lower_order: where orders of the prediction are limited: "long", or "last", "denoised", "never": see `multistep`.

    Raises:
      InputError: for another order or word.

    Examples:
      The flow of data N(0, 1/4) takes one standard deviation at σ = 10 to one at the end, 1/2.

      >>> edm, score = sde.EDM(0.01, 10.0), lambda x, t: -x / (0.25 + t**2)
      >>> x, ts = jnp.array([[10.0]]), sampling.grids.log_snr(edm, 40)
      >>> print(f"{sampling.sample(key, sampling.unipc(edm, score), x, ts)[0, 0]:.2f}")
      0.50
    """
    multistep.require_order("unipc", order)
    half = multistep.one_of("unipc", "variant", variant, _HALVES)
    limited = multistep.limit("unipc", lower_order)

    def integral(h: Array, places, values, count: Array) -> Array:
        density, whole = multistep.exponential(h)
        return multistep.integral(density, whole, places, values, count, slope=half(h, whole))

    def corrected(state: Multistep, estimate: Array, t: Array) -> Array:
        before, h = state.times[0], multistep.log_step(sde, state.times[0], t)
        known = state.known if lower_order == "long" else state.order
        times = jnp.concatenate([jnp.stack([before, t]), state.times[1:]])
        values = [state.estimates[0], estimate, *state.estimates[1:]]
        places = multistep.log_places(sde, before, h, times, state.known + 1)
        x = multistep.linear(sde, state.origin, integral(h, places, values, known + 1), before, t)
        return jnp.where(state.known > 0, x, state.x)

    def step(left, key: Key, state: Multistep, t: Array, s: Array) -> Multistep:
        del key
        t, s = (jnp.asarray(v, state.times.dtype) for v in (t, s))
        estimate = sde.denoise(state.x, t, score_fn(state.x, t))
        origin, h = corrected(state, estimate, t), multistep.log_step(sde, t, s)
        values, times = [estimate, *state.estimates][:order], jnp.append(t, state.times)[:order]
        count = jnp.minimum(state.known + 1, order)
        places = multistep.log_places(sde, t, h, times, count)
        count = limited(places, h, count, left(s))
        x = multistep.linear(sde, origin, integral(h, places, values, count), t, s)
        return multistep.advanced(state, x, origin, estimate, t, s, count)

    return multistep.sampler(multistep.starter(sde, order), step)
