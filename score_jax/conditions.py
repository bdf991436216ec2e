"""What published networks take for the noise level, in place of our log(σ/α): the `condition` of a `ScoreModel`.

| network                                 | what it takes                              |
|-----------------------------------------|--------------------------------------------|
| score SDE: VP and sub-VP, continuous    | 999 t: `Timestep()`                        |
| DDPM, diffusers, score SDE: VP, discrete | index of the step, 0 at ᾱ_0: `KnotIndex(N)` |
| score SDE: VE, continuous; EDM          | σ/α itself: `NoiseLevel()`                 |
| NCSN, NCSNv2, score SDE: VE, discrete   | place among levels, 0 at the largest: `LevelIndex(sigmas)` |

They are compared and hashed by their numbers, so that a model built twice is one static argument of `jit`.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np

from score_jax import arrays
from score_jax.sde import SDE
from score_jax.types import Array, InputError, require_at_least, require_positive


@dataclasses.dataclass(frozen=True)
class Timestep:
    """scale · t: what score SDE's networks of continuous VP and sub-VP take, N − 1 = 999 of them (Song et al. 2021)."""

    scale: float = 999.0

    def __post_init__(self) -> None:
        require_positive("Timestep", scale=self.scale)

    def __call__(self, sde: SDE, t: Array) -> Array:
        """Returns the timestep, of the shape of t."""
        del sde
        return self.scale * t


@dataclasses.dataclass(frozen=True)
class KnotIndex:
    """The index i of the step of a discrete diffusion of n whose time is t = (i + 1)/n, linear between and 0 before.

    Times are those of `Tabulated`, to whose ᾱ_i it belongs, and to O(1/n) of the VP that is its limit (Ho et al. 2020).
    """

    n: int

    def __post_init__(self) -> None:
        require_at_least("KnotIndex", 1, n=self.n)

    def __call__(self, sde: SDE, t: Array) -> Array:
        """Returns the index, of the shape of t."""
        del sde
        return jnp.maximum(self.n * t - 1, 0)


@dataclasses.dataclass(frozen=True)
class NoiseLevel:
    """σ(t)/α(t) itself: what score SDE's networks of continuous VE and EDM's denoisers take (Karras et al. 2022)."""

    def __call__(self, sde: SDE, t: Array) -> Array:
        """Returns the noise level, of the shape of t."""
        return sde.sigma(t) / sde.alpha(t)


@dataclasses.dataclass(frozen=True)
class LevelIndex:
    """The place of σ(t)/α(t) among L descending levels: 0 at the first, L − 1 at the last, linear in log σ between.

    Beyond either end it is that end.
    """

    sigmas: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.sigmas) < 2 or not self.sigmas[-1] > 0 or not (np.diff(self.sigmas) < 0).all():
            raise InputError("LevelIndex: sigmas must be two or more positive noise levels, the largest first")

    def __call__(self, sde: SDE, t: Array) -> Array:
        """Returns the index, of the shape of t."""
        quiet = 0.5 * sde.log_snr(t)  # −log σ/α
        places = -np.log(self.sigmas)
        return arrays.piecewise_linear(
            quiet, jnp.asarray(places, quiet.dtype), jnp.arange(len(places), dtype=quiet.dtype)
        )
