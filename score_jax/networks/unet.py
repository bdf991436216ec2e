"""A compact U-Net (Ronneberger et al. 2015; Ho et al. 2020, appendix B) for images of any size and channel count.

Level l works at 2^-l of the resolution with `channels · multipliers[l]` features. On the way down every block's output
is kept; on the way up the block of the same place receives it beside its own input. Residual sums are divided by √2,
which keeps the variance of activations constant through any number of blocks (Song et al. 2021, "skip rescaling").
The noise enters each block as scale and shift of its second GroupNorm (Dhariwal & Nichol 2021, "AdaGN").
"""

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype

from score_jax.arrays import per_example
from score_jax.networks.embeddings import ConditionEmbedding, Sinusoidal, at_least_float32
from score_jax.networks.layers import SelfAttention, attended_levels, downsample, require_images, upsample
from score_jax.networks.norms import GroupNorm
from score_jax.types import Array, require_at_least


class ResidualBlock(nn.Module):
    """`(shortcut(x) + conv(dropout(swish(AdaGN(conv(swish(GN(x))))))))/√2`, then attention where asked for."""

    features: int
    attention: bool = False
    dropout: float = 0.0
    dtype: Dtype | None = None
    implementation: str = "xla"

    @nn.compact
    def __call__(self, x: Array, emb: Array, train: bool) -> Array:
        """Maps `x` `(B, H, W, C)` and the condition's embedding `(B, E)` to `(B, H, W, features)`."""
        h = nn.swish(GroupNorm(self.dtype, name="norm_0")(x))
        h = nn.Conv(self.features, (3, 3), dtype=self.dtype, name="conv_0")(h)
        modulation = nn.Dense(2 * self.features, dtype=self.dtype, name="modulation")(emb)
        h = nn.swish(GroupNorm(self.dtype, name="norm_1")(h, *jnp.split(modulation, 2, axis=-1)))
        h = nn.Dropout(self.dropout, deterministic=not train)(h)
        h = nn.Conv(self.features, (3, 3), dtype=self.dtype, name="conv_1")(h)
        if x.shape[-1] != self.features:
            x = nn.Dense(self.features, dtype=self.dtype, name="shortcut")(x)
        h = (x + h) * 0.5**0.5
        return SelfAttention(self.dtype, self.implementation, name="attention")(h) if self.attention else h


class UNet(nn.Module):
    """U-Net `(x (B, H, W, C), cond (B,), label) -> F (B, H, W, C)`; the output layer starts at zero, so F = 0 at first.

    Attributes:
      channels: features of the finest level.
      multipliers: of `channels`, one for each level; their number is the number of levels.
      blocks: residual blocks of a level, on the way down and on the way up.
      attention: levels with self-attention, 0 the finest; negative ones count from the coarsest.
      attention_implementation: "xla", or "cudnn": see `attention.attend`.
      dropout: rate inside the blocks, active with `train=True` (rng "dropout").
      embedding: module of `cond`, followed by two dense layers of `4 channels` features.
      num_classes: number of labels; 0 for none.
      dtype: of the computation; None follows x. Parameters are float32 and the output at least that.
      remat: recompute each block in the backward pass, for memory.
    """

    channels: int = 32
    multipliers: tuple[int, ...] = (1, 2, 2)
    blocks: int = 1
    attention: tuple[int, ...] = (-1,)
    attention_implementation: str = "xla"
    dropout: float = 0.0
    embedding: nn.Module = Sinusoidal(64)
    num_classes: int = 0
    dtype: Dtype | None = None
    remat: bool = False

    @nn.compact
    def __call__(self, x: Array, cond: Array, label: Array | None = None, *, train: bool = False) -> Array:
        """Returns F with the shape of `x`."""
        require_images(x, "UNet")
        require_at_least("UNet", 1, channels=self.channels, blocks=self.blocks, levels=len(self.multipliers))
        require_at_least("UNet", 1, multipliers=min(self.multipliers))
        attended = attended_levels(self.attention, len(self.multipliers))
        condition = ConditionEmbedding(
            4 * self.channels, self.embedding, self.num_classes, self.dtype, name="condition"
        )
        emb = condition(per_example(cond, x), label)

        def block(h: Array, level: int, name: str) -> Array:
            # The third argument, `train`, is a Python bool, and remat must leave it one.
            kind = nn.remat(ResidualBlock, static_argnums=(3,)) if self.remat else ResidualBlock
            features = self.channels * self.multipliers[level]
            how = (self.dropout, self.dtype, self.attention_implementation)
            return kind(features, level in attended, *how, name=name)(h, emb, train)

        levels, places = range(len(self.multipliers)), range(self.blocks)
        h = nn.Conv(self.channels, (3, 3), dtype=self.dtype, name="in")(x)
        skips = []
        for level in levels:
            h = downsample(h) if level else h
            for i in places:
                h = block(h, level, f"down_{level}_{i}")
                skips.append(h)
        h = block(h, levels[-1], "middle")
        for level in reversed(levels):
            h = upsample(h, skips[-1]) if level != levels[-1] else h
            for i in places:
                h = block(jnp.concatenate([h, skips.pop()], axis=-1), level, f"up_{level}_{i}")
        h = nn.swish(GroupNorm(self.dtype, name="norm")(h))
        h = nn.Conv(x.shape[-1], (3, 3), dtype=self.dtype, kernel_init=nn.initializers.zeros, name="out")(h)
        return h.astype(at_least_float32(x))
