"""EDM's augmentation of images, which a network is told of so that samples show none (Karras et al. 2022, F.2).

Each example is mirrored along either axis, scaled, rotated, stretched and shifted, each with a probability of its own,
and the network is given what was done, nine numbers, all 0 of an image that was left as it is, which is what samples
are drawn with:

    [mirrored x, mirrored y, s, cos θ − 1, sin θ, a cos φ, a sin φ, d_x, d_y]

    scale 2^(0.2 s); rotation by θ; stretch by 2^(0.2 a) along φ, by its inverse across; shift by (d_x W/8, d_y H/8)

with s, a, d ~ N(0, 1), θ and φ uniform, φ = 0 for half of them. As released, the image continues as its mirror image,
beyond which it is 0, and is transformed at twice the resolution between the low-pass filters of a symlet, so that
nothing is aliased: a linear map on each side of a bilinear interpolation. `affine` is exactly the released code's
wherever that pads an image as far as can be, which it does by the largest transformation of a batch: here rows don't
see each other, and all are padded so.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.ndimage import map_coordinates

from score_jax import arrays
from score_jax.types import Array, InputError, Key

TOLD = 9  # numbers of a transformation that a network is told

_SPREAD, _SHIFT = 0.2, 0.125  # binary logs of scale and stretch, and shares of the image: standard deviations
# The scaling filter of the symlet of six vanishing moments (Daubechies 1992, table 6.3)
_SYMLET = np.array([
    0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633, 0.4910559419267466,
    0.787641141030194, 0.3379294217276218, -0.07263752278646252, -0.021060292512300564, 0.04472490177066578,
    0.0017677118642428036, -0.007800708325034148,
])  # fmt: skip
_BORDER = len(_SYMLET) // 4  # pixels around the image that the filter on the way back reaches


class Transformation(NamedTuple):
    """What is done to each example, `(B,)`: 0 leaves it as it is. See the module's docstring for the units."""

    mirror_x: Array
    mirror_y: Array
    scale: Array
    angle: Array
    stretch: Array
    stretch_angle: Array
    shift_x: Array
    shift_y: Array

    def told(self) -> Array:
        """Returns the numbers that a network is told, `(B, 9)`."""
        numbers = (
            self.mirror_x,
            self.mirror_y,
            self.scale,
            jnp.cos(self.angle) - 1,
            jnp.sin(self.angle),
            self.stretch * jnp.cos(self.stretch_angle),
            self.stretch * jnp.sin(self.stretch_angle),
            self.shift_x,
            self.shift_y,
        )
        return jnp.stack(numbers, axis=-1)


def draw_transformations(key: Key, n: int, *, probability: float) -> Transformation:
    """Draws n transformations; the horizontal mirror is that of half of them, whatever the probability.

    Args:
      key: `()` or `(n,)`.
      n: number of examples.
      probability: of each of the other five; published are 0.12 on CIFAR-10 and 0.15 on faces.
    """

    def one(key: Key) -> Transformation:
        keys = iter(jax.random.split(key, 14))
        coin = lambda: jax.random.bernoulli(next(keys)).astype(jnp.float32)
        normal = lambda: jax.random.normal(next(keys))
        turn = lambda: jax.random.uniform(next(keys), minval=-jnp.pi, maxval=jnp.pi)
        done = lambda: (jax.random.uniform(next(keys)) < probability).astype(jnp.float32)
        shifted = done()
        return Transformation(
            coin(), done() * coin(), done() * normal(), done() * turn(), done() * normal(), coin() * turn(),
            shifted * normal(), shifted * normal(),
        )  # fmt: skip

    return jax.vmap(one)(arrays.example_keys(key, n))


def affine(x: Array, how: Transformation) -> Array:
    """Returns images `(B, H, W, C)` transformed as `how` says, mirrors first.

    Raises:
      InputError: of anything but images of 4×4 pixels or more, which is as far as the filters reach.
    """
    if x.ndim != 4 or min(x.shape[1:3]) < 4:
        raise InputError(
            f"augmentation is of images (B, H, W, C) of 4×4 pixels or more, got shape {x.shape}: set "
            "--config.data.augment=0"
        )
    height, width = x.shape[1:3]
    mirrored = jnp.where(arrays.expand_right(how.mirror_x, x) > 0, x[:, :, ::-1], x)
    mirrored = jnp.where(arrays.expand_right(how.mirror_y, x) > 0, mirrored[:, ::-1], mirrored)
    fine = _along_both(_finer(height), _finer(width), mirrored)
    moved = jax.vmap(_interpolated)(fine, _places(how, height, width))
    return _along_both(_coarser(height), _coarser(width), moved).astype(x.dtype)


