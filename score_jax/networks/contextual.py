"""A network that is told numbers of each example: scores of p(x | y) for an observation, a parameter or an image y.

    F(x, c; y) = the part of x in backbone([x, y], c)

y goes in beside x, along the last axis: for vectors whatever their lengths, for images as further channels (Saharia et
al. 2022). Nothing else changes: x alone is noised, so that denoising score matching on pairs (x, y) has the conditional
score ∇_x log p_t(x | y) for its minimiser. For classes networks have an embedding of their own, `LabelEmbedding`.
"""

import flax.linen as nn
import jax.numpy as jnp

from score_jax.types import Array, InputError


class Contextual(nn.Module):
    """Wraps a backbone `(x, cond, label) -> (B, *S)` so that its label is a context `(B, …, C)` that it sees beside x.

    A score model of it takes the context where others take classes: `model.conditioned(label=y)`. It should be of a
    size about 1, since the input's scale c_in is for x alone.
    """

    backbone: nn.Module

    def __call__(self, x: Array, cond: Array, label: Array | None = None, *, train: bool = False) -> Array:
        """Returns F with the shape of `x`.

        Args:
          x: scaled noised data `(B, …, C_x)`.
          cond: what it is told of the noise, `(B,)`.
          label: the context, of the shape of x but for its last axis.
          train: turns on dropout.

        Raises:
          InputError: without a context, or for one of another shape.
        """
        if label is None or jnp.shape(label)[:-1] != x.shape[:-1]:
            found = "none" if label is None else jnp.shape(label)
            raise InputError(
                f"Contextual needs a context {(*x.shape[:-1], 'C')} beside x {x.shape}, given as label, got {found}"
            )
        both = jnp.concatenate([x, label.astype(x.dtype)], axis=-1)
        return self.backbone(both, cond, None, train=train)[..., : x.shape[-1]]
