"""scikit-learn's handwritten digits, 1,797 real 8×8 images: `--config=configs/digits.py`, or `configs/digits.py:ssm`.

Variants: dsm (default) ssm fd_ssm energy ddpm edm ncsn mlp.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(variant: str = "dsm") -> ConfigDict:
    config = base.get_config()
    config.data.labels = True
    config.network.unet.multipliers = (1, 2)
    config.training.steps_per_dispatch = 1  # convolutions: one step a dispatch (see training/step.py)
    config.training.steps = 1000
    config.training.log_every = 50
    config.training.checkpoint_every = 500
    config.optimizer.schedule = "cosine"
    variants = {
        "dsm": {},
        "ssm": {"objective.name": "ssm"},
        "fd_ssm": {"objective.name": "fd_ssm"},
        "energy": {"network.conservative": True},
        "ncsn": {"network.name": "ncsn"},
        "mlp": {"network.name": "mlp"},
        "ddpm": {
            "data.value_range": (-1.0, 1.0),
            "sde.name": "tabulated",
            "sampler.name": "ancestral",
            "sampler.grid": "ddpm",
        },
        "edm": {
            "data.value_range": (-1.0, 1.0),
            "sde.name": "edm",
            "parameterization.name": "edm",
            "weighting.name": "edm",
            "times.name": "lognormal",
            "sampler.name": "heun",
            "sampler.grid": "karras",
            "sampler.steps": 18,
        },
    }
    return base.variant(config, variants, variant)