def augment(key: Key, x: Array, *, probability: float) -> tuple[Array, Array]:
    """Returns images transformed at random, and the numbers `(B, 9)` that the network is told.

    Args:
      key: `()` or `(B,)`; row i of the results depends on row i of `x` and its key alone.
      x: `(B, H, W, C)`.
      probability: see `draw_transformations`.

    Raises:
      InputError: of anything but images.
    """
    how = draw_transformations(key, len(x), probability=probability)
    return affine(x, how), how.told()


def _finer(n: int) -> np.ndarray:
    """The matrix `(2(3n − 2), n)` that continues n numbers by their mirror image and doubles their resolution."""
    continued = np.pad(np.eye(n), ((n - 1, n - 1), (0, 0)), mode="reflect")
    # Number i is at place 2i, with zeros between, under the filter's tap 5
    taps = np.arange(2 * len(continued))[:, None] - 2 * np.arange(len(continued)) + len(_SYMLET) // 2 - 1
    return _filtered(taps) @ continued


def _coarser(n: int) -> np.ndarray:
    """The matrix `(n, 2(n + 2·3))` that filters and halves the resolution again, and cuts the border off."""
    taps = np.arange(2 * (n + 2 * _BORDER)) - 2 * (np.arange(n)[:, None] + _BORDER) + (len(_SYMLET) - 1) // 2
    return _filtered(taps)


def _filtered(taps: np.ndarray) -> np.ndarray:
    return np.where((taps >= 0) & (taps < len(_SYMLET)), _SYMLET[taps.clip(0, len(_SYMLET) - 1)], 0.0)


def _along_both(rows: np.ndarray, columns: np.ndarray, x: Array) -> Array:
    precise = jax.lax.Precision.HIGHEST
    over = lambda equation, matrix, x: jnp.einsum(equation, jnp.asarray(matrix, x.dtype), x, precision=precise)
    return over("jw,bhwc->bhjc", columns, over("ih,bhwc->biwc", rows, x))


def _places(how: Transformation, height: int, width: int) -> Array:
    """Where the output's places, at twice the resolution, come from: rows and columns `(B, 2, 2(H + 6), 2(W + 6))`."""
    centred = lambda n: jnp.arange(2 * (n + 2 * _BORDER)) - (2 * (n + 2 * _BORDER) - 1) / 2
    fine = jnp.stack(jnp.meshgrid(centred(height), centred(width), indexing="ij"))
    # A finer place lies half of its width from its pixel's centre.
    x, y = (fine[1] + 0.5) / 2, (fine[0] + 0.5) / 2
    g = jax.vmap(lambda how: _inverse(how, height, width))(how)
    back = jnp.einsum("bij,jhw->bihw", g, jnp.stack([x, y, jnp.ones_like(x)]), precision=jax.lax.Precision.HIGHEST)
    middle = lambda n: (2 * (3 * n - 2) - 1) / 2
    return jnp.stack([2 * back[:, 1] - 0.5 + middle(height), 2 * back[:, 0] - 0.5 + middle(width)], axis=1)


def _inverse(how: Transformation, height: int, width: int) -> Array:
    """The matrix `(3, 3)` from a place (x, y, 1) of the result, in pixels from the centre, to where it comes from."""

    def linear(a, b, c, d):
        return jnp.array([[a, b, 0.0], [c, d, 0.0], [0.0, 0.0, 1.0]])

    def rotation(angle):
        return linear(jnp.cos(angle), -jnp.sin(angle), jnp.sin(angle), jnp.cos(angle))

    def scaling(x, y):
        return linear(1 / x, 0.0, 0.0, 1 / y)

    size, longer = jnp.exp2(_SPREAD * how.scale), jnp.exp2(_SPREAD * how.stretch)
    shift = jnp.eye(3).at[0, 2].set(-_SHIFT * width * how.shift_x).at[1, 2].set(-_SHIFT * height * how.shift_y)
    turned = rotation(-how.stretch_angle) @ scaling(longer, 1 / longer) @ rotation(how.stretch_angle)
    with jax.default_matmul_precision("float32"):
        return scaling(size, size) @ rotation(how.angle) @ turned @ shift


def _interpolated(image: Array, places: Array) -> Array:
    """Bilinearly, 0 beyond: `(H, W, C)` at rows and columns `(2, h, w)`."""
    channel = lambda one: map_coordinates(one, [places[0], places[1]], order=1, mode="constant")
    return jax.vmap(channel, in_axes=-1, out_axes=-1)(image)
