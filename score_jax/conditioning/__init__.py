"""Sampling from p(x | y): score functions and samplers that know of a condition, made of others that don't.

`classifier_free`, `class_guided`, `classifier_guidance`, `product_of_scores` and `mixture_of_scores` lean a score
towards a condition; `ClassGuided`, `Autoguided` and `ClassifierGuided`, which has a `NoisedClassifier`, are models that
lean, for `sampling.draw`. `operators` say what was observed of an example; `dps`, `pigdm`, `tmpd` and `mmps` make a
posterior score of it, each by another approximation of p_t(y | x); `replacement` turns a sampler of p(x) into one of
p(x | y).
"""

from score_jax.conditioning import operators
from score_jax.conditioning.classifier import NoisedClassifier
from score_jax.conditioning.dps import dps
from score_jax.conditioning.guidance import (
    class_guided,
    classifier_free,
    classifier_guidance,
    guidance_interval,
    mixture_of_scores,
    product_of_scores,
)
from score_jax.conditioning.guided import Autoguided, ClassGuided, ClassifierGuided
from score_jax.conditioning.mmps import mmps
from score_jax.conditioning.pigdm import pigdm
from score_jax.conditioning.replacement import impose, replacement
from score_jax.conditioning.tmpd import tmpd

__all__ = [
    "Autoguided",
    "ClassGuided",
    "ClassifierGuided",
    "NoisedClassifier",
    "class_guided",
    "classifier_free",
    "classifier_guidance",
    "dps",
    "guidance_interval",
    "impose",
    "mixture_of_scores",
    "mmps",
    "operators",
    "pigdm",
    "product_of_scores",
    "replacement",
    "tmpd",
]
