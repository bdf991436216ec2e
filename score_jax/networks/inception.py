"""InceptionV3 as the Fréchet inception distance has it: the network of the file `inception-2015-12-05`.

It is TensorFlow's of 2015, with 1,008 classes, and differs from today's InceptionV3 (torchvision) in what FID depends
on:

    images are resized to 299×299 by TensorFlow 1's bilinear rule, pixel i of n reading from i·H/n: no half-pixel
    centres, no antialias; and scaled to (x − 128)/128
    average pools divide by the pixels that there are, not by those of the padding
    the last block has a maximum pool where its paper has an average pool

Layers have the names of the published state dict (`pt_inception-2015-12-05-6726825d.pth`). Szegedy et al. 2016;
Heusel et al. 2017 (FID); the PyTorch port is pytorch-fid's.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from score_jax.networks.frozen import ConvNorm, FeatureOutputs, require_colour
from score_jax.types import Array

_SIZE = 299
_Valid = partial(ConvNorm, padding="VALID")


class InceptionV3(nn.Module):
    """InceptionV3 of FID: `(x (B, H, W, 3) of 0 … 255, uint8 or float) -> FeatureOutputs((B, 2048), (B, 1008))`.

    The logits are without the bias of the last layer, as the released inception score takes them. Means over space of
    earlier layers, 64, 192 and 768 channels, are sown in "intermediates" as `width_64`, `width_192` and
    `width_768`.
    """

    @nn.compact
    def __call__(self, x: Array) -> FeatureOutputs:
        """Returns features and logits of images of any size."""
        require_colour(x, "InceptionV3")
        h = (resize_tensorflow1(x, _SIZE) - 128) / 128
        h = _Valid(32, (3, 3), 2, name="Conv2d_1a_3x3")(h)
        h = _Valid(32, (3, 3), name="Conv2d_2a_3x3")(h)
        h = ConvNorm(64, (3, 3), name="Conv2d_2b_3x3")(h)
        h = self._told("width_64", _halved(h))
        h = _Valid(80, name="Conv2d_3b_1x1")(h)
        h = _Valid(192, (3, 3), name="Conv2d_4a_3x3")(h)
        h = self._told("width_192", _halved(h))
        h = _MixedA(32, name="Mixed_5b")(h)
        h = _MixedA(64, name="Mixed_5c")(h)
        h = _MixedA(64, name="Mixed_5d")(h)
        h = _MixedB(name="Mixed_6a")(h)
        h = _MixedC(128, name="Mixed_6b")(h)
        h = _MixedC(160, name="Mixed_6c")(h)
        h = _MixedC(160, name="Mixed_6d")(h)
        h = self._told("width_768", _MixedC(192, name="Mixed_6e")(h))
        h = _MixedD(name="Mixed_7a")(h)
        h = _MixedE(_averaged, name="Mixed_7b")(h)
        h = _MixedE(_greatest, name="Mixed_7c")(h)
        features = h.mean((1, 2))
        return FeatureOutputs(features, _Classes(name="fc")(features))

    def _told(self, name: str, h: Array) -> Array:
        self.sow("intermediates", name, h.mean((1, 2)))
        return h


def resize_tensorflow1(x: Array, size: int) -> Array:
    """Resizes `x` `(B, H, W, C)` to `size`×`size` as `tf.image.resize_bilinear` of TensorFlow 1 does; float32.

    Pixel i lies at i·H/size, between the pixels ⌊i·H/size⌋ and the next, or the last; rows and columns alike. Products
    and sums are in the order of TensorFlow's kernel.
    """
    x = x.astype(jnp.float32)
    for axis in (2, 1):
        low, high, share = _between(x.shape[axis], size)
        a, b = jnp.take(x, low, axis), jnp.take(x, high, axis)
        x = a + (b - a) * share.reshape([-1 if i == axis else 1 for i in range(4)])
    return x


def _between(old: int, new: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The pixel before, the pixel after, and how far it is from the one before, of each of `new` out of `old`."""
    place = np.arange(new, dtype=np.float32) * np.float32(old / new)
    low = place.astype(np.int32)
    return low, np.minimum(low + 1, old - 1), place - low.astype(np.float32)


