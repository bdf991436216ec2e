"""From grey levels to real numbers and back: dequantisation, flips, value range. Runs on device, per example.

A uint8 image is a rounded measurement; a density fitted to the bare lattice can be made as high as one likes. Uniform
dequantisation (Theis et al. 2016) spreads each of the L grey levels over its own cell,

    y = (x + u) / L,    u ~ U[0, 1),    y in [0, 1),

so that floor(L·y) is x again and a density of y bounds a probability of x. Without it y = x / (L - 1).

Every random choice takes a key `()` or `(B,)` (see `arrays`): row i depends on its own key alone.
"""

import jax
import jax.numpy as jnp
import numpy as np

from score_jax.arrays import draw, example_keys, split
from score_jax.types import Array, InputError, Key


def uniform_dequantization(key: Key, x: Array, *, grey_levels: int = 256) -> Array:
    """Returns `(x + u) / grey_levels` in [0, 1), float32, with u uniform.

    u takes the 2¹⁵ values (j + ½)/2¹⁵: its mean is exactly ½ and x + u is exact in float32, where a full-precision u
    would round 255 + u up to 256 once in 2¹⁷ pixels. So `floor(y · grey_levels)` is x without exception.

    Args:
      key: `()` or `(B,)`.
      x: `(B, *S)` integers in [0, grey_levels).
      grey_levels: their number, 2 to 256.
    """
    _check_grey_levels(x, grey_levels)
    bits = draw(jax.random.bits, key, x.shape, jnp.uint32) >> 17
    u = (bits.astype(jnp.float32) + 0.5) / 2**15
    return (x.astype(jnp.float32) + u) / grey_levels


def scale(x: Array, *, grey_levels: int = 256) -> Array:
    """Returns `x / (grey_levels - 1)` in [0, 1], float32: no dequantisation."""
    _check_grey_levels(x, grey_levels)
    return x.astype(jnp.float32) / (grey_levels - 1)


def random_flip(key: Key, x: Array) -> Array:
    """Mirrors each image of `x` `(B, H, W, C)` left to right with probability ½; key `()` or `(B,)`."""
    if x.ndim != 4:
        raise InputError(f"flips need images of shape (B, H, W, C), got {x.shape}: switch flips off for this data")
    flip = jax.vmap(jax.random.bernoulli)(example_keys(key, x.shape[0]))
    return jnp.where(flip[:, None, None, None], x[:, :, ::-1], x)


def to_range(x: Array, low: float = -1.0, high: float = 1.0) -> Array:
    """Maps [0, 1] onto [low, high]."""
    _check_range(low, high)
    return x * (high - low) + low


def from_range(x: Array, low: float = -1.0, high: float = 1.0) -> Array:
    """Maps [low, high] onto [0, 1]; values outside stay outside."""
    _check_range(low, high)
    return (x - low) / (high - low)


def to_uint8(x: Array, low: float = -1.0, high: float = 1.0) -> np.ndarray:
    """Returns images of [low, high] as uint8 to show or save; values outside are clipped.

    `floor(256 y)` clipped to 255 undoes both `uniform_dequantization` and `scale` of 256-level images exactly.
    """
    y = np.floor(256 * np.asarray(from_range(x, low, high), np.float32))
    return np.clip(y, 0, 255).astype(np.uint8)


def prepare(
    key: Key,
    x: Array,
    *,
    grey_levels: int,
    dequantize: bool = True,
    flip: bool = False,
    value_range: tuple[float, float] = (-1.0, 1.0),
) -> Array:
    """Turns a batch as it comes from a source into what a network sees; called inside the train step.

    Integers are dequantised (or scaled), flipped and mapped onto `value_range`; floating-point data passes through.

    Args:
      key: `()` or `(B,)`; row i of the result depends on row i of `x` and its key alone.
      x: `(B, *S)` uint8 or floating point.
      grey_levels: the source's number of them.
      dequantize: spread each grey level over its cell; off gives `scale`.
      flip: mirror images left to right with probability ½.
      value_range: (low, high) of the result.
    """
    if jnp.issubdtype(x.dtype, jnp.floating):
        return x
    noise_key, flip_key = split(example_keys(key, x.shape[0]))
    if dequantize:
        y = uniform_dequantization(noise_key, x, grey_levels=grey_levels)
    else:
        y = scale(x, grey_levels=grey_levels)
    y = random_flip(flip_key, y) if flip else y
    return to_range(y, *value_range)


def _check_grey_levels(x: Array, grey_levels: int) -> None:
    if not jnp.issubdtype(x.dtype, jnp.integer):
        raise InputError(f"grey levels must be integers, got {x.dtype}: floating-point data needs no dequantisation")
    if not 2 <= grey_levels <= 256:
        raise InputError(f"grey_levels={grey_levels}; expected 2 to 256, the number of grey levels the source states")


def _check_range(low: float, high: float) -> None:
    if not low < high:
        raise InputError(f"value range ({low}, {high}); expected low < high, (-1, 1) for instance")
