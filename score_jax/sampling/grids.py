"""Grids of times for `sampling.sample`: n points that never increase, from t_max down to t_end (t_min unless given).

Spacing in σ means σ/α, the variance-exploding equivalent. Ends are exact, not round-tripped through `sde.time`.
"""

import jax
import jax.numpy as jnp
import numpy as np

from score_jax.sampling.base import check_grid
from score_jax.sde import SDE
from score_jax.types import Array, ArrayLike, InputError, require_positive


def _require_points(owner: str, n: int) -> None:
    if n < 2:
        raise InputError(f"grids.{owner}: a grid has at least 2 points, got n = {n}")


def _end(sde: SDE, t_end: ArrayLike | None) -> ArrayLike:
    return sde.t_min if t_end is None else t_end


def _with_ends(ts: Array, sde: SDE, t_end: ArrayLike | None) -> Array:
    return ts.at[0].set(sde.t_max).at[-1].set(_end(sde, t_end))


def _sigma(sde: SDE, t: ArrayLike) -> Array:
    return jnp.exp(-0.5 * sde.log_snr(t))


def evenly(n: int, wanted: int) -> np.ndarray:
    """Returns the indices of at most `wanted` of n steps, evenly spread, the last included: what to keep of a path."""
    return np.unique(np.linspace(n - 1, 0, min(n, wanted)).round().astype(int))


def uniform(sde: SDE, n: int, *, t_end: ArrayLike | None = None) -> Array:
    """Returns n times equally spaced in t."""
    _require_points("uniform", n)
    return _with_ends(jnp.linspace(sde.t_max, _end(sde, t_end), n), sde, t_end)


def karras(sde: SDE, n: int, rho: float = 7.0, *, t_end: ArrayLike | None = None) -> Array:
    """Returns n times equally spaced in (σ/α)^{1/ρ} (Karras et al. 2022, eq. 5, without the final σ = 0)."""
    _require_points("karras", n)
    require_positive("grids.karras", rho=rho)
    high, low = _sigma(sde, sde.t_max) ** (1 / rho), _sigma(sde, _end(sde, t_end)) ** (1 / rho)
    return _with_ends(sde.time(-2 * rho * jnp.log(jnp.linspace(high, low, n))), sde, t_end)


def log_snr(sde: SDE, n: int, *, t_end: ArrayLike | None = None) -> Array:
    """Returns n times equally spaced in log-SNR, that is geometric in σ/α."""
    _require_points("log_snr", n)
    return _with_ends(sde.time(jnp.linspace(sde.log_snr(sde.t_max), sde.log_snr(_end(sde, t_end)), n)), sde, t_end)


def cosine(sde: SDE, n: int, *, t_end: ArrayLike | None = None) -> Array:
    """Returns n times equally spaced in the angle arctan(σ/α): `uniform` on the `Cosine` SDE, and its levels on others.

    A cosine schedule's noise levels (Nichol & Dhariwal 2021, without its offset), between the ends of this SDE.
    """
    _require_points("cosine", n)
    first, last = jnp.arctan(_sigma(sde, sde.t_max)), jnp.arctan(_sigma(sde, _end(sde, t_end)))
    return _with_ends(sde.time(-2 * jnp.log(jnp.tan(jnp.linspace(first, last, n)))), sde, t_end)


def levels(sde: SDE, sigmas: ArrayLike) -> Array:
    """Returns the times of the noise levels `sigmas` (σ/α, descending, `(L,)`), the first of them twice: `(L + 1,)`.

    A step arrives at every one of the L levels exactly once, the first included: annealed Langevin dynamics.

    Raises:
      InputError: when `sigmas` is no vector, not positive, or increases.
    """
    sigmas = jnp.asarray(sigmas)
    if sigmas.ndim != 1 or not sigmas.size:
        raise InputError(f"grids.levels: sigmas must be a non-empty vector, got shape {sigmas.shape}")
    if not isinstance(sigmas, jax.core.Tracer) and not (sigmas > 0).all():
        raise InputError(f"grids.levels: noise levels must be positive, got {float(sigmas.min()):g}")
    ts = sde.time(-2 * jnp.log(sigmas))
    ts = jnp.concatenate([ts[:1], ts])
    check_grid(ts)
    return ts


def ddpm(sde: SDE, n: int | None = None, *, t_end: ArrayLike | None = None) -> Array:
    """Returns the knots of a `Tabulated` SDE above t_end, descending, and then t_end: N steps down to t_min.

    With `t_end=1/N` it ends at the first knot, for an explicit `sde.denoise` there: N − 1 steps and the denoise make
    the N calls published. With n, only n of the knots, those of index ⌊k N/n⌋ with k from 0 to n − 1: DDIM's "linear"
    sub-sequence τ_k = ⌊c k⌋, with c = N/n such that the last is near N (Song et al. 2020, appendix D.2). Such a grid
    begins up to one stride N/n below t_max, as published: from N(0, I) all the same. (DDIM's code takes c = ⌊N/n⌋: the
    same where n divides N; with 501 of 1,000, it would start from t = 0.501.) A traced t_end can't say how many knots
    are above it: those below stand at it.

    Raises:
      InputError: for an SDE without a table, more steps than the table has, or a t_end with no knot above it.
    """
    if not hasattr(sde, "knots"):
        raise InputError(
            f"grids.ddpm visits the knots of sde.Tabulated; {type(sde).__name__} has none: use grids.uniform"
        )
    with jax.ensure_compile_time_eval():
        knots = np.asarray(sde.knots())
    if n is not None:
        if not 2 <= n <= len(knots):
            raise InputError(f"grids.ddpm: n must be from 2 to the table's {len(knots)} knots, got {n}")
        knots = knots[np.arange(n) * len(knots) // n]
    end = _end(sde, t_end)
    if isinstance(end, jax.core.Tracer):
        return jnp.append(jnp.maximum(knots[::-1], end), end)
    end = np.asarray(end, knots.dtype)
    ts = np.append(knots[knots > end][::-1], end)
    check_grid(ts)
    return jnp.asarray(ts)
