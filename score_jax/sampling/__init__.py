"""Samplers and the loop that runs them. Grids are reached by module: `sampling.grids`."""

from score_jax.sampling import grids
from score_jax.sampling.base import Sampler, predictor_corrector, sample
from score_jax.sampling.flow import adaptive_flow, probability_flow
from score_jax.sampling.langevin import (
    annealed_langevin,
    consistent_annealed,
    interpolate,
    langevin,
    langevin_corrector,
    mala,
)
from score_jax.sampling.multistep import dpm_solver_pp, unipc
from score_jax.sampling.ode import ddim, euler, heun
from score_jax.sampling.sde import ancestral, euler_maruyama, reverse_diffusion
from score_jax.sampling.thresholding import clipped, dynamically_thresholded, thresholded

__all__ = [
    "Sampler",
    "adaptive_flow",
    "ancestral",
    "annealed_langevin",
    "clipped",
    "consistent_annealed",
    "ddim",
    "dpm_solver_pp",
    "dynamically_thresholded",
    "euler",
    "euler_maruyama",
    "grids",
    "heun",
    "interpolate",
    "langevin",
    "langevin_corrector",
    "mala",
    "predictor_corrector",
    "probability_flow",
    "reverse_diffusion",
    "sample",
    "thresholded",
    "unipc",
]
