"""Consistent annealed sampling: the noise it keeps, its relatives, and the released rule."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax import arrays, distributions, sampling
from score_jax import sde as sdes
from score_jax.sampling import grids
from score_jax.types import InputError
from tests.helpers import SDES, key, mixture, moments, often

pytestmark = pytest.mark.usefixtures("strict_dtypes")

SIGMAS = np.geomspace(2.0, 0.1, 8)
POINT = distributions.Empirical(jnp.array([[0.5]]))  # data of one point: all variance is noise


def test_the_noise_has_the_variance_of_its_level_where_annealed_langevins_is_too_large():
    sde, n = sdes.VE(0.1, 2.0), 20_000
    score_fn = distributions.score_of(POINT, sde)
    x, ts = 0.5 + 2.0 * arrays.normal(key(), jnp.zeros((n, 1))), grids.levels(sde, SIGMAS)
    samplers = {
        "consistent": sampling.consistent_annealed(sde, score_fn, step_size=0.8 * 0.1**2, sigma_min=0.1),
        "langevin": sampling.annealed_langevin(sde, score_fn, step_size=0.8 * 0.1**2, n_steps=1, sigma_min=0.1),
    }
    trace = lambda state: ((state.x - 0.5) ** 2).mean()
    ratio = {name: sampling.sample(key(1), s, x, ts, trace=trace)[1] / SIGMAS**2 for name, s in samplers.items()}
    np.testing.assert_allclose(ratio["consistent"], 1, atol=4 * np.sqrt(2 / n))
    assert ratio["langevin"][-1] > 1.5  # h = 0.4 and γ = 1.53: (0.6² 1.53² − 1.25) + … tends to b(1 − q)/(1 − qγ²)


@pytest.mark.parametrize("name", often(SDES, ("ve", "vp")))
def test_with_the_bounds_of_eta_it_is_ddim_and_ancestral(name, x64):
    """On levels of one ratio γ: η = 1 − γ keeps the flow's noise, η = 1 − γ² is q(x_s | x_t, x̂_0)."""
    sde = SDES[name]
    ts = grids.log_snr(sde, 9)
    gamma = float(jnp.exp((sde.log_snr(ts[0]) - sde.log_snr(ts[-1])) / 16))
    score_fn = distributions.score_of(mixture(), sde)
    x = sde.prior_sample(key(), (5, 2))
    relatives = {1 - gamma: sampling.ddim, 1 - gamma**2: sampling.ancestral}
    for eta, relative in relatives.items():
        cas = sampling.consistent_annealed(sde, score_fn, step_size=2 * eta, sigma_min=1.0)
        a, b = (sampling.sample(key(1), sampler, x, ts) for sampler in (cas, relative(sde, score_fn)))
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


def test_it_is_the_released_rule():
    """x + η σ_i² s + β σ_{i+1} z with β = √(1 − (1 − η)²/γ²), and the denoised last level."""
    sde, eta = sdes.VE(0.1, 2.0), 0.5
    score_fn = distributions.score_of(mixture(), sde)
    ts = grids.levels(sde, SIGMAS)
    x = start = mixture().sample(key(), 4)
    keys = arrays.example_keys(key(1), 4)
    for i in range(len(SIGMAS) - 1):
        beta = np.sqrt(1 - ((1 - eta) / (SIGMAS[i + 1] / SIGMAS[i])) ** 2)
        z = arrays.normal(arrays.fold_in(keys, i + 1), x)  # step 0 goes from the first level to itself
        x = x + eta * SIGMAS[i] ** 2 * score_fn(x, ts[i + 1]) + beta * SIGMAS[i + 1] * z
    sampler = sampling.consistent_annealed(sde, score_fn, step_size=2 * eta * 0.1**2, sigma_min=0.1)
    np.testing.assert_allclose(sampling.sample(key(1), sampler, start, ts), x, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("eta", [1e-6, 3.0])
def test_a_step_that_cannot_be_consistent_is_the_nearest_that_is(eta):
    """η below 1 − γ or above 1 + γ: what is kept has the level's noise already, and none is added."""
    sde, n = sdes.VE(0.1, 2.0), 20_000
    sampler = sampling.consistent_annealed(sde, distributions.score_of(POINT, sde), step_size=2 * eta, sigma_min=1.0)
    x, ts = 0.5 + 2.0 * arrays.normal(key(), jnp.zeros((n, 1))), grids.levels(sde, SIGMAS)
    end = sampling.sample(key(1), sampler, x, ts)
    np.testing.assert_array_equal(end, sampling.sample(key(2), sampler, x, ts))
    np.testing.assert_allclose(np.abs(end - 0.5), np.abs(x - 0.5) * 0.1 / 2.0, rtol=1e-3, atol=1e-5)


def test_it_reaches_the_mixtures_moments_from_the_exact_marginal():
    data, n, sde = mixture(), 4096, SDES["vp"]
    mean, covariance = moments(data)
    score_fn = distributions.score_of(data, sde)
    sampler = sampling.consistent_annealed(sde, score_fn, step_size=0.5, sigma_min=1.0)
    ts = grids.log_snr(sde, 100)
    x = data.perturbed(sde, sde.t_max).sample(key(1), n)
    x = np.asarray(jax.jit(lambda k, x: sampling.sample(k, sampler, x, ts))(key(2), x), np.float64)
    # 4 standard errors and what 100 steps of a first-order method leave
    np.testing.assert_allclose(x.mean(0), mean, atol=4 * np.sqrt(np.diag(covariance).max() / n) + 0.05)
    fourth = ((x - x.mean(0)) ** 2).std(0).max()
    np.testing.assert_allclose(np.cov(x.T), covariance, atol=4 * fourth / n**0.5 + 0.12)


def test_gradients_pass_a_level_that_stands_twice():
    """d/dσ_max of a run whose first step adds no noise is finite and equals the finite difference."""
    x, sigmas = jnp.ones((3, 2)), jnp.array([1.5, 0.8, 0.3])

    def end(sigma_max):
        sde = sdes.VE(0.1, sigma_max)
        score_fn = distributions.score_of(mixture(), sdes.VE(0.1, 2.0))
        sampler = sampling.consistent_annealed(sde, score_fn, step_size=1.2 * 0.1**2, sigma_min=0.1)
        ts = jnp.stack([jnp.asarray(v) for v in (0.9, 0.9, 0.6, 0.3)])
        return sampling.sample(key(), sampler, x * sigmas.mean(), ts).sum()

    gradient = jax.grad(end)(jnp.asarray(2.0))
    np.testing.assert_allclose(gradient, (end(2.02) - end(1.98)) / 0.04, rtol=2e-2)


@pytest.mark.parametrize("options", [{"step_size": 0.0}, {"step_size": 0.1, "sigma_min": -1.0}])
def test_numbers_that_are_not_positive_are_refused(options):
    with pytest.raises(InputError, match=r"consistent_annealed: .* must be positive"):
        sampling.consistent_annealed(sdes.VE(), lambda x, t: x, **options)
