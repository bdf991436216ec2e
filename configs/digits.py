"""scikit-learn's handwritten digits, 1,797 real 8×8 images: `--config=configs/digits.py`, or `…/digits.py:ssm`.

    python experiments/train.py --config=configs/digits.py:edm --workdir=runs/edm
    python experiments/evaluate.py --workdir=runs/edm --config.evaluation.likelihood_n=64

Variants: dsm (default) ssm fd_ssm energy compact_ncsn mlp ddpm edm; and in small, as `configs/score_sde.py` has them,
ddpmpp, variance preserving, and ncsnpp, variance exploding; and improved_ddpm, with a cosine schedule and the variances
of its steps learned (Nichol & Dhariwal 2021).

Expected of these two commands, seed 0:

| variant | core-minutes | network calls | accuracy | distance | bits/dim |
|---|---|---|---|---|---|
| dsm | 1.8 | 161 | 0.86 | 1.46 | 2.01 ± 0.03 |
| ssm | 3.3 | 161 | 0.80 | 1.52 | 2.15 ± 0.03 |
| fd_ssm | 3.2 | 161 | 0.79 | 1.50 | 2.16 ± 0.03 |
| energy | 4.2 | 161 | 0.85 | 1.37 | 2.04 ± 0.03 |
| compact_ncsn | 5.4 | 161 | 0.92 | 1.45 | 2.02 ± 0.03 |
| mlp | 0.6 | 161 | 0.95 | 1.45 | 2.85 ± 0.07 |
| ddpm | 2.2 | 1000 | 0.89 | 1.36 | 2.15 ± 0.03 |
| improved_ddpm | 2.7 | 100 | 0.95 | 1.24 | 2.15 ± 0.04 |
| ddpmpp | 2.6 | 251 | 0.94 | 1.27 | 2.09 ± 0.03 |
| ncsnpp | 4.8 | 251 | 0.92 | 1.19 | 1.94 ± 0.03 |
| edm | 1.4 | 35 | 0.89 | 1.35 | 1.98 ± 0.03 |

Core-minutes are the CPU time of train.py with its 100 samples, on 2 cores with other work beside it; the default takes
about two minutes on idle ones. Network calls are a sample's; energy and compact_ncsn were sampled with ε = 0.4 σ²,
before the step followed the levels (0.38 now, by which the other four of 161 calls moved by 0.02 at most). Accuracy:
share of 200 samples that a classifier takes for the digit asked for, with a standard error of 0.02 to 0.03; it is right
on 0.99 of held-out digits. Distance: from 200 samples of no given label to the nearest training digit, over that from
held-out ones; none is a copy. Bits/dim: of 64 held-out digits of 17 grey levels, dequantized, by the probability flow
without the label, with their standard error; of the first 64, where `evaluate.py` now takes 64 at random.
The variational bound (`--config.evaluation.bound_n=64`) is 2.73 ± 0.04 of ddpm's 1,000 steps, and 2.22 ± 0.04 of
improved_ddpm's 100, whose variances are learned.

Guidance. The variant `classifier` trains no score but a classifier of noised digits (1.0 core-minutes), which leads
samples of a model without labels; labels of the default lead its own, by classifier-free guidance:

    python experiments/train.py --config=configs/digits.py:classifier --workdir=runs/classifier
    python experiments/train.py --config=configs/digits.py --config.data.labels=False --workdir=runs/free
    python experiments/evaluate.py --workdir=runs/digits --config.sampler.guidance.scale=2
    python experiments/evaluate.py --workdir=runs/free --config.sampler.guidance.guide=classifier \\
        --config.sampler.guidance.workdir=runs/classifier --config.sampler.guidance.scale=2

Accuracy of 200 samples, 20 of each digit in turn, as above; seed 0, with the standard error of a share, and the lowest
of a digit, of 20:

| scale | by the label | lowest | by the classifier | lowest |
|---|---|---|---|---|
| 0 | 0.08 ± 0.02 | 0.00 | 0.09 ± 0.02 | 0.00 |
| 1 | 0.86 ± 0.02 | 0.70 (9) | 0.61 ± 0.03 | 0.35 (1) |
| 2 | 0.995 ± 0.005 | 0.95 (3) | 0.83 ± 0.03 | 0.55 (1) |
| 4 | 1.00 (200 of 200) | 1.00 | 0.91 ± 0.02 | 0.70 (1) |

A sample takes 322 network evaluations, by the label at scale 1 its 161: there a model is by itself. The classifier is
right on 0.99 of 297 held-out digits up to σ = 0.04, on 0.91 ± 0.02 at 0.29, 0.51 ± 0.03 at 0.82 and 0.19 ± 0.02 at 2.3,
where 0.15 are the most frequent digit.

Autoguidance by the default trained for 150 steps (Karras et al. 2024) makes digits surer, and samples less like the
data: accuracy of 1,000 samples, 100 of each digit, the lowest of a digit, and the Fréchet distance of 1,000 of no given
label to the training set, by the `grey` network's features; seed 0:

    python experiments/train.py --config=configs/digits.py --config.training.steps=150 --workdir=runs/weak
    python experiments/evaluate.py --workdir=runs/digits --config.sampler.guidance.guide=autoguidance \\
        --config.sampler.guidance.workdir=runs/weak --config.sampler.guidance.scale=2 --config.evaluation.n=1000 \\
        --config.evaluation.features.name=grey

| scale | accuracy | lowest | Fréchet distance |
|---|---|---|---|
| 1 | 0.873 ± 0.011 | 0.79 (8 and 9) | 13.6 ± 0.7 |
| 1.5 | 0.948 ± 0.007 | 0.89 (3 and 9) | 18.6 ± 1.4 |
| 2 | 0.978 ± 0.005 | 0.94 | 31.9 ± 2.7 |
| 3 | 0.991 ± 0.003 | 0.96 | 60.9 ± 3.7 |

Restored from 16 held-out digits with noise of 0.05 of black to white, 8 samples each (64 of tds, one set of particles),
± the standard error over the 16:

    python experiments/condition.py --workdir=runs/edm --task=inpaint --method=pigdm --noise_std=0.05 --held_out=16

| edm, seed 0 | calls | products | residual | of the posterior | PSNR, dB | of the mean | SSIM |
|---|---|---|---|---|---|---|---|
| inpaint, pigdm | 35 | 35 | 0.55 ± 0.03 | 0.35 | 14.2 ± 0.5 | 16.7 ± 0.6 | 0.59 ± 0.03 |
| inpaint, mmps, n_steps 3 | 35 | 140 | 1.00 ± 0.35 | 0.35 | 14.6 ± 0.4 | 16.8 ± 0.4 | 0.63 ± 0.02 |
| inpaint, ddrm | 18 | 0 | 0.33 ± 0.01 | 0.35 | 14.4 ± 0.3 | 16.3 ± 0.4 | 0.56 ± 0.03 |
| inpaint, diffpir | 35 | 0 | 0.31 ± 0.00 | 0.35 | 12.9 ± 0.2 | 15.2 ± 0.3 | 0.46 ± 0.02 |
| inpaint, tds | 19 | 18 | 0.40 ± 0.02 | 0.35 | 17.6 ± 0.8 | 17.6 ± 0.8 | 0.78 ± 0.04 |
| super_resolution, pigdm | 35 | 35 | 0.33 ± 0.01 | 0.20 | 12.7 ± 0.4 | 15.0 ± 0.4 | 0.61 ± 0.03 |
| super_resolution, mmps, n_steps 3 | 35 | 140 | 0.40 ± 0.07 | 0.20 | 13.3 ± 0.5 | 16.1 ± 0.6 | 0.69 ± 0.04 |
| super_resolution, ddrm | 18 | 0 | 0.25 ± 0.01 | 0.20 | 13.5 ± 0.4 | 15.3 ± 0.5 | 0.64 ± 0.05 |
| super_resolution, diffpir | 35 | 0 | 0.24 ± 0.01 | 0.20 | 12.3 ± 0.3 | 14.6 ± 0.4 | 0.57 ± 0.04 |
| super_resolution, tds | 19 | 18 | 0.23 ± 0.01 | 0.20 | 15.4 ± 0.7 | 16.1 ± 0.7 | 0.78 ± 0.05 |
| deblur, std 1, pigdm | 35 | 35 | 0.48 ± 0.01 | 0.40 | 15.5 ± 0.4 | 18.5 ± 0.6 | 0.82 ± 0.02 |
| deblur, std 1, mmps, n_steps 3 | 35 | 140 | 0.54 ± 0.04 | 0.40 | 15.7 ± 0.4 | 18.6 ± 0.6 | 0.82 ± 0.02 |
| deblur, std 1, ddrm | 18 | 0 | 0.40 ± 0.01 | 0.40 | 18.0 ± 0.4 | 19.1 ± 0.5 | 0.90 ± 0.01 |
| deblur, std 1, diffpir | 35 | 0 | 0.40 ± 0.01 | 0.40 | 14.1 ± 0.4 | 15.8 ± 0.5 | 0.77 ± 0.03 |
| deblur, std 1, tds | 19 | 18 | 0.42 ± 0.01 | 0.40 | 17.8 ± 0.4 | 18.3 ± 0.5 | 0.90 ± 0.02 |

A box of 4×4 pixels is hidden, means of 2×2 are seen, or a Gaussian blur. Calls are the network's of a sample, products
its vector–Jacobian products. The residual ‖y − A x‖ of posterior samples is σ_y √m of m observed numbers: ΠGDM leaves
up to 1.7 times that; of MMPS's samples of two digits went astray (6.0 and 2.2 of inpaint, the others' median is 0.49).
The particles of tds are one sample at the end, or few: its PSNR is that of one good guess, its deviation tells nothing.
"""

