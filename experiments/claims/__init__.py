"""The statements of lecture notes on score matching, each as a function that measures it."""

from . import conditional, denoising, diffusion, langevin, noise_levels, score_matching  # noqa: F401
from .claim import CLAIMS, Check, Claim, Measurement, select
from .page import failures, line, page

__all__ = ["CLAIMS", "Check", "Claim", "Measurement", "failures", "line", "page", "select"]
