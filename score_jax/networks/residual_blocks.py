"""Parts of the published U-Nets: how they make their layers, residual blocks, attention and condition embeddings.

    block       h = conv_0(resample(swish(norm_0(x))));  h = norm_1(h + W e)  or  norm_1(h) (1 + a) + b,  (a, b) = W e
                x' = skip_scale (shortcut(resample(x)) + conv_1(dropout(swish(h))))
    attention   skip_scale (x + W softmax(q kᵀ/√d) v),  q, k, v affine in norm(x)

with e the embedding of noise and label. `conv_1`, and the last layer of attention, start at zero: every block is the
identity at first, up to its shortcut.
"""

import dataclasses
import re
from collections.abc import Callable
from typing import Any, TypeAlias

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype, Initializer

from score_jax.networks import fir, layers
from score_jax.networks.attention import attend
from score_jax.networks.convolution import Conv, conv_general_dilated
from score_jax.networks.embeddings import Told, at_least_float32, told_of
from score_jax.networks.norms import GroupNorm
from score_jax.types import Array, InputError

Taps: TypeAlias = tuple[float, ...] | None
Resample: TypeAlias = Callable[[Array], Array]
Initialization: TypeAlias = Callable[[float, int], tuple[Initializer, Initializer]]  # (scale, fan in) -> kernel, bias
zeros = nn.initializers.zeros


def fan_average(scale: float, fan_in: int) -> tuple[Initializer, Initializer]:
    """Initializes kernels by U(±√(6 scale/(fan in + fan out))) and biases by zero: DDPM, score SDE and SongUNet."""
    del fan_in
    return nn.initializers.variance_scaling(scale, "fan_avg", "uniform") if scale else zeros, zeros


def fan_in(scale: float, fan_in: int) -> tuple[Initializer, Initializer]:
    """Initializes kernels and biases by U(±1/√(fan in)), or by zero where the scale is zero: ADM as EDM trains it."""
    uniform = layers.fan_in_uniform(fan_in)
    return (uniform, uniform) if scale else (zeros, zeros)


@dataclasses.dataclass(frozen=True)
class Layers:
    """How a network makes its layers; each method adds one to the module in whose compact method it is called.

    Attributes:
      initialization: of kernel and bias.
      groups: most groups of a GroupNorm.
      group_channels: fewest channels of a group.
      epsilon: of GroupNorm.
      dtype: of the computation.
      stride_padding: of convolutions of stride 2 without a filter: "SAME", zeros behind where the size is even, or a
        number of zeros on either side.
      attention: implementation of `attention.attend`.
      groups_of: (regular expression, groups, group_channels) of the norms that have others than those above.
      place: the names of the layers that this one is inside of, a slash behind each.
    """

    initialization: Initialization
    groups: int
    group_channels: int
    epsilon: float
    dtype: Dtype | None
    stride_padding: str | int = "SAME"
    attention: str = "xla"
    groups_of: tuple[tuple[str, int, int], ...] = ()
    place: str = ""

    def inside(self, name: str) -> "Layers":
        """Returns how the layer of that name makes its own."""
        return dataclasses.replace(self, place=f"{self.place}{name}/")

    def conv(self, x: Array, features: int, name: str, *, size: int = 3, scale: float = 1.0, **options: Any) -> Array:
        """Convolves `(B, H, W, C)`; `options` are those of `Conv`."""
        kernel_init, bias_init = self.initialization(scale, size * size * x.shape[-1])
        return Conv(
            features, (size, size), dtype=self.dtype, kernel_init=kernel_init, bias_init=bias_init, name=name, **options
        )(x)

    def dense(self, x: Array, features: int, name: str, *, scale: float = 1.0, use_bias: bool = True) -> Array:
        """Maps the last axis to `features` numbers."""
        kernel_init, bias_init = self.initialization(scale, x.shape[-1])
        dense = nn.Dense(features, use_bias, self.dtype, kernel_init=kernel_init, bias_init=bias_init, name=name)
        return dense(x)

    def norm(self, name: str) -> GroupNorm:
        """Returns a GroupNorm."""
        exceptions = ((n, c) for form, n, c in self.groups_of if re.fullmatch(form, self.place + name))
        groups = next(exceptions, (self.groups, self.group_channels))
        return GroupNorm(self.dtype, *groups, self.epsilon, name=name)

    def conv_down(self, x: Array, features: int, name: str, taps: Taps) -> Array:
        """Convolves with stride 2, after the low-pass filter if there are taps: `(B, ⌈H/2⌉, ⌈W/2⌉, features)`."""
        if taps is None:
            return self.conv(x, features, name, strides=2, padding=self.stride_padding)
        return self.conv(fir.before_strided(x, taps), features, name, strides=2, padding="VALID")

    def conv_up(self, x: Array, like: Array, features: int, name: str, taps: Taps) -> Array:
        """Repeats pixels and convolves or, with taps, convolves transposed and filters: to the size of `like`."""
        if taps is None:
            return self.conv(layers.upsample(x, like), features, name)
        initializers = self.initialization(1.0, 9 * x.shape[-1])
        return FilteredTransposedConv(features, taps, initializers, self.dtype, name=name)(x, like)