from ml_collections import ConfigDict

from score_jax.lab import settings


def get_config(variant: str = "dsm") -> ConfigDict:
    config = settings.get_config()
    config.data.labels = True
    config.sde.ve.sigma_max = 5.0  # the largest distance between two training digits is 4.74
    config.parameterization.name = "edm"
    config.parameterization.edm.sigma_data = 0.5  # root mean square of the pixels: 0.48
    config.network.unet.multipliers = (1, 2)
    for name in ("ddpm", "ddpmpp", "ncsnpp"):
        config.network[name].update(channels=32, multipliers=(1, 2), blocks=1)
    config.optimizer.learning_rate = 2e-3
    config.optimizer.schedule = "cosine"
    config.training.steps = 750
    config.training.batch_size = 64
    config.training.log_every = 50
    config.training.checkpoint_every = 750
    config.training.label_dropout = 0.3
    # Levels a factor of 1.17 apart, 4 steps of ε = 0.38 σ² each: 160 network calls
    config.sampler.annealed_langevin.n_steps = 4
    config.sampler.steps = 40
    config.sampler.n = config.sampler.batch_size = 100
    config.evaluation.n = 200
    variants = {
        "dsm": {},
        "ssm": {"objective.name": "ssm"},
        "fd_ssm": {"objective.name": "fd_ssm"},
        "energy": {"network.conservative": True},
        # No score but a classifier of noised digits, which guides runs of the same noise: every other variant's but
        # those of another sde or value range
        "classifier": {
            "objective.name": "classification",
            "network.name": "encoder",
            "network.encoder.multipliers": (1, 2),
            "network.dropout": 0.1,
        },
        "compact_ncsn": {"network.name": "compact_ncsn"},
        "mlp": {
            "network.name": "mlp",
            "network.mlp.hidden": (512, 512, 512),
            "training.steps": 5000,
            "training.steps_per_dispatch": 50,
            "training.log_every": 250,
            "training.checkpoint_every": 2500,
        },
        "ddpm": {
            "data.value_range": (-1.0, 1.0),
            "sde.name": "tabulated",
            "times.name": "knots",
            "parameterization.name": "eps",
            "sampler.name": "ancestral",
            "sampler.grid": "ddpm",
            "sampler.steps": 1000,
            "sampler.t_end": 1e-3,  # the first of the table's times, from which the posterior mean is taken
        },
        "improved_ddpm": {
            "data.value_range": (-1.0, 1.0),
            "sde.name": "tabulated",
            "sde.tabulated.kind": "cosine",
            "parameterization.name": "learned_eps",
            "network.name": "ddpm",
            "network.condition": "timestep",
            "times.name": "knots",
            "objective.name": "hybrid",
            "objective.hybrid.decoder": "gaussian",  # the digits, of 17 grey levels, are dequantized
            "sampler.name": "ancestral",
            "sampler.ancestral.variance": "learned",
            "sampler.grid": "ddpm",
            "sampler.steps": 100,
            "sampler.t_end": 1e-3,
        },
        "ddpmpp": {
            "network.name": "ddpmpp",
            "data.value_range": (-1.0, 1.0),
            "sde.name": "vp",
            "parameterization.name": "eps",
            "network.condition": "timestep",
            "sampler.name": "euler_maruyama",
            "sampler.grid": "uniform",
            "sampler.t_end": 1e-3,
            "sampler.steps": 250,
        },
        "ncsnpp": {
            "network.name": "ncsnpp",
            "network.ncsnpp.rescale": True,
            "parameterization.name": "score",
            "network.condition": "sigma",
            "sampler.name": "reverse_diffusion",
            "sampler.corrector": True,
            "sampler.grid": "uniform",
            "sampler.steps": 125,  # two network calls each
            # After 750 steps its bits/dim are as good, but only 0.75 of its samples the digits asked for.
            "training.steps": 1500,
            "training.checkpoint_every": 1500,
        },
        "edm": {
            "data.value_range": (-1.0, 1.0),
            "parameterization.edm.sigma_data": 0.8,
            "sde.name": "edm",
            "weighting.name": "edm",
            "weighting.edm.sigma_data": 0.8,
            "times.name": "lognormal",
            "sampler.name": "heun",
            "sampler.grid": "karras",
            "sampler.steps": 17,  # and the last denoise: 35 network calls, as published
        },
    }
    return settings.variant(config, variants, variant)
