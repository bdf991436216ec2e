"""What networks that were trained elsewhere are made of, and what they tell: features of images, and classes.

    ConvNorm    h = relu(γ (W * x − μ)/√(v + ε) + β)

is a convolution without bias and the batch normalization behind it as it is after training: μ and v are those of the
training set and stay in the collection "fixed", so that examples never see each other. Its arrays are read from a
file: they start as zeros. Products are float32 on any device: these are instruments of measurement.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from score_jax.types import Array, InputError


class FeatureOutputs(NamedTuple):
    """What a network says of images: `features` (B, F), and `logits` (B, K) of its classes."""

    features: Array
    logits: Array


class ConvNorm(nn.Module):
    """A convolution, batch normalization with fixed statistics, an activation: `(B, H, W, C) -> (B, H', W', F)`.

    Attributes:
      features: F.
      kernel: height and width.
      stride: along both.
      padding: "SAME", "VALID", or what `jax.lax.conv_general_dilated` takes.
      depthwise: every channel is convolved by itself, F = C, padded "SAME".
      activation: behind the norm; None for none.
      epsilon: ε.
    """

    features: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    padding: str | tuple[tuple[int, int], ...] = "SAME"
    depthwise: bool = False
    activation: Callable[[Array], Array] | None = nn.relu
    epsilon: float = 1e-3

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Returns the activations of `x`."""
        shape = (*self.kernel, 1 if self.depthwise else x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.zeros, shape, jnp.float32)
        gamma = self.param("scale", nn.initializers.ones, (self.features,), jnp.float32)
        beta = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        mean = self.variable("fixed", "mean", jnp.zeros, (self.features,), jnp.float32).value
        variance = self.variable("fixed", "var", jnp.ones, (self.features,), jnp.float32).value
        h = _depthwise(x, kernel, self.stride) if self.depthwise else self._convolved(x, kernel)
        gain = gamma * jax.lax.rsqrt(variance + self.epsilon)
        h = h * _last(gain, h) + _last(beta - mean * gain, h)
        return h if self.activation is None else self.activation(h)

    def _convolved(self, x: Array, kernel: Array) -> Array:
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            (self.stride, self.stride),
            self.padding,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision=jax.lax.Precision.HIGHEST,
        )


def _depthwise(x: Array, kernel: Array, stride: int) -> Array:
    """Convolves every channel by itself, place by place of the kernel: on CPUs 4 to 18 times as fast as XLA's."""
    sides = [-(-n // stride) for n in x.shape[1:3]]
    missing = [
        max((n - 1) * stride + k - old, 0) for n, k, old in zip(sides, kernel.shape[:2], x.shape[1:3], strict=True)
    ]
    x = jnp.pad(x, ((0, 0), *((n // 2, n - n // 2) for n in missing), (0, 0)))

    def seen(start: int, n: int) -> slice:
        return slice(start, start + (n - 1) * stride + 1, stride)

    places = np.ndindex(*kernel.shape[:2])
    parts = (x[:, seen(i, sides[0]), seen(j, sides[1])] * _last(kernel[i, j, 0], x) for i, j in places)
    return functools.reduce(jnp.add, parts)


def _last(vector: Array, like: Array) -> Array:
    """Shapes `(F,)` to broadcast along the last axis."""
    return vector.reshape((1,) * (like.ndim - 1) + vector.shape)


def require_colour(x: Array, network: str) -> None:
    """Raises `InputError` unless `x` is `(B, H, W, 3)`."""
    if x.ndim != 4 or x.shape[-1] != 3:
        raise InputError(f"{network} takes images (B, H, W, 3), got shape {x.shape}; repeat the channel of grey ones")
