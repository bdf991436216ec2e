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
from score_jax.networks.convolution import Conv
from score_jax.networks.embeddings import ConditionEmbedding, Sinusoidal, at_least_float32
from score_jax.networks.layers import require_images
from score_jax.networks.norms import ConditionalInstanceNormPlus
from score_jax.networks.refinenet import LAYOUTS, average_pool, conv, refine_net
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
        h = conv(n, x, dtype=self.dtype, name="in")
        h = refine_net(h, emb, n, LAYOUTS["base"], norm, head_norm=norm, pool=average_pool, dtype=self.dtype)
        h = nn.Dropout(self.dropout, deterministic=not train)(h)
        h = nn.elu(norm(name="norm")(h, emb))
        out = Conv(x.shape[-1], (3, 3), dtype=self.dtype, kernel_init=nn.initializers.zeros, name="out")
        return out(h).astype(at_least_float32(x))
