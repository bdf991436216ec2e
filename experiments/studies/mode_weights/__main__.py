"""Langevin dynamics cannot weigh separated modes, annealed Langevin dynamics can.

    python -m experiments.studies.mode_weights

The exact scores of 0.8 N((5, 5), I) + 0.2 N((−5, −5), I), 1,280 chains from U[−8, 8]² (Song & Ermon 2019, figure 3).
"""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.studies import study
from score_jax import distributions, plotting, sampling, sde
from score_jax.sampling import grids
from score_jax.types import Array, Key

MODES = np.array([[5.0, 5.0], [-5.0, -5.0]], np.float32)
WEIGHT = 0.8  # of the first
CHAINS, STEP_SIZE = 1280, 0.1
LEVELS, STEPS = 10, 100


def mixture(variance: float) -> distributions.GaussianMixture:
    """The data's density with components of this variance."""
    return distributions.GaussianMixture(jnp.array([WEIGHT, 1 - WEIGHT]), jnp.asarray(MODES), jnp.asarray(variance))


def plain(key: Key, start: Array, n_steps: int = LEVELS * STEPS) -> Array:
    """Langevin dynamics at the data's own score."""
    return sampling.langevin(key, mixture(1.0).score, start, step_size=STEP_SIZE, n_steps=n_steps)


def annealed(key: Key, start: Array, data: distributions.GaussianMixture, sigma_min: float) -> Array:
    """Annealed Langevin dynamics on σ = 20 … σ_min, as many steps in all as `plain` takes."""
    ve = sde.VE(sigma_min, 20.0)
    sampler = sampling.annealed_langevin(ve, distributions.score_of(data, ve), step_size=STEP_SIZE, n_steps=STEPS)
    return sampling.sample(key, sampler, start, grids.levels(ve, sde.geometric_sigmas(20.0, sigma_min, LEVELS)))


def row(name: str, x: Array, variance: float) -> dict:
    """Weight of the first mode with its standard error, and the variance of a coordinate within the modes."""
    x = np.asarray(x)
    near = x @ MODES[0] > 0
    weight = near.mean()
    residual = x - MODES[np.where(near, 0, 1)]
    return {
        "method": name,
        "weight of (5, 5)": float(weight),
        "its standard error": float(np.sqrt(weight * (1 - weight) / len(x))),
        "expected weight": WEIGHT,
        "variance in a mode": float((residual**2).mean()),
        "expected variance": variance,
    }


def run(seed: int) -> study.Result:
    """Draws by each method from the same start."""
    keys = jax.random.split(jax.random.key(seed), 4)
    start = jax.random.uniform(keys[0], (CHAINS, 2), minval=-8.0, maxval=8.0)
    # At level σ the published code's components have the standard deviation σ, so the last level is the data: the
    # points (5, 5) and (−5, −5) themselves are what is noised.
    points = mixture(1e-8)
    finite_step = 1 / (1 - STEP_SIZE / 4)  # Langevin's stationary variance at a finite step, for variance 1
    drawn = {
        "data": mixture(1.0).sample(keys[3], CHAINS),
        "Langevin": jax.jit(plain)(keys[1], start),
        "annealed Langevin": jax.jit(lambda key, x: annealed(key, x, points, 1.0))(keys[2], start),
        "annealed, density convolved": jax.jit(lambda key, x: annealed(key, x, mixture(1.0), 1.0))(keys[2], start),
    }
    expected = [1.0, finite_step, finite_step, 2 / (1 - STEP_SIZE / 8)]
    rows = [row(name, x, variance) for (name, x), variance in zip(drawn.items(), expected, strict=True)]
    shown = {name: drawn[name] for name in ("data", "Langevin", "annealed Langevin")}
    figure = plotting.clouds(shown, extent=(-9.0, 9.0, -9.0, 9.0))
    return study.Result(rows, {"samples.png": figure}, f"{CHAINS:,} chains, seed {seed}.")


if __name__ == "__main__":
    study.main(__file__, run, __doc__)
