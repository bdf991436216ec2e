"""Exact densities: score = ∇ log p, noised exactly, posteriors by Bayes' rule."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from score_jax import distributions
from score_jax.types import InputError
from tests.helpers import SDES, assert_mean, key, mixture, moments

pytestmark = pytest.mark.usefixtures("strict_dtypes")

DENSITIES = {
    "gaussian": distributions.Gaussian(jnp.array([0.5, -1.0]), 0.3),
    "gaussian_diagonal": distributions.Gaussian(jnp.array([0.5, -1.0]), jnp.array([0.3, 2.0])),
    "gaussian_full": distributions.Gaussian(jnp.array([0.5, -1.0]), jnp.array([[0.5, 0.2], [0.2, 0.3]])),
    "isotropic": mixture(),
    "full": mixture(full=True),
    "parzen": distributions.Empirical(jnp.array([[0.0, 1.0], [1.0, -1.0]])).smoothed(0.4),
}
each = pytest.mark.parametrize("density", DENSITIES.values(), ids=DENSITIES.keys())


@each
def test_score_is_the_gradient_of_log_prob(density):
    x = density.sample(key(1), 6)
    gradient = jax.grad(lambda x: density.log_prob(x).sum())(x)
    np.testing.assert_allclose(density.score(x), gradient, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("full", [False, True])
def test_log_prob_is_scipys(full):
    density = mixture(full=full)
    x = np.asarray(density.sample(key(1), 6), np.float64)
    covariances = np.asarray(density.variances, np.float64)
    covariances = covariances if full else covariances[:, None, None] * np.eye(2)
    expected = sum(
        w * scipy.stats.multivariate_normal(m, c).pdf(x)
        for w, m, c in zip(np.asarray(density.weights, np.float64), np.asarray(density.means), covariances)
    )
    np.testing.assert_allclose(density.log_prob(jnp.asarray(x, jnp.float32)), np.log(expected), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("full", [False, True])
def test_samples_have_the_closed_form_moments(full):
    density = mixture(full=full)
    mean, covariance = moments(density)
    x = np.asarray(density.sample(key(2), 40_000))
    assert_mean(x, mean)
    centred = x - mean
    assert_mean(centred[:, :, None] * centred[:, None, :], covariance)


@pytest.mark.parametrize("sde", SDES.values(), ids=SDES.keys())
@pytest.mark.parametrize("full", [False, True])
def test_perturbed_has_the_moments_of_noised_samples(sde, full):
    density, t = mixture(full=full), 0.3 * sde.t_max
    mean, covariance = moments(density)
    noised = density.perturbed(sde, t)
    alpha, variance = float(sde.alpha(t)), float(sde.variance(t))
    noised_mean, noised_covariance = moments(noised)
    np.testing.assert_allclose(noised_mean, alpha * mean, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(noised_covariance, alpha**2 * covariance + variance * np.eye(2), rtol=1e-4, atol=1e-5)


def test_score_of_takes_one_time_or_one_per_row():
    density, sde = mixture(full=True), SDES["vp"]
    score_fn = distributions.score_of(density, sde)
    x, t = density.sample(key(1), 3), jnp.array([0.1, 0.5, 0.9])
    rows = score_fn(x, t)
    for i in range(3):
        np.testing.assert_allclose(rows[i], density.perturbed(sde, t[i]).score(x)[i], rtol=1e-4)
        np.testing.assert_allclose(rows[i], score_fn(x, t[i])[i], rtol=1e-4)


def test_empirical_is_the_limit_of_its_points():
    """Each noised point's law is N(α x, σ²): score = (α E[x | x̃] − x̃)/σ² with weights ∝ exp(−|x̃ − αx|²/2σ²)."""
    points = np.random.default_rng(0).normal(size=(20, 2, 2, 1)).astype(np.float32)
    sde, t = SDES["vp"], 0.3
    x = jnp.asarray(points[:4]) * 0.8
    alpha, variance = float(sde.alpha(t)), float(sde.variance(t))
    distances = ((np.asarray(x)[:, None] - alpha * points[None]) ** 2).sum((2, 3, 4))
    weights = np.exp(-distances / (2 * variance))
    weights /= weights.sum(1, keepdims=True)
    expected = (alpha * np.einsum("bn,nijk->bijk", weights, points) - np.asarray(x)) / variance
    score = distributions.Empirical(jnp.asarray(points)).perturbed(sde, t).score(x)
    np.testing.assert_allclose(score, expected, rtol=1e-3, atol=1e-4)


def test_empirical_without_noise_has_no_density():
    with pytest.raises(InputError, match=r"use .smoothed\(sigma\)"):
        distributions.Empirical(jnp.zeros((3, 2))).score(jnp.zeros((1, 2)))


@pytest.mark.parametrize("full", [False, True])
def test_posterior_is_bayes_rule(full):
    """log p(x|y) − log p(x) − log p(y|x) is one constant, −log p(y), at every x."""
    density = mixture(3, full=full)
    matrix, y, noise = jnp.array([[1.0, -0.5, 0.2]]), jnp.array([0.7]), 0.4
    posterior = density.posterior(matrix, y, noise)
    x = density.sample(key(1), 8)
    likelihood = jax.scipy.stats.norm.logpdf(y, (x @ matrix.T)[:, 0], noise)
    constant = posterior.log_prob(x) - density.log_prob(x) - likelihood
    np.testing.assert_allclose(constant, constant[0], atol=2e-4)
    evidence = sum(
        w
        * scipy.stats.norm.pdf(
            0.7, (np.asarray(matrix) @ m)[0], np.sqrt(np.asarray(matrix) @ c @ np.asarray(matrix).T + noise**2)[0, 0]
        )
        for w, m, c in zip(
            np.asarray(density.weights),
            np.asarray(density.means),
            np.asarray(density.variances) if full else np.asarray(density.variances)[:, None, None] * np.eye(3),
        )
    )
    np.testing.assert_allclose(-constant[0], np.log(evidence), atol=1e-3)


def test_a_mixture_may_be_learned_and_batched():
    """It is a pytree of numbers: gradients flow and vmap maps over a stack of mixtures."""
    density, x = mixture(), jnp.ones((4, 2))
    gradient = jax.grad(lambda d: d.log_prob(x).sum())(density)
    assert np.abs(gradient.means).max() > 0.1
    stack = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), density)
    np.testing.assert_allclose(jax.vmap(lambda d: d.log_prob(x))(stack)[1], density.log_prob(x), rtol=1e-6)


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match=r"weights must be \(3,\)"):
        distributions.GaussianMixture(jnp.ones(2), jnp.zeros((3, 2)), 1.0).log_prob(jnp.zeros((1, 2)))
    with pytest.raises(InputError, match="variances must be positive, got 0"):
        distributions.GaussianMixture(jnp.ones(2), jnp.zeros((2, 2)), 0.0)
