"""How recognisable and how balanced samples of small grey images are, judged by a simple classifier.

The classifier is trained by the project on the real data at hand: a support-vector machine with Gaussian kernel
where that takes a second (8×8 digits: 99 % right), a one-layer perceptron beyond. What it says of samples is
read beside what it says of held-out real images; it is no Inception network, and its numbers compare with those of
the same data only.
"""

import warnings
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from score_jax.types import ArrayLike, InputError

# Training values (images × pixels) up to which the support-vector machine takes about a second.
_SVM_VALUES = 500_000
_CALIBRATION_FOLDS = 5


@dataclass(frozen=True)
class Classifier:
    """A trained classifier of images (N, H, W, C) in [0, 1]; `classes` (K,) are the labels, ascending."""

    model: Any
    classes: np.ndarray
    image_shape: tuple[int, ...]

    def probabilities(self, images: ArrayLike) -> np.ndarray:
        """Returns class probabilities (N, K); samples that overshoot [0, 1] are clipped to it."""
        images = _float_images(images)
        if images.shape[1:] != self.image_shape:
            raise InputError(f"the classifier was trained on images {self.image_shape}, got {images.shape[1:]}")
        return self.model.predict_proba(_features(np.clip(images, 0, 1)))

    def features(self, images: ArrayLike) -> np.ndarray:
        """Returns what the last layer sees, (N, F): the hidden layer, or the K decision values where there is none."""
        flat = _features(np.clip(_float_images(images), 0, 1))
        if hasattr(self.model, "coefs_"):
            return np.maximum(flat @ self.model.coefs_[0] + self.model.intercepts_[0], 0)
        return self.model.calibrated_classifiers_[0].estimator.decision_function(flat)

    def predict(self, images: ArrayLike) -> np.ndarray:
        """Returns the most probable label of each image, (N,)."""
        return self.classes[self.probabilities(images).argmax(1)]


class ClassificationReport(NamedTuple):
    """What `classification_report` measures; accuracies and confidences are means over images."""

    held_out_accuracy: float
    held_out_confidence: float
    confidence: float  # mean probability of the most probable class, on the samples
    class_shares: np.ndarray  # (K,) of the samples, by predicted class
    data_shares: np.ndarray  # (K,) of the held-out images, by predicted class
    total_variation: float  # ½ Σ |share − data share|: 0 equal, 1 disjoint
    kl: float  # Σ share·log(share/data share), nats
    accuracy: float | None  # on the samples, where their labels are given


def train_classifier(images: ArrayLike, labels: ArrayLike) -> Classifier:
    """Trains a classifier; deterministic; under a second for the digits, about 15 s for 60,000 images of 28×28.

    Args:
      images: (N, H, W, C), float in [0, 1].
      labels: (N,) integers; every class needs at least 5 images.

    Examples:
      Black images and white ones.

      >>> labels = np.repeat([0, 1], 10)
      >>> images = np.ones((20, 2, 2, 1)) * labels[:, None, None, None]
      >>> print(metrics.train_classifier(images, labels).predict(images[[0, 19]]))
      [0 1]
    """
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier
    from sklearn.svm import SVC
    from threadpoolctl import threadpool_limits

    images, labels = _float_images(images), np.asarray(labels)
    _check_training_set(images, labels)
    # scikit-learn's temperature scaling reads past its arrays unless classes are 0 … K−1.
    classes, codes = np.unique(labels, return_inverse=True)
    if images.size <= _SVM_VALUES:
        svm = SVC(C=10.0)
        model = CalibratedClassifierCV(svm, method="temperature", cv=_CALIBRATION_FOLDS, ensemble=False)
    else:
        # 15 passes: the accuracy on Fashion-MNIST no longer rises; stopping short of convergence is meant.
        model = MLPClassifier((256,), batch_size=256, max_iter=15, tol=0.0, random_state=0)
    # One thread: matrices this small gain little from more, and on a busy machine threads that wait cost tenfold.
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(_features(images), codes)
    return Classifier(model, classes, images.shape[1:])


