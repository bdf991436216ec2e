"""Objectives of score matching. Weightings and time samplers are reached by module: `losses.weighting`, `.times`."""

from score_jax.losses import times, weighting
from score_jax.losses.classification import classification_loss
from score_jax.losses.diffusion import diffusion_loss, perturbed
from score_jax.losses.matching import (
    control_variate,
    denoising_score_matching,
    explicit_score_matching,
    finite_difference_score_matching,
    implicit_score_matching,
    sliced_score_matching,
)
from score_jax.losses.uncertainty import uncertainty_weighted
from score_jax.losses.variational import hybrid_loss

__all__ = [
    "classification_loss",
    "control_variate",
    "denoising_score_matching",
    "diffusion_loss",
    "explicit_score_matching",
    "finite_difference_score_matching",
    "hybrid_loss",
    "implicit_score_matching",
    "perturbed",
    "sliced_score_matching",
    "times",
    "uncertainty_weighted",
    "weighting",
]
