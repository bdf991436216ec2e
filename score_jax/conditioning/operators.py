"""What is observed of an example: linear maps A with y = A x (+ noise), and their adjoints.

An operator is called with a batch: `operator(x)` is A x for each row of x `(B, *S)`, `operator.adjoint(y)` is Aᵀ y.
"""

from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from score_jax.types import Array, ArrayLike, InputError


class Operator(Protocol):
    """A linear map of examples to observations, with its adjoint."""

    def __call__(self, x: Array, /) -> Array:
        """Returns A x of each row."""

    def adjoint(self, y: Array, /) -> Array:
        """Returns Aᵀ y of each row, of the shape of x."""


@struct.dataclass
class Mask:
    """A x = m·x: the elements where the mask is 1 (or True) are observed. A = Aᵀ = A²: y has the shape of x.

    What was not observed is never read: in y it may hold anything, NaN included.

    Args:
      mask: of an example's shape S, or `(B, *S)` for a mask of each example; 1 on an axis it doesn't depend on, as in
        (H, W, 1) for all channels.
    """

    mask: ArrayLike

    def __post_init__(self):
        mask = self.mask
        if isinstance(mask, np.ndarray | jax.Array) and not isinstance(mask, jax.core.Tracer):
            other = np.setdiff1d(mask, (0, 1))
            if other.size:
                raise InputError(f"Mask: 1 is observed and 0 is not, got {other[0]:g}: give mask > 0.5, for instance")

    def __call__(self, x: Array) -> Array:
        """Returns x where observed, 0 elsewhere."""
        mask = jnp.asarray(self.mask, bool)
        mask = mask[None] if mask.ndim == x.ndim - 1 else mask
        if mask.ndim != x.ndim or any(m not in (1, n) for m, n in zip(mask.shape, x.shape)):
            raise InputError(
                f"Mask: a mask of shape {jnp.shape(self.mask)} does not fit examples of shape {x.shape[1:]}: give it "
                f"that shape, with 1 on an axis it doesn't depend on, or a mask for each of the {len(x)} examples"
            )
        return jnp.where(mask, x, 0)

    adjoint = __call__
