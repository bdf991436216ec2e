"""Features of images: one thing to call, whichever network tells them.

    told = features.inception(variables)        # variables from interop.load_inception(path)
    told(images)                                # (n, 2048) float32; and told.with_probabilities(images)

Images are uint8 or float in [0, 1], NHWC with 1 or 3 channels. Rows do not depend on how they are batched, nor on the
number of devices. Only a Fréchet distance in features of InceptionV3 of 2015, of images of 256 levels, is called FID:
`distance_name` says what one is called.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from score_jax import arrays, devices
from score_jax.networks import EfficientNetLite0, InceptionV3
from score_jax.types import Array, ArrayLike, InputError, PyTree

_INCEPTION = "InceptionV3 (pt_inception-2015-12-05)"


@dataclass(frozen=True, eq=False)
class Features:
    """A feature network and what it is given.

    Attributes:
      name: of the network and its weights.
      dim: F.
      module: `x (B, H, W, channels) of 0 … 255 -> FeatureOutputs((B, F), (B, K))`, of `networks`.
      variables: its weights.
      preprocessing: what the module does to images before its first layer, in words.
      channels: that it takes; images of one are repeated for a network of three.
      quantize: floats are rounded to the 256 levels of a file first, halves upwards.
      batch_size: images at once, fewer are filled up, so that one program serves all; on several devices it is raised
        to a multiple of their number.
    """

    name: str
    dim: int
    module: nn.Module
    variables: PyTree
    preprocessing: str
    channels: int = 3
    quantize: bool = True
    batch_size: int = 64

    def __call__(self, images: ArrayLike) -> np.ndarray:
        """Returns the features of images (n, H, W, C), float32 (n, F).

        Raises:
          InputError: for other arrays than images of uint8 or finite floats, and channels that the network cannot take.
        """
        return self.with_probabilities(images)[0]

    def with_probabilities(self, images: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        """Returns the features (n, F), and the probabilities of the network's classes (n, K), of one pass."""
        images = _require_images(images, self.channels, self.name)
        parts = [self._of_batch(batch, n) for batch, n in self._batches(images)]
        return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])

    @functools.cached_property
    def hash(self) -> str:
        """`arrays.tree_hash` of the weights."""
        return arrays.tree_hash(self.variables)

    @property
    def distance_name(self) -> str:
        """What a Fréchet distance in these features is called."""
        return "FID" if self.name == _INCEPTION and self.quantize else f"Fréchet distance, features of {self.name}"

    @property
    def conditions(self) -> dict[str, str]:
        """What makes its numbers what they are, for `save_moments` and for a table."""
        rounding = "uint8" if self.quantize else "float"
        return {"features": self.name, "hash": self.hash, "preprocessing": self.preprocessing, "rounding": rounding}

    def _batches(self, images: np.ndarray) -> Iterator[tuple[np.ndarray, int]]:
        """Yields batches of one size in 0 … 255, filled up with their first image, and how many images are meant."""
        size = devices.shared_size(self.batch_size, self._mesh)
        for start in range(0, len(images), size):
            batch = _in_levels(images[start : start + size], self.quantize)
            filling = np.repeat(batch[:1], size - len(batch), 0)
            whole = np.concatenate([batch, filling]) if len(filling) else batch
            yield np.broadcast_to(whole, (*whole.shape[:3], self.channels)), len(batch)

    def _of_batch(self, batch: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
        rows = devices.put_rows({"x": batch}, self._mesh)
        features, probabilities = devices.gather(_told(self.module, self._everywhere, rows["x"]))
        return features[:n], probabilities[:n]

    @functools.cached_property
    def _everywhere(self) -> PyTree:
        """The weights on every device."""
        return devices.everywhere(self.variables, self._mesh)

    @property
    def _mesh(self) -> Mesh:
        """All devices, of which every mesh of a training is made too: rows are cut over all of them in any."""
        return devices.device_mesh()


def inception(variables: PyTree, *, batch_size: int = 64) -> Features:
    """Returns the features of FID, 2,048 of InceptionV3, with `variables` of `interop.load_inception`.

    The probabilities are those of the inception score, 1,008 classes, without the bias of the last layer.

    Examples:
      >>> features = metrics.features.inception({})  # of no weights: for its names
      >>> print(features.distance_name, features.dim)
      FID 2048
    """
    resized = "TensorFlow 1's bilinear resize to 299×299, (x − 128)/128"
    return Features(_INCEPTION, 2048, InceptionV3(), variables, resized, batch_size=batch_size)


def efficientnet(variables: PyTree, *, batch_size: int = 64) -> Features:
    """Returns 1,280 features of EfficientNet-Lite0, with `variables` of `interop.load_efficientnet_lite0`.

    Examples:
      >>> features = metrics.features.efficientnet({})  # of no weights: for its names
      >>> print(features.distance_name, features.dim)
      Fréchet distance, features of EfficientNet-Lite0 1280
    """
    resized = "bicubic resize to 224×224, antialiased, (x − 127)/128"
    return Features("EfficientNet-Lite0", 1280, EfficientNetLite0(), variables, resized, batch_size=batch_size)


@functools.partial(jax.jit, static_argnums=0)
def _told(module: nn.Module, variables: PyTree, x: Array) -> tuple[Array, Array]:
    out: Any = module.apply(variables, x)
    return out.features, jax.nn.softmax(out.logits)


def _in_levels(images: np.ndarray, quantize: bool) -> np.ndarray:
    """Returns images in 0 … 255: uint8 as they are, floats in [0, 1] clipped, and rounded where they are quantized."""
    if images.dtype == np.uint8:
        return images
    levels = np.clip(images.astype(np.float32), 0, 1) * np.float32(255)
    return np.floor(levels + np.float32(0.5)).astype(np.uint8) if quantize else levels


def _require_images(images: ArrayLike, channels: int, name: str) -> np.ndarray:
    images = np.asarray(images)
    if images.ndim != 4 or images.size == 0 or images.shape[-1] not in (1, channels):
        wanted = "1" if channels == 1 else f"1 or {channels}"
        raise InputError(f"{name} takes images (n, H, W, C) with {wanted} channels, got shape {images.shape}")
    if images.dtype != np.uint8 and not jnp.issubdtype(images.dtype, jnp.floating):
        raise InputError(f"{name} takes images of uint8, or of floats in [0, 1], got {images.dtype}")
    if images.dtype != np.uint8 and not np.isfinite(images).all():
        bad = (~np.isfinite(images).all((1, 2, 3))).sum()
        raise InputError(f"{bad} of {len(images)} images hold NaN or infinite values: drop what diverged")
    return images
