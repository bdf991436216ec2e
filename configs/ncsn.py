"""NCSN with the settings of its paper and released code (Song & Ermon 2019): `--config=configs/ncsn.py`.

    python experiments/train.py --config=configs/ncsn.py --workdir=runs/ncsn
    python experiments/train.py --config=configs/ncsn.py:mnist --workdir=runs/ncsn_mnist
    python experiments/train.py --config=configs/ncsn.py:celeba --config.data.root=img_align_celeba --workdir=runs/faces

Variants: cifar10 (default) mnist celeba. celeba's root is the folder of the aligned images (178×218), whose middle
140×140 are brought to 32×32.

Published, and not reproduced here, on 2 Titan Xp (MNIST: 1):

| variant | published |
|---|---|
| cifar10 | Inception score 8.87 ± 0.12, FID 25.32, of 50,000 samples of the checkpoint with the best FID of 1,000 |
| mnist, celeba | samples and inpainting that a person recognises; no numbers |

A sample is 10 levels × 100 steps = 1,000 network calls. For a CPU-sized run see `configs/fashion_mnist.py`. The paper's
baseline at one noise level has no process to name here: it is `networks.NCSN(..., num_levels=None)` trained by
`losses.denoising_score_matching` with `kernels.Gaussian(0.01)` and sampled by `sampling.langevin`, 1000 steps of 4e-5.
"""

from ml_collections import ConfigDict

from score_jax.lab import settings


def get_config(variant: str = "cifar10") -> ConfigDict:
    config = settings.get_config()
    config.data.name = "cifar10"
    config.data.dequantize = True
    config.data.flip = True
    config.sde.ve.update(sigma_min=0.01, sigma_max=1.0)  # 1, 0.599, 0.359, …, 0.01: a factor of 1.668 apart
    config.times.name = "discrete"
    config.times.discrete.n = 10
    config.network.name = "ncsn"
    config.network.ncsn.features = 128  # 30,117,635 parameters
    config.parameterization.name = "score"
    # Adam from the first step on: no warm-up, clipping or decay. Its ε, 1e-8, is published for a loss summed over
    # dimensions; ours is divided by their number, so ε is too.
    config.optimizer.update(learning_rate=1e-3, warmup_steps=0, clip_norm=0.0, eps=1e-8 / (32 * 32 * 3))
    config.training.batch_size = 128
    config.training.steps = 200_000  # the released code makes 200,001
    config.training.ema_decay = 0.0  # no average
    config.training.ema_warmup = False
    config.training.checkpoint_every = 5000
    config.training.keep_every = 5000  # the paper chose among all 40; they take 20 GB
    # ε = 2·step_lr: the released sampler's step_lr is 2e-5. The paper prints ε = 2e-5, half of that, and says that 5e-6
    # to 5e-5 work.
    config.sampler.annealed_langevin.update(step_size=4e-5, n_steps=100)
    config.sampler.steps = 10  # the levels of training
    config.sampler.start = "uniform"
    config.sampler.denoise = False
    config.sampler.ema = False
    config.sampler.n = config.sampler.batch_size = 100
    variants = {
        "cifar10": {},
        "mnist": {
            "data.name": "mnist",
            "data.flip": False,
            "network.ncsn.features": 64,  # 7,638,657 parameters
            "optimizer.eps": 1e-8 / (28 * 28),
        },
        "celeba": {
            "data.name": "folder",
            "data.crop": 140,
            "data.size": 32,
            "data.holdout": 0.2,  # as many as CelebA's validation and test images, though not those: 162,079 to train
        },
    }
    return settings.variant(config, variants, variant)
