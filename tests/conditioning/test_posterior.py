"""Posterior scores by approximation, against the exact ones of Gaussians; what they cost; what they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax import arrays, distributions, sampling
from score_jax.conditioning import dps, mmps, pigdm, tmpd
from score_jax.conditioning.operators import Linear, Mask, magnitudes
from score_jax.sampling import grids
from tests.helpers import SDES, key, often, refused, trace_counter

pytestmark = pytest.mark.usefixtures("strict_dtypes")

D, M, STD = 5, 3, 0.5
RNG = np.random.default_rng(0)
MATRIX = jnp.asarray(RNG.normal(size=(M, D)), jnp.float32)
FACTOR = RNG.normal(size=(D, D)) * 0.5
MEAN = jnp.asarray(RNG.normal(size=D), jnp.float32)
ISOTROPIC = distributions.Gaussian(MEAN, jnp.float32(0.49))
FULL = distributions.Gaussian(MEAN, jnp.asarray(FACTOR @ FACTOR.T + 0.2 * np.eye(D), jnp.float32))
Y = jnp.asarray(RNG.normal(size=(1, M)), jnp.float32)
X = arrays.normal(key(1), jnp.zeros((6, D))) * 1.5
T = jnp.linspace(0.05, 0.95, 6)

METHODS = {
    "dps": lambda sde, s, a, y: dps(sde, s, a, y, noise_std=STD),
    "pigdm": lambda sde, s, a, y: pigdm(sde, s, a, y, noise_std=STD, data_std=0.7),
    "tmpd": lambda sde, s, a, y: tmpd(sde, s, a, y, noise_std=STD),
    "mmps": lambda sde, s, a, y: mmps(sde, s, a, y, noise_std=STD, n_steps=M),
}


def exact(prior, sde, operator=MATRIX):
    return distributions.score_of(prior.posterior(operator, Y[0], STD), sde)


def error(method, prior, sde, matrix=MATRIX):
    """Relative error of the method's score, and of none at all, the prior's."""
    found = jax.jit(METHODS[method](sde, distributions.score_of(prior, sde), Linear(matrix), Y))(X, T)
    right = exact(prior, sde, matrix)(X, T)
    norm = lambda v: float(jnp.sqrt((v**2).sum()))
    return norm(found - right) / norm(right), norm(distributions.score_of(prior, sde)(X, T) - right) / norm(right)


@pytest.mark.parametrize("name", often(SDES, ("ve", "vp")))
@pytest.mark.parametrize(("method", "prior"), [("pigdm", "isotropic"), ("mmps", "isotropic"), ("mmps", "full")])
def test_methods_are_exact_on_their_gaussians(name, method, prior):
    """To 1e-3: the posterior's own conditioning in float32, and M steps of conjugate gradients on M eigenvalues."""
    found, without = error(method, {"isotropic": ISOTROPIC, "full": FULL}[prior], SDES[name])
    assert found < 1e-3 < 0.1 < without


def test_tmpd_is_exact_where_its_diagonal_is_the_matrix():
    """Rows of A that are orthogonal and of one length; elsewhere by as much as it is."""
    orthogonal = 1.3 * jnp.eye(D)[:M]
    assert error("tmpd", ISOTROPIC, SDES["vp"], orthogonal)[0] < 1e-4
    assert error("tmpd", FULL, SDES["vp"])[0] > 0.02


def test_dps_pulls_by_the_factor_that_it_forgets():
    """One element, A = 1: 1/σ_y² in place of 1/(σ_y² + r²), r² = Var[x0 | x_t]; a scale makes it exact."""
    sde, prior = SDES["vp"], distributions.Gaussian(jnp.zeros(1), jnp.float32(0.49))
    score_fn, y, x, t = distributions.score_of(prior, sde), jnp.ones((1, 1)), jnp.full((1, 1), 0.3), jnp.full((1,), 0.5)
    variance = lambda t: sde.variance(t) * 0.49 / (sde.variance(t) + 0.49 * sde.alpha(t) ** 2)
    right = exact_one(prior, sde, y)(x, t) - score_fn(x, t)
    scale = lambda t: STD**2 / (STD**2 + variance(t))
    found = [
        dps(sde, score_fn, Linear(jnp.eye(1)), y, noise_std=STD, scale=s)(x, t) - score_fn(x, t) for s in (1.0, scale)
    ]
    np.testing.assert_allclose(found[0], right / scale(t)[:, None], rtol=1e-4)
    np.testing.assert_allclose(found[1], right, rtol=1e-4)


