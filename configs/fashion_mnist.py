"""Fashion-MNIST, 28×28, CPU-sized: `--config=configs/fashion_mnist.py`, or `…/fashion_mnist.py:ddpm`.

    python experiments/train.py --config=configs/fashion_mnist.py --config.data.root=FOLDER --workdir=runs/fashion
    python experiments/train.py --config=configs/fashion_mnist.py:ncsnpp --config.data.root=FOLDER --workdir=runs/ncsnpp

FOLDER holds the four files of Fashion-MNIST. Without it they are looked for in $SCORE_JAX_DATA, in data/fashion-mnist
and where Debian's package dataset-fashion-mnist puts them.

Variants: ncsn (default) ncsnv2 ddpm edm; fast, the most out of 20 minutes; and in small, as `configs/score_sde.py` has
them, ddpmpp, variance preserving, and ncsnpp, variance exploding.

`fast` has 2,688,388 parameters, its learned weights 129 more, and takes 50 network calls a sample. Its 6,500 steps took
20.4 and 21.7 minutes on 2 cores (AMD EPYC, Python 3.12, 350 and 325 images/s). On three seeds, 6,400 steps in 21.2 to
21.6 minutes, 10,000 samples, clipped to the range: their Fréchet distances to the training images are 1.77, 1.88 and
1.83 (10,000 held-out images: 0.11), those of the first 1,024 samples 2.4, 3.1 and 2.8 (1.4), by features that nothing
was chosen by. In `benchmarks/quality_at_equal_time.py` 1,024 of diffusers' network have 126, 133 and 125 after the 849
to 874 steps that it makes in 20 minutes, and 10,000 of the first of its seeds 129, on another processor.
`experiments/studies/fast_config` has how it was chosen, and its picture.

`ncsn` is told σ and draws by consistent annealed sampling, whose chains have the noise that they are told: 101 network
calls a sample, of 512, seed 0, a Fréchet distance of 6.8 by `grey` features (as many held-out images 4.4), of 256 9.2
(8.5); 0.09 leave the range by a tenth of it. Of 64 about eight are mottled or torn, by one pair of eyes.

`ncsnv2` takes 491 network calls a sample, 5 at each of 98 levels; of 64 after its 4,000 steps, seed 0, every garment
can be recognised, and of the 50 of the README's picture all but two or three (judged by one pair of eyes). Fréchet
distance, `grey` features, of 512 samples, seed 0: 6.5 (as many held-out images 4.4), of 256 10.9 (8.5); 0.09 leave the
range by a tenth of it. Its network is not told the noise: the score is −F(x)/σ (NCSNv2's technique 3). The same network
told σ (`--config.network.condition=c_noise`, the rest as it is): 20.4 and 25.9, half its garments are mottled, and 0.75
leave the range.

Why: 5 steps are too few for the noise of the chain to follow the ladder down, and a network that is told σ may take
what is above it for texture. `fast`'s network s, before its weights were learned, told c σ
(`lambda x, t: c * s(x, c * t)`, which is as far as c is right what a network does that isn't told), levels 45 to 0.02
for values in [−1, 1]; 128 samples from the same noises (held-out images: 13.1):

| c | 1 | 1.06 | 1.15 | 1.3 |
|---|---|---|---|---|
| Fréchet distance | 21.5 | 16.3 | 14.6 | 17.2 |

What else was tried, before the settings here, by the same features and seed: EDM's parameterization told σ, 4,000
steps, 24.3 of 256 samples, a third of the tops and dresses mottled; with 10 steps a level 16.0; with 5 of 0.1, 0.4 and
0.8 σ² in place of the rule's 0.22 47, 24.2 and 37. Not told σ, but given it in other ways: x/√(1 + σ²) (`eps`, 5,000
steps), dark garments, 51.8 of 256; EDM's skip (6,500 steps), white ones.

| variant | parameters | 4,000 steps of batch 64 | a sample |
|---|---|---|---|
| ncsn, ddpm | 2,688,388 | 26 core-minutes | 101, 50 network calls |
| ncsnv2 | 2,672,260 | 28 core-minutes | 491 |
| edm | 2,691,204 | 27 core-minutes | 35 |
| ddpmpp, ncsnpp | 1,259,393 and 1,282,305 | 51 core-minutes | 501 |

A core-minute is one of CPU time; `ncsnv2` took 14.8 minutes on 2 cores. ddpmpp and ncsnpp are trained by Adam, those of
patches by Muon, as `fast`.

`ddpmpp` and `ncsnpp`, 512 samples of seed 0, `grey` features: Fréchet distance 6.8 and 9.5 (as many held-out images
4.4), of 256 9.1 and 13.8 (8.5); 0.10 and 0.03 leave the range by a tenth of it. Of 64 about six and eight are mottled,
the rest clear garments, by one pair of eyes. 256 samples take 8.5 core-minutes.

Of `ddpm` after its 4,000 steps, seed 0, nearly all of 64 are clear garments to the eye; the Fréchet distance, `grey`
features, of 1,024, which are clipped to the range, is 5.5 (as many held-out images: 1.4), by other samplers in as many
calls, clipped too: DPM-Solver++ 5.7, DDIM 7.4: one seed. The same training with mirror images (`data.flip`) had 22.6;
1,024 held-out images, half of them mirrored, are at 15.4 themselves.

Why ddpm draws by ancestral steps. Its network predicts the noise, and an error of that changes the estimate of the
image by σ/α times as much, up to 152 on this SDE. Of a smaller network, on which this was found and chosen (677,889
parameters, no patches, Adam, mirror images), after 2,100 steps the estimate at σ/α = 150 is off by 3.1 from the exact
denoiser's of the training images (root mean square, images in [−1, 1]), at 20 by 0.38, at 2 by 0.25. What a
deterministic sampler takes up there stays to the end: of 512 samples of seed 0, each by 51 calls,

| sampler | grid | leave [−0.1, 1.1] | Fréchet distance (512 held-out images: 4.4; half of them mirrored: 19.4) |
|---|---|---|---|
| ddim | log_snr | 0.43 | 49.9; 45.3 with estimates clipped |
| ddim | uniform, to t = 1e-3 | 0.43 | 45.2; 40.2 clipped |
| dpm_solver_pp | uniform, to t = 1e-3 | 0.46 | 41.4; 37.3 clipped |
| ancestral | log_snr | 0.02 | 38.6 |
| ancestral | cosine | 0.05 | 29.8; 30.9 clipped, of which none leaves it |

`edm` is told the class: 35 network calls a sample; some of its samples have holes or grain, and how many are of their
class is below. Restored from 8 held-out images with noise of 0.05 of black to white, 4 samples each, seed 0; ± is the
standard error over the 8:

    python experiments/condition.py --workdir=runs/edm --task=inpaint --method=mmps --noise_std=0.05 --held_out=8 --n=4

| task | method | products | residual | of the posterior | PSNR, dB | of the mean | SSIM | of the mean |
|---|---|---|---|---|---|---|---|---|
| inpaint | pigdm | 35 | 1.48 ± 0.02 | 1.21 | 21.3 ± 1.0 | 22.5 ± 1.0 | 0.68 ± 0.05 | 0.73 ± 0.04 |
| inpaint | mmps | 70 | 1.25 ± 0.02 | 1.21 | 21.8 ± 1.0 | 23.4 ± 1.0 | 0.66 ± 0.03 | 0.72 ± 0.03 |
| super_resolution | pigdm | 35 | 0.96 ± 0.06 | 0.70 | 19.1 ± 0.7 | 21.2 ± 0.8 | 0.67 ± 0.04 | 0.75 ± 0.04 |
| super_resolution | mmps | 70 | 0.74 ± 0.01 | 0.70 | 19.9 ± 0.7 | 22.0 ± 0.8 | 0.69 ± 0.03 | 0.78 ± 0.03 |
| deblur | pigdm | 35 | 1.56 ± 0.03 | 1.40 | 19.5 ± 0.7 | 21.9 ± 0.6 | 0.69 ± 0.05 | 0.78 ± 0.04 |
| deblur | mmps | 70 | 1.49 ± 0.01 | 1.40 | 18.5 ± 0.7 | 20.7 ± 0.7 | 0.63 ± 0.04 | 0.73 ± 0.04 |

Classifier-free guidance of the same network: share of 200 samples, 20 of each class, that a classifier takes for what
they were asked to be, which is right on 0.87 of held-out images; seed 0, n 200, standard error of a share of 20 up to
0.11:

    python experiments/evaluate.py --workdir=runs/edm --config.evaluation.n=200 --config.sampler.guidance.scale=2

| scale | all | T-shirt | trouser | pullover | dress | coat | sandal | shirt | sneaker | bag | ankle boot |
|---|---|---|---|---|---|---|---|---|---|---|---|
| 0 | 0.07 ± 0.02 | 0.00 | 0.05 | 0.05 | 0.00 | 0.15 | 0.15 | 0.00 | 0.10 | 0.05 | 0.15 |
| 1 | 0.80 ± 0.03 | 0.90 | 0.95 | 0.70 | 0.85 | 0.75 | 0.75 | 0.50 | 0.90 | 0.90 | 0.85 |
| 2 | 0.94 ± 0.02 | 1.00 | 1.00 | 0.95 | 1.00 | 0.95 | 1.00 | 0.50 | 1.00 | 1.00 | 1.00 |
"""

