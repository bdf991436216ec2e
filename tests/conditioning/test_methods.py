"""What all samplers of p(x | y) have in common: cost, batches, devices, precision; and their laws on a Gaussian."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from score_jax import arrays, sampling
from score_jax.conditioning.cost import cost_of
from score_jax.conditioning.operators import Linear
from score_jax.sampling import grids
from tests.helpers import PARTICLES, POSTERIOR_SAMPLERS, SDES, key, trace_counter

pytestmark = pytest.mark.usefixtures("strict_dtypes")

D, M = 4, 2
RNG = np.random.default_rng(0)
FACTOR = RNG.normal(size=(D, D)) * 0.4
COVARIANCE = FACTOR @ FACTOR.T + 0.2 * np.eye(D)
MATRIX = RNG.normal(size=(M, D)) / 2
SDE = SDES["vp"]
ROWS = 8
each = pytest.mark.parametrize("name", POSTERIOR_SAMPLERS)


def as_float(v):
    return jnp.asarray(v, jnp.zeros(()).dtype)


def score_fn(x, t):
    """Of N(0, C), linear in x."""
    noised = as_float(SDE.alpha(t)) ** 2 * as_float(COVARIANCE) + as_float(SDE.variance(t)) * jnp.eye(D, dtype=x.dtype)
    return -jnp.linalg.solve(noised, x.T).T


def run(name, y, noise, keys, x, score_fn=score_fn, steps=4):
    sampler = POSTERIOR_SAMPLERS[name][0](SDE, score_fn, Linear(as_float(MATRIX)), y, noise)
    return sampling.sample(keys, sampler, x, grids.log_snr(SDE, steps + 1))


def problem():
    x, y = (RNG.standard_normal((ROWS, n)) for n in (D, M))
    return as_float(x), as_float(y)


@each
def test_a_step_costs_what_its_docstring_says(name):
    """Counted as it runs: five steps; a particle sampler looks at where it starts, RePaint goes its first step once."""
    make, calls, products = POSTERIOR_SAMPLERS[name]
    y, steps = jnp.zeros((1, M)), 5
    sampler = lambda s: make(SDE, s, Linear(as_float(MATRIX)), y, 0.5)
    found = cost_of(sampler, score_fn, key(), jnp.ones((2, D)), grids.log_snr(SDE, steps + 1))
    before = {"tds": 1, "repaint": 1 - calls}.get(name, 0)
    assert found == (calls * steps + before, products * steps + (before if name == "tds" else 0))
    assert sampler(score_fn).calls == (0 if name == "repaint" else calls)


@each
def test_a_row_is_its_own_and_a_set_of_particles_is(name, x64):
    """Keys, observations and noise under vmap against one batch, traced once; in double precision, to its rounding."""
    x, y = problem()
    keys, noise = arrays.example_keys(key(1), ROWS), jnp.linspace(0.3, 0.6, ROWS)
    if name in PARTICLES:  # lanes are sets of particles
        lane = lambda key, y, noise: run(name, y[None], noise, arrays.example_keys(key, ROWS), x)
        one = jax.jit(lane)
        whole = jnp.stack([one(keys[i], y[i], noise[i]) for i in range(2)])
        lanes = jax.jit(jax.vmap(lane))(keys[:2], y[:2], noise[:2])
    else:
        counted = trace_counter(score_fn)
        whole = jax.jit(lambda keys, y, x: run(name, y, 0.4, keys, x, counted))(keys, y, x)
        assert counted.count <= POSTERIOR_SAMPLERS[name][1]
        lane = lambda key, y, x: run(name, y[None], 0.4, key[None], x[None])[0]
        lanes = jax.jit(jax.vmap(lane))(keys, y, x)
    assert lanes.dtype == jnp.float64
    np.testing.assert_allclose(lanes, whole, rtol=1e-9, atol=1e-9)
    assert np.abs(np.diff(np.asarray(lanes), axis=0)).max() > 0.01


@pytest.mark.parametrize("name", ("mmps", "ddrm", "repaint", "tds"))
def test_devices_draw_what_one_draws(name):
    """pmap and a mesh of eight devices; the particles of a set may lie on all of them."""
    x, y = problem()
    keys, y = arrays.example_keys(key(1), ROWS), y[:1]
    alone = jax.jit(lambda keys, x: run(name, y, 0.4, keys, x))(keys, x)
    mesh = jax.make_mesh((8,), ("data",))
    rows = NamedSharding(mesh, PartitionSpec("data"))
    sharded = jax.jit(lambda keys, x: run(name, y, 0.4, keys, x), in_shardings=rows, out_shardings=rows)
    np.testing.assert_allclose(sharded(keys, x), alone, rtol=1e-4, atol=1e-4)
    if name not in PARTICLES:
        spread = jax.pmap(lambda keys, x: run(name, y, 0.4, keys, x))(keys.reshape(8, 1), x.reshape(8, 1, D))
        np.testing.assert_allclose(spread.reshape(8, D), alone, rtol=1e-4, atol=1e-4)
