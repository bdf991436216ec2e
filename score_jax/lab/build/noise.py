"""The noising process and the noise levels that training draws."""

from collections.abc import Callable
from numbers import Number

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from score_jax import sde as sdes
from score_jax.lab.build import names
from score_jax.lab.build.kinds import OWN
from score_jax.losses import times
from score_jax.sampling import grids
from score_jax.sde import SDE
from score_jax.types import Array, InputError


def _tabulated(n_steps: int, kind: str, terminal_snr: str) -> SDE:
    return sdes.Tabulated(sdes.ddpm_schedule(n_steps, kind, terminal_snr=terminal_snr).alphas_bar)


SDES: dict[str, Callable[..., SDE]] = {
    "ve": sdes.VE,
    "vp": sdes.VP,
    "subvp": sdes.SubVP,
    "edm": sdes.EDM,
    "cosine": sdes.Cosine,
    "flow": sdes.Flow,
    "tabulated": _tabulated,
}


def sde(config: ConfigDict, given: SDE | None = None) -> SDE:
    """Returns the noising process of a config whose levels are numbers (`with_derived`), or the one given in its place.

    Raises:
      InputError: also of one that cannot be sampled, since its data or its noise vanish or overflow at an end.
    """
    made = process(config) if given is None else given
    _require_shapes(made)
    sdes.require_ends(made)
    return made


def process(config: ConfigDict) -> SDE:
    """Returns the noising process of a config whose numbers are known to be right, or are traced."""
    return names.built("sde", config.sde, SDES, OWN["sde"])


def _require_shapes(sde: SDE) -> None:
    """Refuses an SDE whose functions are not of the shape of t, where its ends are numbers."""
    if not all(isinstance(end, Number | np.ndarray | jax.Array) for end in (sde.t_min, sde.t_max)):
        return  # which `require_ends` tells
    for shape in ((), (3,)):
        t = jnp.full(shape, sde.t_max)
        for name, function in (("log_alpha", sde.log_alpha), ("variance", sde.variance)):
            if (found := jax.eval_shape(function, t).shape) != shape:
                raise InputError(f"{name} of the SDE must have the shape of t, {shape}, got {found}")


def geometric_levels(sde: SDE, n: int) -> Array:
    """Returns n levels σ/α in geometric progression, descending."""
    return jnp.exp(-0.5 * jnp.linspace(sde.log_snr(sde.t_max), sde.log_snr(sde.t_min), n))


def level_times(config: ConfigDict, sde: SDE) -> Array:
    """Returns the times t_1 > … > t_N of the noise levels that training draws from.

    Raises:
      InputError: where it draws from a continuum.
    """
    table: dict[str, Callable[[], Array]] = {
        "discrete": lambda: grids.levels(sde, geometric_levels(sde, config.times.discrete.n))[1:],
        "knots": lambda: grids.ddpm(sde)[:-1],
    }
    if config.times.name not in table:
        raise InputError(
            f"a learned variance is that of a step between levels, and times {config.times.name!r} have none: "
            "set --config.times.name=knots with --config.sde.name=tabulated, or --config.times.name=discrete"
        )
    return table[config.times.name]()


def draw_times(config: ConfigDict, sde: SDE) -> times.Times:
    """Returns how noise levels are drawn."""
    table: dict[str, Callable[..., times.Times]] = {
        "uniform": times.uniform,
        "discrete": lambda n: times.discrete(level_times(config, sde)),
        "knots": lambda: times.discrete(level_times(config, sde)),
        "lognormal": times.lognormal,
        "importance": times.importance,
    }
    return names.chosen_function("times", config.times, table, OWN["times"])
