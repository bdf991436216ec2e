"""Multistep samplers: exponential integrators of the probability flow that remember the estimates of earlier steps.

With λ = log(α/σ) and the estimate x̂_0(λ) = E[x_0 | x_t], the flow is linear in x but for x̂_0 and integrates to

    x_s = (σ_s/σ_t) x_t + α_s ∫_0^1 h e^{−(1−u)h} x̂_0(λ_t + u h) du,        h = λ_s − λ_t,

whatever the SDE (Lu et al. 2022, DPM-Solver++, eq. 8). A method of order p puts the polynomial through p estimates
into the integral: in Newton's form, so that a lower order is the same sum cut short. DPM-Solver++ takes the estimates
of the past; UniPC (Zhao et al. 2023) does too and, where it arrives, repeats the step with the estimate it has there.

Orders are limited where a polynomial is not to be trusted, h and h_before being the lengths in λ of a step and of the
one before:

- A grid begins with one estimate, at first order, and the order rises as they come.
- The last step is of first order where h > 1/2 (`lower_order_final`). Published code does so in runs of fewer than 10
  or 15 steps, or in all. By its length, the step itself says whether it is needed: in 10 steps, in 40 on
  `grids.uniform`, whose last step is four times as long as the one before, and not in the limit, of which the order is
  that of the method.
- A step is of third order only where h² ≤ h_before, here in place of the second order that published code gives to the
  last but one: steps that are long and grow are not the last two alone.

Measured: errors of x̂_0 at the end of the probability flow, relative to the data's standard deviation, geometric means
over three mixtures on the line, VP, EDM (not on `uniform`) and flow, each down to two ends, with the exact score:

                                    5, 6 and 8 steps                      10 to 20 steps
                             uniform     karras      log_snr      uniform     karras      log_snr
                             2M    3M    2M    3M    2M    3M     2M    3M    2M    3M    2M    3M
    no limits                .558  3.83  .283  1.06  .174  .369   .185  1.78  .104  .199  .055  .042
    published, < 15 steps    .135  .128  .197  .248  .165  .311   .108  .532  .092  .184  .055  .047
    published, always        .135  .128  .197  .248  .165  .311   .039  .040  .087  .151  .055  .047
    here                     .135  .123  .197  .197  .165  .165   .039  .040  .087  .108  .055  .045

UniPC's are alike, and those of SDE-DPM-Solver++ too.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from score_jax import arrays
from score_jax.sampling.base import Sampler
from score_jax.sde import SDE
from score_jax.types import Array, ArrayLike, InputError, Key, ScoreFn

# Gauss–Legendre on [0, 1]: exact to 1e-11 for the integrals below up to h = 20, more than the span of any SDE here.
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(16)
_NODES, _WEIGHTS = 0.5 + 0.5 * _NODES, 0.5 * _WEIGHTS


class Multistep(NamedTuple):
    """State of a multistep sampler: the sample, where its last step began, and earlier estimates, the newest first."""

    x: Array  # (B, *S)
    origin: Array  # (B, *S)
    estimates: Array  # (m, B, *S)
    times: Array  # (m,)
    known: Array  # (): how many of the m there are


def _integral(h: Array, places: Sequence[Array], values: Sequence[Array], count: Array) -> Array:
    """Returns ∫_0^1 h e^{−(1−u)h} p(u) du of the polynomial through the first `count` of the values at `places`.

    places[0] is 0. Through two values, the slope's integral is taken as ½ ∫ h e^{−(1−u)h} du, as both papers do:
    DPM-Solver++ (2M), and UniPC, which is then free to (Zhao et al. 2023, section 3.1).
    """
    nodes, density = jnp.asarray(_NODES, h.dtype), jnp.asarray(_WEIGHTS, h.dtype) * h
    density = density * jnp.exp((jnp.asarray(_NODES, h.dtype) - 1) * h)
    whole = -jnp.expm1(-h)
    total = arrays.expand_right(whole, values[0]) * values[0]
    differences, product = list(values), jnp.ones_like(nodes)
    for j in range(1, len(values)):
        gaps = [places[k + j] - places[k] for k in range(len(values) - j)]
        differences = [
            (differences[k + 1] - differences[k]) / arrays.expand_right(g, total) for k, g in enumerate(gaps)
        ]
        product = product * (nodes - places[j - 1])
        weight = (density * product).sum()
        weight = jnp.where(count == 2, 0.5 * whole, weight) if j == 1 else weight
        total = total + arrays.expand_right(jnp.where(j < count, weight, 0), total) * differences[0]
    return total


def _places(sde: SDE, t: Array, h: Array, times: Array, count: Array) -> list[Array]:
    """Returns (λ(times) − λ(t))/h; of the times that there are not, numbers that no other place has."""
    there = 0.5 * (sde.log_snr(times) - sde.log_snr(t)) / h
    return [jnp.where(k < count, there[k], k + 2) for k in range(len(times))]


def _trusted(places: Sequence[Array], h: Array, count: Array, last: Array) -> Array:
    """Returns how many of the places to extrapolate from on a step of length h, which may be the last."""
    if len(places) > 2:
        count = jnp.where(h > -places[1], jnp.minimum(count, 2), count)  # places[1] is −h_before/h
    return jnp.where(last & (h > 0.5), 1, count)


def _log_step(sde: SDE, t: Array, s: Array) -> Array:
    """Returns h = λ_s − λ_t, and 1 where the step has no length and is not taken."""
    return jnp.where(s < t, 0.5 * (sde.log_snr(s) - sde.log_snr(t)), 1)


def _advanced(old: Multistep, x: Array, origin: Array, estimate: Array, t: Array, s: Array) -> Multistep:
    """Returns the state at s with the estimate of t remembered; the old one after a step of no length."""
    size = len(old.times)
    estimates = jnp.concatenate([estimate[None], old.estimates])[:size]
    times = jnp.append(t, old.times)[:size]
    new = Multistep(x, origin, estimates, times, jnp.minimum(old.known + 1, size))
    return jax.tree.map(lambda new, old: jnp.where(s < t, new, old), new, old)


def _starter(sde: SDE, size: int):
    """Returns the `init` of a sampler that remembers `size` estimates."""

    def init(x: Array) -> Multistep:
        times = jnp.full(size, sde.t_max, jnp.zeros(()).dtype)
        return Multistep(x, x, jnp.zeros((size, *x.shape), x.dtype), times, jnp.zeros((), jnp.int32))

    return init


def _sampler(init: Callable[[Array], Multistep], step: Callable[..., Multistep], lower_order_final: bool) -> Sampler:
    """Returns the sampler of `step(end, key, state, t, s)`, which is told where its grid ends if it is to know."""
    alone = Sampler(init, partial(step, -jnp.inf), multistep=True)
    along = lambda ts: alone._replace(step=partial(step, ts[-1]), along=None)  # noqa: E731
    return alone._replace(along=along) if lower_order_final else alone


def _require_order(owner: str, order: int) -> None:
    if order not in (1, 2, 3):
        raise InputError(f"{owner}: order must be 1, 2 or 3, got {order}")


def dpm_solver_pp(
    sde: SDE, score_fn: ScoreFn, *, order: int = 2, eta: ArrayLike = 0.0, lower_order_final: bool = True
) -> Sampler:
    """Steps t → s by DPM-Solver++ 1, 2M or 3M, or its SDE variants (Lu et al. 2022, algorithm 2 and appendix A).

    With κ² = 1 − η² (1 − e^{−2h}) of the noise's variance kept and h' = h − log κ,

        x_s = (σ_s/σ_t) κ x + α_s ∫_0^1 h' e^{−(1−u)h'} p(u) du + σ_s √(1 − κ²) z,

    p the polynomial through the estimates at t and the `order − 1` times before; where they are two, the integral is
    (1 − e^{−h'}) (x̂_0(t) + h/(2 h_before) (x̂_0(t) − x̂_0(before))). η = 0 is the flow, η = 1 SDE-DPM-Solver++, and
    between them η is `ddim`'s: order 1 is `ddim(eta)`, with η = 1 `ancestral`.

    Two things are not as published. Orders are limited by the lengths of steps: see the module. And released code
    halves 3M's quadratic term, with which the order is 2: here it is the polynomial's, and 3.

    Args:
      sde: the noising process.
      score_fn: `(x, t) -> score`; called once a step.
      order: 1, 2 or 3.
      eta: η, from 0 to 1.
      lower_order_final: whether the last step is of first order where it is longer than 1/2 in λ.

    Raises:
      InputError: for another order, or a concrete η outside [0, 1].
    """
    _require_order("dpm_solver_pp", order)
    if isinstance(eta, int | float) and not 0 <= eta <= 1:
        raise InputError(f"dpm_solver_pp: eta is from 0, the probability flow, to 1, the reverse SDE, got {eta}")

    def step(end: ArrayLike, key: Key, state: Multistep, t: Array, s: Array) -> Multistep:
        t, s, end = (jnp.asarray(v, state.times.dtype) for v in (t, s, end))
        h, x = _log_step(sde, t, s), state.x
        kept = jnp.sqrt(1 - eta**2 + eta**2 * jnp.exp(-2 * h))
        estimate = sde.denoise(x, t, score_fn(x, t))
        places = _places(sde, t, h, jnp.append(t, state.times), state.known + 1)
        count = _trusted(places, h, state.known + 1, s <= end)
        x = _linear(sde, t, s, x, _integral(h - jnp.log(kept), places, [estimate, *state.estimates], count), kept)
        if not (isinstance(eta, int | float) and eta == 0):
            x = x + arrays.expand_right(sde.sigma(s) * arrays.root(1 - kept**2), x) * arrays.normal(key, x)
        return _advanced(state, x, state.x, estimate, t, s)

    return _sampler(_starter(sde, order - 1), step, lower_order_final)


def _linear(sde: SDE, t: Array, s: Array, x: Array, integral: Array, kept: ArrayLike = 1.0) -> Array:
    """Returns (σ_s/σ_t) κ x + α_s · integral."""
    shrunk = arrays.expand_right(sde.sigma(s) / sde.sigma(t) * kept, x) * x
    return shrunk + arrays.expand_right(sde.alpha(s), x) * integral


def unipc(sde: SDE, score_fn: ScoreFn, *, order: int = 2, lower_order_final: bool = True) -> Sampler:
    """Steps t → s by UniPC in data prediction, B(h) = e^{−h} − 1 (bh2 of Zhao et al. 2023, algorithm 1).

    A step evaluates x̂_0 at t, takes the step that led to t again with it as a further value of the polynomial, and
    goes on from there to s through the estimates at t and the `order − 1` times before. The estimate at t is not taken
    again after the correction, so that a step costs one call; the last x is not corrected. Of order `order + 1`.

    Not as published: orders of the prediction are limited by the lengths of steps, see the module.

    Args:
      sde: the noising process.
      score_fn: `(x, t) -> score`; called once a step.
      order: 1, 2 or 3.
      lower_order_final: whether the last step is of first order where it is longer than 1/2 in λ.

    Raises:
      InputError: for another order.
    """
    _require_order("unipc", order)

    def corrected(state: Multistep, estimate: Array, t: Array) -> Array:
        before, count = state.times[0], state.known + 1
        h = _log_step(sde, before, t)
        times = jnp.concatenate([jnp.stack([before, t]), state.times[1:]])
        values = [state.estimates[0], estimate, *state.estimates[1:]]
        integral = _integral(h, _places(sde, before, h, times, count), values, count)
        return jnp.where(state.known > 0, _linear(sde, before, t, state.origin, integral), state.x)

    def step(end: ArrayLike, key: Key, state: Multistep, t: Array, s: Array) -> Multistep:
        del key
        t, s, end = (jnp.asarray(v, state.times.dtype) for v in (t, s, end))
        estimate = sde.denoise(state.x, t, score_fn(state.x, t))
        origin, h = corrected(state, estimate, t), _log_step(sde, t, s)
        values, times = [estimate, *state.estimates][:order], jnp.append(t, state.times)[:order]
        count = jnp.minimum(state.known + 1, order)
        places = _places(sde, t, h, times, count)
        x = _linear(sde, t, s, origin, _integral(h, places, values, _trusted(places, h, count, s <= end)))
        return _advanced(state, x, origin, estimate, t, s)

    return _sampler(_starter(sde, order), step, lower_order_final)
