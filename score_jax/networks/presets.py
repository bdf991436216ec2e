"""The published networks of the `ResidualUNet` family, by name; every field can be overridden.

| preset | of | cond |
|---|---|---|
| ddpm | Ho et al. 2020, CIFAR-10 | timestep, 0 to 999 |
| ddpmpp | Song et al. 2021, DDPM++ | 999 t |
| ncsnpp | Song et al. 2021, continuous NCSN++ of variance-exploding processes | σ |
| song_unet | Karras et al. 2022, the DDPM++ of EDM; told of its augmentation with augmentation=9 | log(σ)/4 |
| adm | Dhariwal & Nichol 2021, as EDM trains it on ImageNet 64×64 | log(σ)/4 |

DDPM++ with eight blocks a resolution is "deep", and so is NCSN++. With another `embedding` they take another cond.
"""

from typing import Any

import jax.numpy as jnp

from score_jax.networks.embeddings import GaussianFourier, positional
from score_jax.networks.residual_blocks import fan_in
from score_jax.networks.residual_unet import DivideBySigma, ResidualUNet

FIR = (1.0, 3.0, 3.0, 1.0)


def ddpm(channels: int = 128, **fields: Any) -> ResidualUNet:
    """DDPM's U-Net; 256 pixels: multipliers (1, 1, 2, 2, 4, 4), attention (4,); in score SDE: attention_up "last"."""
    published: dict[str, Any] = {
        "blocks": 2,
        "attention_up": "every",
        "resampling": "conv",
        "skip_scale": 1.0,
        "embedding": positional(channels),
        "group_channels": 1,
    }
    return ResidualUNet(channels, **(published | fields))


def ddpmpp(channels: int = 128, **fields: Any) -> ResidualUNet:
    """DDPM++: BigGAN blocks, residual sums scaled by √½."""
    return ResidualUNet(channels, **({"embedding": positional(channels)} | fields))


def ncsnpp(channels: int = 128, **fields: Any) -> ResidualUNet:
    """NCSN++: DDPM++ with filtered resampling, the image at all resolutions, Fourier features of log σ, and F/σ.

    256 pixels: multipliers (1, 1, 2, 2, 2, 2, 2), two blocks, attention (4,), input_path and output_path "skip".
    """
    published: dict[str, Any] = {
        "fir": FIR,
        "input_path": "residual",
        "embedding": GaussianFourier(2 * channels, 16.0, jnp.log),
        "rescale": True,
        "output_scale": DivideBySigma(),
    }
    return ResidualUNet(channels, **(published | fields))


def song_unet(channels: int = 128, **fields: Any) -> ResidualUNet:
    """EDM's SongUNet on CIFAR-10, its DDPM++; 64 pixels: multipliers (1, 2, 2, 2), attention (2,)."""
    return ddpmpp(channels, **({"multipliers": (2, 2, 2)} | fields))


def adm(channels: int = 192, **fields: Any) -> ResidualUNet:
    """ADM at 64 pixels: the embedding scales and shifts, attention at three resolutions, in heads of 64 channels."""
    published: dict[str, Any] = {
        "multipliers": (1, 2, 3, 4),
        "blocks": 3,
        "attention": (1, 2, 3),
        "attention_up": "every",
        "head_channels": 64,
        "project_resampled": False,
        "skip_scale": 1.0,
        "modulation": "scale_shift",
        "embedding": positional(channels, shift=0.0, cosine_first=True),
        "label_layer": "outer",
        "epsilon": 1e-5,
        "initialization": fan_in,
    }
    return ResidualUNet(channels, **(published | fields))
