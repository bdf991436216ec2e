"""Grids of times for `sampling.sample`: n points that never increase, from t_max down to t_end (t_min unless given).

Spacing in σ means σ/α, the variance-exploding equivalent. Ends are exact, not round-tripped through `sde.time`.
"""

from collections.abc import Callable

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
    """Returns the indices of at most `wanted` of n steps, evenly spread, the last included: what to keep of a path.

    Examples:
      >>> print(sampling.grids.evenly(100, 4))
      [ 0 33 66 99]
    """
    return np.unique(np.linspace(n - 1, 0, min(n, wanted)).round().astype(int))


def uniform(sde: SDE, n: int, *, t_end: ArrayLike | None = None) -> Array:
    """Returns n times equally spaced in t.

    Examples:
      >>> print(sampling.grids.uniform(sde.EDM(1.0, 5.0), 3))
      [5. 3. 1.]
    """
    _require_points("uniform", n)
    return _with_ends(jnp.linspace(sde.t_max, _end(sde, t_end), n), sde, t_end)


def karras(sde: SDE, n: int, rho: float = 7.0, *, t_end: ArrayLike | None = None) -> Array:
    """Returns n times equally spaced in (σ/α)^{1/ρ} (Karras et al. 2022, eq. 5, without the final σ = 0).

    Examples:
      With ρ = 2 the roots of σ, 4 to 1, are equally spaced.

      >>> print(np.array(sampling.grids.karras(sde.EDM(1.0, 16.0), 3, rho=2.0)).round(2))
      [16.    6.25  1.  ]
    """
    _require_points("karras", n)
    require_positive("grids.karras", rho=rho)
    high, low = _sigma(sde, sde.t_max) ** (1 / rho), _sigma(sde, _end(sde, t_end)) ** (1 / rho)
    return _with_ends(sde.time(-2 * rho * jnp.log(jnp.linspace(high, low, n))), sde, t_end)


def log_snr(sde: SDE, n: int, *, t_end: ArrayLike | None = None) -> Array:
    """Returns n times equally spaced in log-SNR, that is geometric in σ/α.

    Examples:
      >>> print(np.array(sampling.grids.log_snr(sde.EDM(0.01, 1.0), 3)).round(3))
      [1.   0.1  0.01]
    """
    _require_points("log_snr", n)
    return _with_ends(sde.time(jnp.linspace(sde.log_snr(sde.t_max), sde.log_snr(_end(sde, t_end)), n)), sde, t_end)


def cosine(sde: SDE, n: int, *, t_end: ArrayLike | None = None) -> Array:
    """Returns n times equally spaced in the angle arctan(σ/α): `uniform` on the `Cosine` SDE, and its levels on others.

    A cosine schedule's noise levels (Nichol & Dhariwal 2021, without its offset), between the ends of this SDE.

    Examples:
      >>> print(np.array(sampling.grids.cosine(sde.Cosine(t_min=0.1, t_max=0.9), 3)).round(3))
      [0.9 0.5 0.1]
    """
    _require_points("cosine", n)
    first, last = jnp.arctan(_sigma(sde, sde.t_max)), jnp.arctan(_sigma(sde, _end(sde, t_end)))
    return _with_ends(sde.time(-2 * jnp.log(jnp.tan(jnp.linspace(first, last, n)))), sde, t_end)


def score_sde(sde: SDE, n: int, *, t_end: ArrayLike | None = None) -> Array:
    """Returns n times uniform from t_max to t_end, and then 0: the n + 1 points of score SDE's n released updates.

    The last step, to 0, is the released noise removal. For samplers with `num_scales=n`, whose steps have a size of
    their own: to others 0 is a time like any other, at which most SDEs have no score.

    Examples:
      >>> print(np.array(sampling.grids.score_sde(sde.VP(), 3, t_end=0.2)).round(3))
      [1.  0.6 0.2 0. ]
    """
    return jnp.append(uniform(sde, n, t_end=t_end), 0)