from ml_collections import ConfigDict

from score_jax.lab import settings


def get_config(variant: str = "ncsn") -> ConfigDict:
    config = settings.get_config()
    config.data.name = "fashion_mnist"  # without mirror images: shoes all face one way
    config.sde.ve.sigma_max = 22.5  # the largest distance between two images: 22.46 (experiments/noise_levels.py)
    config.parameterization.name = "edm"
    config.parameterization.edm.sigma_data = 0.45  # root mean square of the pixels
    config.network.unet.patch = 2
    config.network.unet.channels = 64
    for name in ("ddpmpp", "ncsnpp"):
        config.network[name].update(channels=32, multipliers=(1, 2, 2), attention=(2,), blocks=1)
    config.training.batch_size = 64
    config.training.steps = 4000
    config.optimizer.name = "muon"
    config.optimizer.learning_rate = 5e-3
    config.optimizer.schedule = "cosine"
    adam = {"optimizer.name": "adam", "optimizer.learning_rate": 1e-3}
    variants = {
        # Told the noise, by a chain that has what it is told: annealed Langevin's has more
        "ncsn": {"sampler.name": "consistent_annealed"},
        # NCSNv2's rules: sigma_max as above, levels 1.083 apart (the rule: 1.082, for which there are 99), a network
        # that isn't told the noise (that of the chain is above the level's), Langevin's step of technique 4
        "ncsnv2": {
            "network.condition": "none",
            "parameterization.name": "eps_as_given",
            "times.name": "discrete",
            "times.discrete.n": 98,
            "sampler.steps": 98,  # five network calls each
        },
        "ddpm": {
            "data.value_range": (-1.0, 1.0),
            "parameterization.name": "eps",
            "sde.name": "vp",
            "sampler.name": "ancestral",
            "sampler.grid": "cosine",
            "sampler.threshold": "static",
            "sampler.steps": 49,  # and the last denoise: 50 network calls
        },
        # Of ten classes, for conditional generation
        "edm": {
            "data.labels": True,
            "data.value_range": (-1.0, 1.0),
            "sde.name": "edm",
            "parameterization.edm.sigma_data": 0.83,
            "weighting.name": "edm",
            "weighting.edm.sigma_data": 0.83,
            "times.name": "lognormal",
            "sampler.name": "heun",
            "sampler.grid": "karras",
            "sampler.steps": 17,  # and the last denoise: 35 network calls
        },
        # Chosen by experiments/studies/fast_config, each against what else was tried there
        "fast": {
            "data.value_range": (-1.0, 1.0),
            "sde.name": "edm",
            "parameterization.edm.sigma_data": 0.83,
            "weighting.name": "edm",
            "weighting.edm.sigma_data": 0.83,
            "weighting.learned": True,
            "times.name": "lognormal",
            "times.lognormal.mean": -0.6,
            "training.steps": 6500,
            "sampler.name": "dpm_solver_pp",
            "sampler.dpm_solver_pp.eta": 1.0,  # SDE-DPM-Solver++
            "sampler.grid": "karras",
            "sampler.threshold": "static",  # without, a quarter to two thirds of Heun's samples left the range
            "sampler.steps": 49,  # and the last denoise: 50 network calls
        },
        "ddpmpp": {
            "data.value_range": (-1.0, 1.0),
            "network.name": "ddpmpp",
            **adam,
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
            **adam,
            "network.ncsnpp.rescale": True,
            "network.condition": "sigma",
            "parameterization.name": "score",
            "sampler.name": "reverse_diffusion",
            "sampler.corrector": True,
            "sampler.grid": "uniform",
            "sampler.steps": 250,  # two network calls each
        },
    }
    return settings.variant(config, variants, variant)
