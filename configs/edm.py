"""EDM's training and sampling, as released (Karras et al. 2022): `--config=configs/edm.py`.

    python experiments/train.py --config=configs/edm.py --workdir=runs/edm
    python experiments/train.py --config=configs/edm.py:ffhq --config.data.root=ffhq64 --workdir=runs/ffhq

Variants: cifar10 (default) cifar10_cond cifar10_ncsnpp ffhq afhq imagenet64; the last three are folders of images,
`--config.data.root=FOLDER`, ImageNet's with a folder for each class.

Published, of which nothing is reproduced here: FID of 50,000 samples, the least of three draws (the paper's table 2,
rows F and E, and its abstract). Devices and days are NVlabs/edm's README's, of runs with augmentation but ImageNet's.

| variant | FID with augmentation | FID without | network calls | trained on |
|---|---|---|---|---|
| cifar10 | 1.97 | 2.05 | 35 | 8 V100s, 2 days |
| cifar10_ncsnpp | 1.98 | 1.99 | 35 | 8 V100s, 2 days |
| cifar10_cond | 1.79 | 1.88 | 35 | 8 V100s, 2 days |
| ffhq, afhq | 2.39, 1.96 | 2.60, 2.29 | 79 | 8 V100s, 4 days |
| imagenet64 | | 1.36 | 511 | 32 A100s, 13 days |

The column to compare with is the one with augmentation; the other is `--config.data.augment=0 --config.data.flip=True`.

Published runs hold no image of a folder out; here 500 are, to measure the loss on: `--config.data.holdout`.

A CPU-sized run: `configs/digits.py:edm`.
"""

from typing import Any

from ml_collections import ConfigDict

from score_jax.lab import settings


def _batches(size: int, *, millions: float, half_life: float, side: int) -> dict[str, Any]:
    """Steps, warm-up and average for `size` images a batch, in millions of images; sides of 32 or 64 pixels.

    The learning rate rises over 10 million images. The published loss is summed over dimensions, without our ½: the
    gradient is ours · 2D, and Adam's ε of 1e-8 is divided by that.
    """
    return {
        "training.batch_size": size,
        "training.steps": 10_000 * round(millions * 100 / size),  # whole checkpoint intervals
        "optimizer.warmup_steps": round(10e6 / size),
        "optimizer.eps": 1e-8 / (2 * side * side * 3),
        "training.ema_decay": 0.5 ** (size / (half_life * 1e6)),
    }


def _images(**options: Any) -> dict[str, Any]:
    """Colour images of 64 pixels in a folder."""
    return {"data.name": "folder", "data.convert": True, "data.size": 64, "data.holdout": 500.0, **options}


def get_config(variant: str = "cifar10") -> ConfigDict:
    config = settings.get_config()
    config.data.name = "cifar10"
    config.data.dequantize = False
    config.data.augment = 0.12  # mirror images among them, which the network is told of
    config.data.value_range = (-1.0, 1.0)
    config.sde.name = "edm"
    config.parameterization.name = "edm"
    config.parameterization.edm.sigma_data = 0.5
    config.weighting.name = "edm"
    config.weighting.edm.sigma_data = 0.5
    config.times.name = "lognormal"
    config.network.name = "song_unet"  # 55,733,891 parameters
    config.network.dropout = 0.13
    config.optimizer.update(learning_rate=1e-3, clip_norm=0.0)
    config.update_from_flattened_dict(_batches(512, millions=200, half_life=0.5, side=32))
    # Published: a half-life of at most a twentieth of the n batches seen, so a decay of 1 − 13.9/n; ours is 1 − 9/n.
    config.training.ema_warmup = True
    config.training.label_dropout = 0.0
    config.training.checkpoint_every = 10_000
    config.training.keep_every = 50_000
    config.sampler.name = "heun"
    config.sampler.grid = "karras"
    config.sampler.steps = 17  # and the last one, denoising: 2 · 17 + 1 network calls
    config.sampler.n = config.sampler.batch_size = 64
    faces = {
        **_batches(256, millions=200, half_life=0.5, side=64),
        "data.augment": 0.15,
        "network.song_unet.multipliers": (1, 2, 2, 2),  # 61,805,571 parameters
        "network.song_unet.attention": (2,),  # 16×16 pixels
        "network.dropout": 0.05,
        "optimizer.learning_rate": 2e-4,
        "sampler.steps": 39,
    }
    variants: dict[str, dict[str, Any]] = {
        "cifar10": {},
        "cifar10_cond": {"data.labels": True},
        "cifar10_ncsnpp": {"network.name": "ncsnpp", "network.ncsnpp.multipliers": (2, 2, 2)},
        "ffhq": _images(**faces),
        "afhq": _images(**faces | {"network.dropout": 0.25}),
        "imagenet64": _images(
            **_batches(4096, millions=2500, half_life=50, side=64),
            **{
                "data.labels": True,
                "data.augment": 0.0,
                "network.name": "adm",  # 295,899,267 parameters
                "network.dtype": "bfloat16",
                "network.dropout": 0.1,
                "optimizer.learning_rate": 1e-4,
                "sampler.steps": 255,
                # S_churn of 40 over 256 steps
                "sampler.heun": {"churn": 40 / 256, "s_min": 0.05, "s_max": 50.0, "s_noise": 1.003},
            },
        ),
    }
    return settings.variant(config, variants, variant)
