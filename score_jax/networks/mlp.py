"""A multilayer perceptron for vectors, or anything small enough to be flattened.

    h_0 = [x, sin(ω c), cos(ω c)],   h_{l+1} = φ(W_l h_l + b_l),   F = W_L h_L + b_L,

with the label's embedding added before the first φ (the same as appending its one-hot vector to h_0). φ is smooth:
implicit score matching and energies differentiate twice, where the second derivative of a ReLU is zero. The noise
embedding goes in with x, since at this size a network of its own would cost as much as the rest; eight features
cost 5 % of a training step at 3×128.
"""

import math
from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp
from flax.typing import Dtype

from score_jax.arrays import per_example
from score_jax.networks.embeddings import LabelEmbedding, Sinusoidal, at_least_float32
from score_jax.types import Array, InputError, require_at_least


class MLP(nn.Module):
    """Perceptron `(x (B, *S), cond (B,), label) -> F (B, *S)`; the output layer starts at zero, so F = 0 at first.

    Attributes:
      hidden: widths of the hidden layers, at least one.
      activation: a smooth function, such as swish, softplus or tanh.
      embedding: module of `cond`; its features are appended to x.
      num_classes: number of labels; 0 for none.
      logits: of a classifier, the number of classes that it tells apart, whose logits are the output; 0: F.
      dropout: rate after every hidden layer, active with `train=True` (rng "dropout").
      dtype: of the computation; None follows x. Parameters are float32 and the output at least that.
    """

    hidden: tuple[int, ...] = (128, 128, 128)
    activation: Callable[[Array], Array] = nn.swish
    embedding: nn.Module = Sinusoidal(8)
    num_classes: int = 0
    logits: int = 0
    dropout: float = 0.0
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: Array, cond: Array, label: Array | None = None, *, train: bool = False) -> Array:
        """Returns F with the shape of `x`, or logits."""
        if not self.hidden:
            raise InputError("MLP got hidden=(); give the width of one hidden layer at least")
        require_at_least("MLP", 1, hidden=min(self.hidden))
        noise = self.embedding(per_example(cond, x)).astype(x.dtype)
        h = jnp.concatenate([x.reshape(x.shape[0], -1), noise], axis=-1)
        for i, width in enumerate(self.hidden):
            h = nn.Dense(width, dtype=self.dtype, name=f"hidden_{i}")(h)
            if i == 0:
                h = h + LabelEmbedding(self.num_classes, width, name="label")(label, x.shape[0]).astype(h.dtype)
            h = nn.Dropout(self.dropout, deterministic=not train)(self.activation(h))
        shape = (len(x), self.logits) if self.logits else x.shape
        out = nn.Dense(math.prod(shape[1:]), dtype=self.dtype, kernel_init=nn.initializers.zeros, name="out")(h)
        return out.reshape(shape).astype(at_least_float32(x))
