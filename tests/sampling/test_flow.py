"""The adaptive probability flow against the closed maps of Gaussians and of mixtures on a line."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.stats import norm

from score_jax import arrays, distributions, sampling
from score_jax import sde as sdes
from score_jax.types import InputError
from tests.helpers import SDES, key, mixture

pytestmark = pytest.mark.usefixtures("strict_dtypes")
each_sde = pytest.mark.parametrize("sde", SDES.values(), ids=SDES.keys())

MEAN, VARIANCE = np.array([0.5, -1.0]), np.array([0.3, 1.6])


def gaussian_score(sde):
    """Score of N(MEAN, diag VARIANCE) noised, t `()` or `(B,)`."""

    def score_fn(x, t):
        alpha, variance = arrays.expand_right(sde.alpha(t), x), arrays.expand_right(sde.variance(t), x)
        mean, scale = jnp.asarray(MEAN, x.dtype)[None], jnp.asarray(VARIANCE, x.dtype)[None]
        return (alpha * mean - x) / (alpha**2 * scale + variance)

    return score_fn


def law(sde, t):
    """Mean and standard deviation of the noised Gaussian at t, float64."""
    alpha, variance = np.float64(sde.alpha(t)), np.float64(sde.variance(t))
    return alpha * MEAN, np.sqrt(alpha**2 * VARIANCE + variance)


@each_sde
def test_the_flow_of_a_gaussian_scales_its_deviations(sde):
    """x_s = m_s + (std_s/std_t)(x_t − m_t), from t_max to t_min and back, in as few calls whatever the SDE."""
    (mean, std), (mean_end, std_end) = law(sde, sde.t_max), law(sde, sde.t_min)
    u = np.array([[0.3, -1.2], [2.0, 0.1], [-1.0, 1.0]])
    x, expected = jnp.asarray(mean + std * u, jnp.float32), mean_end + std_end * u
    run = jax.jit(lambda x, t0, t1: sampling.probability_flow(sde, gaussian_score(sde), x, t0=t0, t1=t1))
    arrived, nfe = run(x, sde.t_max, sde.t_min)
    # About ten steps within 1e-5·(1 + |x|) each; float32 in x at σ_max = 80 is 4e-6 of |x| and contracted with it.
    np.testing.assert_allclose(arrived, expected, atol=3e-4)
    back, _ = run(arrived, sde.t_min, sde.t_max)
    np.testing.assert_allclose(back, x, atol=3e-4 * std.max())
    assert nfe <= 61


def test_t_max_to_t_min_is_the_default_and_legs_add_up():
    sde, x = sdes.VP(), jnp.array([[1.0, -0.4]])
    flow = lambda x, **ts: sampling.probability_flow(sde, gaussian_score(sde), x, **ts)[0]
    whole = flow(x)
    np.testing.assert_array_equal(whole, flow(x, t0=sde.t_max, t1=sde.t_min))
    np.testing.assert_allclose(flow(flow(x, t1=0.3), t0=0.3), whole, atol=2e-4)
    start = jnp.array([1.0, 0.3])  # one time for each row
    np.testing.assert_allclose(flow(jnp.concatenate([x, flow(x, t1=0.3)]), t0=start)[1:], whole, atol=2e-4)


def test_the_sampler_stops_where_its_grid_does_and_counts_the_calls_of_all_legs():
    sde, x = sdes.VP(), jnp.array([[1.0, -0.4]])
    score_fn, ts = gaussian_score(sde), jnp.array([1.0, 0.3, 1e-3])
    trace = lambda state: (state.x, state.nfe)
    _, (xs, nfe) = sampling.sample(key(), sampling.adaptive_flow(sde, score_fn), x, ts, trace=trace)
    half, first = sampling.probability_flow(sde, score_fn, x, t1=0.3)
    end, second = sampling.probability_flow(sde, score_fn, half, t0=0.3, t1=1e-3)
    np.testing.assert_allclose(xs, [half, end], atol=1e-6)
    np.testing.assert_array_equal(nfe, [first, first + second])


@pytest.mark.parametrize("name", ["ve", "flow"])
def test_the_flow_keeps_the_distribution_function_of_a_mixture(name):
    """On a line particles do not pass each other: F_0(x_0) = F_T(x_T), here of three separated components."""
    sde, data = SDES[name], mixture(1)
    x = data.perturbed(sde, sde.t_max).sample(key(), 64)
    arrived, _ = jax.jit(lambda x: sampling.probability_flow(sde, distributions.score_of(data, sde), x))(x)

    def distribution_function(x, t):
        law = data.perturbed(sde, t)
        parts = norm.cdf((x - law.means[:, 0][None]) / jnp.sqrt(law.variances)[None])
        return parts @ (law.weights / law.weights.sum())

    start, end = distribution_function(x, sde.t_max), distribution_function(arrived, sde.t_min)
    # Twenty steps within 2e-5 times a density of at most 0.5, and as much again where the flow spreads errors fivefold.
    np.testing.assert_allclose(end, start, atol=5e-4)


@pytest.fixture(scope="module")
def decode():
    sde = SDES["vp"]
    score_fn = distributions.score_of(mixture(), sde)
    return jax.jit(lambda x, t0, t1: sampling.probability_flow(sde, score_fn, x, t0=t0, t1=t1))


def test_encoding_undoes_decoding(decode):
    x = mixture().sample(key(1), 32)
    code, _ = decode(x, 1e-5, 1.0)
    again, nfe = decode(code, 1.0, 1e-5)
    # Between components the flow spreads: an error of 2e-5·20 steps in the code is up to five times as large in x.
    np.testing.assert_allclose(again, x, atol=2e-3)
    assert nfe <= 97


def test_what_a_row_comes_to_does_not_depend_on_the_batch(decode):
    code = SDES["vp"].prior_sample(key(2), (32, 2))
    whole, _ = decode(code, 1.0, 1e-5)
    rows = jnp.concatenate([code[5:7], jnp.full((30, 2), 3.0)])
    np.testing.assert_allclose(decode(rows, 1.0, 1e-5)[0][:2], whole[5:7], rtol=1e-6)


def test_half_precision_is_integrated_in_float32(decode):
    """In the same calls to the same end, which is rounded once: bfloat16 has 8 bits, no tolerance of 1e-5."""
    code = SDES["vp"].prior_sample(key(2), (32, 2)).astype(jnp.bfloat16)
    arrived, nfe = decode(code, 1.0, 1e-5)
    expected, calls = decode(code.astype(jnp.float32), 1.0, 1e-5)
    assert arrived.dtype == jnp.bfloat16 and nfe == calls
    np.testing.assert_array_equal(arrived, expected.astype(jnp.bfloat16))


def test_times_outside_the_sde_are_refused():
    """Flow at t = 1 has no data left in x, and no velocity."""
    refused = lambda **ts: sampling.probability_flow(sdes.Flow(), lambda x, t: -x, jnp.zeros((2, 1)), **ts)
    with pytest.raises(
        InputError, match=r"t0 = 1 is outside \[t_min, t_max\] = \[1e-05, 0\.999\] of Flow.*leave it out"
    ):
        refused(t0=1.0)
    with pytest.raises(InputError, match=r"t1 = 0 is outside"):
        refused(t1=jnp.array([0.5, 0.0]))
    arrived, _ = refused(t0=jnp.float32(0.999), t1=0.99)
    assert np.isfinite(arrived).all()


def test_nfe_is_the_number_of_calls_of_the_score():
    sde, calls = sdes.VP(), []

    def score_fn(x, t):
        jax.debug.callback(lambda t: calls.append(t), t)
        return gaussian_score(sde)(x, t)

    _, nfe = jax.jit(lambda x: sampling.probability_flow(sde, score_fn, x))(jnp.ones((3, 2)))
    jax.block_until_ready(nfe)
    jax.effects_barrier()
    assert int(nfe) == len(calls)


def test_the_error_falls_with_the_tolerance(x64):
    sde = sdes.VE()
    (mean, std), (mean_end, std_end) = law(sde, sde.t_max), law(sde, sde.t_min)
    u = np.array([[0.3, -1.2]])
    run = jax.jit(
        lambda tol: sampling.probability_flow(sde, gaussian_score(sde), mean + std * u, rtol=tol, atol=tol)[0]
    )
    for tol in (1e-4, 1e-7, 1e-10):
        np.testing.assert_allclose(run(tol), mean_end + std_end * u, atol=30 * tol)
