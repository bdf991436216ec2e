"""Emoji, 3,786 colour images of 32×32 pixels in ten classes: `--config=configs/emoji.py`.

    python experiments/train.py --config=configs/emoji.py --config.data.root=FOLDER/emoji32.npz --workdir=runs/emoji

The file holds "x" (N, 32, 32, 3), uint8, and "label": 0 Activities, 1 Animals & Nature, 2 Component, 3 Flags, 4 Food &
Drink, 5 Objects, 6 People & Body, 7 Smileys & Emotion, 8 Symbols, 9 Travel & Places. It is no part of this repository,
and `data.root` says where it is.

Twemoji graphics, © Twitter, Inc. and other contributors, CC-BY 4.0 (https://creativecommons.org/licenses/by/4.0/), of
the npm package emoji-datasource-twitter 16.0.0: its 64-pixel images on white, averaged 2×2. Whoever shows pictures of
them names that: `data.attribution` puts it below the figures.
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
    config.network.unet.channels = 24
    config.optimizer.learning_rate = 2e-3
    config.optimizer.schedule = "cosine"
    config.training.steps = 1500
    config.training.batch_size = 32
    config.training.steps_per_dispatch = 1  # convolutions: one step a dispatch (see training/step.py)
    config.training.log_every = 50
    config.training.checkpoint_every = 500
    config.sampler.name = "heun"
    config.sampler.grid = "karras"
    config.sampler.steps = 17  # and the last denoise: 35 network calls
    config.sampler.n = config.sampler.batch_size = 64
    return config
