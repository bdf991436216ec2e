"""DPM-Solver++: multistep methods in the estimates of x_0, for the probability flow and the reverse SDE."""

import jax.numpy as jnp

from score_jax import arrays
from score_jax.sampling import multistep
from score_jax.sampling.base import Sampler
from score_jax.sampling.multistep import Multistep
from score_jax.sde import SDE
from score_jax.types import Array, ArrayLike, InputError, Key, ScoreFn

_SOLVERS = {"midpoint": 0.5, "heun": None}
_QUADRATICS = {"whole": False, "halved": True}


def dpm_solver_pp(
    sde: SDE,
    score_fn: ScoreFn,
    *,
    order: int = 2,
    eta: ArrayLike = 0.0,
    solver_type: str = "midpoint",
    quadratic: str = "whole",
    lower_order: str = "long",
) -> Sampler:
    """Steps t → s by DPM-Solver++ 1, 2M or 3M, or its SDE variants (Lu et al. 2022, algorithm 2 and appendix A).

    With κ² = 1 − η² (1 − e^{−2h}) of the noise's variance kept and h' = h − log κ,

        x_s = (σ_s/σ_t) κ x + α_s ∫_0^1 h' e^{−(1−u)h'} p(u) du + σ_s √(1 − κ²) z,

    p the polynomial through the estimates at t and the `order − 1` times before. η = 0 is the flow, η = 1
    SDE-DPM-Solver++, and between them η is `ddim`'s: order 1 is `ddim(eta)`, with η = 1 `ancestral`.

    Where the estimates are two, the published "midpoint" (the authors' "dpmsolver") takes the slope's integral as
    ½ ∫ h' e^{−(1−u)h'} du, and "heun" (their "taylor") as it is. Of three estimates all released code halves the
    integral of u², with which the order is 2; here it is the polynomial's, and 3, unless `quadratic` is "halved". The
    released deterministic 3M is

        dpm_solver_pp(sde, score_fn, order=3, quadratic="halved", lower_order="last")

    with "never" from 10 steps on (from 15 in diffusers), and with η = 1, "heun" and "never" k-diffusion's 3M SDE.
    diffusers' third-order SDE step adds that integral with a wrong sign, and x̂_0 with it: not offered.

    Args:
      sde: the noising process.
      score_fn: `(x, t) -> score`; called once a step.
      order: 1, 2 or 3.
      eta: noise added, 0 to 1.
      solver_type: "midpoint" or "heun".
      quadratic: "whole", or "halved" as released.
      lower_order: where orders are limited: "long", or as released "last", "denoised" or "never", see `multistep`.

    Raises:
      InputError: for another order or word, or a concrete eta outside [0, 1].

    Examples:
      The flow of data N(0, 1/4) takes one standard deviation at σ = 10 to one at the end, 1/2.

      >>> edm, score = sde.EDM(0.01, 10.0), lambda x, t: -x / (0.25 + t**2)
      >>> x, ts = jnp.array([[10.0]]), sampling.grids.log_snr(edm, 40)
      >>> print(f"{sampling.sample(key, sampling.dpm_solver_pp(edm, score), x, ts)[0, 0]:.2f}")
      0.50
    """
    multistep.require_order("dpm_solver_pp", order)
    if isinstance(eta, int | float) and not 0 <= eta <= 1:
        raise InputError(f"dpm_solver_pp: eta is from 0, the probability flow, to 1, the reverse SDE, got {eta}")
    midpoint = multistep.one_of("dpm_solver_pp", "solver_type", solver_type, _SOLVERS)
    halved = multistep.one_of("dpm_solver_pp", "quadratic", quadratic, _QUADRATICS)
    limited = multistep.limit("dpm_solver_pp", lower_order)

    def step(left, key: Key, state: Multistep, t: Array, s: Array) -> Multistep:
        t, s = (jnp.asarray(v, state.times.dtype) for v in (t, s))
        h, x = multistep.log_step(sde, t, s), state.x
        kept = jnp.sqrt(1 - eta**2 + eta**2 * jnp.exp(-2 * h))
        estimate = sde.denoise(x, t, score_fn(x, t))
        places = multistep.log_places(sde, t, h, jnp.append(t, state.times), state.known + 1)
        count = limited(places, h, state.known + 1, left(s))
        density, whole = multistep.exponential(h - jnp.log(kept))
        slope = None if midpoint is None else midpoint * whole
        values = [estimate, *state.estimates]
        integral = multistep.integral(density, whole, places, values, count, slope=slope, halved=halved)
        x = multistep.linear(sde, x, integral, t, s, kept=kept)
        if not (isinstance(eta, int | float) and eta == 0):
            x = x + arrays.expand_right(sde.sigma(s) * arrays.safe_sqrt(1 - kept**2), x) * arrays.normal(key, x)
        return multistep.advanced(state, x, state.x, estimate, t, s, count)

    return multistep.sampler(multistep.starter(sde, order - 1), step)
