"""Numbers that say how good samples and scores are: arrays in, numbers out.

`frechet`, `kid`, `prdc`, `inception_score` and `c2st` compare features, `features` tells those of images, `bootstrap`
gives any of them its error bar; `two_sample` compares samples, `calibration` a score function with the exact one by
noise level, `posterior` samples of p(x | y) with the truths, `classifier` judges small images, `neighbours` finds the
nearest training examples, by pixels or features, and tells copying from learning; `psnr` and `ssim` compare a restored
image with the true one.
"""

from score_jax.metrics import features
from score_jax.metrics.bootstrap import bootstrap, half_differences, half_sums
from score_jax.metrics.c2st import c2st
from score_jax.metrics.calibration import ScoreError, score_error
from score_jax.metrics.classifier import ClassificationReport, Classifier, classification_report, train_classifier
from score_jax.metrics.features import Features
from score_jax.metrics.frechet import Moments, frechet, frechet_distance, frechet_of_parts
from score_jax.metrics.grey_features import GreyFeatures, grey_features_of, train_grey_features
from score_jax.metrics.image_quality import psnr, ssim
from score_jax.metrics.inception_score import inception_score
from score_jax.metrics.kid import kid
from score_jax.metrics.moments_file import load_moments, save_moments
from score_jax.metrics.neighbours import Memorisation, copying, memorisation, nearest_neighbours
from score_jax.metrics.posterior import RankCalibration, energy_scores, posterior_ranks, rank_calibration
from score_jax.metrics.prdc import PRDC, prdc
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
    "PRDC",
    "ClassificationReport",
    "Classifier",
    "Features",
    "GreyFeatures",
    "Memorisation",
    "ModeWeights",
    "Moments",
    "RankCalibration",
    "ScoreError",
    "bootstrap",
    "c2st",
    "classification_report",
    "copying",
    "energy_distance",
    "energy_scores",
    "features",
    "frechet",
    "frechet_distance",
    "frechet_of_parts",
    "grey_features_of",
    "half_differences",
    "half_sums",
    "inception_score",
    "kid",
    "load_moments",
    "memorisation",
    "mmd",
    "mode_coverage",
    "mode_weights",
    "nearest_neighbours",
    "posterior_ranks",
    "prdc",
    "psnr",
    "rank_calibration",
    "save_moments",
    "score_error",
    "sliced_wasserstein",
    "ssim",
    "train_classifier",
    "train_grey_features",
    "wasserstein2",
]
