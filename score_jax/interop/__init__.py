"""Checkpoints that people already have, without the framework that wrote them.

module, variables = interop.load("checkpoint.pth", source="ncsnv2")      # a network and its parameters
model = interop.score_model("checkpoint.pth", source="ncsnv2")           # a score function on its SDE
interop.save("network.safetensors", module, variables, source="ncsnv2")  # back to the source's names
"""

from score_jax.interop.conditions import KnotIndex, LevelIndex, NoiseLevel, Timestep
from score_jax.interop.sources import load, save, score_model

__all__ = ["KnotIndex", "LevelIndex", "NoiseLevel", "Timestep", "load", "save", "score_model"]
