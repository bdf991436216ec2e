import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax import sde as sdes
from score_jax.distributions import Gaussian, GaussianMixture, score_of
from score_jax.metrics import score_error
from score_jax.types import InputError

MIXTURE = GaussianMixture(jnp.array([0.8, 0.2]), jnp.array([[5.0, 5.0], [-5.0, -5.0]]), 1.0)
TS = jnp.array([0.05, 0.3, 0.6, 1.0])


@pytest.mark.parametrize("sde", [sdes.VE(), sdes.VP()])
def test_offsets_and_factors_of_the_oracle_are_reported_as_their_squares(sde):
    oracle = score_of(MIXTURE, sde)

    @jax.jit
    def measure(factor, offset):  # an offset in every dimension of the predicted noise

        def score_fn(x, t):
            return factor * oracle(x, t) + offset / sde.sigma(t)

        return score_error(jax.random.key(0), sde, score_fn, MIXTURE, ts=TS, n=64)

    exact = measure(1.0, 0.0)
    np.testing.assert_allclose(exact.sigma, sde.sigma(TS) / sde.alpha(TS), rtol=1e-5)
    np.testing.assert_allclose(exact.error, 0, atol=1e-8)  # float32 noise of σ·score, squared
    shifted = measure(1.0, 0.3)
    np.testing.assert_allclose(shifted.error, 0.09, rtol=1e-3)
    np.testing.assert_allclose(shifted.standard_error, 0, atol=1e-4)
    np.testing.assert_allclose(measure(1.2, 0.0).relative, 0.04, rtol=1e-3)


def test_error_of_the_zero_score_on_gaussian_data_is_the_closed_form():
    n, dims, variance, sde = 4096, 3, 2.0, sdes.VP()
    data = Gaussian(jnp.zeros(dims), variance)
    result = score_error(jax.random.key(0), sde, lambda x, t: jnp.zeros_like(x), data, ts=TS, n=n)
    # score = −x/τ², x ~ N(0, τ²I): σ²E‖score‖²/D = σ²/τ²; ‖x‖²/τ² is χ² with D degrees, so its variance is 2D
    expected = sde.variance(TS) / (sde.alpha(TS) ** 2 * variance + sde.variance(TS))
    standard_error = expected * (2 / dims / n) ** 0.5
    assert (abs(result.error - expected) < 4 * standard_error).all()
    # s.e. of a χ² sample's deviation at n = 4,096: about 2.5 %
    np.testing.assert_allclose(result.standard_error, standard_error, rtol=0.1)
    np.testing.assert_allclose(result.relative, 1, rtol=1e-6)


def test_points_come_from_the_noised_distribution_at_each_level():
    # An error of exactly h at x reports E[h]: with h = x the mean square of x_t itself, α²·(25 + 1) + σ² per dimension.
    sde, n = sdes.VP(), 8192
    oracle = score_of(MIXTURE, sde)
    result = score_error(jax.random.key(0), sde, lambda x, t: oracle(x, t) + x / sde.sigma(t), MIXTURE, ts=TS, n=n)
    expected = sde.alpha(TS) ** 2 * 26 + sde.variance(TS)
    assert (abs(result.error - expected) < 4 * result.standard_error).all()


def test_score_fn_is_traced_as_often_for_many_levels_as_for_few():
    traces = []

    def counted(x, t):
        traces.append(t.shape)
        return jnp.zeros_like(x)

    def count(n_levels):
        traces.clear()
        ts = jnp.linspace(0.1, 1, n_levels)
        jax.make_jaxpr(lambda key: score_error(key, sdes.VP(), counted, MIXTURE, ts=ts, n=8))(jax.random.key(0))
        return len(traces)

    assert count(2) == count(20) > 0


def test_image_shaped_data_works_under_jit():
    sde = sdes.VP()
    data = GaussianMixture(jnp.ones(2), jnp.stack([jnp.ones((2, 2, 1)), -jnp.ones((2, 2, 1))]), 0.5)
    oracle = score_of(data, sde)

    @jax.jit
    def measure(key, offset):
        return score_error(key, sde, lambda x, t: oracle(x, t) + offset / sde.sigma(t), data, ts=TS, n=16)

    np.testing.assert_allclose(measure(jax.random.key(0), 0.5).error, 0.25, rtol=1e-4)


@pytest.mark.parametrize("ts, n, message", [(0.5, 16, r"\(\)"), (TS, 1, "n = 1")])
def test_bad_times_are_refused(ts, n, message):
    with pytest.raises(InputError, match=message):
        score_error(jax.random.key(0), sdes.VP(), lambda x, t: x, MIXTURE, ts=ts, n=n)
