"""Posteriors of simulators by a conditional score, against a closed form; and the simulators' own ones."""

import bz2
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.studies.simulation_based_inference import __main__ as inference
from experiments.studies.simulation_based_inference.problems import PROBLEMS, linear_problem, published
from score_jax import distributions, networks
from tests.helpers import assert_mean, key, refused

MATRIX, NOISE_STD, DRAWS = np.array([[1.0, -0.6]], np.float32), 0.5, 4000


@functools.cache
def learned():
    """The compiled draws `y (1,) -> (4000, 2)` of θ ~ N(0, I) from one noisy number, after 300 steps."""
    problem, network = linear_problem(MATRIX, 1.0, NOISE_STD), networks.Contextual(networks.MLP((32, 32)))
    found = inference.learn(key(0), problem, network=network, simulations=20_000, steps=300)
    return jax.jit(lambda y: found.draw(key(1), y, DRAWS))


@pytest.mark.parametrize("y", [-1.0, 0.0, 1.5])
def test_draws_are_of_the_exact_posterior(y):
    """Standard deviations are 0.62 and 0.88, correlated by 0.69: from the prior the mean of 1.5 is 0.93 away.

    4 standard errors of the mean are 0.06, of the variances 4 √(2/4000) 0.78 = 0.07; training may miss by 0.05 each.
    """
    exact = distributions.Gaussian(jnp.zeros(2), 1.0).posterior(MATRIX, jnp.array([y]), NOISE_STD)
    theta = np.asarray(learned()(jnp.array([y])))
    np.testing.assert_allclose(theta.mean(0), exact.means[0], atol=0.06 + 0.05)
    np.testing.assert_allclose(np.cov(theta.T), exact.variances[0], atol=0.07 + 0.05)


def test_the_posterior_of_two_moons_is_what_its_simulator_says():
    """Of draws given y the noise y − f(θ) has the simulator's law, cut off by the prior nowhere; both moons weigh ½."""
    y, n = jnp.array([0.1, -0.2]), 4000
    theta = PROBLEMS["two moons"].posterior(key(2), y, n)
    across, along = (np.asarray(v) for v in ((theta[:, 0] + theta[:, 1]), (theta[:, 1] - theta[:, 0])))
    gap = np.asarray(y)[None] - np.stack([-np.abs(across), along], 1) / np.sqrt(2) - np.array([[0.25, 0.0]])
    radius = np.linalg.norm(gap, axis=1)
    assert_mean(radius, 0.1)
    assert_mean((radius - 0.1) ** 2, 0.01**2)
    assert_mean(np.arctan2(gap[:, 1], gap[:, 0]) ** 2, np.pi**2 / 12)
    assert_mean(np.sign(across), 0.0)
    assert np.abs(theta).max() <= 1
    rare = jnp.array([5.0, 0.0])
    refused(
        "0 of 1000 draws of p.θ . y. are within the prior, 10 were asked for",
        PROBLEMS["two moons"].posterior,
        key(2),
        rare,
        10,
    )


@pytest.mark.slow
def test_two_moons_posteriors_have_the_prior_for_their_mixture():
    """θ drawn given the y of another θ is of the prior again, uniform; at its edges most draws are thrown away."""
    problem = PROBLEMS["two moons"]
    y = problem.simulate(key(3), problem.prior(key(4), 60))
    theta = np.stack([np.asarray(problem.posterior(key(5 + i), one, 20)) for i, one in enumerate(y)])
    assert_mean(theta.mean((1, 2)), 0.0)
    assert_mean((theta**2).mean((1, 2)), 1 / 3)


def test_gaussian_linear_is_that_of_the_benchmark():
    """N(0, 0.1 I) seen with noise of as much variance: the posterior is N(y/2, 0.05 I), and y has variance 0.2."""
    problem, y = PROBLEMS["Gaussian linear"], jnp.linspace(-1, 1, 10)
    theta = np.asarray(problem.posterior(key(6), y, 4000))
    assert_mean(theta, np.asarray(y) / 2)
    assert_mean((theta - np.asarray(y) / 2) ** 2, 0.05)
    assert_mean(np.asarray(problem.simulate(key(7), problem.prior(key(8), 4000))) ** 2, 0.2)


def test_reference_draws_are_read_from_the_packages_files(tmp_path):
    folder = tmp_path / "two_moons" / "files" / "num_observation_3"
    folder.mkdir(parents=True)
    (folder / "observation.csv").write_text("data_1,data_2\n-0.5,0.25\n")
    rows = "parameter_1,parameter_2\n0.1,0.2\n0.3,-0.4\n"
    (folder / "reference_posterior_samples.csv.bz2").write_bytes(bz2.compress(rows.encode()))
    found = published(tmp_path, "two_moons", 3)
    np.testing.assert_array_equal(found.y, np.float32([-0.5, 0.25]))
    np.testing.assert_array_equal(found.theta, np.float32([[0.1, 0.2], [0.3, -0.4]]))
    refused("num_observation_4/observation.csv: no such file; expected the folder", published, tmp_path, "two_moons", 4)
    draws = tmp_path / "two_moons/files/num_observation_3/reference_posterior_samples.csv.bz2"
    draws.write_bytes(bz2.compress(bytes(2**25)))  # 32 MiB in 47 bytes
    refused("samples.csv.bz2: unpacks to more than 16777216 bytes", published, tmp_path, "two_moons", 3)
    draws.write_bytes(b"parameter_1\n1.0\n")
    refused("samples.csv.bz2: no table of numbers .Invalid data stream", published, tmp_path, "two_moons", 3)
