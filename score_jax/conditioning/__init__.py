"""Sampling from p(x | y): what was observed, and samplers and score functions that know of it.

`operators` say what was observed of an example; `inverse` turns a sampler of p(x) into one of p(x | y).
"""

from score_jax.conditioning import operators
from score_jax.conditioning.inverse import impose, replacement

__all__ = ["impose", "operators", "replacement"]
