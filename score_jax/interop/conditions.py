"""What published networks take for the noise level, in place of our log(σ/α): the `condition` of a `ScoreModel`.

They are compared and hashed by their numbers, so that a model built twice is one static argument of `jit`.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np

from score_jax.sde import SDE
from score_jax.types import Array, InputError


@dataclasses.dataclass(frozen=True)
class LevelIndex:
    """The place of σ(t)/α(t) among L descending levels: 0 at the first, L − 1 at the last, linear in log σ between.

    Beyond either end it is that end.
    """

    sigmas: tuple[float, ...]

    def __post_init__(self):
        if len(self.sigmas) < 2 or not self.sigmas[-1] > 0 or not (np.diff(self.sigmas) < 0).all():
            raise InputError("LevelIndex: sigmas must be two or more positive noise levels, the largest first")

    def __call__(self, sde: SDE, t: Array) -> Array:
        """Returns the index, of the shape of t."""
        quiet = 0.5 * sde.log_snr(t)  # −log σ/α
        places = -np.log(self.sigmas)
        return jnp.interp(quiet, jnp.asarray(places, quiet.dtype), jnp.arange(len(places), dtype=quiet.dtype))
