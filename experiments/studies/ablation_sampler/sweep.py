"""Quality against network calls, of every sampler on the same trained networks: see README.md beside it."""

from configs import toy
from score_jax.lab import sweeps

CALLS = (6, 11, 21, 51, 101)  # network calls, the last denoising included

ONE = [  # a call a step
    ("euler_maruyama", {}),
    ("reverse_diffusion", {}),
    ("ancestral", {}),
    ("ddim", {}),
    ("ddim", {"sampler.ddim.eta": 1.0}),
    ("euler", {}),
    ("lms", {}),
    ("deis", {}),
    ("dpm_solver_pp", {}),
    ("dpm_solver_pp", {"sampler.dpm_solver_pp.eta": 1.0}),
    ("unipc", {}),
    ("consistent_annealed", {}),
]
TWO = [("heun", {}), ("heun", {"sampler.heun.churn": 0.3}), ("kdpm2", {}), ("dpm_solver", {})]


def get_config():
    config = toy.get_config()
    config.training.steps = 6000
    config.sampler.grid = "log_snr"
    config.evaluation.measures = ("distances", "mode_weights")
    return config


def get_sweep():
    cells = [{"sampler.name": "probability_flow"}]
    for calls_of_a_step, chosen in ((1, ONE), (2, TWO)):
        steps = [(calls - 1) // calls_of_a_step for calls in CALLS]
        cells += [{"sampler.name": name, **options, "sampler.steps": n} for name, options in chosen for n in steps]
    annealed = {"sampler.name": "annealed_langevin", "sampler.grid": "levels"}
    cells += [
        {**annealed, "sampler.steps": n, "sampler.annealed_langevin.n_steps": m}
        for n, m in ((5, 1), (10, 1), (10, 2), (10, 5), (10, 10))
    ]
    return sweeps.product(cells, sweeps.axis("seed", range(3)))