def exact_one(prior, sde, y):
    return distributions.score_of(prior.posterior(jnp.eye(1), y[0], STD), sde)


def test_samples_are_of_the_exact_posterior():
    """By ΠGDM and the flow, on the mean and covariance of 4,000 samples: 5 standard errors and 2 % of the grid."""
    sde, n = SDES["ve"], 4000
    posterior = ISOTROPIC.posterior(MATRIX, Y[0], STD)
    guided = METHODS["pigdm"](sde, distributions.score_of(ISOTROPIC, sde), Linear(MATRIX), Y)
    draw = lambda x: sampling.sample(key(4), sampling.heun(sde, guided), x, grids.log_snr(sde, 40))
    x = np.asarray(jax.jit(draw)(sde.prior_sample(key(3), (n, D))), np.float64)
    covariance = np.asarray(posterior.variances[0], np.float64)
    spread = np.sqrt(np.diag(covariance))
    assert (np.abs(x.mean(0) - np.asarray(posterior.means[0])) < 5 * spread / np.sqrt(n) + 0.02 * spread).all()
    np.testing.assert_allclose(np.cov(x.T), covariance, atol=(5 / np.sqrt(n) + 0.02) * spread.max() ** 2)


@pytest.mark.parametrize("method", METHODS)
def test_a_method_costs_what_it_says_and_each_row_is_its_own(method):
    """One trace of the score; a row by itself, and each observation of a batch of them, gives the same."""
    sde = SDES["vp"]
    score_fn = trace_counter(distributions.score_of(FULL, sde))
    observed = jnp.concatenate([Y, Y + 1, Y - 1, Y, Y, Y])
    guided = METHODS[method](sde, score_fn, Linear(MATRIX), observed)
    whole = jax.jit(guided)(X, T)
    assert score_fn.count == 1
    for row in (1, 2):
        alone = METHODS[method](sde, score_fn, Linear(MATRIX), observed[row : row + 1])
        np.testing.assert_allclose(alone(X[row : row + 1], T[row : row + 1])[0], whole[row], rtol=2e-4, atol=1e-4)


def test_any_differentiable_function_observes():
    """Phase retrieval: a step along the gradient of the misfit of the denoised estimate brings it down."""
    sde = SDES["vp"]
    prior = distributions.Gaussian(jnp.zeros((4, 4, 1)), jnp.float32(1.0))
    truth = prior.sample(key(5), 1)
    y, score_fn, t = magnitudes(truth), distributions.score_of(prior, sde), jnp.full((1,), 0.3)
    x = sde.perturb(key(6), truth, t)[0]
    misfit = lambda x: float(((magnitudes(sde.denoise(x, t, score_fn(x, t))) - y) ** 2).sum())
    for make in (dps, mmps):
        gradient = make(sde, score_fn, magnitudes, y, noise_std=0.3)(x, t) - score_fn(x, t)
        assert misfit(x + 1e-3 * gradient) < misfit(x)


def test_what_cannot_be_is_one_line():
    sde, score_fn = SDES["vp"], distributions.score_of(FULL, SDES["vp"])
    linear = Linear(MATRIX)
    guided = mmps(sde, score_fn, linear, Y[:, :2], noise_std=STD)
    refused(r"mmps: Linear makes observations \(6, 3\) of examples \(6, 5\), and y is \(1, 2\)", guided, X, T)
    refused("pigdm needs an operator with its singular values", pigdm, sde, score_fn, jnp.abs, Y, noise_std=STD)
    refused("tmpd needs a linear operator", tmpd, sde, score_fn, jnp.abs, Y, noise_std=STD)
    refused("noise_std must be positive, got 0", dps, sde, score_fn, linear, Y, noise_std=0)
    refused("noise_std must be at least 0, got -1", pigdm, sde, score_fn, linear, Y, noise_std=-1)
    refused("n_steps must be at least 1, got 0", mmps, sde, score_fn, linear, Y, noise_std=STD, n_steps=0)
    y = jnp.full((1, 5), jnp.nan).at[0, 0].set(1.0)  # what a mask hides is never read
    masked = pigdm(sde, score_fn, Mask(np.arange(5) == 0), y, noise_std=0.0)
    assert np.isfinite(masked(X, T)).all()
