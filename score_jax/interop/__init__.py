"""Checkpoints that people already have, without the framework that wrote them.

module, variables = interop.load("checkpoint.pth", source="ncsnv2")              # a network and its parameters
model = interop.score_model("google/ddpm-cifar10-32", source="diffusers")        # a score function on its SDE
model = interop.score_model("checkpoint_8.pth", source="score_sde_pytorch", config="config.json")
interop.save("network.safetensors", module, variables, source="ncsnv2")          # back to the source's names
module, variables = interop.load_inception("pt_inception-2015-12-05-6726825d.pth")    # what FID's features are told by
"""

from score_jax.interop.feature_networks import load_efficientnet_lite0, load_inception
from score_jax.interop.sources import load, save, score_model

__all__ = ["load", "load_efficientnet_lite0", "load_inception", "save", "score_model"]
