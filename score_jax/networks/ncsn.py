"""A compact NCSN: the architecture of Song & Ermon 2019 at reduced width, conditioned continuously.

Four residual stages, the last two dilated by 2 and 4 instead of reduced, and a head of four RefineNet blocks that goes
back to full resolution. The published network looks the [γ, α, β] of every InstanceNorm++ up in a table of levels;
here they are an affine function of the embedding of noise and label, so one network serves any set of levels, any SDE
and labels as well.
"""

import functools

import flax.linen as nn
from flax.typing import Dtype

from score_jax.arrays import per_example
from score_jax.networks.embeddings import ConditionEmbedding, Sinusoidal, at_least_float32
from score_jax.networks.layers import require_images
from score_jax.networks.norms import ConditionalInstanceNormPlus
from score_jax.networks.refinenet import RefineBlock, ResidualBlock, conv
from score_jax.types import Array, require_at_least


class CompactNCSN(nn.Module):
    """NCSN `(x (B, H, W, C), cond (B,), label) -> F (B, H, W, C)`; the output layer starts at zero, so F = 0 at first.

    Attributes:
      channels: features of the first stage; the other three have twice as many.
      dropout: rate before the output layer's norm, active with `train=True` (rng "dropout").
      embedding: module of `cond`, followed by two dense layers of `4 channels` features.
      num_classes: number of labels; 0 for none.
      dtype: of the computation; None follows x. Parameters are float32 and the output at least that.
    """

    channels: int = 32
    dropout: float = 0.0
    embedding: nn.Module = Sinusoidal(64)
    num_classes: int = 0
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: Array, cond: Array, label: Array | None = None, *, train: bool = False) -> Array:
        """Returns F with the shape of `x`."""
        require_images(x, "CompactNCSN")
        require_at_least("CompactNCSN", 1, channels=self.channels)
        n, norm = self.channels, functools.partial(ConditionalInstanceNormPlus, self.dtype)
        condition = ConditionEmbedding(4 * n, self.embedding, self.num_classes, self.dtype, name="condition")
        emb = condition(per_example(cond, x), label)
        h = self._refine(self._stages(conv(n, x, dtype=self.dtype, name="in"), norm, emb), norm, emb)
        h = nn.Dropout(self.dropout, deterministic=not train)(h)
        h = nn.elu(norm(name="norm")(h, emb))
        out = nn.Conv(x.shape[-1], (3, 3), dtype=self.dtype, kernel_init=nn.initializers.zeros, name="out")
        return out(h).astype(at_least_float32(x))

    def _stages(self, h: Array, norm, emb: Array) -> list[Array]:
        n, outputs = self.channels, []
        for i, (features, down, dilation) in enumerate(
            [(n, False, 1), (2 * n, True, 1), (2 * n, True, 2), (2 * n, True, 4)]
        ):
            h = ResidualBlock(features, norm, down, dilation, self.dtype, name=f"stage_{i}_0")(h, emb)
            h = ResidualBlock(features, norm, False, dilation, self.dtype, name=f"stage_{i}_1")(h, emb)
            outputs.append(h)
        return outputs

    def _refine(self, stages: list[Array], norm, emb: Array) -> Array:
        n = self.channels
        h = RefineBlock(2 * n, norm, dtype=self.dtype, name="refine_0")([stages[3]], emb)
        h = RefineBlock(2 * n, norm, dtype=self.dtype, name="refine_1")([stages[2], h], emb)
        h = RefineBlock(n, norm, dtype=self.dtype, name="refine_2")([stages[1], h], emb)
        return RefineBlock(n, norm, end=True, dtype=self.dtype, name="refine_3")([stages[0], h], emb)
