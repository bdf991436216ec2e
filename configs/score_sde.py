"""Score-based generative modeling through SDEs, as released (Song et al. 2021): `--config=configs/score_sde.py`.

    python experiments/train.py --config=configs/score_sde.py --workdir=runs/ncsnpp
    python experiments/train.py --config=configs/score_sde.py:vp_ddpmpp_deep_continuous --workdir=runs/ddpmpp_deep
    python experiments/train.py --config=configs/score_sde.py:ve_church --config.data.root=church --workdir=runs/church

Variants are named process_network. On CIFAR-10: vp_ddpm vp_ddpmpp vp_ncsnpp ve_ddpm ve_ncsnpp, which are discrete;
vp_ddpm_continuous vp_ddpmpp_continuous vp_ncsnpp_continuous, the same of subvp, and ve_ncsnpp_continuous, the default;
and _deep_continuous of ddpmpp and ncsnpp, with twice the blocks. vp_ddpm_unconditional isn't told the noise.

On folders of images, `--config.data.root=FOLDER`: vp_bedroom vp_church vp_celebahq, DDPM's network at 256 pixels;
ve_bedroom ve_church ve_celebahq ve_ffhq, continuous NCSN++ at 256; ve_celebahq_1024 ve_ffhq_1024; and ve_celeba,
discrete NCSN++ at 64.

Published runs train on all training images of a category of LSUN, and hold none of CelebA-HQ and FFHQ out. Here 300 (as
many as LSUN's own validation images of a category) and 500 of the folder are held out, to measure the loss on:
`--config.data.holdout`.

Published on CIFAR-10, and not reproduced here, of 50,000 samples: with predictor and corrector on the left, by the
probability flow on the right. The configs of vp_ and subvp_ have no corrector, as released; this adds one:
`--config.sampler.corrector=True`. Correctors take their norms from each example; released ones from the batch,
`--config.sampler.langevin_corrector.norm=batch`.

| variant | FID, IS of the checkpoint with the best FID | bits/dim, FID of the last checkpoint |
|---|---|---|
| vp_ddpm | FID 3.21; 3.24 without the corrector | 3.28, 3.37 |
| vp_ddpm_continuous, subvp_ | | 3.21, 3.69; 3.05, 3.56 |
| vp_ddpmpp | 2.78, 9.64 | |
| vp_ddpmpp_continuous, subvp_ | 2.55, 9.58; 2.61, 9.56 | 3.16, 3.93; 3.02, 3.16 |
| vp_ddpmpp_deep_continuous, subvp_ | 2.41, 9.68; 2.41, 9.57 | 3.13, 3.08; 2.99, 2.92 |
| ve_ncsnpp | 2.45, 9.73 | |
| ve_ncsnpp_continuous | 2.38, 9.83 | |
| ve_ncsnpp_deep_continuous | 2.20, 9.89 | |

The bits/dim of subvp_, 3.05, 3.02 and 2.99, are of models trained from t = 1e-5, by the flow from there; here both
begin at 1e-3 (see `sde.SubVP`), which is another quantity. FID by the probability flow is that of samples drawn so,
here by an adaptive solver down to t = 1e-3, as published:

    python experiments/sample.py --workdir=runs/ddpmpp_deep --n=50000 --config.sampler.name=probability_flow

A step of ve_ncsnpp_continuous takes the released code 0.20 s (JAX) to 0.56 s (PyTorch) on four V100s, its 1.3 million
3 to 8 days, as its README has it. A CPU-sized run: `configs/digits.py:ncsnpp`.
"""

from typing import Any

from ml_collections import ConfigDict

from score_jax.lab import settings

# Networks. Their levels with attention are those of 16×16 pixels.
DDPM: dict[str, Any] = {
    "network.name": "ddpm",
    "network.ddpm.attention_up": "last",  # 35,218,947 parameters; DDPM's own network has 35,746,307
}
DDPMPP: dict[str, Any] = {"network.name": "ddpmpp"}  # 61,804,419 parameters
NCSNPP: dict[str, Any] = {"network.name": "ncsnpp"}  # 62,758,787; discrete, with another embedding, 62,693,251
DEEP: dict[str, Any] = {  # 106,632,579 of DDPM++, 107,586,947 of NCSN++
    "network.ddpmpp.blocks": 8,
    "network.ncsnpp.blocks": 8,
    "training.steps": 950_000,
}

