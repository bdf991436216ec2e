"""The probability flow of an SDE, integrated to a tolerance:  dx = (f x − ½ g² score) dt.

It is integrated in coordinates that every SDE shares, the point z and the angle θ of signal and noise,

    z = x/r,   r = √(α² + σ²),   θ = arctan(σ/α):        dz/dθ = v = −(σ/α)(r·score + z),

v being the velocity of the parameterization of that name. z is of the scale of the data at every level, so one
tolerance means the same everywhere, and v vanishes where the score is N(0, r² I)'s.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from score_jax import arrays, integrate
from score_jax.sampling.base import Sampler
from score_jax.sde import SDE
from score_jax.types import Array, ArrayLike, InputError, Key, ScoreFn


def angle(sde: SDE, t: ArrayLike) -> Array:
    """Returns θ = arctan(σ/α), in (0, π/2) and increasing with t."""
    return jnp.arctan(jnp.exp(-0.5 * sde.log_snr(t)))


def radius(sde: SDE, t: ArrayLike) -> Array:
    """Returns r = √(α² + σ²)."""
    return jnp.sqrt(sde.alpha(t) ** 2 + sde.variance(t))


def velocity(sde: SDE, score_fn: ScoreFn) -> Callable[[Array, Array], Array]:
    """Returns dz/dθ as a function of θ `(B,)` and z `(B, *S)`."""

    def field(theta: Array, z: Array) -> Array:
        t = jnp.clip(sde.time(-2 * jnp.log(jnp.tan(theta))), sde.t_min, sde.t_max)
        r = arrays.expand_right(radius(sde, t), z)
        ratio = arrays.expand_right(jnp.exp(-0.5 * sde.log_snr(t)), z)
        return -ratio * (r * score_fn(r * z, t) + z)

    return field


def require_inside(owner: str, sde: SDE, **times: ArrayLike) -> None:
    """Raises InputError for concrete times outside [t_min, t_max], where α or σ may vanish; tracers pass."""
    for name, t in times.items():
        if any(isinstance(v, jax.core.Tracer) for v in (t, sde.t_min, sde.t_max)):
            continue
        low, high, values = (np.asarray(v, np.float64) for v in (sde.t_min, sde.t_max, t))
        # Float32 of `sde.time` may miss the ends: by 1e-7 of t_max, up to a hundredth of t_min.
        outside = values[(values < 0.99 * low) | (values > (1 + 1e-6) * high)]
        if outside.size:
            raise InputError(
                f"{owner}: {name} = {outside[0]:g} is outside [t_min, t_max] = [{low:g}, {high:g}] of "
                f"{type(sde).__name__}: leave it out to have the end itself, or give the SDE another"
            )


def probability_flow(
    sde: SDE,
    score_fn: ScoreFn,
    x: Array,
    *,
    t0: ArrayLike | None = None,
    t1: ArrayLike | None = None,
    rtol: float = 1e-5,
    atol: float = 1e-5,
) -> tuple[Array, Array]:
    """Integrates the probability flow from t0 to t1, each example with steps of its own (Song et al. 2021, eq. 13).

    From t_max down it draws samples, without the last `sde.denoise`; from t_min up it encodes data. The two undo each
    other. See `integrate.solve` for what the tolerances mean and when rows are NaN.

    Args:
      sde: the noising process.
      score_fn: `(x, t) -> score`, t `(B,)`.
      x: `(B, *S)` at t0. Half precision is integrated in float32, at which `score_fn` is then called.
      t0: where to start, `()` or `(B,)` in [t_min, t_max]; t_max unless given.
      t1: where to end, likewise; t_min unless given.
      rtol: relative tolerance of a step.
      atol: absolute tolerance of a step, for data of scale 1.

    Returns:
      `(x, nfe)`: x at t1 and the number of calls of `score_fn` on the batch, `()`.

    Raises:
      InputError: for concrete times outside [t_min, t_max].

    Examples:
      From one standard deviation at σ = 10 the flow of data N(0, 1/4) leads to one at σ = 0.01.

      >>> edm, law = sde.EDM(0.01, 10.0), distributions.Gaussian(jnp.zeros(1), 0.25)
      >>> x, nfe = sampling.probability_flow(edm, distributions.score_of(law, edm), jnp.array([[100.25**0.5]]))
      >>> print(f"{x[0, 0]:.3f}")
      0.500
    """
    t0, t1 = sde.t_max if t0 is None else t0, sde.t_min if t1 is None else t1
    require_inside("probability_flow", sde, t0=t0, t1=t1)
    wide = x.astype(arrays.wide(x.dtype))
    t0, t1 = (jnp.asarray(t, wide.dtype) for t in (t0, t1))
    start, end = (arrays.expand_right(radius(sde, t), wide) for t in (t0, t1))
    field = velocity(sde, score_fn)
    z, nfe = integrate.solve(field, wide / start, angle(sde, t0), angle(sde, t1), rtol=rtol, atol=atol)
    return (z * end).astype(x.dtype), nfe


class _Counted(NamedTuple):
    x: Array
    nfe: Array  # calls so far, ()


def adaptive_flow(sde: SDE, score_fn: ScoreFn, *, rtol: float = 1e-5, atol: float = 1e-5) -> Sampler:
    """Steps t → s by `probability_flow` between the two: as many calls as the tolerances take, counted in `state.nfe`.

    A grid says where to stop and show the state, no more: `[t_max, t_min]` will do, and each stop costs calls.

    Args:
      sde: the noising process.
      score_fn: `(x, t) -> score`, t `(B,)`.
      rtol: relative tolerance of a step of the integration.
      atol: absolute tolerance of one, for data of scale 1.

    Examples:
      From one standard deviation at σ = 10 the flow of data N(0, 1/4) leads to one at σ = 0.01.

      >>> edm, law = sde.EDM(0.01, 10.0), distributions.Gaussian(jnp.zeros(1), 0.25)
      >>> sampler = sampling.adaptive_flow(edm, distributions.score_of(law, edm))
      >>> x = sampling.sample(key, sampler, jnp.array([[100.25**0.5]]), jnp.array([10.0, 0.01]))
      >>> print(f"{x[0, 0]:.3f}")
      0.500
    """

    def init(x: Array) -> _Counted:
        # A zero made of x: under shard_map what the loop carries has to differ between devices from the start.
        return _Counted(x, jnp.where(x.sum() > 0, 0, 0).astype(jnp.int32))

    def step(key: Key, state: _Counted, t: Array, s: Array) -> _Counted:
        del key
        x, nfe = probability_flow(sde, score_fn, state.x, t0=t, t1=s, rtol=rtol, atol=atol)
        return _Counted(x, state.nfe + nfe)

    # Its count is a memory too: wrapped step by step it would be lost.
    return Sampler(init, step, multistep=True, calls=0)
