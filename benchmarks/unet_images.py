"""Images per second of the U-Net, training and sampling, and how much of sampling is the network.

    python benchmarks/unet_images.py

Two sizes: 28×28 as in configs/fashion_mnist.py with batch 64 (uniformly random pixels: time doesn't depend on them) and
8×8 as in configs/digits.py with batch 128. Training is the project's loop, one step a dispatch. A sample is drawn by 50
steps of DDIM and a last denoising, 51 network calls in one compiled program; it is timed in turns with as many bare
calls of the compiled network, each fed with the one before. The share of the network is bare calls over sampling; more
than 1 says that a call is cheaper inside the program. The longest run of the field, 1,000 ancestral steps, is there for
the digits.
"""

import tempfile
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from timing import Row, alternate, compare, main, seconds, training_rate

from configs import digits, fashion_mnist
from score_jax import arrays, build, generate, runs, sampling
from score_jax import data as datasets
from score_jax.sampling import grids
from score_jax.score import ScoreModel
from score_jax.training import state


def build_run(config: ConfigDict, workdir: Path) -> runs.Run:
    """Like `runs.new`, but Fashion-MNIST is replaced by noise of its shape: the files need not be there."""
    if config.data.name != "fashion_mnist":
        return runs.new(config, workdir)
    source = datasets.ArraySource(np.random.default_rng(0).integers(0, 256, (2048, 28, 28, 1), np.uint8))
    model = build.model(config, source)
    start = state.create(jax.random.key(config.seed), model.variables, build.optimizer(config))
    return runs.Run(config, workdir, build.Data(source, source, None), model, start)


def train(config: ConfigDict, steps: int) -> float:
    """Images/s of training, timed over `steps` updates in five records."""
    log_every = max(steps // 5, 1)
    config.training.update(steps=steps + log_every, log_every=log_every, checkpoint_every=steps + log_every)
    with tempfile.TemporaryDirectory() as folder:
        return training_rate(build_run(config, Path(folder) / "run"))


def programs(model: ScoreModel, make_sampler: generate.MakeSampler, shape: tuple[int, ...], steps: int):
    """Returns two programs of `steps` + 1 network calls: the sampler, and bare calls in a row; both compiled."""
    ts = grids.log_snr(model.sde, steps + 1)
    # The model is an argument, as in generate.draw_many: a constant of the program it would be folded into it.
    draw = jax.jit(lambda key, model: generate.draw(key, model, make_sampler, ts, shape))
    call = jax.jit(lambda model, x, cond: model.module.apply(model.variables, x, cond, None, train=False))
    key = jax.random.key(0)
    x, cond = arrays.normal(key, shape), jnp.zeros(shape[:1])

    def bare():
        y = x
        for _ in range(steps + 1):
            y = call(model, y, cond)
        return y

    jax.block_until_ready((draw(key, model), call(model, x, cond)))
    return lambda: draw(key, model), bare


def sample(config: ConfigDict, make_sampler: generate.MakeSampler, *, steps: int, pairs: int) -> tuple[float, float]:
    """Returns the time of drawing 64 samples, and the network's share."""
    run = build_run(config, Path("unused"))  # nothing is written
    drawn, bare = programs(run.model, make_sampler, (64, *run.data.train.shape), steps)
    _, whole, share = compare(*alternate(partial(seconds, bare), partial(seconds, drawn), pairs))
    return whole, share


def measure_config(name: str, config: ConfigDict, train_steps: int, pairs: int) -> Row:
    """One row: training, and sampling with 50 steps of DDIM."""
    time, share = sample(config, sampling.ddim, steps=50, pairs=pairs)
    return {
        "config": name,
        "batch": config.training.batch_size,
        "training, images/s": train(config, train_steps),
        "sampling steps": 50,
        "network calls/s, 64 images each": 51 / time,
        "samples/s": 64 / time,
        "share of the network": share,
    }


def measure_long(steps: int) -> Row:
    """The row of the ancestral run."""
    config = digits.get_config()
    time, share = sample(config, sampling.ancestral, steps=steps, pairs=1)
    return {
        "config": "digits, ancestral",
        "batch": "",
        "training, images/s": "",
        "sampling steps": steps,
        "network calls/s, 64 images each": (steps + 1) / time,
        "samples/s": 64 / time,
        "share of the network": share,
    }


def measure(quick: bool) -> Row:
    """Measures both sizes."""
    pairs = 1 if quick else 5
    small, large = digits.get_config(), fashion_mnist.get_config("ddpm")
    rows = [
        measure_config("28×28", large, 2 if quick else 30, pairs),
        measure_config("digits, 8×8", small, 5 if quick else 100, pairs),
        measure_long(100 if quick else 1000),
    ]
    return {"rows": rows}


if __name__ == "__main__":
    main(measure, __doc__)
