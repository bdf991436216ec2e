"""Data on a manifold: sliced score matching does not settle, noise of variance 1e-4 settles it.

    python -m experiments.studies.manifold_noise

The digits as they are, multiples of 1/16 of which several pixels are always black, and the same with noise of standard
deviation 0.01 (Song & Ermon 2019, section 3.2.1 and figure 1, there on CIFAR-10).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.studies import study
from score_jax import data, losses, plotting
from score_jax.types import Array, Key

NOISES = {"no noise": 0.0, "noise of std 0.01": 0.01}
BATCH, STEPS, WINDOW, LEARNING_RATE = 128, 10_000, 50, 1e-3
NETWORK = nn.Sequential([nn.Dense(256), nn.softplus, nn.Dense(256), nn.softplus, nn.Dense(64)])


def digits() -> Array:
    """The training digits `(N, 64)` in [0, 1]."""
    source = data.digits(split="train")
    x = source.batch(np.arange(len(source)))["x"].reshape(len(source), -1)
    return jnp.asarray(x, jnp.float32) / (source.grey_levels - 1)


def train(key: Key, images: Array, std: float, steps: int) -> Array:
    """Returns the loss of every step of SSM-VR, `(steps,)`, per dimension."""
    key_init, key_data, key_loss = jax.random.split(key, 3)
    adam = optax.adam(LEARNING_RATE)

    def step(carry, i):
        variables, opt_state = carry
        key_rows, key_noise = jax.random.split(jax.random.fold_in(key_data, i))
        x = jax.random.choice(key_rows, images, (BATCH,))
        x = x + std * jax.random.normal(key_noise, x.shape)

        def loss(variables):
            score_fn = lambda x: NETWORK.apply(variables, x)
            key = jax.random.fold_in(key_loss, i)
            return losses.sliced_score_matching(key, score_fn, x, variance_reduced=True).mean() / 64

        value, gradient = jax.value_and_grad(loss)(variables)
        updates, opt_state = adam.update(gradient, opt_state)
        return (optax.apply_updates(variables, updates), opt_state), value

    variables = NETWORK.init(key_init, images[:1])
    return jax.lax.scan(step, (variables, adam.init(variables)), jnp.arange(steps))[1]


def row(name: str, history: np.ndarray, bound: float) -> dict:
    """How the loss `(windows,)` ends: its level, its spread, and whether it still falls."""
    last = history[len(history) // 2 :]
    return {
        "data": name,
        "mean loss, second half": float(last.mean()),
        "spread of its windows / mean": float(last.std() / abs(last.mean())),
        "last tenth / second half": float(history[-len(history) // 10 :].mean() / last.mean()),
        "lowest possible loss": "none" if bound == -np.inf else f"{bound:.4g}",
    }


def run(seed: int, steps: int = STEPS) -> study.Result:
    """Trains with and without noise from the same start, on the same batches."""
    images, program = digits(), jax.jit(train, static_argnums=3)
    rows, lines = [], {}
    for name, std in NOISES.items():
        history = np.asarray(program(jax.random.key(seed), images, std, steps))
        windows = history[: steps // WINDOW * WINDOW].reshape(-1, WINDOW).mean(1)
        # −½ E‖score‖²/D ≥ −½/σ²: no density blurred by σ has a larger Fisher information than the noise itself.
        rows.append(row(name, windows, -0.5 / std**2 if std else -np.inf))
        lines[name] = WINDOW * np.arange(1, len(windows) + 1), windows
    figure = plotting.curves(lines, xlabel="training steps", ylabel="SSM-VR loss per dimension")
    conditions = f"{steps:,} steps of batch {BATCH}, windows of {WINDOW} steps, seed {seed}."
    return study.Result(rows, {"loss.png": figure}, conditions)


if __name__ == "__main__":
    study.main(__file__, run, __doc__)
