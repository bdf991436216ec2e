"""Normalization with statistics of one example: GroupNorm and InstanceNorm++. There is no BatchNorm, on purpose.

Both start from the mean μ and the biased variance v of every channel over space, and GroupNorm combines the channels
of a group afterwards, on `(B, C)` numbers: reshaping images into groups instead is what makes it slow on CPUs. The
variance is the mean of (x − μ)². From E[x²] − μ² in one pass it would lose all digits where |μ|² ≫ v, and on CPUs a
training step took as long. Statistics are float32 or wider, also for bfloat16 x.

GroupNorm (Wu & He 2018): mean and variance over space and C/G channels. InstanceNorm++ (Song & Ermon 2019, appendix A):
with m and s² the mean and the unbiased variance of μ over the C channels,

    out_c = γ_c ((x_c − μ_c)/√(v_c + 1e-5) + α_c (μ_c − m)/√(s² + 1e-5)) + β_c,

which keeps, through α, the differences between channel means that instance normalization throws away. [γ, α, β] are
parameters, or rows of a table with one for each noise level (NCSN), or an affine function of an embedding.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Dtype

from score_jax.networks.embeddings import at_least_float32
from score_jax.types import Array

EPSILON = 1e-5


def channel_moments(x: Array) -> tuple[Array, Array]:
    """Returns mean and biased variance over space, each `(B, C)` and float32 or wider, of `x` `(B, *space, C)`."""
    space = tuple(range(1, x.ndim - 1))
    x = x.astype(at_least_float32(x))
    return x.mean(space), x.var(space)


def group_moments(x: Array, groups: int) -> tuple[Array, Array]:
    """Returns mean and biased variance over space and each group of channels, repeated for its channels: `(B, C)`."""
    mean, variance = (m.reshape(x.shape[0], groups, -1) for m in channel_moments(x))
    group_mean = mean.mean(-1, keepdims=True)
    group_variance = (variance + (mean - group_mean) ** 2).mean(-1, keepdims=True)
    repeat = functools.partial(jnp.repeat, repeats=x.shape[-1] // groups, axis=-1)
    return repeat(group_mean[..., 0]), repeat(group_variance[..., 0])


def num_groups(channels: int, most: int = 32, group_channels: int = 4) -> int:
    """Returns the largest divisor of `channels` up to `most` that leaves `group_channels` a group, or 1."""
    return max(g for g in range(1, max(1, min(most, channels // group_channels)) + 1) if channels % g == 0)


def instance_norm_plus(x: Array, gamma: Array, alpha: Array, beta: Array) -> Array:
    """Applies InstanceNorm++ to `x` `(B, *space, C)`; `gamma`, `alpha`, `beta` are `(B, C)` or `(1, C)`.

    One channel has no variance between channels; its last term is zero, as its numerator is.
    """
    mean, variance = channel_moments(x)
    between = mean - mean.mean(-1, keepdims=True)
    unbiased = (between**2).sum(-1, keepdims=True) / max(x.shape[-1] - 1, 1)
    offset = between * jax.lax.rsqrt(unbiased + EPSILON)
    return _affine(x, mean, gamma * jax.lax.rsqrt(variance + EPSILON), gamma * alpha * offset + beta)


class GroupNorm(nn.Module):
    """Group normalization, optionally modulated per example: `norm(x) (1 + scale) + shift`; groups as `num_groups`."""

    dtype: Dtype | None = None
    groups: int = 32
    group_channels: int = 4
    epsilon: float = EPSILON

    @nn.compact
    def __call__(self, x: Array, scale: Array | None = None, shift: Array | None = None) -> Array:
        """Normalizes `x` `(B, *space, C)`; `scale` and `shift` are `(B, C)`, both or neither."""
        mean, variance = group_moments(x, num_groups(x.shape[-1], self.groups, self.group_channels))
        gamma = self.param("scale", nn.initializers.ones, (1, x.shape[-1]), jnp.float32)
        beta = self.param("bias", nn.initializers.zeros, (1, x.shape[-1]), jnp.float32)
        if scale is not None and shift is not None:
            gamma, beta = gamma * (1 + scale), beta * (1 + scale) + shift
        return _affine(x, mean, gamma * jax.lax.rsqrt(variance + self.epsilon), beta).astype(self.dtype or x.dtype)


class InstanceNormPlus(nn.Module):
    """InstanceNorm++ with parameters of its own: γ, α ~ N(1, 0.02²) and β = 0 (Song & Ermon 2019, released code).

    `cond` is accepted and ignored, so that conditional and unconditional norms are exchangeable in a block.
    """

    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: Array, cond: Array | None = None) -> Array:
        """Normalizes `x` `(B, *space, C)`."""
        del cond
        gamma, alpha = (self.param(name, _around_one, (1, x.shape[-1])) for name in ("gamma", "alpha"))
        beta = self.param("beta", nn.initializers.zeros, (1, x.shape[-1]), jnp.float32)
        return instance_norm_plus(x, gamma, alpha, beta).astype(self.dtype or x.dtype)


class LevelInstanceNormPlus(nn.Module):
    """InstanceNorm++ whose [γ, α, β] are rows of a table with one for each of L noise levels, as in the published NCSN.

    Rows start as the parameters of `InstanceNormPlus` do.
    """

    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: Array, weights: Array) -> Array:
        """Normalizes `x` `(B, *space, C)`; `weights` `(B, L)` are those of its rows: one-hot, or an interpolation."""
        table = self.param("embedding", _rows_around_one, (weights.shape[-1], 3 * x.shape[-1]))
        # Not in bfloat16 or TF32, whatever the accelerator's default: a one-hot row must give its row exactly.
        rows = jnp.matmul(weights, table.astype(weights.dtype), precision=jax.lax.Precision.HIGHEST)
        return instance_norm_plus(x, *jnp.split(rows, 3, axis=-1)).astype(self.dtype or x.dtype)


class ConditionalInstanceNormPlus(nn.Module):
    """InstanceNorm++ whose [γ, α, β] are an affine function of an embedding: NCSN's table, continuous."""

    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: Array, cond: Array) -> Array:
        """Normalizes `x` `(B, *space, C)`; `cond` `(B, E)` is the embedding."""
        projection = nn.Dense(3 * x.shape[-1], kernel_init=nn.initializers.normal(0.02), bias_init=_one_one_zero)
        gamma, alpha, beta = jnp.split(projection(cond), 3, axis=-1)
        return instance_norm_plus(x, gamma, alpha, beta).astype(self.dtype or x.dtype)


def _affine(x: Array, mean: Array, scale: Array, shift: Array) -> Array:
    """Returns `(x − mean) scale + shift` with `(B, C)` or `(1, C)` statistics, in their precision."""
    mean, scale, shift = (jnp.expand_dims(a, tuple(range(1, x.ndim - 1))) for a in (mean, scale, shift))
    return (x - mean) * scale + shift


def _around_one(key, shape, dtype=jnp.float32) -> Array:
    return 1 + 0.02 * jax.random.normal(key, shape, dtype)


def _rows_around_one(key, shape, dtype=jnp.float32) -> Array:
    gains = _around_one(key, (shape[0], shape[1] // 3 * 2), dtype)
    return jnp.pad(gains, ((0, 0), (0, shape[1] // 3)))


def _one_one_zero(key, shape, dtype=jnp.float32) -> Array:
    del key
    return jnp.repeat(jnp.array([1, 1, 0], dtype), shape[0] // 3)
