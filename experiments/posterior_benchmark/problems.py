"""Inverse problems whose posterior is known: a mixture of Gaussians seen through a matrix, with Gaussian noise.

The prior is a mixture of five Gaussians of standard deviation 0.3 in D dimensions, of weights 1 to 5, whose means lie
on a circle of radius 1 in a plane drawn at random: four standard deviations apart, less in what is observed. Half as
many numbers as there are dimensions are: the first coordinates, or, ill-posed, directions drawn at random with singular
values from 1 down to 0.01. p(x | y) is a mixture again (`GaussianMixture.posterior`).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from score_jax import distributions
from score_jax.conditioning.operators import Linear, observe
from score_jax.distributions import GaussianMixture
from score_jax.types import Array, Key

COMPONENTS, SPREAD = 5, 0.3


class Problem(NamedTuple):
    """What is asked: dimensions, noise of an observation, and whether small singular values make it ill-posed."""

    dims: int = 20
    noise_std: float = 0.1
    ill_posed: bool = False

    def prior(self) -> GaussianMixture:
        """Returns p(x), the same for all problems of so many dimensions."""
        rng = np.random.default_rng(self.dims)
        weights = np.arange(1, COMPONENTS + 1) / COMPONENTS
        angles = 2 * np.pi * np.arange(COMPONENTS) / COMPONENTS
        plane = np.linalg.qr(rng.normal(size=(self.dims, 2)))[0]
        means = np.stack([np.cos(angles), np.sin(angles)], 1) @ plane.T
        as_float = lambda v: jnp.asarray(v, jnp.float32)
        return GaussianMixture(as_float(weights), as_float(means), as_float(np.full(COMPONENTS, SPREAD**2)))

    @property
    def data_std(self) -> float:
        """Root mean variance of a coordinate: what a method may be told of the data."""
        prior = self.prior()
        weights, means = np.asarray(prior.weights / prior.weights.sum()), np.asarray(prior.means)
        between = weights @ (means**2).sum(1) - ((weights @ means) ** 2).sum()
        return float(np.sqrt(SPREAD**2 + between / self.dims))

    def operator(self) -> Linear:
        """Returns A, `(D // 2, D)`."""
        rows = self.dims // 2
        if not self.ill_posed:
            return Linear(jnp.eye(self.dims, dtype=jnp.float32)[:rows])
        rng = np.random.default_rng(1)
        across = np.linalg.qr(rng.normal(size=(self.dims, self.dims)))[0][:rows]
        return Linear(jnp.asarray(np.geomspace(1, 0.01, rows)[:, None] * across, jnp.float32))


class Cases(NamedTuple):
    """Truths `(N, D)`, their observations `(N, M)`, and the posterior of each, stacked."""

    truth: Array
    y: Array
    posterior: GaussianMixture


def cases(key: Key, problem: Problem, n: int) -> Cases:
    """Draws n truths and observations."""
    key_truth, key_noise = jax.random.split(key)
    prior, operator = problem.prior(), problem.operator()
    truth = prior.sample(key_truth, n)
    y = observe(key_noise, operator, truth, problem.noise_std)
    posterior = jax.vmap(lambda y: prior.posterior(operator.matrix, y, problem.noise_std))(y)
    return Cases(truth, y, posterior)


def shares(mixture: GaussianMixture, x: Array) -> Array:
    """Returns the mean of p(component | x) over samples `(L, D)`, `(K,)`: the weights that they give the modes."""

    def log_weighted(weight: Array, mean: Array, covariance: Array) -> Array:
        return jnp.log(weight) + distributions.GaussianMixture(jnp.ones(1), mean[None], covariance[None]).log_prob(x)

    logs = jax.vmap(log_weighted)(mixture.weights, mixture.means, mixture.variances)
    return jax.nn.softmax(logs, axis=0).mean(1)
