"""Fashion-MNIST, 28×28, CPU-sized: `--config=configs/fashion_mnist.py`. Variants: ncsn (default) ddpm.

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
    }
    return base.variant(config, variants, variant)