def levels(sde: SDE, sigmas: ArrayLike) -> Array:
    """Returns the times of the noise levels `sigmas` (σ/α, descending, `(L,)`), the first of them twice: `(L + 1,)`.

    A step arrives at every one of the L levels exactly once, the first included: annealed Langevin dynamics.

    Raises:
      InputError: when `sigmas` is no vector, not positive, or increases.

    Examples:
      >>> print(np.array(sampling.grids.levels(sde.EDM(), jnp.array([1.0, 0.1]))).round(3))  # t is σ
      [1.  1.  0.1]
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


# Indices of n of a table's N knots, ascending: (N, n, offset) -> (n,)
_SPACINGS: dict[str, Callable[[int, int, int], np.ndarray]] = {
    "stride": lambda total, n, offset: np.arange(n) * total // n,
    "leading": lambda total, n, offset: np.arange(n) * (total // n) + offset,
    "trailing": lambda total, n, offset: np.round(total - np.arange(n) * (total / n))[::-1].astype(int) - 1,
    "linspace": lambda total, n, offset: np.round(np.linspace(0, total - 1, n)).astype(int),
}


def ddpm(
    sde: SDE, n: int | None = None, *, t_end: ArrayLike | None = None, spacing: str = "stride", offset: int = 0
) -> Array:
    """Returns the knots of a `Tabulated` SDE above t_end, descending, and then t_end: N steps down to t_min.

    With `t_end=1/N` it ends at the first knot, for an explicit `sde.denoise` there: N − 1 steps and the denoise make
    the N calls published. With n, only n of the knots, of indices k from 0 to n − 1

        stride     ⌊k N/n⌋                  DDIM's "linear" τ_k = ⌊c k⌋, c = N/n such that the last is near N
        leading    k ⌊N/n⌋ + offset         the released codes of DDIM and diffusers; offset is its `steps_offset`
        trailing   round((k + 1) N/n) − 1   diffusers'; begins at the last knot
        linspace   round(k (N − 1)/(n − 1)) diffusers'; both ends

    (Song et al. 2020, appendix D.2; Lin et al. 2024, table 2). "stride" and "leading" begin up to one stride N/n below
    t_max, as published, from N(0, I) all the same; they are equal where n divides N, and "leading" of 501 of 1,000
    starts from t = 0.501. diffusers' multistep schedulers go from n + 1 such knots without the lowest, then to the
    first: n + 1 here, and where they end at σ = 0, `t_end` at the lowest but one.

    A traced t_end can't say how many knots are above it: those below stand at it. Knots above t_max, of tables of zero
    terminal SNR, are not visited.

    Raises:
      InputError: for an SDE without a table, more steps than the table has, another spacing, an offset beyond the
        table or of another spacing than "leading", or a t_end with no knot above it.

    Examples:
      Four of DDPM's 1,000 knots (i + 1)/1000, the last the first of the table.

      >>> ddpm = sde.Tabulated(sde.ddpm_schedule().alphas_bar)
      >>> print((1000 * np.array(sampling.grids.ddpm(ddpm, 4, t_end=1 / 1000))).round())
      [751. 501. 251.   1.]
    """
    total = len(_knots("ddpm", sde))
    if spacing not in _SPACINGS:
        raise InputError(f"grids.ddpm: spacing must be one of {sorted(_SPACINGS)}, got {spacing!r}")
    if n is not None and not 2 <= n <= total:
        raise InputError(f"grids.ddpm: n must be from 2 to the table's {total} knots, got {n}")
    if n is None and spacing != "stride":
        raise InputError(f"grids.ddpm: spacing {spacing!r} is of n of the knots: give n")
    if offset and (spacing != "leading" or n is None or not 0 <= offset < total - (n - 1) * (total // n)):
        raise InputError(
            f"grids.ddpm: offset moves spacing 'leading' within the table of {total} knots, got {offset} of {spacing!r}"
        )
    return _visiting("ddpm", sde, np.arange(total) if n is None else _SPACINGS[spacing](total, n, offset), t_end)


def respaced(sde: SDE, counts: str, *, t_end: ArrayLike | None = None) -> Array:
    """Returns the knots of a `Tabulated` SDE that improved-diffusion's `timestep_respacing` keeps, as `ddpm` does.

    "10,15,20" cuts the table into three sections, equal but for a remainder, and keeps so many of each, evenly spread
    between its ends and rounded; "ddim50" keeps every i-th from the first on, i being such that they are 50
    (Nichol & Dhariwal 2021). With `t_end=1/N` it ends at the first knot.

    Raises:
      InputError: for an SDE without a table, or counts that cannot be had of it.

    Examples:
      >>> ddpm = sde.Tabulated(sde.ddpm_schedule(100).alphas_bar)
      >>> print((100 * np.array(sampling.grids.respaced(ddpm, "ddim4", t_end=1 / 100))).round())
      [76. 51. 26.  1.]
    """
    return _visiting("respaced", sde, kept_knots(len(_knots("respaced", sde)), counts), t_end)


def kept_knots(total: int, counts: str) -> np.ndarray:
    """Returns the indices of the knots that `respaced` keeps of a table of `total`, ascending.

    Examples:
      Two of the first five knots, three of the others.

      >>> print(sampling.grids.kept_knots(10, "2,3"))
      [0 4 5 7 9]
    """
    if counts.startswith("ddim") and counts[4:].isdigit():
        strides = [i for i in range(1, total) if len(range(0, total, i)) == int(counts[4:])]
        if not strides:
            raise InputError(
                f"grids.respaced: no stride keeps exactly {counts[4:]} of {total} knots: give {counts[4:]!r} for "
                "evenly spread ones, or another number"
            )
        return np.arange(0, total, strides[0])
    words = counts.split(",")
    if not all(word.strip().isdigit() for word in words) or not any(int(word) for word in words):
        raise InputError(f"grids.respaced: expected counts such as '10,15,20' or 'ddim50', got {counts!r}")
    size, extra = divmod(total, len(words))
    kept, start = [], 0
    for i, count in enumerate(int(word) for word in words):
        length = size + (i < extra)
        if count > length:
            raise InputError(f"grids.respaced: {counts!r} keeps {count} of a section of {length} knots of the table")
        # Added up one by one, as released: their roundings decide halves.
        stride = (length - 1) / (count - 1) if count > 1 else 1.0
        kept += [start + np.round(np.cumsum([0.0, *[stride] * (count - 1)])).astype(int)] if count else []
        start += length
    return np.unique(np.concatenate(kept))


def _knots(owner: str, sde: SDE) -> np.ndarray:
    if not hasattr(sde, "knots"):
        raise InputError(
            f"grids.{owner} visits the knots of sde.Tabulated; {type(sde).__name__} has none: use grids.uniform"
        )
    with jax.ensure_compile_time_eval():
        return np.asarray(sde.knots())


def _visiting(owner: str, sde: SDE, indices: np.ndarray, t_end: ArrayLike | None) -> Array:
    """The knots of these indices above t_end, descending, and t_end."""
    knots = _knots(owner, sde)
    if not isinstance(sde.t_max, jax.core.Tracer):
        highest = np.flatnonzero(knots <= np.asarray(sde.t_max) * (1 + 1e-6))[-1]
        indices = np.unique(np.minimum(indices, highest))
    knots = knots[indices]
    end = _end(sde, t_end)
    if isinstance(end, jax.core.Tracer):
        return jnp.append(jnp.maximum(knots[::-1], end), end)
    end = np.asarray(end, knots.dtype)
    ts = np.append(knots[knots > end][::-1], end)
    check_grid(ts)
    return jnp.asarray(ts)