def _halved(x: Array) -> Array:
    return nn.max_pool(x, (3, 3), (2, 2))


def _greatest(x: Array) -> Array:
    return nn.max_pool(x, (3, 3), padding="SAME")


def _averaged(x: Array) -> Array:
    return nn.avg_pool(x, (3, 3), padding="SAME", count_include_pad=False)


class _Classes(nn.Module):
    """The last layer, whose bias is read and not added."""

    @nn.compact
    def __call__(self, features: Array) -> Array:
        kernel = self.param("kernel", nn.initializers.zeros, (features.shape[-1], 1008), jnp.float32)
        self.param("bias", nn.initializers.zeros, (1008,), jnp.float32)
        return jnp.matmul(features, kernel, precision=jax.lax.Precision.HIGHEST)


def _in_turn(name: str, x: Array, *layers: tuple[Any, ...]) -> Array:
    """Applies the ConvNorms of these arguments one after the other, `name_1`, `name_2` and so on."""
    for i, layer in enumerate(layers, 1):
        x = ConvNorm(*layer, name=f"{name}_{i}")(x)
    return x


class _MixedA(nn.Module):
    """35×35: 1×1, 5×5, two 3×3 and a pool, whose channels differ."""

    pooled: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        return jnp.concatenate(
            [
                ConvNorm(64, name="branch1x1")(x),
                _in_turn("branch5x5", x, (48,), (64, (5, 5))),
                _in_turn("branch3x3dbl", x, (64,), (96, (3, 3)), (96, (3, 3))),
                ConvNorm(self.pooled, name="branch_pool")(_averaged(x)),
            ],
            -1,
        )


class _MixedB(nn.Module):
    """35×35 to 17×17."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        return jnp.concatenate(
            [
                _Valid(384, (3, 3), 2, name="branch3x3")(x),
                _in_turn("branch3x3dbl", x, (64,), (96, (3, 3)), (96, (3, 3), 2, "VALID")),
                _halved(x),
            ],
            -1,
        )


class _MixedC(nn.Module):
    """17×17: 7×7 as 1×7 and 7×1, once and twice; the channels between them differ."""

    width: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        c, row, column = self.width, (1, 7), (7, 1)
        return jnp.concatenate(
            [
                ConvNorm(192, name="branch1x1")(x),
                _in_turn("branch7x7", x, (c,), (c, row), (192, column)),
                _in_turn("branch7x7dbl", x, (c,), (c, column), (c, row), (c, column), (192, row)),
                ConvNorm(192, name="branch_pool")(_averaged(x)),
            ],
            -1,
        )


class _MixedD(nn.Module):
    """17×17 to 8×8."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        long = _in_turn("branch7x7x3", x, (192,), (192, (1, 7)), (192, (7, 1)), (192, (3, 3), 2, "VALID"))
        short = _in_turn("branch3x3", x, (192,), (320, (3, 3), 2, "VALID"))
        return jnp.concatenate([short, long, _halved(x)], -1)


class _MixedE(nn.Module):
    """8×8: 3×3 as 1×3 beside 3×1; the two blocks of this kind differ in their pool."""

    pool: Callable[[Array], Array]

    @nn.compact
    def __call__(self, x: Array) -> Array:
        b = ConvNorm(384, name="branch3x3_1")(x)
        c = ConvNorm(384, (3, 3), name="branch3x3dbl_2")(ConvNorm(448, name="branch3x3dbl_1")(x))
        return jnp.concatenate(
            [
                ConvNorm(320, name="branch1x1")(x),
                ConvNorm(384, (1, 3), name="branch3x3_2a")(b),
                ConvNorm(384, (3, 1), name="branch3x3_2b")(b),
                ConvNorm(384, (1, 3), name="branch3x3dbl_3a")(c),
                ConvNorm(384, (3, 1), name="branch3x3dbl_3b")(c),
                ConvNorm(192, name="branch_pool")(self.pool(x)),
            ],
            -1,
        )