# Processes
VE: dict[str, Any] = {
    "network.ddpm.rescale": True,
    "network.ncsnpp.rescale": True,  # the images stay in [0, 1], which σ refers to
    "parameterization.name": "score",
    "network.condition": "sigma",
    "training.ema_decay": 0.999,
    "sampler.name": "reverse_diffusion",
    "sampler.corrector": True,
    "sampler.langevin_corrector.snr": 0.16,
}
VE_DISCRETE: dict[str, Any] = {
    **VE,
    "network.condition": "level",
    "times.name": "discrete",
    "times.discrete.n": 1000,
    "sampler.grid": "levels",
    "sampler.steps": 1000,
}
VP: dict[str, Any] = {
    "sde.name": "vp",
    "data.value_range": (-1.0, 1.0),
    "network.condition": "timestep",
    "sampler.name": "euler_maruyama",
    "sampler.t_end": 1e-3,  # training goes down to 1e-5
}
VP_DISCRETE: dict[str, Any] = {
    **VP,
    "sde.name": "tabulated",
    "times.name": "knots",
    "sampler.name": "ancestral",
    "sampler.ancestral.variance": "transition",
    "sampler.grid": "ddpm",
    "sampler.steps": 1000,
}
SUBVP: dict[str, Any] = {
    **VP,
    "sde.name": "subvp",  # t_min 1e-3 where 1e-5 is published: see sde.SubVP
    "parameterization.name": "eps_as_given",
}


def _optimizer(dims: int, *, mean: bool) -> dict[str, Any]:
    """Clips at 1 and Adam's ε of 1e-8, published for ‖·‖² averaged over `dims` dimensions (VP), or half its sum (VE).

    Ours is half the average: half the gradient of the one, and that of the other over `dims`.
    """
    scale = 0.5 if mean else 1 / dims
    return {"optimizer.clip_norm": scale, "optimizer.eps": 1e-8 * scale}


def _cifar10(process: dict[str, Any], *parts: dict[str, Any]) -> dict[str, Any]:
    merged = {**process, **_optimizer(32 * 32 * 3, mean="data.value_range" in process)}
    return {key: value for part in (merged, *parts) for key, value in part.items()}


def _images(process: dict[str, Any], size: int, *parts: dict[str, Any], mean: bool | None = None) -> dict[str, Any]:
    """Colour images in a folder, of this side."""
    return {
        "data.holdout": 500.0,
        **_cifar10(process, *parts),
        "data.name": "folder",
        "data.convert": True,
        "data.size": size,
        **_optimizer(size * size * 3, mean="data.value_range" in process if mean is None else mean),
    }


def _large(network: str, **options: Any) -> dict[str, Any]:
    """256 pixels: batches of 64, no dropout."""
    fields = {"multipliers": (1, 1, 2, 2, 4, 4), "attention": (4,), "blocks": 2} | options
    return {
        **{f"network.{network}.{name}": value for name, value in fields.items()},
        "network.dropout": 0.0,
        "training.batch_size": 64,
        "training.steps": 2_400_000,
        "sampler.n": 16,
        "sampler.batch_size": 16,
    }


def _skips(sigma_max: float, *, snr: float, **options: Any) -> dict[str, Any]:
    """NCSN++ of 256 and 1024 pixels: image and output on all levels, 2000 times."""
    paths = {"input_path": "skip", "output_path": "skip"}
    return {
        **NCSNPP,
        **_large("ncsnpp", **{"multipliers": (1, 1, 2, 2, 2, 2, 2)} | paths | options),
        "sde.ve.sigma_max": sigma_max,
        "sampler.steps": 1999,
        "sampler.langevin_corrector.snr": snr,
    }


