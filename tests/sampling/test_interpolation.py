"""Interpolation by mixing the noise of two keys: its ends, its law, its cost."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax import arrays, distributions, sampling
from score_jax import sde as sdes
from score_jax.sampling import grids
from tests.helpers import key, mixture

pytestmark = pytest.mark.usefixtures("strict_dtypes")

SDE = sdes.VE(0.1, 4.0)
TS = grids.levels(SDE, sdes.geometric_sigmas(4.0, 0.1, 6))
SAMPLERS = {
    "annealed_langevin": lambda s, noise: sampling.annealed_langevin(SDE, s, step_size=2e-3, n_steps=3, noise=noise),
    "consistent_annealed": lambda s, noise: sampling.consistent_annealed(SDE, s, step_size=1.4e-2, noise=noise),
}


def drawer(make, score_fn, start):
    return lambda k, noise: sampling.sample(k, make(score_fn, noise), jnp.broadcast_to(start, (len(k), 2)), TS)


@pytest.mark.parametrize("make", SAMPLERS.values(), ids=SAMPLERS.keys())
def test_the_ends_are_the_samples_of_the_two_keys_and_the_way_is_smooth(make):
    start, score_fn = jnp.array([[3.0, -2.0]]), distributions.score_of(mixture(), SDE)
    draw, keys = drawer(make, score_fn, start), arrays.example_keys(key(5), 2)
    angles = jnp.linspace(0, jnp.pi / 2, 65)
    row = jax.jit(lambda a, b: sampling.interpolate(a, b, draw, angles=angles))(keys[0], keys[1])
    usual = sampling.sample(key(5), make(score_fn, arrays.normal), jnp.broadcast_to(start, (2, 2)), TS)
    # cos(π/2) is 4e-8 in float32, and the steps amplify rounding a little
    np.testing.assert_allclose(row[jnp.array([0, -1])], usual, atol=1e-3)
    steps = np.linalg.norm(np.diff(row, axis=0), axis=1)
    assert steps.max() < 0.5 * np.linalg.norm(usual[0] - usual[1]) and steps.min() > 0


def test_every_column_by_itself_follows_the_samplers_law():
    """Langevin on N(0, v) from 0 for T steps is exactly normal; θ = 0.3, 1.0 have the variance of θ = 0."""
    v, eps, n, steps = 1.5, 0.4, 20_000, 5
    draw = lambda k, noise: sampling.langevin(
        k, lambda x: -x / v, jnp.zeros((len(k), 1)), step_size=eps, n_steps=steps, noise=noise
    )
    keys = arrays.example_keys(key(), 2 * n).reshape(2, n)
    angles = np.array([0.0, 0.3, 1.0], np.float32)
    x = jax.jit(jax.vmap(lambda a, b: sampling.interpolate(a, b, draw, angles=angles)))(*keys)[:, :, 0]
    decay = (1 - eps / (2 * v)) ** (2 * np.arange(steps))
    expected = eps * decay.sum() * np.cos(angles[:, None] - angles)  # correlation of two columns: cos(θ − θ')
    np.testing.assert_allclose(np.cov(x.T), expected, atol=4 * expected.max() * np.sqrt(2 / n))


def test_the_score_is_evaluated_on_the_rows_once_not_for_each_key():
    draw = drawer(SAMPLERS["annealed_langevin"], lambda x, t: jnp.tanh(x), jnp.ones((1, 2)))
    program = str(jax.make_jaxpr(lambda: sampling.interpolate(key(1), key(2), draw, angles=jnp.linspace(0, 1, 7)))())
    evaluations = [line for line in program.splitlines() if "= tanh " in line]
    assert evaluations and all(":f32[7,2] = tanh" in line for line in evaluations)  # not f32[2,7,2]


def test_other_draws_are_an_error():
    draw = lambda k, noise: arrays.normal(k, jnp.zeros((len(k), 2)))
    with pytest.raises(ValueError, match="out_axes"):
        sampling.interpolate(key(1), key(2), draw, angles=jnp.linspace(0, 1, 3))
