"""Training steps per second of the 2-D MLP with three hidden layers of 128, against a hand-written loop.

    python benchmarks/toy_steps.py

The project's side is what `experiments/train.py --config=configs/toy.py` runs: data loader, noise levels, clipping,
learning-rate schedule, EMA, check for infinities, logging by noise level and metrics file, 250 steps a dispatch. The
other side is the least that trains the same network: arrays of weights, a scan of 250 steps over a data set on the
device, denoising score matching with VE noise, Adam. Compiling is timed on neither side. Target: 0.9 of the
hand-written loop.
"""

import tempfile
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict
from own_training import shorten, training_rate
from timing import Row, alternate, compare, main, seconds

from configs import toy
from score_jax.lab import build


def config_for(batch: int, steps: int, k: int) -> ConfigDict:
    """The toy config with `steps` timed updates, k a dispatch, after k that are not timed."""
    config = toy.get_config()
    config.training.update(batch_size=batch, steps_per_dispatch=k)
    shorten(config, steps + k, k)
    return config


def project(config: ConfigDict) -> float:
    """Steps/s of the project's loop."""
    with tempfile.TemporaryDirectory() as folder:
        return training_rate(build.experiment(config), Path(folder) / "run") / config.training.batch_size


def parameters(key: jax.Array, widths: tuple[int, ...]) -> list[tuple[jax.Array, jax.Array]]:
    """Weights and biases of a perceptron."""
    keys = jax.random.split(key, len(widths) - 1)
    return [(jax.random.normal(k, (m, n)) / np.sqrt(m), jnp.zeros((1, n))) for k, m, n in zip(keys, widths, widths[1:])]


def perceptron(params: list[tuple[jax.Array, jax.Array]], h: jax.Array) -> jax.Array:
    """`(B, 3) -> (B, 2)`."""
    *hidden, (w, b) = params
    for weight, bias in hidden:
        h = jax.nn.swish(h @ weight + bias)
    return h @ w + b


class HandWritten:
    """The plain loop: `rate(steps)` is its steps/s."""

    def __init__(self, points: np.ndarray, batch: int, k: int):
        adam = optax.adam(2e-3)

        def loss(params, key):
            key_row, key_t, key_eps = jax.random.split(key, 3)
            x0 = self.points[jax.random.randint(key_row, (batch,), 0, len(points))]
            t = jax.random.uniform(key_t, (batch, 1))
            eps = jax.random.normal(key_eps, (batch, 2))
            sigma = 0.05 * (10 / 0.05) ** t
            return jnp.mean((perceptron(params, jnp.concatenate([x0 + sigma * eps, t], 1)) - eps) ** 2)

        def step(carry, key):
            params, moments = carry
            gradient = jax.grad(loss)(params, key)
            updates, moments = adam.update(gradient, moments)
            return (optax.apply_updates(params, updates), moments), None

        def dispatch(carry, key):
            return jax.lax.scan(step, carry, jax.random.split(key, k))[0]

        self.points, self.k = jnp.asarray(points), k
        self.dispatch = jax.jit(dispatch, donate_argnums=0)
        params = parameters(jax.random.key(0), (3, 128, 128, 128, 2))
        self.carry = self.dispatch((params, adam.init(params)), jax.random.key(1))

    def run(self, steps: int):
        """Makes the updates."""
        for i in range(steps // self.k):
            self.carry = self.dispatch(self.carry, jax.random.key(i))
        return self.carry

    def rate(self, steps: int) -> float:
        """Steps/s."""
        return steps / seconds(lambda: self.run(steps))


def measure_batch(batch: int, *, steps: int, k: int, pairs: int) -> Row:
    """One row of the table."""
    config = config_for(batch, steps, k)
    plain = HandWritten(build.experiment(config).data.train.batch(np.arange(config.data.n))["x"], batch, k)
    plain.run(k)
    ours, theirs, ratio = compare(*alternate(partial(project, config), partial(plain.rate, steps), pairs))
    return {"batch": batch, "score_jax, steps/s": ours, "hand-written, steps/s": theirs, "ratio": ratio}


def measure(quick: bool) -> Row:
    """Measures batches of 128 and 512."""
    pairs = 1 if quick else 5
    sizes = {128: 500, 512: 500} if quick else {128: 4000, 512: 1500}
    return {"rows": [measure_batch(batch, steps=steps, k=250, pairs=pairs) for batch, steps in sizes.items()]}


if __name__ == "__main__":
    main(measure, __doc__)
