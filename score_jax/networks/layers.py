"""Layers that several networks share: changes of resolution for any spatial size, self-attention, initializers.

Sizes halve to ⌈n/2⌉ on the way down, with the last row and column repeated where n is odd, and double on the way up,
cut to the size that the skip connection has. So 7 → 4 → 2 → 1 → 2 → 4 → 7 and no size needs padding by the user.
Both directions are reshapes and means: their gradients are too, where gathers would scatter.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.typing import Dtype, Initializer

from score_jax.networks.attention import attend
from score_jax.networks.norms import GroupNorm
from score_jax.types import Array, InputError


def require_images(x: Array, network: str) -> None:
    """Raises `InputError` unless `x` is `(B, H, W, C)`."""
    if x.ndim != 4:
        raise InputError(f"{network} takes images (B, H, W, C), got shape {x.shape}; use MLP for vectors")


def attended_levels(attention: tuple[int, ...], levels: int) -> set[int]:
    """Returns which of the levels 0 to `levels` − 1 have attention; negative ones count from the coarsest.

    Raises:
      InputError: for a level that does not exist.
    """
    if any(not -levels <= level < levels for level in attention):
        raise InputError(f"attention={attention} names a level that does not exist; there are {levels}, from 0")
    return {level % levels for level in attention}


def even(x: Array) -> Array:
    """Repeats the last row and column of `(B, H, W, C)` where H or W is odd."""
    height, width = x.shape[1:3]
    return jnp.pad(x, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge") if height % 2 or width % 2 else x


def downsample(x: Array) -> Array:
    """Takes means of 2×2 pixels: `(B, H, W, C) -> (B, ⌈H/2⌉, ⌈W/2⌉, C)`."""
    batch, height, width, channels = x.shape
    x = even(x)
    return x.reshape(batch, -(-height // 2), 2, -(-width // 2), 2, channels).mean((2, 4))


def upsample(x: Array, like: Array) -> Array:
    """Repeats every pixel 2×2 and cuts to the size of `like`: the adjoint of `downsample`, times 4, at even sizes."""
    batch, height, width, channels = x.shape
    x = jnp.broadcast_to(x[:, :, None, :, None], (batch, height, 2, width, 2, channels))
    return x.reshape(batch, 2 * height, 2 * width, channels)[:, : like.shape[1], : like.shape[2]]


def resize_aligned(x: Array, like: Array) -> Array:
    """Resizes `x` to the size of `like`, bilinearly with aligned corners: pixel i of n reads from i (H − 1)/(n − 1).

    Separable, as two products with constant interpolation matrices. `jax.image.resize` aligns pixel edges instead.
    """
    rows, columns = (_interpolation(x.shape[i], like.shape[i]).astype(x.dtype) for i in (1, 2))
    if rows.shape[0] != rows.shape[1]:
        x = jnp.einsum("ih,bhwc->biwc", rows, x, precision=jax.lax.Precision.HIGHEST)
    if columns.shape[0] != columns.shape[1]:
        x = jnp.einsum("jw,bhwc->bhjc", columns, x, precision=jax.lax.Precision.HIGHEST)
    return x


def _interpolation(old: int, new: int) -> np.ndarray:
    """Returns the `(new, old)` matrix of linear interpolation with aligned corners."""
    positions = np.linspace(0, old - 1, new) if new > 1 else np.zeros(1)
    return np.maximum(0, 1 - np.abs(positions[:, None] - np.arange(old)[None]))


def fan_in_uniform(fan_in: int) -> Initializer:
    """Returns the initializer U(±1/√fan_in), PyTorch's default for weights and biases of linear maps."""
    bound = fan_in**-0.5
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(key, shape, dtype, -bound, bound)


class SelfAttention(nn.Module):
    """Residual self-attention between pixels, `(x + W softmax(q kᵀ/√d) v)/√2`, one head per 64 channels.

    Attributes:
      dtype: of the computation.
      implementation: of `attention.attend`.
    """

    dtype: Dtype | None = None
    implementation: str = "xla"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps `(B, H, W, C)` to the same shape; the softmax is float32 or wider."""
        batch, channels = x.shape[0], x.shape[-1]
        heads = max(h for h in range(1, max(1, channels // 64) + 1) if channels % h == 0)
        # No bias: the softmax over keys cannot see a key's, and those of queries and values come with the norm's.
        project = nn.Dense(3 * channels, use_bias=False, dtype=self.dtype, name="qkv")
        qkv = project(GroupNorm(self.dtype, name="norm")(x))
        q, k, v = jnp.moveaxis(qkv.reshape(batch, -1, 3, heads, channels // heads), 2, 0)
        mixed = attend(q, k, v, self.implementation).reshape(x.shape)
        return (x + nn.Dense(channels, dtype=self.dtype, name="out")(mixed)) * 0.5**0.5
