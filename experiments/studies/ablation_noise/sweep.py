"""Noise of training: σ range, number of levels, law of the times, weighting, one at a time: see README.md beside it."""

from configs import toy
from score_jax.lab import sweeps


def get_config():
    config = toy.get_config()
    config.training.update(steps=3000, log_every=250, checkpoint_every=3000)
    config.weighting.edm.sigma_data = 2.0
    config.times.lognormal.update(mean=0.0, std=1.5)  # of log σ: about the data's scale
    config.sampler.update(name="heun", grid="log_snr", steps=30)
    return config


def get_sweep():
    ranges = [
        {"sde.ve.sigma_min": low, "sde.ve.sigma_max": high} for low in (0.01, 0.05, 0.2) for high in (3.0, 10.0, 50.0)
    ]
    levels = [{"times.name": "discrete", "times.discrete.n": n} for n in (3, 10, 100)]
    laws = sweeps.axis("times.name", ["lognormal", "importance"])
    weights = sweeps.axis("weighting.name", ["likelihood", "edm", "min_snr"])
    return sweeps.product([*ranges, *levels, *laws, *weights], sweeps.axis("seed", range(5)))