# 105,785,880 parameters. The released files of 1024 pixels don't run; these settings are theirs.
HUGE = {
    **_skips(1348.0, snr=0.15, channels=16, multipliers=(1, 2, 4, 8, 16, 32, 32, 32), attention=(6,), blocks=1),
    "training.batch_size": 8,
    "training.ema_decay": 0.9999,
    "sampler.n": 4,
    "sampler.batch_size": 4,
}
LSUN = {"data.holdout": 300.0}
DDPM_256 = {**DDPM, **_large("ddpm"), "optimizer.learning_rate": 2e-5}
VARIANTS: dict[str, dict[str, Any]] = {
    "vp_ddpm": _cifar10(VP_DISCRETE, DDPM),
    "vp_ddpm_unconditional": _cifar10(VP_DISCRETE, DDPM, {"network.condition": "none"}),
    "vp_ddpm_continuous": _cifar10(VP, DDPM),
    "vp_ddpmpp": _cifar10(VP_DISCRETE, DDPMPP),
    "vp_ddpmpp_continuous": _cifar10(VP, DDPMPP),
    "vp_ddpmpp_deep_continuous": _cifar10(VP, DDPMPP, DEEP),
    "vp_ncsnpp": _cifar10(VP_DISCRETE, NCSNPP, {"sampler.name": "reverse_diffusion"}),
    "vp_ncsnpp_continuous": _cifar10(VP, NCSNPP),
    "vp_ncsnpp_deep_continuous": _cifar10(VP, NCSNPP, DEEP),
    "subvp_ddpm_continuous": _cifar10(SUBVP, DDPM),
    "subvp_ddpmpp_continuous": _cifar10(SUBVP, DDPMPP),
    "subvp_ddpmpp_deep_continuous": _cifar10(SUBVP, DDPMPP, DEEP),
    "subvp_ncsnpp_continuous": _cifar10(SUBVP, NCSNPP),
    "subvp_ncsnpp_deep_continuous": _cifar10(SUBVP, NCSNPP, DEEP),
    "ve_ddpm": _cifar10(VE_DISCRETE, DDPM),
    "ve_ncsnpp": _cifar10(VE_DISCRETE, NCSNPP),
    "ve_ncsnpp_continuous": _cifar10(VE, NCSNPP),
    "ve_ncsnpp_deep_continuous": _cifar10(VE, NCSNPP, DEEP),
    "vp_bedroom": _images(VP_DISCRETE, 256, DDPM_256, LSUN),
    "vp_church": _images(VP_DISCRETE, 256, DDPM_256, LSUN),
    "vp_celebahq": _images(VP_DISCRETE, 256, DDPM_256),
    "ve_bedroom": _images(VE, 256, _skips(378.0, snr=0.075), LSUN),
    "ve_church": _images(VE, 256, _skips(380.0, snr=0.075), LSUN),
    "ve_celebahq": _images(VE, 256, _skips(348.0, snr=0.075)),
    "ve_ffhq": _images(VE, 256, _skips(348.0, snr=0.075)),
    "ve_celebahq_1024": _images(VE, 1024, HUGE),
    "ve_ffhq_1024": _images(VE, 1024, HUGE, mean=True),
    "ve_celeba": {
        **_images(VE_DISCRETE, 64, NCSNPP, {"sde.ve.sigma_max": 90.0, "sampler.langevin_corrector.snr": 0.17}),
        "data.crop": 140,
        "data.holdout": 0.2,  # as many as CelebA's validation and test images, though not those
        "network.ncsnpp.attention": (2,),
    },
}


def get_config(variant: str = "ve_ncsnpp_continuous") -> ConfigDict:
    config = settings.get_config()
    config.data.name = "cifar10"
    config.data.dequantize = False
    config.data.flip = True
    config.sde.ve.update(sigma_min=0.01, sigma_max=50.0)
    config.network.dropout = 0.1
    config.times.uniform.antithetic = False
    config.optimizer.update(learning_rate=2e-4, warmup_steps=5000)
    config.training.batch_size = 128
    config.training.steps = 1_300_000  # the released code makes 1,300,001, and one more than ours in every variant
    config.training.ema_decay = 0.9999
    config.training.ema_warmup = False  # as in JAX; the PyTorch code averages less in the beginning
    config.training.checkpoint_every = 10_000
    config.training.keep_every = 50_000
    config.sampler.grid = "uniform"
    config.sampler.steps = 999  # of 1000 times, the last of them denoised; published steps count as 1/1000 each
    config.sampler.n = config.sampler.batch_size = 64
    return settings.variant(config, VARIANTS, variant)
