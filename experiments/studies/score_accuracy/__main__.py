"""A score learned without noise is accurate only near the data: `python -m experiments.studies.score_accuracy`.

A perceptron fitted by sliced score matching to 0.8 N((5, 5), I) + 0.2 N((−5, −5), I) (Song & Ermon 2019, figure 2).
"""

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.studies import study
from experiments.studies.mode_weights.__main__ import MODES, mixture
from score_jax import losses, plotting
from score_jax.types import Array, Key

BATCH, STEPS, LEARNING_RATE = 128, 10_000, 1e-3
EXTENT = (-8.0, 8.0, -8.0, 8.0)
NETWORK = nn.Sequential([nn.Dense(128), nn.softplus, nn.Dense(128), nn.softplus, nn.Dense(2)])


def train(key: Key, steps: int = STEPS) -> tuple[dict, Array]:
    """Returns the parameters after `steps` of SSM-VR with one projection on fresh samples, and the losses."""
    key_init, key_data, key_loss = jax.random.split(key, 3)
    adam = optax.adam(LEARNING_RATE)

    def step(carry, i):
        variables, opt_state = carry
        x = mixture(1.0).sample(jax.random.fold_in(key_data, i), BATCH)

        def loss(variables):
            score_fn = lambda x: NETWORK.apply(variables, x)
            key = jax.random.fold_in(key_loss, i)
            return losses.sliced_score_matching(key, score_fn, x, variance_reduced=True).mean()

        value, gradient = jax.value_and_grad(loss)(variables)
        updates, opt_state = adam.update(gradient, opt_state)
        return (optax.apply_updates(variables, updates), opt_state), value

    variables = NETWORK.init(key_init, jnp.zeros((1, 2)))
    (variables, _), history = jax.lax.scan(step, (variables, adam.init(variables)), jnp.arange(steps))
    return variables, history


def by_distance(squared_error: np.ndarray, squared: np.ndarray, x: np.ndarray) -> list[dict]:
    """Relative squared error of the score on points `x` `(N, 2)` of a lattice, by distance to the nearest mode."""
    distance = np.linalg.norm(x[:, None] - MODES[None], axis=2).min(1)
    share = np.asarray(jnp.exp(mixture(1.0).log_prob(jnp.asarray(x))))
    edges, rows = [0, 1, 2, 3, 4, 6, 12], []
    for low, high in itertools.pairwise(edges):
        here = (distance >= low) & (distance < high)
        rows.append(
            {
                "distance to the nearest mode": f"{low} to {high}",
                "share of the data": float(share[here].sum() / share.sum()),
                "error E‖s − s*‖²": float(squared_error[here].mean()),
                "relative to E‖s*‖²": float(squared_error[here].mean() / squared[here].mean()),
            }
        )
    return rows


def run(seed: int, steps: int = STEPS) -> study.Result:
    """Trains, and compares with the exact score over the square."""
    variables, _ = jax.jit(train, static_argnums=1)(jax.random.key(seed), steps)
    learned, truth = (lambda x: NETWORK.apply(variables, x)), mixture(1.0).score
    error = jax.jit(lambda x: ((learned(x) - truth(x)) ** 2).sum(1))
    lattice = np.stack(np.meshgrid(*[np.linspace(-8, 8, 201, dtype=np.float32)] * 2), -1).reshape(-1, 2)
    squared = (np.asarray(jax.jit(truth)(lattice)) ** 2).sum(1)
    log_prob = jax.jit(mixture(1.0).log_prob)
    figures = {
        "scores.png": plotting.score_field(jax.jit(learned), jax.jit(truth), extent=EXTENT, log_prob_fn=log_prob),
        "error.png": plotting.landscape(error, EXTENT, label="squared error of the score"),
    }
    conditions = f"{steps:,} steps of batch {BATCH}, seed {seed}; errors are means over a lattice of 201 × 201 points."
    return study.Result(by_distance(np.asarray(error(lattice)), squared, lattice), figures, conditions)


if __name__ == "__main__":
    study.main(__file__, run, __doc__)
