"""Emoji, 3,786 colour images of 32×32 pixels in ten classes: `--config=configs/emoji.py`.

    python experiments/train.py --config=configs/emoji.py --config.data.root=FOLDER/emoji32.npz --workdir=runs/emoji

The file holds "x" (N, 32, 32, 3), uint8, and "label": 0 Activities, 1 Animals & Nature, 2 Component, 3 Flags, 4 Food &
Drink, 5 Objects, 6 People & Body, 7 Smileys & Emotion, 8 Symbols, 9 Travel & Places. It is no part of this repository,
and `data.root` says where it is.

Twemoji graphics, © Twitter, Inc. and other contributors, CC-BY 4.0 (https://creativecommons.org/licenses/by/4.0/), of
the npm package emoji-datasource-twitter 16.0.0: its 64-pixel images on white, averaged 2×2. Whoever shows pictures of
them names that: `data.attribution` puts it below the figures.

385,731 parameters; ten in a hundred examples are held out at random, so that variants of a held-out picture's motif, as
of another skin tone, are among the training examples. CPU time on two cores with much other work: 22 core-minutes, by
that of the first 1,150 steps.

Restored from 4 held-out pictures, noise of 0.05 of black to white, 4 samples each, seed 0; ± is the standard error over
the 4:

    python experiments/condition.py --workdir=runs/emoji --task=colorize --method=mmps --noise_std=0.05 \\
        --held_out=4 --n=4

| task | method | products | residual | of the posterior | PSNR, dB | of the mean | SSIM | of the mean |
|---|---|---|---|---|---|---|---|---|
| colorize | pigdm | 35 | 2.21 ± 0.08 | 1.60 | 14.5 ± 0.8 | 16.1 ± 1.1 | 0.58 ± 0.05 | 0.70 ± 0.03 |
| colorize | mmps | 70 | 1.64 ± 0.03 | 1.60 | 17.1 ± 1.2 | 19.0 ± 1.5 | 0.75 ± 0.04 | 0.85 ± 0.03 |
| inpaint | pigdm | 35 | 2.78 ± 0.04 | 2.40 | 18.9 ± 1.4 | 19.7 ± 1.6 | 0.55 ± 0.05 | 0.59 ± 0.05 |
| inpaint | mmps | 70 | 2.31 ± 0.02 | 2.40 | 18.5 ± 1.2 | 20.0 ± 1.4 | 0.55 ± 0.03 | 0.59 ± 0.04 |
| super_resolution | pigdm | 35 | 1.88 ± 0.02 | 1.39 | 21.7 ± 0.2 | 23.7 ± 0.2 | 0.73 ± 0.04 | 0.81 ± 0.03 |
| super_resolution | mmps | 70 | 1.38 ± 0.03 | 1.39 | 23.7 ± 0.2 | 25.6 ± 0.2 | 0.81 ± 0.04 | 0.87 ± 0.03 |
| deblur | pigdm | 35 | 3.10 ± 0.02 | 2.77 | 22.1 ± 0.1 | 24.5 ± 0.2 | 0.75 ± 0.03 | 0.84 ± 0.02 |
| deblur | mmps | 70 | 2.89 ± 0.02 | 2.77 | 22.2 ± 0.1 | 24.5 ± 0.2 | 0.76 ± 0.04 | 0.84 ± 0.03 |

Products are the network's vector–Jacobian products of a sample, beside 35 network calls; the residual ‖y − A x‖ of
posterior samples is σ_y √m of m observed numbers. The colours of a grey picture are plausible ones, not the true ones,
and what is hidden is filled by colours and edges, not by faces: so short a training has learned little more.

Samples have the colours and outlines of their class (flags, yellow faces), and few are recognisable motifs. Share of
200, 20 of each class, that a classifier takes for what they were asked to be, seed 0, by
`--config.sampler.guidance.scale`, with `--config.evaluation.n=200`:

| scale | all | 0 | 1 | 2 | 3 | 4 | 5 | 6 | 7 | 8 | 9 |
|---|---|---|---|---|---|---|---|---|---|---|---|
| 0 | 0.09 ± 0.02 | 0.00 | 0.00 | 0.00 | 0.00 | 0.05 | 0.00 | 0.80 | 0.00 | 0.00 | 0.05 |
| 1 | 0.19 ± 0.03 | 0.00 | 0.00 | 0.00 | 0.85 | 0.10 | 0.00 | 0.65 | 0.10 | 0.00 | 0.20 |
| 2 | 0.27 ± 0.03 | 0.00 | 0.10 | 0.00 | 1.00 | 0.10 | 0.20 | 0.65 | 0.20 | 0.25 | 0.20 |

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
