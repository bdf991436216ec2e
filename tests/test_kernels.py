"""Noise kernels: the score is the gradient of the log-density, and samples follow it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from score_jax import arrays, kernels
from score_jax.types import InputError
from tests.helpers import KERNELS, assert_mean, key

pytestmark = pytest.mark.usefixtures("strict_dtypes")
each_kernel = pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS.keys())

VARIANCE = {
    "gaussian": 0.09,
    "laplace": 2 * 0.16,
    "student_t": 0.09 * 5 / 3,
    "mixture": 0.7 * (0.04 + 0.01) + 0.3 * (0.25 + 0.16) - 0.05**2,
    "from_log_density": 0.09,
}
MEAN = {"mixture": 0.7 * -0.1 + 0.3 * 0.4}


@each_kernel
@pytest.mark.parametrize("shape", [(5, 3), (5, 2, 2, 1)])
def test_score_is_the_gradient_of_log_prob(kernel, shape):
    x = arrays.normal(key(1), jnp.zeros(shape))
    x_tilde = kernel.sample(key(2), x)
    gradient = jax.grad(lambda y: kernel.log_prob(y, x).sum())(x_tilde)
    np.testing.assert_allclose(kernel.score(x_tilde, x), gradient, rtol=2e-4, atol=2e-4)


@each_kernel
def test_one_key_draws_what_its_example_keys_draw(kernel):
    x = jnp.ones((4, 2))
    np.testing.assert_array_equal(kernel.sample(key(1), x), kernel.sample(arrays.example_keys(key(1), 4), x))


@pytest.mark.parametrize("name", KERNELS)
def test_samples_have_the_moments_of_the_density(name):
    noise = KERNELS[name].sample(key(3), jnp.full((40_000, 2), 1.5)) - 1.5
    mean = MEAN.get(name, 0.0)
    assert_mean(noise, mean)
    assert_mean((noise - mean) ** 2, VARIANCE[name])


@each_kernel
def test_expected_score_vanishes(kernel):
    """E[∇ log q(x̃|x)] = 0: the identity that makes the noise's score a valid regression target."""
    x = jnp.zeros((40_000, 2))
    assert_mean(kernel.score(kernel.sample(key(4), x), x), 0.0)


@pytest.mark.parametrize("name", ["gaussian", "laplace", "student_t"])
def test_information_is_the_expected_squared_score(name):
    kernel, x = KERNELS[name], jnp.zeros((40_000, 2, 3))
    scores = kernel.score(kernel.sample(key(5), x), x)
    assert_mean(arrays.sum_dims(scores**2), float(kernel.information(x)), slack=1e-5)


def test_information_of_an_unknown_density_is_refused():
    with pytest.raises(InputError, match="FromLogDensity has no closed form"):
        KERNELS["from_log_density"].information(jnp.zeros((2, 2)))


@pytest.mark.parametrize(
    ("kernel", "reference"),
    [
        (KERNELS["gaussian"], scipy.stats.norm(scale=0.3)),
        (KERNELS["laplace"], scipy.stats.laplace(scale=0.4)),
        (KERNELS["student_t"], scipy.stats.t(5.0, scale=0.3)),
    ],
)
def test_log_prob_is_scipys(kernel, reference):
    noise = np.linspace(-2, 2, 12, dtype=np.float32).reshape(4, 3)
    x = jnp.ones((4, 3))
    np.testing.assert_allclose(kernel.log_prob(x + noise, x), reference.logpdf(noise).sum(1), rtol=1e-4)


def test_mixture_noise_of_one_component_is_gaussian():
    mixture = kernels.GaussianMixtureNoise(np.ones(1), np.zeros(1), np.full(1, 0.3))
    x, x_tilde = jnp.zeros((6, 4)), arrays.normal(key(), jnp.zeros((6, 4)))
    np.testing.assert_allclose(mixture.log_prob(x_tilde, x), KERNELS["gaussian"].log_prob(x_tilde, x), rtol=1e-5)
    np.testing.assert_allclose(mixture.score(x_tilde, x), KERNELS["gaussian"].score(x_tilde, x), rtol=1e-5)


def test_a_scale_may_be_given_per_element():
    sigma = jnp.array([[0.1, 1.0], [2.0, 0.5]])
    x = jnp.zeros((30_000, 2, 2))
    noise = kernels.Gaussian(sigma).sample(key(), x)
    assert_mean(noise**2, np.asarray(sigma) ** 2)
    np.testing.assert_allclose(kernels.Gaussian(sigma).score(noise, x), -noise / sigma[None] ** 2, rtol=1e-6)


@pytest.mark.parametrize("sigma", [0.0, -1.0, 0])
def test_a_scale_that_is_not_positive_is_refused(sigma):
    with pytest.raises(InputError, match=f"sigma must be positive, got {sigma}"):
        kernels.Gaussian(sigma)
    with pytest.raises(InputError, match="scale must be positive"):
        kernels.Laplace(sigma)


def test_a_scale_of_the_wrong_shape_is_refused():
    with pytest.raises(InputError, match=r"shape of one example \(3,\), got shape \(2,\)"):
        kernels.Gaussian(jnp.ones(2)).sample(key(), jnp.zeros((5, 3)))


def test_mixture_noise_of_unequal_lengths_is_refused():
    with pytest.raises(InputError, match="vectors of one length"):
        kernels.GaussianMixtureNoise(np.ones(2), np.ones(3), np.ones(2)).log_prob(jnp.zeros((1, 1)), jnp.zeros((1, 1)))
