"""Multistep samplers: exponential integrators of the probability flow that remember the estimates of earlier steps.

With λ = log(α/σ) and the estimate x̂_0(λ) = E[x_0 | x_t], the flow is linear in x but for x̂_0 and integrates to

    x_s = (σ_s/σ_t) x_t + α_s ∫_0^1 h e^{−(1−u)h} x̂_0(λ_t + u h) du,        h = λ_s − λ_t,

whatever the SDE (Lu et al. 2022, DPM-Solver++, eq. 8). A method of order p puts the polynomial through p estimates
into the integral: in Newton's form, so that a lower order is the same sum cut short. DPM-Solver++ takes the estimates
of the past; UniPC (Zhao et al. 2023) does too and, where it arrives, repeats the step with the estimate it has there.

Orders are limited where a polynomial is not to be trusted. A grid begins with one estimate, at first order, and the
order rises as they come; `lower_order` says what else, h and h_before being the lengths in λ of a step and of the one
before, and the explicit `sde.denoise` after a grid no step of it:

- "last", as released: the last step is of first order, the last but one of second. The authors' DPM-Solver++ does so in
  runs of fewer than 10 steps, diffusers in those of fewer than 15, UniPC in all. "denoised" is the same where the
  denoise is counted as the last, as in diffusers' runs that end at σ = 0; "never", of longer runs, has no such limits.
- "long", the default of DPM-Solver++ and UniPC, by the length of steps: the last step is of first order where h > 1/2,
  and a step of third order only where h² ≤ h_before. So the step itself says whether it is needed: in 10 steps, in 40
  on `grids.uniform`, whose last step is four times as long as the one before, and not in the limit, of which the order
  is that of the method; and steps that are long and grow are not the last two alone.

Measured by `python -m experiments.studies.few_steps`: errors of x̂_0 at the end of the probability flow, relative to the
data's standard deviation, geometric means over three mixtures on the line, VP, EDM (not on `uniform`) and flow, each
down to two ends, with the exact score. 3M½ is released 3M, whose quadratic term is halved:

                             5, 6 and 8 steps                   10, 15 and 20 steps
                        uniform   karras  log_snr           uniform   karras  log_snr
    2M    never            .246     .189     .114             .0555    .0727    .0339
          last < 15        .088     .157     .111             .0365    .0611    .0331
          last             .088     .157     .111             .0171    .0572    .0328
          long             .088     .157     .111             .0171    .0572    .0329
    3M½   never            .680     .589     .228             .1450    .0501    .0164
          last < 15        .079     .185     .175             .0701    .0507    .0201
          last             .079     .185     .175             .0188    .0610    .0205
          long             .075     .157     .111             .0185    .0493    .0180
    3M    never            1.09     .715     .249             .2780    .0931    .0133
          last < 15        .079     .194     .195             .1120    .0903    .0177
          last             .079     .194     .195             .0214    .0814    .0178
          long             .074     .157     .111             .0216    .0640    .0155

So "long" is the best of these or near it, but on the even steps of `log_snr` from 10 on, where "never" is. On Karras's
grids released 3M is ahead of 3M (of 15 steps .043 as released against .068), and on `uniform` a little; on `log_snr`
it is behind, and in the limit of an order less. UniPC's numbers are alike.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from score_jax import arrays
from score_jax.sampling.base import Sampler
from score_jax.sde import SDE
from score_jax.types import Array, ArrayLike, InputError

# Gauss–Legendre on [0, 1]: exact to 1e-11 for the integrals here up to h = 20, more than the span of any SDE.
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(16)
_NODES, _WEIGHTS = 0.5 + 0.5 * _NODES, 0.5 * _WEIGHTS


# What is remembered


class Multistep(NamedTuple):
    """State of a multistep sampler: the sample, and earlier estimates of what is integrated, the newest first."""

    x: Array  # (B, *S)
    origin: Array  # (B, *S): where the last step began
    estimates: Array  # (m, B, *S)
    times: Array  # (m,)
    known: Array  # (): how many of the m there are
    order: Array  # (): of the last step


def starter(sde: SDE, size: int) -> Callable[[Array], Multistep]:
    """Returns the `init` of a sampler that remembers `size` estimates."""

    def init(x: Array) -> Multistep:
        times, none = jnp.full(size, sde.t_max, jnp.zeros(()).dtype), jnp.zeros((), jnp.int32)
        return Multistep(x, x, jnp.zeros((size, *x.shape), x.dtype), times, none, none)

    return init


def advanced(
    old: Multistep, x: Array, origin: Array, estimate: Array, t: Array, s: Array, order: ArrayLike
) -> Multistep:
    """Returns the state at s with the estimate of t remembered; the old one after a step of no length."""
    size = len(old.times)
    estimates = jnp.concatenate([estimate[None], old.estimates])[:size]
    times, known = jnp.append(t, old.times)[:size], jnp.minimum(old.known + 1, size)
    new = Multistep(x, origin, estimates, times, known, jnp.asarray(order, known.dtype))
    return jax.tree.map(lambda new, old: jnp.where(s < t, new, old), new, old)


# Polynomials through what is remembered


def log_step(sde: SDE, t: Array, s: Array) -> Array:
    """Returns h = λ_s − λ_t, and 1 where the step has no length and is not taken."""
    return jnp.where(s < t, 0.5 * (sde.log_snr(s) - sde.log_snr(t)), 1)


def places(distances: Array, count: Array) -> list[Array]:
    """Returns the distances as places of estimates; of those that there are not, numbers that no other place has."""
    return [jnp.where(k < count, distances[k], k + 2) for k in range(len(distances))]


def log_places(sde: SDE, t: Array, h: Array, times: Array, count: Array) -> list[Array]:
    """Returns (λ(times) − λ(t))/h as `places`."""
    return places(0.5 * (sde.log_snr(times) - sde.log_snr(t)) / h, count)


def integral(
    density: Callable[[Array], Array],
    whole: Array,
    places: Sequence[Array],
    values: Sequence[Array],
    count: Array,
    *,
    slope: Array | None = None,
    halved: bool = False,
) -> Array:
    """Returns ∫_0^1 w(u) p(u) du of the polynomial p through the first `count` of the values at `places`.

    Args:
      density: w.
      whole: its integral, without the quadrature's rounding.
      places: u of the values, the first of them 0.
      values: `(B, *S)` each.
      count: how many of them p goes through.
      slope: what stands for ∫ w u where there are two values; the integral itself unless given.
      halved: take half of ∫ w u² in the third term.
    """
    nodes = jnp.asarray(_NODES, whole.dtype)
    mass = jnp.asarray(_WEIGHTS, whole.dtype) * density(nodes)
    total = arrays.expand_right(whole, values[0]) * values[0]
    differences, product = list(values), jnp.ones_like(nodes)
    for j in range(1, len(values)):
        gaps = [places[k + j] - places[k] for k in range(len(values) - j)]
        differences = [
            (differences[k + 1] - differences[k]) / arrays.expand_right(g, total) for k, g in enumerate(gaps)
        ]
        product = product * (nodes - places[j - 1])
        weight = (mass * product).sum()
        if j == 1 and slope is not None:
            weight = jnp.where(count == 2, slope, weight)
        if j == 2 and halved:
            weight = weight - 0.5 * (mass * nodes**2).sum()
        total = total + arrays.expand_right(jnp.where(j < count, weight, 0), total) * differences[0]
    return total


def exponential(h: Array) -> tuple[Callable[[Array], Array], Array]:
    """Returns the density h e^{−(1−u)h} and its integral."""
    return lambda u: h * jnp.exp((u - 1) * h), -jnp.expm1(-h)


def decaying(h: Array) -> tuple[Callable[[Array], Array], Array]:
    """Returns the density h e^{−uh} and its integral."""
    return lambda u: h * jnp.exp(-u * h), -jnp.expm1(-h)


def linear(sde: SDE, x: Array, integral: Array, t: Array, s: Array, *, kept: ArrayLike = 1.0) -> Array:
    """Returns (σ_s/σ_t) κ x + α_s · integral."""
    shrunk = arrays.expand_right(sde.sigma(s) / sde.sigma(t) * kept, x) * x
    return shrunk + arrays.expand_right(sde.alpha(s), x) * integral


def linear_in_noise(sde: SDE, x: Array, integral: Array, t: Array, s: Array) -> Array:
    """Returns (α_s/α_t) x − α_s (σ_t/α_t) · integral."""
    scale = jnp.exp(sde.log_alpha(s) - sde.log_alpha(t))
    return arrays.expand_right(scale, x) * x - arrays.expand_right(scale * sde.sigma(t), x) * integral


# Orders

Limit = Callable[[Sequence[Array], Array, Array, Array], Array]  # (places, h, count, steps left) -> count


def _by_length(places: Sequence[Array], h: Array, count: Array, left: Array) -> Array:
    if len(places) > 2:
        count = jnp.where(h > -places[1], jnp.minimum(count, 2), count)  # places[1] is −h_before/h
    return jnp.where((left == 1) & (h > 0.5), 1, count)


LOWER_ORDERS: dict[str, Limit] = {
    "long": _by_length,
    "last": lambda places, h, count, left: jnp.minimum(count, left),
    "denoised": lambda places, h, count, left: jnp.minimum(count, left + 1),
    "never": lambda places, h, count, left: count,
}


def limit(owner: str, name: str) -> Limit:
    """Returns how the order of a step is limited.

    Raises:
      InputError: for an unknown name.
    """
    return one_of(owner, "lower_order", name, LOWER_ORDERS)


def one_of(owner: str, option: str, name: str, table: dict[str, Any]) -> Any:
    """Returns what the option's name stands for.

    Raises:
      InputError: for an unknown name.
    """
    if name not in table:
        raise InputError(f"{owner}: {option} must be one of {sorted(table)}, got {name!r}")
    return table[name]


def require_order(owner: str, order: int, highest: int = 3) -> None:
    """Raises InputError for an order that the method has not."""
    if order not in range(1, highest + 1):
        named = ", ".join(str(p) for p in range(1, highest))
        raise InputError(f"{owner}: order must be {named} or {highest}, got {order}")


def sampler(init: Callable[[Array], Multistep], step: Callable[..., Multistep]) -> Sampler:
    """Returns the sampler of `step(left, key, state, t, s)`, `left(s)` being 1 on the last step of a grid, 2 before."""
    alone = Sampler(init, partial(step, lambda s: jnp.asarray(3)), multistep=True)

    def along(ts: Array) -> Sampler:
        last = ts[-1]
        before = jnp.min(jnp.where(ts > last, ts, jnp.inf))  # a grid may stand at its end

        def left(s: Array) -> Array:
            return jnp.where(s <= last, 1, jnp.where(s <= before, 2, 3))

        return alone._replace(step=partial(step, left), along=None)

    return alone._replace(along=along)