class FilteredTransposedConv(nn.Module):
    """`bias + 4f ∗ (x, a zero after every number, correlated with the kernel)`, 3×3, to the size of `like`."""

    features: int
    taps: tuple[float, ...]
    initializers: tuple[Initializer, Initializer]
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: Array, like: Array) -> Array:
        kernel_init, bias_init = self.initializers
        kernel = self.param("kernel", kernel_init, (3, 3, x.shape[-1], self.features), jnp.float32)
        bias = self.param("bias", bias_init, (self.features,), jnp.float32)
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        h = conv_general_dilated(x, kernel, (1, 1), [(2, 2)] * 2, lhs_dilation=(2, 2))
        return fir.after_transposed(h, like, self.taps) + jnp.expand_dims(bias, (0, 1, 2))


def resample_down(x: Array, taps: Taps) -> Array:
    """Halves the resolution by the low-pass filter, or by 2×2 means."""
    return layers.downsample(x) if taps is None else fir.filtered_downsample(x, taps)


def resample_up(x: Array, like: Array, taps: Taps) -> Array:
    """Doubles the resolution, to the size of `like`, by the low-pass filter or by repeating pixels."""
    return layers.upsample(x, like) if taps is None else fir.filtered_upsample(x, like, taps)


class ResidualBlock(nn.Module):
    """A residual block, and attention after it where asked for; the equations are above.

    Attributes:
      layers: how layers are made.
      features: of the output.
      modulation: how the embedding enters, "shift" or "scale_shift".
      skip_scale: factor of residual sums.
      dropout: rate before `conv_1`.
      head_channels: of an attention head; None for one head.
      attention: whether there is attention.
      resample: change of resolution, None for none.
      project_resampled: whether the shortcut has a 1×1 convolution after a change of resolution; it has one wherever
        the number of features changes.
    """

    layers: Layers
    features: int
    modulation: str = "shift"
    skip_scale: float = 1.0
    dropout: float = 0.0
    head_channels: int | None = None
    attention: bool = False
    resample: Resample | None = None
    project_resampled: bool = False

    @nn.compact
    def __call__(self, x: Array, emb: Array | None, train: bool = False) -> Array:
        """Maps `x` `(B, H, W, C)` and the condition's embedding `(B, E)`, if any, to `(B, H', W', features)`."""
        h = nn.swish(self.layers.norm("norm_0")(x))
        if self.resample is not None:
            h, x = self.resample(h), self.resample(x)
        h = self._modulated(self.layers.conv(h, self.features, "conv_0"), emb)
        h = nn.Dropout(self.dropout, deterministic=not train)(nn.swish(h))
        h = self.layers.conv(h, self.features, "conv_1", scale=0.0)
        if x.shape[-1] != self.features or (self.resample is not None and self.project_resampled):
            x = self.layers.conv(x, self.features, "shortcut", size=1)
        h = (x + h) * self.skip_scale
        if not self.attention:
            return h
        return Attention(self.layers.inside("attention"), self.skip_scale, self.head_channels, name="attention")(h)

    def _modulated(self, h: Array, emb: Array | None) -> Array:
        norm = self.layers.norm("norm_1")
        if emb is None:
            return norm(h)
        if self.modulation == "shift":
            shift = self.layers.dense(emb, self.features, "embedding")
            return norm(h + jnp.expand_dims(shift, (1, 2)))
        return norm(h, *jnp.split(self.layers.dense(emb, 2 * self.features, "embedding"), 2, axis=-1))


