"""2-D densities with a known score at every noise level: `--config=configs/toy.py`, or `configs/toy.py:ssm`.

Variants are objectives: dsm (default) esm ism ssm ssm_plain fd_ssm energy. The density is one word:
`--config.data.name=checkerboard` (mixture eight_gaussians moons swiss_roll checkerboard pinwheel rings spirals).
Expected: relative squared score error below 0.1 at every level, in less than 30 s on 2 CPU cores.
"""

from ml_collections import ConfigDict

from score_jax.lab import settings


def get_config(variant: str = "dsm") -> ConfigDict:
    config = settings.get_config()
    config.data.name = "eight_gaussians"
    config.network.name = "mlp"
    config.sde.ve.update(sigma_min=0.05, sigma_max=10.0)
    config.parameterization.name = "edm"
    config.parameterization.edm.sigma_data = 2.0
    config.optimizer.schedule = "cosine"
    config.training.steps = 6000
    config.training.batch_size = 256
    config.optimizer.learning_rate = 2e-3
    config.training.steps_per_dispatch = 250
    config.training.log_every = 250
    config.training.checkpoint_every = 3000
    config.sampler.annealed_langevin.n_steps = 20  # of ε = 0.14 σ²: they decorrelate the level before
    config.sampler.steps = 50
    config.sampler.n = 2000
    config.sampler.batch_size = 2000
    config.evaluation.n = 2000
    variants = {
        "dsm": {},
        "esm": {"objective.name": "esm"},
        "ism": {"objective.name": "ism"},
        "ssm": {"objective.name": "ssm"},
        "ssm_plain": {"objective.name": "ssm", "objective.ssm.variance_reduced": False},
        "fd_ssm": {"objective.name": "fd_ssm"},
        "energy": {"network.conservative": True},
    }
    return settings.variant(config, variants, variant)
