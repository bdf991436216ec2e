"""Layers that several networks share: changes of resolution for any spatial size, self-attention, initializers.

Space has any number of axes: sequences, images, volumes. Sizes halve to ⌈n/2⌉ on the way down, with the last place
(row, column) repeated where n is odd, and double on the way up, cut to the size that the skip connection has. So
7 → 4 → 2 → 1 → 2 → 4 → 7 and no size needs padding by the user. Both directions are reshapes and means: their gradients
are too, where gathers would scatter.
"""

import itertools
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.typing import Dtype, Initializer

from score_jax.networks.attention import attend
from score_jax.networks.norms import GroupNorm
from score_jax.types import Array, InputError


def require_space(x: Array, network: str) -> None:
    """Raises `InputError` unless `x` has one, two or three axes of space between examples and channels."""
    if x.ndim not in (3, 4, 5):
        raise InputError(
            f"{network} takes sequences (L, C), images (H, W, C) or volumes (H, W, D, C), got {x.shape[1:]}, take mlp"
        )


def require_images(x: Array, network: str) -> None:
    """Raises `InputError` unless `x` is `(B, H, W, C)`."""
    if x.ndim != 4:
        raise InputError(f"{network} takes images (B, H, W, C), got shape {x.shape}; use MLP for vectors")


def attended_resolutions(attention: tuple[int, ...], n: int) -> set[int]:
    """Returns which of the resolutions 0 to n − 1 have attention; negative ones count from the coarsest.

    Raises:
      InputError: for a resolution that does not exist.
    """
    if any(not -n <= resolution < n for resolution in attention):
        raise InputError(f"attention={attention} names a resolution that does not exist; there are {n}, from 0")
    return {resolution % n for resolution in attention}


def even(x: Array) -> Array:
    """Repeats the last place along every axis of space, of `(B, *space, C)`, that has an odd number of them."""
    odd = [size % 2 for size in x.shape[1:-1]]
    return jnp.pad(x, ((0, 0), *((0, more) for more in odd), (0, 0)), mode="edge") if any(odd) else x


def downsample(x: Array) -> Array:
    """Takes means of pairs along every axis of space, 2×2 pixels: `(B, H, W, C) -> (B, ⌈H/2⌉, ⌈W/2⌉, C)`."""
    x = even(x)
    return x.reshape(_in_pairs(x, [size // 2 for size in x.shape[1:-1]])).mean(_pairs(x))


def upsample(x: Array, like: Array) -> Array:
    """Repeats every place twice along every axis of space and cuts to the size of `like`.

    The adjoint of `downsample` at even sizes, times 2 for each axis.
    """
    size = x.shape[1:-1]
    repeated = jnp.broadcast_to(jnp.expand_dims(x, _pairs(x)), _in_pairs(x, size))
    doubled = repeated.reshape((len(x), *(2 * n for n in size), x.shape[-1]))
    return doubled[(slice(None), *(slice(n) for n in like.shape[1:-1]))]


def to_patches(x: Array, size: int) -> Array:
    """Moves patches of `size` along every axis of space into channels: `(B, H, W, C) -> (B, ⌈H/p⌉, ⌈W/p⌉, p² C)`.

    The last place is repeated where patches don't fit.
    """
    missing = [-places % size for places in x.shape[1:-1]]
    x = jnp.pad(x, ((0, 0), *((0, more) for more in missing), (0, 0)), mode="edge") if any(missing) else x
    counts = [places // size for places in x.shape[1:-1]]
    whole, inside = _axes_of_patches(len(counts))
    cut = x.reshape((len(x), *itertools.chain.from_iterable((n, size) for n in counts), x.shape[-1]))
    return cut.transpose((0, *whole, *inside, cut.ndim - 1)).reshape((len(x), *counts, -1))


def from_patches(x: Array, like: Array, size: int) -> Array:
    """The inverse of `to_patches`, cut to the size of `like`."""
    counts, (whole, inside) = x.shape[1:-1], _axes_of_patches(x.ndim - 2)
    cut = x.reshape((len(x), *counts, *(size for _ in counts), -1))
    order = np.argsort((0, *whole, *inside, cut.ndim - 1))
    joined = cut.transpose(order).reshape((len(x), *(n * size for n in counts), -1))
    return joined[(slice(None), *(slice(n) for n in like.shape[1:-1]))]


def _axes_of_patches(space: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The axes that count patches and those within one, of `(B, n, p, …, C)`."""
    return tuple(range(1, 2 * space, 2)), tuple(range(2, 2 * space + 1, 2))


def _in_pairs(x: Array, size: Sequence[int]) -> tuple[int, ...]:
    """The shape `(B, n, 2, …, C)` of `size` pairs along each axis of space."""
    return (len(x), *itertools.chain.from_iterable((n, 2) for n in size), x.shape[-1])


def _pairs(x: Array) -> tuple[int, ...]:
    """The axes of length 2 of `_in_pairs`."""
    return tuple(range(2, 2 * x.ndim - 3, 2))


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
    """Residual self-attention between all places, `(x + W softmax(q kᵀ/√d) v)/√2`, one head per 64 channels.

    Attributes:
      dtype: of the computation.
      implementation: of `attention.attend`.
    """

    dtype: Dtype | None = None
    implementation: str = "xla"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps `(B, *space, C)` to the same shape; the softmax is float32 or wider."""
        batch, channels = x.shape[0], x.shape[-1]
        heads = max(h for h in range(1, max(1, channels // 64) + 1) if channels % h == 0)
        # No bias: the softmax over keys cannot see a key's, and those of queries and values come with the norm's.
        project = nn.Dense(3 * channels, use_bias=False, dtype=self.dtype, name="qkv")
        qkv = project(GroupNorm(self.dtype, name="norm")(x))
        q, k, v = jnp.moveaxis(qkv.reshape(batch, -1, 3, heads, channels // heads), 2, 0)
        mixed = attend(q, k, v, self.implementation).reshape(x.shape)
        return (x + nn.Dense(channels, dtype=self.dtype, name="out")(mixed)) * 0.5**0.5
