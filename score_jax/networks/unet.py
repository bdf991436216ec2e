"""A compact U-Net (Ronneberger et al. 2015; Ho et al. 2020, appendix B) for sequences, images and volumes of any size.

Resolution l is 2^-l of that of the image, or of its patches, with `channels · multipliers[l]` features. On the way down
every block's output is kept; on the way up the block of the same place receives it beside its own input. Residual sums
are divided by √2, which keeps the variance of activations constant through any number of blocks (Song et al. 2021,
"skip rescaling").
Space has one, two or three axes: convolutions have kernels of 3 along each, norms and attention take all places. In
patches of 2 an image is a quarter as many places of four times the channels to all layers (Shi et al. 2016, "sub-pixel
convolution"; Hoogeboom et al. 2023, section 3.3), which buys width for the time that the finest resolution takes. The
noise enters each block as scale and shift of its second GroupNorm (Dhariwal & Nichol 2021, "AdaGN").
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype

from score_jax.arrays import per_example
from score_jax.networks.convolution import Conv
from score_jax.networks.embeddings import ConditionEmbedding, Sinusoidal, at_least_float32
from score_jax.networks.layers import (
    SelfAttention,
    attended_resolutions,
    downsample,
    from_patches,
    require_space,
    to_patches,
    upsample,
)
from score_jax.networks.norms import GroupNorm
from score_jax.types import Array, require_at_least


def space_conv(features: int, x: Array, **options: Any) -> Array:
    """A convolution that keeps the size, with a kernel of 3 along every axis of space of `x` `(B, *space, C)`."""
    return Conv(features, (3,) * (x.ndim - 2), **options)(x)


class UNetBlock(nn.Module):
    """`(shortcut(x) + conv(dropout(swish(AdaGN(conv(swish(GN(x))))))))/√2`, then attention where asked for."""

    features: int
    attention: bool = False
    dropout: float = 0.0
    dtype: Dtype | None = None
    implementation: str = "xla"

    @nn.compact
    def __call__(self, x: Array, emb: Array, train: bool) -> Array:
        """Maps `x` `(B, *space, C)` and the condition's embedding `(B, E)` to `(B, *space, features)`."""
        h = nn.swish(GroupNorm(self.dtype, name="norm_0")(x))
        h = space_conv(self.features, h, dtype=self.dtype, name="conv_0")
        modulation = nn.Dense(2 * self.features, dtype=self.dtype, name="modulation")(emb)
        h = nn.swish(GroupNorm(self.dtype, name="norm_1")(h, *jnp.split(modulation, 2, axis=-1)))
        h = nn.Dropout(self.dropout, deterministic=not train)(h)
        h = space_conv(self.features, h, dtype=self.dtype, name="conv_1")
        if x.shape[-1] != self.features:
            x = nn.Dense(self.features, dtype=self.dtype, name="shortcut")(x)
        h = (x + h) * 0.5**0.5
        return SelfAttention(self.dtype, self.implementation, name="attention")(h) if self.attention else h


class UNet(nn.Module):
    """U-Net `(x (B, *space, C), cond (B,), label) -> F` of the shape of x, 0 at first: the last layer starts at zero.

    Attributes:
      channels: features of the finest resolution.
      multipliers: of `channels`, one for each resolution; their number is the number of resolutions.
      patch: places along each axis of space that are one to the finest resolution; 1 leaves the image as it is.
      blocks: residual blocks of a resolution, on the way down and on the way up.
      attention: resolutions with self-attention, 0 the finest; negative ones count from the coarsest.
      attention_implementation: "xla", or "cudnn": see `attention.attend`.
      dropout: rate inside the blocks, active with `train=True` (rng "dropout").
      embedding: module of `cond`, followed by two dense layers of `4 channels` features; None: cond is ignored, and
        the noise is to be seen in x (Song & Ermon 2020, technique 3).
      num_classes: number of labels; 0 for none.
      augmentation: numbers of an augmentation that it can be told, `embeddings.Told`; 0 for none.
      dtype: of the computation; None follows x. Parameters are float32 and the output at least that.
      remat: recompute each block in the backward pass, for memory.
    """

    channels: int = 32
    multipliers: tuple[int, ...] = (1, 2, 2)
    patch: int = 1
    blocks: int = 1
    attention: tuple[int, ...] = (-1,)
    attention_implementation: str = "xla"
    dropout: float = 0.0
    embedding: nn.Module | None = Sinusoidal(64)
    num_classes: int = 0
    augmentation: int = 0
    dtype: Dtype | None = None
    remat: bool = False

    @nn.compact
    def __call__(self, x: Array, cond: Array, label: Array | None = None, *, train: bool = False) -> Array:
        """Returns F with the shape of `x`."""
        require_space(x, "UNet")
        sizes = {"channels": self.channels, "patch": self.patch, "blocks": self.blocks}
        require_at_least("UNet", 1, **sizes, resolutions=len(self.multipliers))
        require_at_least("UNet", 1, multipliers=min(self.multipliers))
        attended = attended_resolutions(self.attention, len(self.multipliers))
        condition = ConditionEmbedding(
            4 * self.channels, self.embedding, self.num_classes, self.dtype, self.augmentation, name="condition"
        )
        emb = condition(per_example(cond, x), label)

        def block(h: Array, resolution: int, name: str) -> Array:
            # The third argument, `train`, is a Python bool, and remat must leave it one.
            kind = nn.remat(UNetBlock, static_argnums=(3,)) if self.remat else UNetBlock
            features = self.channels * self.multipliers[resolution]
            how = (self.dropout, self.dtype, self.attention_implementation)
            return kind(features, resolution in attended, *how, name=name)(h, emb, train)

        resolutions, places = range(len(self.multipliers)), range(self.blocks)
        patches = to_patches(x, self.patch)
        h = space_conv(self.channels, patches, dtype=self.dtype, name="in")
        skips = []
        for resolution in resolutions:
            h = downsample(h) if resolution else h
            for i in places:
                h = block(h, resolution, f"down_{resolution}_{i}")
                skips.append(h)
        h = block(h, resolutions[-1], "middle")
        for resolution in reversed(resolutions):
            h = upsample(h, skips[-1]) if resolution != resolutions[-1] else h
            for i in places:
                h = block(jnp.concatenate([h, skips.pop()], axis=-1), resolution, f"up_{resolution}_{i}")
        h = nn.swish(GroupNorm(self.dtype, name="norm")(h))
        h = space_conv(patches.shape[-1], h, dtype=self.dtype, kernel_init=nn.initializers.zeros, name="out")
        return from_patches(h, x, self.patch).astype(at_least_float32(x))
