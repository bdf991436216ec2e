"""Sampling from p(x | y): score functions and samplers that know of a condition, made of others that don't.

`classifier_free`, `class_guided`, `classifier_guidance`, `product_of_scores` and `mixture_of_scores` lean a score
towards a condition; `ClassGuided`, `Autoguided` and `ClassifierGuided`, which has a `NoisedClassifier`, are models that
lean, for `sampling.draw`. `operators` say what was observed of an example:

    posterior scores, for any sampler     dps  likelihood_guidance  pigdm  tmpd  mmps  diffpir
    samplers of others                    replacement  repaint  ilvr
    samplers of their own                 dps_ancestral  ddrm  daps
    whose rows are one set of particles   tds  twisted  mcgdiff

All but the last are approximations, each its own; `experiments/posterior_benchmark` measures them against exact
posteriors.
"""

from score_jax.conditioning import operators
from score_jax.conditioning.classifier import NoisedClassifier
from score_jax.conditioning.daps import daps, gaussian_draw, langevin_draw
from score_jax.conditioning.ddrm import ddrm
from score_jax.conditioning.diffpir import diffpir
from score_jax.conditioning.dps import dps, dps_ancestral, likelihood_guidance
from score_jax.conditioning.guidance import (
    class_guided,
    classifier_free,
    classifier_guidance,
    guidance_interval,
    mixture_of_scores,
    product_of_scores,
)
from score_jax.conditioning.guided import Autoguided, ClassGuided, ClassifierGuided
from score_jax.conditioning.ilvr import ilvr
from score_jax.conditioning.mcgdiff import mcgdiff
from score_jax.conditioning.mmps import mmps
from score_jax.conditioning.pigdm import pigdm
from score_jax.conditioning.repaint import repaint
from score_jax.conditioning.replacement import impose, replacement
from score_jax.conditioning.tds import tds, twisted
from score_jax.conditioning.tmpd import tmpd

__all__ = [
    "Autoguided",
    "ClassGuided",
    "ClassifierGuided",
    "NoisedClassifier",
    "class_guided",
    "classifier_free",
    "classifier_guidance",
    "daps",
    "ddrm",
    "diffpir",
    "dps",
    "dps_ancestral",
    "gaussian_draw",
    "guidance_interval",
    "ilvr",
    "impose",
    "langevin_draw",
    "likelihood_guidance",
    "mcgdiff",
    "mixture_of_scores",
    "mmps",
    "operators",
    "pigdm",
    "product_of_scores",
    "repaint",
    "replacement",
    "tds",
    "tmpd",
    "twisted",
]
