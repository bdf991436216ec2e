"""scikit-learn's handwritten digits, 1,797 real 8×8 images: `--config=configs/digits.py`, or `…/digits.py:ssm`.

Variants: dsm (default) ssm fd_ssm energy compact_ncsn mlp ddpm edm; and in small, as `configs/score_sde.py` has them,
ddpmpp, variance preserving, and ncsnpp, variance exploding; and improved_ddpm, with a cosine schedule and the variances
of its steps learned (Nichol & Dhariwal 2021). The default takes about two minutes on 2 CPU cores.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(variant: str = "dsm") -> ConfigDict:
    config = base.get_config()
    config.data.labels = True
    config.sde.ve.sigma_max = 5.0  # the largest distance between two training digits is 4.74
    config.parameterization.name = "edm"
    config.parameterization.edm.sigma_data = 0.5  # root mean square of the pixels: 0.48
    config.network.unet.multipliers = (1, 2)
    for name in ("ddpm", "ddpmpp", "ncsnpp"):
        config.network[name].update(channels=32, multipliers=(1, 2), blocks=1)
    config.optimizer.learning_rate = 2e-3
    config.optimizer.schedule = "cosine"
    config.training.steps = 750
    config.training.batch_size = 64
    config.training.steps_per_dispatch = 1  # convolutions: one step a dispatch (see training/step.py)
    config.training.log_every = 50
    config.training.checkpoint_every = 750
    config.training.label_dropout = 0.3
    # Levels a factor of 1.17 apart, 4 steps of ε = 0.4 σ² each: 160 network calls
    config.sampler.annealed_langevin = {"step_size": 4e-5, "n_steps": 4}
    config.sampler.steps = 40
    config.sampler.n = config.sampler.batch_size = 100
    config.evaluation.n = 200
    variants = {
        "dsm": {},
        "ssm": {"objective.name": "ssm"},
        "fd_ssm": {"objective.name": "fd_ssm"},
        "energy": {"network.conservative": True},
        "compact_ncsn": {"network.name": "compact_ncsn"},
        "mlp": {
            "network.name": "mlp",
            "network.mlp.hidden": (512, 512, 512),
            "training.steps": 5000,
            "training.steps_per_dispatch": 50,
            "training.log_every": 250,
            "training.checkpoint_every": 2500,
        },
        "ddpm": {
            "data.value_range": (-1.0, 1.0),
            "sde.name": "tabulated",
            "times.name": "knots",
            "parameterization.name": "eps",
            "sampler.name": "ancestral",
            "sampler.grid": "ddpm",
            "sampler.steps": 1000,
            "sampler.t_end": 1e-3,  # the first of the table's times, from which the posterior mean is taken
        },
        "improved_ddpm": {
            "data.value_range": (-1.0, 1.0),
            "sde.name": "tabulated",
            "sde.tabulated.kind": "cosine",
            "parameterization.name": "learned_eps",
            "network.name": "ddpm",
            "network.condition": "timestep",
            "times.name": "knots",
            "objective.name": "hybrid",
            "objective.hybrid.decoder": "gaussian",  # the digits, of 17 grey levels, are dequantized
            "sampler.name": "ancestral",
            "sampler.ancestral.variance": "learned",
            "sampler.grid": "ddpm",
            "sampler.steps": 100,
            "sampler.t_end": 1e-3,
        },
        "ddpmpp": {
            "network.name": "ddpmpp",
            "data.value_range": (-1.0, 1.0),
            "sde.name": "vp",
            "parameterization.name": "eps",
            "network.condition": "timestep",
            "sampler.name": "euler_maruyama",
            "sampler.grid": "uniform",
            "sampler.t_end": 1e-3,
            "sampler.steps": 250,
        },
        "ncsnpp": {
            "network.name": "ncsnpp",
            "network.ncsnpp.rescale": True,
            "parameterization.name": "score",
            "network.condition": "sigma",
            "sampler.name": "reverse_diffusion",
            "sampler.corrector": True,
            "sampler.grid": "uniform",
            "sampler.steps": 125,  # two network calls each
        },
        "edm": {
            "data.value_range": (-1.0, 1.0),
            "parameterization.edm.sigma_data": 0.8,
            "sde.name": "edm",
            "weighting.name": "edm",
            "weighting.edm.sigma_data": 0.8,
            "times.name": "lognormal",
            "sampler.name": "heun",
            "sampler.grid": "karras",
            "sampler.steps": 18,
        },
    }
    return base.variant(config, variants, variant)
