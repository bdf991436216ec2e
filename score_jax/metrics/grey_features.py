"""Features of small grey images by a classifier that is trained on them, where no general network fits.

They tell what tells the classes of that data set apart, and compare with numbers of the same classifier only, which its
hash knows. `classifier` judges class shares; this one is for distances.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from score_jax.metrics.features import Features
from score_jax.networks import GreyClassifier
from score_jax.types import Array, ArrayLike, InputError, Key, PyTree

_BATCH = 128
_HELD_OUT = 0.1
# Passes over the data that take it to its accuracy, and at least this many steps for small data.
_EPOCHS, _LEAST_STEPS = 5, 1000
_LEARNING_RATE = 5e-3


class GreyFeatures(NamedTuple):
    """A trained `Features` of 128, the share of held-out images it classifies right, and the labels in its order."""

    features: Features
    accuracy: float
    classes: np.ndarray


def train_grey_features(key: Key, images: ArrayLike, labels: ArrayLike) -> GreyFeatures:
    """Trains a `GreyClassifier` on nine tenths of labelled grey images, and tries it on the others.

    Adam on the cross-entropy, its rate falling to 0 along a cosine, for 5 passes or 1,000 steps, whichever is more:
    seconds for 1,797 digits of 8×8, two minutes or so for 60,000 images of 28×28 on 2 cores. The same key, images and
    labels give the same weights on the same machine; another processor, or version or options of XLA, rounds otherwise,
    and distances differ by up to a tenth: compare by one training of it, which `Features.hash` tells.

    Args:
      key: random key, (): of the split, the weights at the start and the order.
      images: (n, H, W, 1), uint8 or float in [0, 1], at least 20.
      labels: (n,) integers, of two classes or more.

    Raises:
      InputError: for other arrays.

    Examples:
      Black images and white ones, of which the tenth that is held out is told right.

      >>> labels = np.repeat([0, 1], 10)
      >>> images = np.ones((20, 4, 4, 1)) * labels[:, None, None, None]
      >>> told = metrics.train_grey_features(key, images, labels)
      >>> print(told.accuracy, told.features(images).shape)
      1.0 (20, 128)
    """
    x, labels = _require_training_set(images, labels)
    classes, codes = np.unique(labels, return_inverse=True)
    key_split, key_start, key_order = jax.random.split(key, 3)
    order = np.asarray(jax.random.permutation(key_split, len(x)))
    held_out, train = np.split(order, [max(1, int(_HELD_OUT * len(x)))])
    module = GreyClassifier(len(classes))
    levels = x if x.dtype == np.uint8 else 255 * x
    variables = _fit(module, module.init(key_start, levels[:1]), levels[train], codes[train], key_order)
    told = grey_features_of(variables, x.shape[1:3], len(classes))
    right = told.with_probabilities(x[held_out])[1].argmax(1) == codes[held_out]
    return GreyFeatures(told, float(right.mean()), classes)


def grey_features_of(variables: PyTree, shape: tuple[int, ...], n_classes: int) -> Features:
    """Returns the features of a classifier that was trained before.

    Args:
      variables: of its `Features`.
      shape: height and width of its images.
      n_classes: that it tells apart.

    Examples:
      >>> features = metrics.grey_features_of({}, (8, 8), 10)  # of no weights: for its names
      >>> print(features.distance_name)
      Fréchet distance, features of GreyClassifier (8×8, 10 classes)
    """
    module, (height, width) = GreyClassifier(n_classes), shape
    name = f"GreyClassifier ({height}×{width}, {n_classes} classes)"
    return Features(name, module.features, module, variables, "x/127.5 − 1", channels=1, quantize=False, batch_size=256)


def _fit(module: GreyClassifier, variables: PyTree, x: np.ndarray, codes: np.ndarray, key: Key) -> PyTree:
    batch = min(_BATCH, len(x))
    per_epoch = len(x) // batch
    epochs = max(_EPOCHS, -(-_LEAST_STEPS // per_epoch))
    optimizer = optax.adam(optax.cosine_decay_schedule(_LEARNING_RATE, epochs * per_epoch))

    def loss(variables: PyTree, x: Array, y: Array) -> Array:
        out: Any = module.apply(variables, x)
        return optax.softmax_cross_entropy_with_integer_labels(out.logits, y).mean()

    @jax.jit
    def step(variables: PyTree, state: PyTree, x: Array, y: Array) -> tuple[PyTree, PyTree]:
        updates, state = optimizer.update(jax.grad(loss)(variables, x, y), state)
        return optax.apply_updates(variables, updates), state

    state = optimizer.init(variables)
    # Steps in Python: on CPUs the gradient of a convolution is many times slower inside a loop of JAX's.
    for epoch in range(epochs):
        order = np.asarray(jax.random.permutation(jax.random.fold_in(key, epoch), len(x)))
        for rows in order[: per_epoch * batch].reshape(per_epoch, batch):
            variables, state = step(variables, state, x[rows], jnp.asarray(codes[rows], jnp.int32))
    return variables


def _require_training_set(images: ArrayLike, labels: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Returns images, uint8 or float32 in [0, 1], and labels."""
    images, labels = np.asarray(images), np.asarray(labels)
    if images.ndim != 4 or images.shape[-1] != 1 or len(images) < 20:
        raise InputError(f"expected at least 20 grey images (n, H, W, 1), got shape {images.shape}")
    if labels.shape != images.shape[:1] or not np.issubdtype(labels.dtype, np.integer) or len(np.unique(labels)) < 2:
        raise InputError(
            f"expected {len(images)} integer labels of two classes or more, got {labels.dtype} of shape {labels.shape}"
        )
    if images.dtype == np.uint8:
        return images, labels
    if not np.issubdtype(images.dtype, np.floating) or not ((images >= 0) & (images <= 1)).all():
        raise InputError(f"expected images of uint8, or of floats in [0, 1], got {images.dtype} beyond that")
    return images.astype(np.float32), labels
