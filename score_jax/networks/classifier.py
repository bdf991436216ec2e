"""A small convolutional classifier of grey images, whose last hidden layer is a feature map for metrics.

    conv 3×3, 16 → mean of 2×2 → conv 3×3, 32 → mean of 2×2 → dense, 128 → dense, K      (relu behind each but the last)

Any size of image. What it is good for is shown by the share of held-out images that it gets right: 98 % of 8×8 digits.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from score_jax.networks.convolution import Conv
from score_jax.networks.frozen import FeatureOutputs
from score_jax.networks.layers import downsample
from score_jax.types import Array, InputError


class GreyClassifier(nn.Module):
    """`(x (B, H, W, 1) of 0 … 255, uint8 or float) -> FeatureOutputs((B, features), (B, classes))`.

    Attributes:
      classes: K.
      widths: channels of the convolutions, each with a halving of the size behind it.
      features: of the last hidden layer.
    """

    classes: int
    widths: tuple[int, ...] = (16, 32)
    features: int = 128

    @nn.compact
    def __call__(self, x: Array) -> FeatureOutputs:
        """Returns the last hidden layer and the logits."""
        if x.ndim != 4 or x.shape[-1] != 1:
            raise InputError(f"GreyClassifier takes grey images (B, H, W, 1), got shape {x.shape}")
        highest = jax.lax.Precision.HIGHEST
        h = x.astype(jnp.float32) / 127.5 - 1
        for i, width in enumerate(self.widths):
            h = downsample(nn.relu(Conv(width, (3, 3), precision=highest, name=f"conv_{i}")(h)))
        h = h.reshape(len(h), -1)
        features = nn.relu(nn.Dense(self.features, precision=highest, name="hidden")(h))
        return FeatureOutputs(features, nn.Dense(self.classes, precision=highest, name="classes")(features))
