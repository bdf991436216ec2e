"""Objectives at equal compute and at equal steps, on two mixtures, five seeds: see README.md beside it.

Equal compute: multiplications of a step, as XLA counts them, with denoising's as one. A pass forward and its gradient
are 1; a sliced objective has a pass and a derivative along a line, finite differences and the control variate have two
passes, the exact trace in the plane two derivatives, each with a pass of its own: 2, 2, 2 and 3.7.
"""

from configs import toy
from score_jax.lab import sweeps

STEPS = 3300  # of an objective of one pass
OBJECTIVES = {  # settings, and multiplications of a step
    "esm": ({"objective.name": "esm"}, 1),
    "dsm": ({"objective.name": "dsm"}, 1),
    "dsm, control variate": ({"objective.name": "dsm", "objective.dsm.control_scale": 0.3}, 2),
    "ism": ({"objective.name": "ism"}, 11 / 3),
    "ssm": ({"objective.name": "ssm", "objective.ssm.variance_reduced": False}, 2),
    "ssm_vr": ({"objective.name": "ssm"}, 2),
    "fd_ssm": ({"objective.name": "fd_ssm"}, 2),
}
HALF = STEPS // 2


def get_config():
    config = toy.get_config()
    config.sde.ve.sigma_max = 0.0  # of the data: modes of the mixture are 14 apart
    config.training.update(log_every=150, checkpoint_every=STEPS, steps_per_dispatch=150)
    config.sampler.update(name="heun", grid="log_snr", steps=30)
    return config


def get_sweep():
    equal_compute = [{**chosen, "training.steps": round(STEPS / cost)} for chosen, cost in OBJECTIVES.values()]
    equal_steps = [{**chosen, "training.steps": HALF} for chosen, _ in OBJECTIVES.values()]
    data, seeds = sweeps.axis("data.name", ["eight_gaussians", "mixture"]), sweeps.axis("seed", range(5))
    return sweeps.product(data, [*equal_compute, *equal_steps], seeds)
