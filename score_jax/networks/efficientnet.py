"""EfficientNet-Lite0: ImageNet features at a twentieth of InceptionV3's cost.

Mobile inverted bottlenecks (Sandler et al. 2018), an expansion by 1×1, a convolution of each channel by itself and a
projection, with the input added where shapes allow,

    h = x + ConvNorm₁(depthwise(ConvNorm(x))),    relu6 in between, nothing behind the projection,

in EfficientNet-B0's widths and depths (Tan & Le 2019), without squeeze-and-excitation and with relu6 for swish: the
`efficientnet-lite` of Google's `tpu/models/official/efficientnet/lite`. Padding is TensorFlow's SAME, which for a
stride of 2 is one more pixel at the bottom and right than at the top and left.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from score_jax.networks.frozen import ConvNorm, FeatureOutputs, require_colour
from score_jax.types import Array

# Blocks in turn: how many, kernel, stride of the first, expansion, channels.
_STAGES = [(1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192)]
_STAGES += [(1, 3, 1, 6, 320)]


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0: `(x (B, H, W, 3) of 0 … 255, uint8 or float) -> FeatureOutputs((B, 1280), (B, 1000))`.

    Images are resized to `size`×`size` bicubically (Keys, a = −½; pixel centres aligned, antialiased where they shrink)
    and scaled to (x − 127)/128, with which the network was trained, at 224 pixels.
    """

    size: int = 224

    @nn.compact
    def __call__(self, x: Array) -> FeatureOutputs:
        """Returns features and logits of images of any size."""
        require_colour(x, "EfficientNetLite0")
        resized = jax.image.resize(x.astype(jnp.float32), (len(x), self.size, self.size, 3), "cubic")
        h = ConvNorm(32, (3, 3), 2, activation=nn.relu6, name="stem")((resized - 127) / 128)
        blocks = [(k, s if i == 0 else 1, e, c) for n, k, s, e, c in _STAGES for i in range(n)]
        for i, block in enumerate(blocks):
            h = _Bottleneck(*block, name=f"block_{i}")(h)
        features = ConvNorm(1280, activation=nn.relu6, name="head")(h).mean((1, 2))
        return FeatureOutputs(features, nn.Dense(1000, precision=jax.lax.Precision.HIGHEST, name="classes")(features))


class _Bottleneck(nn.Module):
    """One block: kernel, stride, expansion and channels."""

    kernel: int
    stride: int
    expansion: int
    channels: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        wide, kernel = x.shape[-1] * self.expansion, (self.kernel, self.kernel)
        h = x if self.expansion == 1 else ConvNorm(wide, activation=nn.relu6, name="expand")(x)
        h = ConvNorm(wide, kernel, self.stride, depthwise=True, activation=nn.relu6, name="depthwise")(h)
        h = ConvNorm(self.channels, activation=None, name="project")(h)
        return x + h if h.shape == x.shape else h
