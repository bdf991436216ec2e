"""Simulators with posteriors that can be drawn exactly: a linear Gaussian one, and two of sbibm's benchmark.

θ ~ prior, y ~ simulator(θ). Gaussian linear and two moons are tasks T.1 and T.8 of Lueckmann et al. 2021 (appendix T).
"""

import bz2
import io
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from score_jax import distributions
from score_jax.data import bounded
from score_jax.types import Array, InputError, Key

_TRIES = 100
_MOST_BYTES = 2**24  # published: 250 KB
MATRIX, NOISE_STD = np.array([[1.0, 0.5, -0.3], [0.2, -1.0, 0.8]], np.float32), 0.5


class Problem(NamedTuple):
    """A simulator and the truth about it.

    Attributes:
      prior: `(key, n) -> θ (n, D)`.
      simulate: `(key, θ (n, D)) -> y (n, M)`.
      posterior: `(key, y (M,), n) -> θ (n, D)`, exact draws of p(θ | y).
      task: its folder in sbibm's `tasks`, or "".
    """

    prior: Callable[[Key, int], Array]
    simulate: Callable[[Key, Array], Array]
    posterior: Callable[[Key, Array, int], Array]
    task: str = ""


def linear_problem(matrix: np.ndarray, prior_variance: float, noise_std: float, task: str = "") -> Problem:
    """θ ~ N(0, v I), y = A θ + noise_std·z; the posterior by Kalman's update."""
    matrix = jnp.asarray(matrix, jnp.float32)
    prior = distributions.Gaussian(jnp.zeros(matrix.shape[1]), prior_variance)

    def simulate(key: Key, theta: Array) -> Array:
        return theta @ matrix.T + noise_std * jax.random.normal(key, (len(theta), len(matrix)))

    def posterior(key: Key, y: Array, n: int) -> Array:
        return prior.posterior(matrix, y, noise_std).sample(key, n)

    return Problem(prior.sample, simulate, posterior, task)


def moon(key: Key, n: int) -> Array:
    """Draws of the crescent p = (r cos a + ¼, r sin a), a ~ U(−π/2, π/2), r ~ N(0.1, 0.01²)."""
    key_angle, key_radius = jax.random.split(key)
    a = jax.random.uniform(key_angle, (n,), minval=-math.pi / 2, maxval=math.pi / 2)
    r = 0.1 + 0.01 * jax.random.normal(key_radius, (n,))
    return jnp.stack([r * jnp.cos(a) + 0.25, r * jnp.sin(a)], 1)


def simulate_moons(key: Key, theta: Array) -> Array:
    """y = p + (−|θ_1 + θ_2|, θ_2 − θ_1)/√2."""
    across, along = theta.sum(1), theta[:, 1] - theta[:, 0]
    return moon(key, len(theta)) + jnp.stack([-jnp.abs(across), along], 1) / math.sqrt(2)


def moons_posterior(key: Key, y: Array, n: int) -> Array:
    """The crescent's draws solved for θ, of either sign of θ_1 + θ_2, those outside of [−1, 1]² thrown away.

    The map from θ to y − p keeps volumes, and the prior is flat.
    """
    kept = np.zeros((0, 2), np.float32)
    for i in range(_TRIES):
        theta, possible = jax.device_get(_solved(jax.random.fold_in(key, i), y, n))
        kept = np.concatenate([kept, theta[possible]])
        if len(kept) >= n:
            return jnp.asarray(kept[:n])
    raise InputError(
        f"two moons: {len(kept)} of {_TRIES * n} draws of p(θ | y) are within the prior, {n} were asked for"
    )


@partial(jax.jit, static_argnums=2)
def _solved(key: Key, y: Array, n: int) -> tuple[Array, Array]:
    """θ `(n, 2)`, and whether it is within the prior."""
    key_moon, key_sign = jax.random.split(key)
    gap = (moon(key_moon, n) - y[None]) * jnp.array([[1.0, -1.0]])
    across = gap[:, 0] * jax.random.rademacher(key_sign, (n,), jnp.float32)
    theta = jnp.stack([across - gap[:, 1], across + gap[:, 1]], 1) / math.sqrt(2)
    return theta, (gap[:, 0] >= 0) & (jnp.abs(theta) <= 1).all(1)


PROBLEMS = {
    "linear Gaussian, 3 from 2": linear_problem(MATRIX, 1.0, NOISE_STD),
    "Gaussian linear": linear_problem(np.eye(10), 0.1, math.sqrt(0.1), "gaussian_linear"),
    "two moons": Problem(
        lambda key, n: jax.random.uniform(key, (n, 2), minval=-1.0, maxval=1.0),
        simulate_moons,
        moons_posterior,
        "two_moons",
    ),
}


class Reference(NamedTuple):
    """An observation `(M,)`, and draws of the posterior `(n, D)` that it has."""

    y: np.ndarray
    theta: np.ndarray


def published(tasks: Path, task: str, number: int) -> Reference:
    """Reads sbibm's observation of that number, 1 to 10, and its 10,000 reference draws.

    Args:
      tasks: the folder `sbibm/tasks` of an unpacked sbibm.
      task: such as "two_moons".
      number: of the observation.

    Raises:
      InputError: where the files are not there.
    """
    folder = tasks / task / "files" / f"num_observation_{number}"
    observation, draws = folder / "observation.csv", folder / "reference_posterior_samples.csv.bz2"
    for path in (observation, draws):
        if not path.is_file():
            raise InputError(
                f"{path}: no such file; expected the folder sbibm/tasks of the package (pip download sbibm --no-deps, "
                "and unzip), or leave --reference out"
            )
    return Reference(_read_table(observation, open), _read_table(draws, bz2.open))


def _read_table(path: Path, opened: Callable[..., BinaryIO]) -> np.ndarray:
    """Reads numbers below a line of names; of a file that unpacks to more than any such table, no more than that."""
    try:
        with opened(path, "rb") as file:
            text = bounded.read_at_most(file, _MOST_BYTES + 1)
        if len(text) > _MOST_BYTES:
            raise InputError(f"{path}: unpacks to more than {_MOST_BYTES} bytes, unlike sbibm's: refused")
        return np.loadtxt(io.BytesIO(text), np.float32, delimiter=",", skiprows=1)
    except (OSError, EOFError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: no table of numbers ({bounded.reason(error)}): fetch it again") from error
