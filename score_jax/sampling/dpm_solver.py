"""Singlestep DPM-Solver: exponential integrators whose every step makes estimates of its own, and remembers none."""

import jax.numpy as jnp

from score_jax import arrays
from score_jax.sampling import multistep
from score_jax.sampling.base import Sampler, one_step
from score_jax.sde import SDE
from score_jax.types import Array, Key, ScoreFn

# Density of the integral, and the step made of it, in the estimates of ε or of x_0
_PREDICTIONS = {
    "noise": (multistep.decaying, multistep.linear_in_noise),
    "data": (multistep.exponential, multistep.linear),
}
_SOLVERS = {"midpoint": 0.5, "heun": None}
_INNER = ("log_snr", "time")


def dpm_solver(
    sde: SDE,
    score_fn: ScoreFn,
    *,
    order: int = 2,
    prediction: str = "noise",
    solver_type: str = "midpoint",
    inner: str = "log_snr",
) -> Sampler:
    """Steps t → s by DPM-Solver-1, 2 or 3 (Lu et al. 2022, algorithms 1 and 2), or by DPM-Solver++ 2S or 3S.

    In the estimates of ε ("noise", DPM-Solver) or of x_0 ("data", DPM-Solver++),

        x_s = (α_s/α_t) x − α_s (σ_t/α_t) ∫_0^1 h e^{−uh} ε̂(u) du
        x_s = (σ_s/σ_t) x + α_s ∫_0^1 h e^{−(1−u)h} x̂_0(u) du,        h = λ_s − λ_t,

    with estimates at t and at one or two times on the way, each reached by a step of the order below. "midpoint" (the
    authors' "dpmsolver") takes the slope's integral as ½ that of the constant at order 2, and leaves the first of two
    inner estimates out of the last polynomial at order 3; "heun" (their "taylor") integrates the polynomial through
    all. Of order 1 both are `ddim`. Every step costs `order` calls.

    A run of a fixed order is the authors' "singlestep_fixed". Their "singlestep", DPM-Solver-fast, ends in steps of
    lower orders so that the calls are a given number: sample along the first steps with order 3, then along the
    others with 2 and 1.

    Args:
      sde: the noising process.
      score_fn: `(x, t) -> score`; called `order` times a step.
      order: 1, 2 or 3.
      prediction: "noise" or "data".
      solver_type: "midpoint" or "heun".
      inner: where the estimates on the way are: equally spaced in "log_snr", as in the paper, or in "time", as in the
        authors' code on grids uniform in time.

    Raises:
      InputError: for another order or word.

    Examples:
      The flow of data N(0, 1/4) takes one standard deviation at σ = 10 to one at the end, 1/2.

      >>> edm, score = sde.EDM(0.01, 10.0), lambda x, t: -x / (0.25 + t**2)
      >>> x, ts = jnp.array([[10.0]]), sampling.grids.log_snr(edm, 40)
      >>> print(f"{sampling.sample(key, sampling.dpm_solver(edm, score), x, ts)[0, 0]:.2f}")
      0.50
    """
    multistep.require_order("dpm_solver", order)
    integrand, assemble = multistep.one_of("dpm_solver", "prediction", prediction, _PREDICTIONS)
    midpoint = multistep.one_of("dpm_solver", "solver_type", solver_type, _SOLVERS)
    in_time = multistep.one_of("dpm_solver", "inner", inner, {name: name == "time" for name in _INNER})

    def estimate(x: Array, t: Array) -> Array:
        score = score_fn(x, t)
        return -arrays.expand_right(sde.sigma(t), x) * score if prediction == "noise" else sde.denoise(x, t, score)

    def step(key: Key, x: Array, t: Array, s: Array) -> Array:
        del key
        h = multistep.log_step(sde, t, s)
        if in_time:
            times = [t + (s - t) * (k / order) for k in range(1, order)]
            places = [0.5 * (sde.log_snr(inside) - sde.log_snr(t)) / h for inside in times]
            places = [jnp.where(s < t, place, (k + 1) / order) for k, place in enumerate(places)]
        else:
            places = [jnp.full_like(h, k / order) for k in range(1, order)]
            span = sde.log_snr(s) - sde.log_snr(t)
            times = [sde.time(sde.log_snr(t) + span * (k / order)) for k in range(1, order)]

        def reach(end: Array, place: Array, *estimates: tuple[Array, Array], slope: float | None = None) -> Array:
            """x at the end, which is at that place, through estimates at their places."""
            density, whole = integrand(place * h)
            inside = [jnp.zeros_like(h), *(at / place for at, _ in estimates)]
            values, count = [start, *(value for _, value in estimates)], jnp.asarray(len(estimates) + 1)
            slope_whole = None if slope is None else slope * whole
            integral = multistep.integral(density, whole, inside, values, count, slope=slope_whole)
            return assemble(sde, x, integral, t, end)

        start, one = estimate(x, t), jnp.ones_like(h)
        if order == 1:
            moved = reach(s, one)
        else:
            first = places[0], estimate(reach(times[0], places[0]), times[0])
            if order == 2:
                moved = reach(s, one, first, slope=midpoint)
            else:
                second = places[1], estimate(reach(times[1], places[1], first), times[1])
                moved = reach(s, one, second) if midpoint else reach(s, one, first, second)
        return jnp.where(s < t, moved, x)

    return one_step(step, calls=order)
