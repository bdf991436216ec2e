"""What all samplers of p(x | y) have in common: cost, batches, devices, precision; and their laws on a Gaussian."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from score_jax import arrays, sampling
from score_jax.conditioning.cost import cost_of
from score_jax.conditioning.operators import Linear, Mask
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
    """Counted as it runs: five steps; TDS looks at where it starts, RePaint goes its last step once."""
    make, calls, products = POSTERIOR_SAMPLERS[name]
    y, steps = jnp.zeros((1, M)), 5
    sampler = lambda s: make(SDE, s, Linear(as_float(MATRIX)), y, 0.5)
    found = cost_of(sampler, score_fn, key(), jnp.ones((2, D)), grids.log_snr(SDE, steps + 1))
    before = {"tds": 1, "repaint": 1 - calls}.get(name, 0)
    assert found == (calls * steps + before, products * steps + (before if name == "tds" else 0))
    counted = (*PARTICLES, "repaint")  # whose state counts
    assert sampler(score_fn).calls == (0 if name in counted else calls)
    if name in counted:
        ts = grids.log_snr(SDE, steps + 1)
        nfe = sampling.sample(key(), sampler(score_fn), jnp.ones((2, D)), ts, trace=lambda state: state.nfe)[1]
        assert nfe[-1] == found.calls


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


@each
def test_any_precision_and_a_noise_for_each_row(name):
    """Types alone: half precisions, a float32 x beside numbers of float64; a step from t to t moves nothing."""
    make, row = POSTERIOR_SAMPLERS[name][0], jnp.float32(0.4)
    of_rows = row if name in PARTICLES else jnp.full(ROWS, 0.4)
    for dtype, noise in ((jnp.bfloat16, of_rows), (jnp.float16, row), (jnp.float32, 0.4)):
        sampler = make(SDE, lambda x, t: -x, Linear(as_float(MATRIX)), jnp.zeros((1, M)), noise)
        draw = lambda x, sampler=sampler: sampling.sample(key(), sampler, x, grids.log_snr(SDE, 4))
        assert jax.eval_shape(draw, jnp.ones((ROWS, D), dtype)).dtype == dtype
    x, y = problem()
    sampler, ts = make(SDE, score_fn, Linear(as_float(MATRIX)), y[:1], 0.4), jnp.full(2, 0.5)
    stayed = sampling.sample(key(), sampler, x, ts)
    if name in PARTICLES:  # but is drawn again at the end
        assert np.abs(np.asarray(stayed)[:, None] - np.asarray(x)[None]).max(-1).min(1).max() < 1e-5
    elif name not in ("replacement", "repaint"):  # which put y in at t
        np.testing.assert_allclose(stayed, x, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in POSTERIOR_SAMPLERS if name not in PARTICLES])
def test_rows_have_their_own_noise(name, x64):
    """And their own observations: each row as by itself."""
    x, y = problem()
    noise, ts, keys = jnp.linspace(0.3, 2.0, M), grids.log_snr(SDE, 3), arrays.example_keys(key(1), M)
    draw = lambda keys, y, noise, x: sampling.sample(
        keys, POSTERIOR_SAMPLERS[name][0](SDE, score_fn, Linear(as_float(MATRIX)), y, noise), x, ts
    )
    together = draw(keys, y[:M], noise, x[:M])
    for i in range(M):  # as many rows as numbers are observed: along the wrong axis they would fit
        alone = draw(keys[i : i + 1], y[i : i + 1], float(noise[i]), x[i : i + 1])
        np.testing.assert_allclose(together[i], alone[0], rtol=1e-9, atol=1e-9)


@each
def test_what_a_mask_hides_is_never_read(name):
    """y may hold anything there: another number, or NaN."""
    x, mask = problem()[0][:, :2], Mask(np.array([True, False]))
    score_fn, ts = lambda x, t: -x, grids.log_snr(SDE, 4)
    draw = jax.jit(lambda y: sampling.sample(key(), POSTERIOR_SAMPLERS[name][0](SDE, score_fn, mask, y, 0.3), x, ts))
    for hidden in (7.0, jnp.nan):
        np.testing.assert_array_equal(draw(jnp.array([[0.5, hidden]])), draw(jnp.array([[0.5, 0.0]])))


@pytest.mark.parametrize(
    "name", ["mmps", "tds", *(pytest.param(v, marks=pytest.mark.slow) for v in ("ddrm", "repaint"))]
)
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
