"""What an objective costs against the dimension: `python -m experiments.studies.objective_cost`.

The time of one gradient of each objective on a perceptron. The exact trace takes one pass for every dimension, all
others a fixed number (Song et al. 2019, figure 2).
"""

import time
from collections.abc import Callable
from functools import partial
from statistics import median

import flax.linen as nn
import jax
import numpy as np

from experiments.studies import study
from score_jax import kernels, losses, plotting
from score_jax.types import Array, Key

BATCH, WIDTH, REPEATS = 64, 256, 5
DIMENSIONS = (32, 64, 128, 256, 512, 1024)
NOISE = kernels.Gaussian(0.1)
OBJECTIVES: dict[str, Callable[..., Array]] = {
    "DSM": lambda key, s, x: losses.denoising_score_matching(key, s, x, NOISE),
    "FD-SSM": losses.finite_difference_score_matching,
    "SSM": losses.sliced_score_matching,
    "SSM-VR": partial(losses.sliced_score_matching, variance_reduced=True),
    "exact ISM": lambda key, s, x: losses.implicit_score_matching(s, x),
}


def gradient(objective: Callable[..., Array], dims: int) -> tuple[Callable[..., dict], Callable[..., dict]]:
    """Returns the gradient of the mean objective of a perceptron dims-256-256-dims, and its initialization."""
    network = nn.Sequential([nn.Dense(WIDTH), nn.softplus, nn.Dense(WIDTH), nn.softplus, nn.Dense(dims)])

    def loss(variables: dict, key: Key, x: Array) -> Array:
        return objective(key, lambda x: network.apply(variables, x), x).mean()

    return jax.jit(jax.grad(loss)), jax.jit(network.init)


def milliseconds(objective: Callable[..., Array], dims: int) -> float:
    """Returns the median time of one gradient."""
    program, init = gradient(objective, dims)
    x = jax.random.normal(jax.random.key(1), (BATCH, dims))
    arguments = init(jax.random.key(0), x), jax.random.key(2), x
    jax.block_until_ready(program(*arguments))  # compiles
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        jax.block_until_ready(program(*arguments))
        times.append(1e3 * (time.perf_counter() - start))
    return median(times)


def slope(values: list[float]) -> float:
    """Exponent of the growth over the upper half of the dimensions."""
    half = len(DIMENSIONS) // 2
    return float(np.polyfit(np.log(DIMENSIONS[half:]), np.log(values[half:]), 1)[0])


def run(seed: int) -> study.Result:
    """Measures every objective at every dimension, relative to DSM."""
    del seed  # nothing is drawn that the cost depends on
    cost = {name: [milliseconds(objective, d) for d in DIMENSIONS] for name, objective in OBJECTIVES.items()}
    rows = []
    for name, values in cost.items():
        ratios = [ms / base for ms, base in zip(values, cost["DSM"], strict=True)]
        rows.append(
            {
                "objective": name,
                **{f"ms at d = {d}": ms for d, ms in zip(DIMENSIONS, values, strict=True)},
                f"times DSM at {DIMENSIONS[-1]}": ratios[-1],
                "exponent of that ratio": slope(ratios),
            }
        )
    figure = plotting.by_noise_level(
        np.array(DIMENSIONS),
        np.array(list(cost.values())),
        labels=list(cost),
        ylabel="gradient of one batch, ms",
        xlabel="dimensions d",
    )
    conditions = f"Batch {BATCH}, perceptron of two hidden layers of {WIDTH}, medians of {REPEATS}."
    return study.Result(rows, {"cost.png": figure}, conditions)


if __name__ == "__main__":
    study.main(__file__, run, __doc__)
