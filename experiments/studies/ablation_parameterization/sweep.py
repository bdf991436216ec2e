"""What the network's output stands for, times how noise levels are weighted: see README.md beside it."""

from configs import toy
from score_jax.lab import sweeps


def get_config():
    config = toy.get_config()
    config.training.update(steps=3000, log_every=250, checkpoint_every=3000)
    config.weighting.edm.sigma_data = 2.0
    config.sampler.update(name="heun", grid="log_snr", steps=30)
    return config


def get_sweep():
    return sweeps.product(
        sweeps.axis("parameterization.name", ["score", "eps", "x0", "v", "flow", "edm"]),
        sweeps.axis("weighting.name", ["sigma2", "likelihood", "edm", "min_snr"]),
        sweeps.axis("seed", range(3)),
    )
