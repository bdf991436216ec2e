"""Changes of resolution by a low-pass filter (Karras et al. 2020, StyleGAN2; Song et al. 2021, NCSN++).

With taps f of sum one, convolved along rows and columns and zero beyond the borders,

    down(x)_i = Σ_j f_j x_{2i+j−p},        up(x) = 2f ∗ (x with a zero after every number), per axis.

Taps (1, 1) are 2×2 means and nearest neighbours; (1, 3, 3, 1), the published ones, alias less. A convolution that
changes the resolution filters first and then takes every second place, or takes every second place and then filters.
As in `layers`, sizes halve to ⌈n/2⌉, the last row and column repeated where n is odd.
"""

import jax
import jax.numpy as jnp
import numpy as np

from score_jax.networks.layers import even
from score_jax.types import Array


def filtered_downsample(x: Array, taps: tuple[float, ...]) -> Array:
    """Filters and takes every second place: `(B, H, W, C) -> (B, ⌈H/2⌉, ⌈W/2⌉, C)`."""
    excess = len(taps) - 2
    return _filter(even(x), taps, padding=((excess + 1) // 2, excess // 2), stride=2)


def filtered_upsample(x: Array, like: Array, taps: tuple[float, ...]) -> Array:
    """Spreads and filters, `(B, H, W, C) -> (B, 2H, 2W, C)`, and cuts to the size of `like`."""
    excess = len(taps) - 2
    padding = ((excess + 1) // 2 + 1, excess // 2 + 1)
    return _filter(x, taps, padding=padding, spread=2)[:, : like.shape[1], : like.shape[2]]


def before_strided(x: Array, taps: tuple[float, ...]) -> Array:
    """Filters what an unpadded 3×3 convolution of stride 2 then takes to `(B, ⌈H/2⌉, ⌈W/2⌉, …)`."""
    return _filter(even(x), taps, padding=((len(taps) + 1) // 2, len(taps) // 2))


def after_transposed(x: Array, like: Array, taps: tuple[float, ...]) -> Array:
    """Filters, with gain 4, what an unpadded transposed 3×3 convolution of stride 2 made, and cuts to `like`."""
    excess = len(taps) - 2
    padding = ((excess + 1) // 2, excess // 2)
    return 4 * _filter(x, taps, padding=padding)[:, : like.shape[1], : like.shape[2]]


def _filter(x: Array, taps: tuple[float, ...], *, padding: tuple[int, int], stride: int = 1, spread: int = 1) -> Array:
    """Inserts `spread − 1` zeros between numbers, pads with zeros, convolves, and takes every `stride`-th result."""
    weights = spread * np.flip(np.asarray(taps, np.float64)) / np.sum(taps)
    for axis in (1, 2):
        config = [(*padding, spread - 1) if i == axis else (0, 0, 0) for i in range(4)]
        padded = jax.lax.pad(x, jnp.zeros((), x.dtype), config)
        stop = padded.shape[axis] - len(taps) + 1
        terms = (jax.lax.slice_in_dim(padded, j, stop + j, stride, axis) * float(w) for j, w in enumerate(weights))
        x = sum(terms, start=jnp.zeros((), x.dtype))
    return x
