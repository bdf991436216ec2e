"""Fashion-MNIST, 28×28, CPU-sized: `--config=configs/fashion_mnist.py`, or `…/fashion_mnist.py:ddpm`.

Variants: ncsn (default) ddpm; and in small, as `configs/score_sde.py` has them, ddpmpp, variance preserving, and
ncsnpp, variance exploding.

The data: Debian's package dataset-fashion-mnist, `--config.data.root=FOLDER` or the variable SCORE_JAX_DATA.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(variant: str = "ncsn") -> ConfigDict:
    config = base.get_config()
    config.data.name = "fashion_mnist"
    config.data.flip = True
    config.sde.ve.sigma_max = 22.5  # the largest distance between two images: 22.46 (experiments/noise_levels.py)
    config.parameterization.name = "edm"
    config.parameterization.edm.sigma_data = 0.45  # root mean square of the pixels
    for name in ("ddpmpp", "ncsnpp"):
        config.network[name].update(channels=32, multipliers=(1, 2, 2), attention=(2,), blocks=1)
    config.training.batch_size = 64
    config.training.steps = 4000
    config.training.steps_per_dispatch = 1  # convolutions: one step a dispatch (see training/step.py)
    config.optimizer.schedule = "cosine"
    config.optimizer.learning_rate = 1e-3
    variants = {
        "ncsn": {},
        "ddpm": {
            "data.value_range": (-1.0, 1.0),
            "parameterization.name": "eps",
            "sde.name": "vp",
            "sampler.name": "ddim",
            "sampler.grid": "log_snr",
            "sampler.steps": 50,
        },
        "ddpmpp": {
            "data.value_range": (-1.0, 1.0),
            "network.name": "ddpmpp",
            "network.condition": "timestep",
            "parameterization.name": "eps",
            "sde.name": "vp",
            "sampler.name": "euler_maruyama",
            "sampler.grid": "uniform",
            "sampler.t_end": 1e-3,
            "sampler.steps": 500,
        },
        "ncsnpp": {
            "network.name": "ncsnpp",
            "network.ncsnpp.rescale": True,
            "network.condition": "sigma",
            "parameterization.name": "score",
            "sampler.name": "reverse_diffusion",
            "sampler.corrector": True,
            "sampler.grid": "uniform",
            "sampler.steps": 250,  # two network calls each
        },
    }
    return base.variant(config, variants, variant)
