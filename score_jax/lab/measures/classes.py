"""What a simple classifier of the training examples makes of samples, beside what it makes of held-out ones."""

import numpy as np

from score_jax import metrics
from score_jax.lab.experiment import Numbers
from score_jax.lab.measures.measured import Measured, all_finite
from score_jax.metrics import Classifier
from score_jax.types import InputError


def class_shares(measured: Measured) -> Numbers:
    """Returns how samples are spread over the classes."""
    if "label" not in measured.train:
        raise InputError(f"the data {measured.run.examples.name!r} have no classes that a classifier could tell apart")
    measured.run.experiment.data.require_held_out()
    real = measured.held_out["x"], measured.held_out["label"]
    found = shares(measured.classifier, measured.samples, real)
    return {**found, "class_names": [measured.names[label] for label in measured.classifier.classes]}


def shares(classifier: Classifier, samples: np.ndarray, held_out: tuple[np.ndarray, np.ndarray]) -> Numbers:
    """Returns how sure the classifier is of samples and how it spreads them over classes, beside held-out images."""
    report = metrics.classification_report(classifier, samples, held_out)
    return {
        "held_out_accuracy": report.held_out_accuracy,
        "held_out_confidence": report.held_out_confidence,
        "confidence": report.confidence,
        "class_shares": report.class_shares.round(4).tolist(),
        "data_class_shares": report.data_shares.round(4).tolist(),
        "class_total_variation": report.total_variation,
    }


def conditional_accuracy(measured: Measured) -> Numbers:
    """Returns how many samples are what they were asked to be, by a classifier whose accuracy `class_shares` gives.

    Of all, with the standard error of a share, and of each class that was asked for, in the order of the classes.
    """
    measured.run.sampling.require_score()
    if measured.conditional is None:
        raise InputError(f"this model {measured.run.examples.without_labels}")
    measured.run.experiment.data.require_held_out()
    drawn, labels = measured.conditional
    right = measured.classifier.predict(all_finite(drawn, measured.run.sampling.name)) == labels
    return {
        "conditional_accuracy": float(right.mean()),
        "conditional_accuracy_standard_error": float((right.mean() * (1 - right.mean()) / len(labels)) ** 0.5),
        "conditional_accuracy_by_class": [float(right[labels == label].mean()) for label in np.unique(labels)],
        "conditional_n": len(labels),
    }
