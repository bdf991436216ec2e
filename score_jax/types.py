"""Aliases and protocols shared by every module.

The score function `(x, t) -> score` is the common currency: networks, closed forms, energies and guided models
are all score functions; losses, samplers, likelihood and plots consume nothing else.

Symbols, everywhere: `x0` data, `x` or `xt` noised data `(B, *S)`, `t` time `()` or `(B,)`, `s < t` the time a
sampling step arrives at, `eps` standard normal noise, `alpha`, `sigma` with `x_t = alpha(t) x0 + sigma(t) eps`,
`F` the raw output of a network, `z` fresh noise or a probe, `B` batch, `D` number of dimensions.
"""

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

import jax
import numpy as np

Array: TypeAlias = jax.Array
ArrayLike: TypeAlias = jax.Array | np.ndarray | float | int
Key: TypeAlias = jax.Array  # typed PRNG key, shape () or (B,): see score_jax.arrays
PyTree: TypeAlias = Any

ScoreFn: TypeAlias = Callable[[Array, Array], Array]  # (x (B, *S), t () or (B,)) -> score (B, *S)
StaticScoreFn: TypeAlias = Callable[[Array], Array]  # x (B, *S) -> score (B, *S)


class Network(Protocol):
    """A network apart from its arrays, hashed and compared by value: see `score_jax.adapters`."""

    def __call__(self, variables: PyTree, x: Array, cond: Array, label: Array | None, key: Key | None, /) -> Array:
        """Returns the raw output F, `(B, *S)`, twice the channels where it has learned a variance.

        Args:
          variables: `{"params": ...}` and any collections that stay fixed, nested dicts of arrays.
          x: scaled noised data `(B, *S)`.
          cond: what it is told of the noise, `(B,)`.
          label: class labels `(B,)`, −1 for none; the context of `networks.Contextual`; or None.
          key: `(B,)`, one for each row: turns on training behaviour (dropout); or None.
        """

    def init(self, key: Key, x: Array, cond: Array, label: Array | None, /) -> PyTree:
        """Returns the variables at the start of training, for examples like these."""


class InputError(ValueError):
    """Something the user gave cannot be used.

    The message is one line: what was given, what was expected, how to mend it. The commands in `experiments/`
    print it without a traceback; anything else that is raised is a defect of this package.
    """


def require_positive(owner: str, **values: ArrayLike) -> None:
    """Raises InputError for a concrete Python number that is not positive; arrays and tracers pass."""
    for name, value in values.items():
        if isinstance(value, int | float | np.floating) and not value > 0:
            raise InputError(f"{owner}: {name} must be positive, got {value}")


def is_on(value: ArrayLike) -> bool:
    """Whether what a number turns off at 0 is on; it is of a traced number, which stands for others than 0."""
    return isinstance(value, jax.core.Tracer) or bool(value)


def require_at_least(owner: str, low: int, /, **values: ArrayLike) -> None:
    """Raises InputError for a concrete Python number below `low`; arrays and tracers pass."""
    for name, value in values.items():
        if isinstance(value, int | float | np.floating) and not value >= low:
            raise InputError(f"{owner}: {name} must be at least {low}, got {value}")


def require_range(owner: str, low_name: str, low: ArrayLike, high_name: str, high: ArrayLike) -> None:
    """Raises InputError unless 0 < low < high; only concrete Python numbers are compared."""
    require_positive(owner, **{low_name: low, high_name: high})
    if isinstance(high, int | float | np.floating) and not high < np.inf:
        raise InputError(f"{owner}: {high_name} must be finite, got {high}")
    if isinstance(low, int | float) and isinstance(high, int | float) and not low < high:
        raise InputError(f"{owner}: {low_name} must be below {high_name}, got {low} and {high}")
