"""Emoji, 3,786 colour images of 32×32 pixels in ten classes: `--config=configs/emoji.py`.

    python experiments/train.py --config=configs/emoji.py --config.data.root=FOLDER/emoji32.npz --workdir=runs/emoji

The file holds "x" (N, 32, 32, 3), uint8, and "label": 0 Activities, 1 Animals & Nature, 2 Component, 3 Flags, 4 Food &
Drink, 5 Objects, 6 People & Body, 7 Smileys & Emotion, 8 Symbols, 9 Travel & Places. It is no part of this repository,
and `data.root` says where it is.

Twemoji graphics, © Twitter, Inc. and other contributors, CC-BY 4.0 (https://creativecommons.org/licenses/by/4.0/), of
the npm package emoji-datasource-twitter 16.0.0: its 64-pixel images on white, averaged 2×2. Whoever shows pictures of
them names that: `data.attribution` puts it below the figures.

2,700,428 parameters; ten in a hundred examples are held out at random, so that variants of a held-out picture's motif,
as of another skin tone, are among the training examples. Its 4,000 steps took 32 core-minutes, on 2 cores (AMD EPYC,
Python 3.12) that had other work.

Restored from 4 held-out pictures, noise of 0.05 of black to white, 4 samples each, seed 0; ± is the standard error over
the 4:

    python experiments/condition.py --workdir=runs/emoji --task=colorize --method=mmps --noise_std=0.05 \\
        --held_out=4 --n=4

| task | method | products | residual | of the posterior | PSNR, dB | of the mean | SSIM | of the mean |
|---|---|---|---|---|---|---|---|---|
| colorize | pigdm | 35 | 2.02 ± 0.09 | 1.60 | 17.9 ± 2.9 | 18.4 ± 3.1 | 0.70 ± 0.08 | 0.74 ± 0.08 |
| colorize | mmps | 70 | 1.56 ± 0.03 | 1.60 | 25.1 ± 3.0 | 26.2 ± 3.6 | 0.91 ± 0.04 | 0.93 ± 0.04 |
| inpaint | pigdm | 35 | 2.69 ± 0.07 | 2.40 | 22.0 ± 2.4 | 23.1 ± 2.7 | 0.73 ± 0.07 | 0.76 ± 0.07 |
| inpaint | mmps | 70 | 2.36 ± 0.01 | 2.40 | 22.9 ± 2.4 | 24.3 ± 2.8 | 0.75 ± 0.07 | 0.78 ± 0.08 |
| super_resolution | pigdm | 35 | 1.69 ± 0.05 | 1.39 | 24.9 ± 0.5 | 26.8 ± 0.7 | 0.88 ± 0.01 | 0.93 ± 0.01 |
| super_resolution | mmps | 70 | 1.37 ± 0.03 | 1.39 | 27.4 ± 0.6 | 29.5 ± 0.8 | 0.93 ± 0.01 | 0.96 ± 0.01 |
| deblur | pigdm | 35 | 2.99 ± 0.03 | 2.77 | 25.6 ± 0.5 | 27.8 ± 0.7 | 0.90 ± 0.01 | 0.94 ± 0.01 |
| deblur | mmps | 70 | 2.84 ± 0.03 | 2.77 | 26.3 ± 1.0 | 28.7 ± 1.2 | 0.91 ± 0.01 | 0.95 ± 0.01 |

Products are the network's vector–Jacobian products of a sample, beside 35 network calls; the residual ‖y − A x‖ of
posterior samples is σ_y √m of m observed numbers. The colours of a grey picture are plausible ones, not the true ones.

Of samples faces, flags, people and what they do are recognisable motifs, others have the colours and outlines of their
class: `docs/pictures/emoji.png`. Share of 200, 20 of each class, that a classifier takes for what they were asked to
be, seed 0, by `--config.sampler.guidance.scale`, with `--config.evaluation.n=200`:

| scale | all | 0 | 1 | 2 | 3 | 4 | 5 | 6 | 7 | 8 | 9 |
|---|---|---|---|---|---|---|---|---|---|---|---|
| 0 | 0.08 ± 0.02 | 0.00 | 0.00 | 0.00 | 0.15 | 0.00 | 0.00 | 0.50 | 0.00 | 0.05 | 0.05 |
| 1 | 0.33 ± 0.03 | 0.00 | 0.10 | 0.00 | 1.00 | 0.25 | 0.10 | 0.70 | 0.55 | 0.40 | 0.20 |
| 2 | 0.44 ± 0.04 | 0.00 | 0.20 | 0.00 | 1.00 | 0.40 | 0.05 | 0.80 | 1.00 | 0.55 | 0.40 |

The classifier itself knows little: it is right on 0.74 of the held-out pictures, of which it takes 0.68 for People &
Body and none for Activities or Component.
"""

from ml_collections import ConfigDict

from score_jax.lab import settings

ATTRIBUTION = "Twemoji © Twitter, Inc. and other contributors, CC-BY 4.0, reduced to 32×32 pixels"


def get_config() -> ConfigDict:
    config = settings.get_config()
    config.data.name = "array"
    config.data.attribution = ATTRIBUTION
    config.data.labels = True
    config.data.value_range = (-1.0, 1.0)
    config.sde.name = "edm"
    config.parameterization.name = "edm"
    config.parameterization.edm.sigma_data = 0.77  # root mean square of the pixels, most of which are white
    config.weighting.name = "edm"
    config.weighting.edm.sigma_data = 0.77
    config.times.name = "lognormal"
    config.network.unet.patch = 2
    config.network.unet.channels = 64
    config.optimizer.name = "muon"
    config.optimizer.learning_rate = 5e-3
    config.optimizer.schedule = "cosine"
    config.training.steps = 4000
    config.training.batch_size = 64
    config.sampler.name = "heun"
    config.sampler.grid = "karras"
    config.sampler.steps = 17  # and the last denoise: 35 network calls
    config.sampler.n = config.sampler.batch_size = 64
    return config
