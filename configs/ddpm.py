"""Denoising diffusion probabilistic models, as released (Ho et al. 2020): `--config=configs/ddpm.py`.

    python experiments/train.py --config=configs/ddpm.py --workdir=runs/ddpm
    python experiments/train.py --config=configs/ddpm.py:church --config.data.root=church --workdir=runs/church

Variants: cifar10 (default) bedroom church celebahq, the last three folders of images at 256 pixels,
`--config.data.root=FOLDER`.

Published, and not reproduced here (the paper's tables 1 and 3 and appendix B):

| variant | 1000 steps, of the checkpoint with the best FID | hours on a TPU v3-8, at 21 and 2.2 steps a second |
|---|---|---|
| cifar10 | FID 3.17, Inception score 9.46, at most 3.75 bits/dim | 10.6 |
| bedroom | FID 6.36 (4.90 of a larger network) | 303 |
| church | FID 7.89 | 152 |
| celebahq | samples; no number | 63 |

Published runs train on all training images of a category of LSUN, and on all 30,000 of CelebA-HQ. Here 300 (as many as
LSUN's own validation images of a category) and 500 of the folder are held out, to measure the loss on:
`--config.data.holdout`.

Any sampler draws from the same model: `--config.sampler.name=ddim --config.sampler.steps=50` is DDIM on every
twentieth step. A CPU-sized run: `configs/digits.py:ddpm`.
"""

from typing import Any

from ml_collections import ConfigDict

from score_jax.lab import settings

LARGE: dict[str, Any] = {
    "data.name": "folder",
    "data.convert": True,
    "data.size": 256,
    "network.ddpm.multipliers": (1, 1, 2, 2, 4, 4),  # 113,673,219 parameters
    "network.ddpm.attention": (4,),  # 16×16 pixels
    "network.dropout": 0.0,
    "optimizer.learning_rate": 2e-5,
    "training.batch_size": 64,
    "sampler.ancestral.variance": "posterior",
    "sampler.n": 16,
    "sampler.batch_size": 16,
}


def get_config(variant: str = "cifar10") -> ConfigDict:
    config = settings.get_config()
    config.data.name = "cifar10"
    config.data.dequantize = False
    config.data.flip = True
    config.data.value_range = (-1.0, 1.0)
    config.sde.name = "tabulated"
    config.times.name = "knots"
    config.network.name = "ddpm"  # 35,746,307 parameters
    config.network.condition = "timestep"
    config.network.dropout = 0.1
    # The published loss is the mean of ‖·‖² over dimensions and ours half of it: so is its gradient, and with it the
    # norm 1 at which it is clipped, and Adam's ε of 1e-8.
    config.optimizer.update(learning_rate=2e-4, warmup_steps=5000, clip_norm=0.5, eps=0.5e-8)
    config.training.batch_size = 128
    config.training.steps = 800_000
    config.training.ema_decay = 0.9999
    config.training.ema_warmup = False
    config.training.checkpoint_every = 10_000
    config.training.keep_every = 50_000
    config.sampler.name = "ancestral"
    config.sampler.ancestral.variance = "transition"  # "fixedlarge"
    config.sampler.grid = "ddpm"
    config.sampler.steps = 1000
    config.sampler.t_end = 1e-3  # the first of the 1000 steps' times, from which the posterior mean is taken
    config.sampler.threshold = "static"  # as released: the estimate of x0 is clipped at every step
    config.sampler.n = config.sampler.batch_size = 64
    variants: dict[str, dict[str, Any]] = {
        "cifar10": {},
        # The paper flips all but bedrooms (appendix B).
        "bedroom": {**LARGE, "data.flip": False, "data.holdout": 300.0, "training.steps": 2_400_000},
        "church": {**LARGE, "data.holdout": 300.0, "training.steps": 1_200_000},
        "celebahq": {**LARGE, "data.holdout": 500.0, "training.steps": 500_000},
    }
    return settings.variant(config, variants, variant)