def classification_report(
    classifier: Classifier,
    samples: ArrayLike,
    held_out: tuple[ArrayLike, ArrayLike],
    *,
    labels: ArrayLike | None = None,
) -> ClassificationReport:
    """Reports what the classifier makes of samples, beside held-out real images.

    Both histograms of classes are of predictions, so that the classifier's own errors fall on both sides alike. The KL
    divergence counts every class once more than seen, on both sides, which keeps it finite.

    Args:
      classifier: from `train_classifier`.
      samples: (N, H, W, C), float in [0, 1].
      held_out: `(images (M, H, W, C), labels (M,))` that the classifier was not trained on.
      labels: (N,) labels the samples were asked to have, where there were any.

    Examples:
      Samples that are white alone, where half of the data are black.

      >>> labels = np.repeat([0, 1], 10)
      >>> images = np.ones((20, 2, 2, 1)) * labels[:, None, None, None]
      >>> classifier = metrics.train_classifier(images, labels)
      >>> report = metrics.classification_report(classifier, images[10:], (images, labels))
      >>> print(report.held_out_accuracy, report.class_shares, report.total_variation)
      1.0 [0. 1.] 0.5
    """
    real_images, real_labels = held_out
    real, fake = classifier.probabilities(real_images), classifier.probabilities(samples)
    real_counts, fake_counts = (np.bincount(p.argmax(1), minlength=p.shape[1]) for p in (real, fake))
    data_shares, class_shares = real_counts / len(real), fake_counts / len(fake)
    return ClassificationReport(
        held_out_accuracy=_accuracy(classifier, real, real_labels),
        held_out_confidence=float(real.max(1).mean()),
        confidence=float(fake.max(1).mean()),
        class_shares=class_shares,
        data_shares=data_shares,
        total_variation=float(0.5 * np.abs(class_shares - data_shares).sum()),
        kl=_kl(fake_counts + 1, real_counts + 1),
        accuracy=None if labels is None else _accuracy(classifier, fake, labels),
    )


def _accuracy(classifier: Classifier, probabilities: np.ndarray, labels: ArrayLike) -> float:
    labels = np.asarray(labels)
    if labels.shape != (len(probabilities),):
        raise InputError(f"expected one label per image, ({len(probabilities)},), got {labels.shape}")
    return float((classifier.classes[probabilities.argmax(1)] == labels).mean())


def _kl(counts: np.ndarray, reference: np.ndarray) -> float:
    p, q = counts / counts.sum(), reference / reference.sum()
    return float((p * np.log(p / q)).sum())


def _features(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1).astype(np.float32)


def _float_images(images: ArrayLike) -> np.ndarray:
    images = np.asarray(images)
    if images.ndim != 4 or len(images) == 0:
        raise InputError(f"expected images (N, H, W, C), got shape {images.shape}")
    if not np.issubdtype(images.dtype, np.floating):
        raise InputError(f"expected float images in [0, 1], got {images.dtype}: divide by 255 first")
    if not np.isfinite(images).all():
        bad = (~np.isfinite(images).all((1, 2, 3))).sum()
        raise InputError(f"{bad} of {len(images)} images hold NaN or infinite values: drop them")
    return images


def _check_training_set(images: np.ndarray, labels: np.ndarray) -> None:
    if images.min() < 0 or images.max() > 1:
        given = f"[{images.min():g}, {images.max():g}]"
        raise InputError(f"expected training images in [0, 1], got {given}: undo the data's scaling first")
    if labels.shape != (len(images),):
        raise InputError(f"expected one label per image, ({len(images)},), got {labels.shape}")
    classes, counts = np.unique(labels, return_counts=True)
    if len(classes) < 2 or counts.min() < _CALIBRATION_FOLDS:
        raise InputError(
            f"a classifier needs two classes with {_CALIBRATION_FOLDS} images each, got "
            f"{len(classes)} class(es), the rarest ({classes[counts.argmin()]}) with {counts.min()}"
        )
