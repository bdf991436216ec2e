"""Numbers that say how good samples and scores are: arrays in, numbers out.

`two_sample` compares samples, `calibration` a score function with the exact one by noise level,
`classifier` judges small images, `neighbours` finds the nearest training examples, by pixels or features, and tells
copying from learning.
"""

from score_jax.metrics.calibration import ScoreError, score_error
from score_jax.metrics.classifier import ClassificationReport, Classifier, classification_report, train_classifier
from score_jax.metrics.neighbours import Memorisation, copying, memorisation, nearest_neighbours
from score_jax.metrics.two_sample import (
    ModeWeights,
    energy_distance,
    mmd,
    mode_coverage,
    mode_weights,
    sliced_wasserstein,
    wasserstein2,
)

__all__ = [
    "ClassificationReport",
    "Classifier",
    "Memorisation",
    "ModeWeights",
    "ScoreError",
    "classification_report",
    "copying",
    "energy_distance",
    "memorisation",
    "mmd",
    "mode_coverage",
    "mode_weights",
    "nearest_neighbours",
    "score_error",
    "sliced_wasserstein",
    "train_classifier",
    "wasserstein2",
]
