"""Networks: Linen modules `(x (B, *S), cond (B,), label None or (B,)) -> F (B, *S)` that know nothing of diffusion.

`module.apply(variables, x, cond, label, train=False)`. Examples of a batch never see each other; fixed arrays live in
the collection "fixed"; dropout draws from the rng "dropout" with `train=True`.

`Encoder`, and `MLP` of `logits`, are classifiers of noised data: `(x, cond) -> logits (B, K)`.

`InceptionV3`, `EfficientNetLite0` and `GreyClassifier` are no score networks: `x (B, H, W, C) of 0 … 255 ->
FeatureOutputs(features (B, F), logits (B, K))`, for metrics.
"""

from score_jax.networks.classifier import GreyClassifier
from score_jax.networks.compact_ncsn import CompactNCSN
from score_jax.networks.conservative import Conservative
from score_jax.networks.contextual import Contextual
from score_jax.networks.convolution import Conv
from score_jax.networks.efficientnet import EfficientNetLite0
from score_jax.networks.embeddings import (
    ConditionEmbedding,
    GaussianFourier,
    LabelEmbedding,
    Sinusoidal,
    Told,
    positional,
)
from score_jax.networks.encoder import Encoder
from score_jax.networks.frozen import FeatureOutputs
from score_jax.networks.inception import InceptionV3
from score_jax.networks.mlp import MLP
from score_jax.networks.ncsn import NCSN, NCSNv2
from score_jax.networks.norms import ConditionalInstanceNormPlus, GroupNorm, InstanceNormPlus, LevelInstanceNormPlus
from score_jax.networks.presets import adm, ddpm, ddpmpp, ncsnpp, song_unet
from score_jax.networks.residual_unet import DivideBySigma, ResidualUNet
from score_jax.networks.uncertainty import Uncertainty
from score_jax.networks.unet import UNet

__all__ = [
    "MLP",
    "NCSN",
    "CompactNCSN",
    "ConditionEmbedding",
    "ConditionalInstanceNormPlus",
    "Conservative",
    "Contextual",
    "Conv",
    "DivideBySigma",
    "EfficientNetLite0",
    "Encoder",
    "FeatureOutputs",
    "GaussianFourier",
    "GreyClassifier",
    "GroupNorm",
    "InceptionV3",
    "InstanceNormPlus",
    "LabelEmbedding",
    "LevelInstanceNormPlus",
    "NCSNv2",
    "ResidualUNet",
    "Sinusoidal",
    "Told",
    "UNet",
    "Uncertainty",
    "adm",
    "ddpm",
    "ddpmpp",
    "ncsnpp",
    "positional",
    "song_unet",
]
