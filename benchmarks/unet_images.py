"""Images per second of the U-Net, training and sampling, and how much of sampling is the network.

    python benchmarks/unet_images.py

Two sizes: 28×28 as in configs/fashion_mnist.py with batch 64 (uniformly random pixels: time doesn't depend on them) and
8×8 as in configs/digits.py with batch 128. Training is the project's loop. Samples are drawn by 50
steps of DDIM and a last denoising, 51 network calls in one compiled program; for the digits also by 1,000 ancestral
steps. Drawing takes turns with as many bare calls of the compiled network, each fed with the one before, and with the
same program around a score that costs nothing. The share of the network is the time of the bare calls over that of
drawing; above 1, a call is cheaper inside the program. The sampler's own share is the time without the network. The
share of products is that of the network's operations in drawing, of what products of matrices reach.
"""

import tempfile
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from own_training import shorten, training_rate
from timing import Row, alternate, compare, main, peak, prepared, seconds

from configs import digits, fashion_mnist
from score_jax import data as datasets
from score_jax import sampling
from score_jax.lab import build
from score_jax.lab.experiment import Experiment
from score_jax.sampling import draw, grids
from score_jax.score import ScoreModel


def experiment_of(config: ConfigDict) -> Experiment:
    """The config's, but for Fashion-MNIST, replaced by noise of its shape: the files need not be there."""
    if config.data.name != "fashion_mnist":
        return build.experiment(config)
    pixels = np.random.default_rng(0).integers(0, 256, (2048, 28, 28, 1), np.uint8)
    return build.experiment(config, data=datasets.ArraySource(pixels))


def train(config: ConfigDict, steps: int) -> float:
    """Images/s of training, timed over `steps` updates in five records."""
    log_every = max(steps // 5, 1)
    shorten(config, steps + log_every, log_every)
    with tempfile.TemporaryDirectory() as folder:
        return training_rate(experiment_of(config), Path(folder) / "run")


def programs(model: ScoreModel, make_sampler: draw.MakeSampler, shape: tuple[int, ...], steps: int):
    """Returns the sampler, `steps` + 1 network calls in a row with their operations, and the sampler of no network."""
    ts, key = grids.log_snr(model.sde, steps + 1), jax.random.key(0)
    x, cond = jax.random.normal(key, shape), jnp.zeros(shape[:1])

    def compiled(make_sampler, denoise=True):
        # The model is an argument, as in draw.draw_many: a constant of the program it would be folded into it.
        batch = lambda key, model: draw.draw_batch(key, model, make_sampler, ts, shape, denoise=denoise)
        return jax.jit(batch).lower(key, model).compile()

    drawn = compiled(make_sampler)
    free = compiled(lambda sde, score_fn: make_sampler(sde, lambda x, t: -x), denoise=False)
    network = lambda model, x: model.apply(model.variables, x, cond, None, None)
    call, operations = prepared(jax.jit(network), model, x)

    def bare():
        y = x
        for _ in range(steps + 1):
            y = call(model, y)
        return y

    return lambda: drawn(key, model), bare, operations * (steps + 1), lambda: free(key, model)


def sampling_columns(config: ConfigDict, make_sampler: draw.MakeSampler, *, steps: int, images: int, pairs: int) -> Row:
    """The columns of drawing `images` samples at once."""
    experiment = experiment_of(config)
    drawn, bare, operations, free = programs(
        experiment.model, make_sampler, (images, *experiment.examples.shape), steps
    )
    _, whole, share = compare(*alternate(partial(seconds, bare), partial(seconds, drawn), pairs))
    _, _, own = compare(*alternate(partial(seconds, free), partial(seconds, drawn), pairs))
    return {
        "sampling": f"{steps} steps, {images} images",
        "images × calls/s": images * (steps + 1) / whole,
        "samples/s": images / whole,
        "share of the network": share,
        "sampler's own share": own,
        "share of products": operations / whole / peak(),
    }


def measure(quick: bool) -> Row:
    """Measures both sizes."""
    pairs = 1 if quick else 3
    large, small = fashion_mnist.get_config("ddpm"), digits.get_config()
    ddim = partial(sampling_columns, make_sampler=sampling.ddim, steps=5 if quick else 50, pairs=pairs)
    ancestral = partial(sampling_columns, make_sampler=sampling.ancestral, steps=10 if quick else 1000, pairs=pairs)
    return {
        "rows": [
            {"U-Net": "28×28", "training, images/s": train(large, 1 if quick else 15), **ddim(large, images=16)},
            {"U-Net": "8×8", "training, images/s": train(small, 5 if quick else 100), **ddim(small, images=64)},
            {"U-Net": "8×8, ancestral", "training, images/s": "", **ancestral(small, images=64)},
        ]
    }


if __name__ == "__main__":
    main(measure, __doc__)