class Attention(nn.Module):
    """Residual self-attention between pixels, `skip_scale (x + W softmax(q kᵀ/√d) v)`.

    A head has `head_channels` channels, one after the other; None, or fewer channels than that, means one head.
    """

    layers: Layers
    skip_scale: float = 1.0
    head_channels: int | None = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps `(B, H, W, C)` to the same shape; the softmax is float32 or wider."""
        batch, channels = x.shape[0], x.shape[-1]
        most = channels // self.head_channels if self.head_channels else 1
        heads = max(n for n in range(1, max(1, most) + 1) if channels % n == 0)
        h = self.layers.norm("norm")(x)
        split = (batch, -1, heads, channels // heads)
        # A tenth of the usual variance, which keeps the first softmax flat (Song et al. 2021, released code).
        q, k, v = (self.layers.dense(h, channels, name, scale=0.1).reshape(split) for name in "qkv")
        mixed = attend(q, k, v, self.layers.attention).reshape(x.shape)
        return (x + self.layers.dense(mixed, channels, "out", scale=0.0)) * self.skip_scale


class NoiseAndLabelEmbedding(nn.Module):
    """Embeds noise, label and augmentation a together, `(B, features)`; `label_layer` says where the label enters.

    "inner": swish(W₂ swish(W₁ (noise + √L W_l one_hot(label) + b_l + W_a a) + b₁) + b₂), as SongUNet does;
    "outer": swish(W₂ swish(W₁ (noise + W_a a) + b₁) + b₂ + W_l one_hot(label)), as ADM does.

    "No class", which is label None or any negative one, is a zero vector. A label ≥ num_classes cannot be refused under
    `jit`; it gives NaN rather than some other class.
    """

    layers: Layers
    features: int
    num_classes: int = 0
    label_layer: str = "inner"
    augmentation: int = 0

    @nn.compact
    def __call__(self, noise: Array, label: Array | Told | None) -> Array:
        """Maps the noise's embedding `(B, K)` and integer labels `(B,)`, or None, to `(B, features)`."""
        label, numbers = told_of(label, self.augmentation, noise)
        vectors = self._label_vectors(label, noise)
        if self.num_classes and self.label_layer == "inner":
            noise = noise + self.layers.dense(vectors * self.num_classes**0.5, noise.shape[-1], "label")
        if self.augmentation:
            scale = 1.0 if self.label_layer == "inner" else 0.0  # as released
            noise = noise + self.layers.dense(numbers, noise.shape[-1], "augmentation", scale=scale, use_bias=False)
        h = self.layers.dense(nn.swish(self.layers.dense(noise, self.features, "inner")), self.features, "outer")
        if self.num_classes and self.label_layer == "outer":
            normal = nn.initializers.normal(1.0)
            dense = nn.Dense(self.features, use_bias=False, dtype=self.layers.dtype, kernel_init=normal, name="label")
            h = h + dense(vectors)
        return nn.swish(h)

    def _label_vectors(self, label: Array | None, noise: Array) -> Array:
        if self.num_classes == 0 and label is not None:
            raise InputError("labels were given to a network without classes; build it with num_classes > 0")
        label = jnp.full((len(noise),), -1) if label is None else jnp.asarray(label)
        if not jnp.issubdtype(label.dtype, jnp.integer):
            raise InputError(f"labels have dtype {label.dtype}; integers were expected, -1 for no class")
        vectors = nn.one_hot(label, self.num_classes, dtype=at_least_float32(noise))
        return jnp.where((label < self.num_classes)[:, None], vectors, jnp.nan)
