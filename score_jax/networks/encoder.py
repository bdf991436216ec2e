"""A classifier of noised sequences, images and volumes: the compact U-Net's way down, and the mean of what is left.

    conv → blocks of each resolution, halving between them → GroupNorm → swish → mean over space → dense, K

The noise enters as in `UNet` (Dhariwal & Nichol 2021, section 4.3, whose classifier is such a half of their U-Net).
"""

import flax.linen as nn
from flax.typing import Dtype

from score_jax.arrays import per_example
from score_jax.networks.embeddings import ConditionEmbedding, Sinusoidal, at_least_float32
from score_jax.networks.layers import attended_resolutions, downsample, require_space
from score_jax.networks.norms import GroupNorm
from score_jax.networks.unet import UNetBlock, space_conv
from score_jax.types import Array, InputError, require_at_least


class Encoder(nn.Module):
    """Half a U-Net `(x (B, *space, C), cond (B,)) -> logits (B, K)`, which are 0 at first.

    Attributes:
      logits: K, the number of classes that it tells apart.
      channels: features of the finest resolution.
      multipliers: of `channels`, one for each resolution.
      blocks: residual blocks of a resolution.
      attention: resolutions with self-attention, 0 the finest; negative ones count from the coarsest.
      attention_implementation: "xla", or "cudnn": see `attention.attend`.
      dropout: rate inside the blocks, active with `train=True` (rng "dropout").
      embedding: module of `cond`, followed by two dense layers of `4 channels` features.
      dtype: of the computation; None follows x. Parameters are float32 and the output at least that.
      remat: recompute each block in the backward pass, for memory.
    """

    logits: int
    channels: int = 32
    multipliers: tuple[int, ...] = (1, 2, 2)
    blocks: int = 1
    attention: tuple[int, ...] = (-1,)
    attention_implementation: str = "xla"
    dropout: float = 0.0
    embedding: nn.Module = Sinusoidal(64)
    dtype: Dtype | None = None
    remat: bool = False

    @nn.compact
    def __call__(self, x: Array, cond: Array, label: Array | None = None, *, train: bool = False) -> Array:
        """Returns the logits."""
        if label is not None:
            raise InputError("a classifier finds labels and is given none, got some")
        require_space(x, "Encoder")
        require_at_least("Encoder", 1, channels=self.channels, blocks=self.blocks, resolutions=len(self.multipliers))
        require_at_least("Encoder", 1, multipliers=min(self.multipliers))
        attended = attended_resolutions(self.attention, len(self.multipliers))
        condition = ConditionEmbedding(4 * self.channels, self.embedding, dtype=self.dtype, name="condition")
        emb = condition(per_example(cond, x), None)
        # The third argument, `train`, is a Python bool, and remat must leave it one.
        kind = nn.remat(UNetBlock, static_argnums=(3,)) if self.remat else UNetBlock
        h = space_conv(self.channels, x, dtype=self.dtype, name="in")
        for resolution, multiplier in enumerate(self.multipliers):
            h = downsample(h) if resolution else h
            for i in range(self.blocks):
                how = (resolution in attended, self.dropout, self.dtype, self.attention_implementation)
                h = kind(self.channels * multiplier, *how, name=f"down_{resolution}_{i}")(h, emb, train)
        h = nn.swish(GroupNorm(self.dtype, name="norm")(h)).mean(tuple(range(1, h.ndim - 1)))
        h = nn.Dense(self.logits, dtype=self.dtype, kernel_init=nn.initializers.zeros, name="out")(h)
        return h.astype(at_least_float32(x))
