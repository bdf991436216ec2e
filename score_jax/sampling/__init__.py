"""Samplers and the loop that runs them. Grids are reached by module: `sampling.grids`."""

from score_jax.sampling import grids
from score_jax.sampling.base import Sampler, predictor_corrector, sample
from score_jax.sampling.deis import deis
from score_jax.sampling.dpm_solver import dpm_solver
from score_jax.sampling.dpm_solver_pp import dpm_solver_pp
from score_jax.sampling.euler_churn import euler_churn
from score_jax.sampling.flow import adaptive_flow, probability_flow
from score_jax.sampling.heun import heun
from score_jax.sampling.kdpm2 import kdpm2
from score_jax.sampling.langevin import (
    annealed_langevin,
    consistent_annealed,
    interpolate,
    langevin,
    langevin_corrector,
    mala,
)
from score_jax.sampling.learned_range import learned_range
from score_jax.sampling.lms import lms
from score_jax.sampling.ode import ddim, euler
from score_jax.sampling.sde import ancestral, euler_maruyama, reverse_diffusion
from score_jax.sampling.thresholding import clipped, dynamically_thresholded, thresholded
from score_jax.sampling.unipc import unipc

__all__ = [
    "Sampler",
    "adaptive_flow",
    "ancestral",
    "annealed_langevin",
    "clipped",
    "consistent_annealed",
    "ddim",
    "deis",
    "dpm_solver",
    "dpm_solver_pp",
    "dynamically_thresholded",
    "euler",
    "euler_churn",
    "euler_maruyama",
    "grids",
    "heun",
    "interpolate",
    "kdpm2",
    "langevin",
    "langevin_corrector",
    "learned_range",
    "lms",
    "mala",
    "predictor_corrector",
    "probability_flow",
    "reverse_diffusion",
    "sample",
    "thresholded",
    "unipc",
]
