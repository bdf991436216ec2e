"""The loss of classifiers of noised data: its value and its minimum are those of the exact classifier of a mixture."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax import arrays, distributions, losses
from score_jax.losses import times
from tests.helpers import SDES, assert_mean, key

pytestmark = pytest.mark.usefixtures("strict_dtypes")

VP = SDES["vp"]
WEIGHTS, MEANS, STD = np.array([0.3, 0.7]), np.array([-1.0, 1.5]), 0.5
N = 4096


def log_joint(x, t, tilt=0.0):
    """log w_k N(x; α μ_k, α² STD² + σ²) of x `(B, 1)`, `(B, 2)`, the second class's logit raised by `tilt`."""
    alpha, variance = VP.alpha(t), VP.alpha(t) ** 2 * STD**2 + VP.variance(t)
    alpha, variance = (jnp.broadcast_to(v, len(x))[:, None] for v in (alpha, variance))
    exponent = -((x - alpha * jnp.asarray(MEANS, x.dtype)[None]) ** 2) / (2 * variance)
    return jnp.log(jnp.asarray(WEIGHTS, x.dtype))[None] + exponent - jnp.log(variance) / 2 + jnp.array([[0.0, tilt]])


def log_prob(label, tilt=0.0):
    def of_label(x, t):
        return jnp.take_along_axis(jax.nn.log_softmax(log_joint(x, t, tilt)), label[:, None], axis=1)[:, 0]

    return of_label


def by_quadrature(t, tilt=0.0):
    """E −log p(y | x_t) over the noised mixture, on a grid: of the exact classifier H(y | x_t)."""
    x = jnp.linspace(-8.0, 8.0, 4001)[:, None]
    joint, found = log_joint(x, t), jax.nn.log_softmax(log_joint(x, t, tilt))
    density = jnp.exp(joint) / jnp.sqrt(2 * jnp.pi)
    return float(-(density * found).sum() * 16 / 4000)


def examples():
    label = (np.random.default_rng(0).random(N) < WEIGHTS[1]).astype(np.int32)
    x0 = MEANS[label] + STD * np.random.default_rng(1).standard_normal(N)
    return jnp.asarray(x0[:, None], jnp.float32), jnp.asarray(label)


@pytest.mark.parametrize("t", [0.3, 0.5])
def test_of_the_exact_classifier_it_is_the_conditional_entropy(t):
    x0, label = examples()
    at_t = times.discrete(jnp.array([t]))
    loss = lambda tilt: losses.classification_loss(key(2), VP, log_prob(label, tilt), x0, times=at_t)
    exact, other = jax.jit(loss)(0.0), jax.jit(loss)(1.0)
    assert exact.shape == (N,)
    assert_mean(exact, by_quadrature(t))
    assert_mean(other, by_quadrature(t, 1.0))
    assert by_quadrature(t, 1.0) > by_quadrature(t) + 0.02  # by KL(p(y | x_t) ‖ tilted)
    # The exact classifier is a minimum: the slope of its loss in any direction, here the tilt's, is 0 in the mean.
    assert_mean(jax.jacfwd(loss)(0.0), 0.0)
    # Of the tilted one it is E[p̃(1 | x_t) − p(1 | x_t)] > 0.
    assert jax.jacfwd(loss)(1.0).mean() > 0.02


def test_a_level_counts_as_its_times_say():
    x0, label = examples()
    twice = lambda key, sde, n: (jnp.full(n, 0.3), jnp.full(n, 2.0))
    once = lambda key, sde, n: (jnp.full(n, 0.3), jnp.ones(n))
    of = lambda draw: losses.classification_loss(key(2), VP, log_prob(label), x0, times=draw)
    ratio = jax.jit(lambda: of(twice) / of(once))()
    np.testing.assert_allclose(ratio, 2, rtol=1e-6)


def test_an_example_depends_on_its_own_key_alone():
    x0, label = examples()
    keys = arrays.example_keys(key(3), 8)
    of = jax.jit(lambda keys, label, x0: losses.classification_loss(keys, VP, log_prob(label), x0))
    whole, part = of(keys, label[:8], x0[:8]), of(keys[4:], label[4:8], x0[4:8])
    np.testing.assert_allclose(whole[4:], part, rtol=1e-5)


def test_the_density_of_the_quadrature_is_that_of_the_mixture():
    exact = distributions.GaussianMixture(jnp.asarray(WEIGHTS), jnp.asarray(MEANS)[:, None], jnp.float32(STD**2))
    x = jnp.linspace(-3.0, 3.0, 7)[:, None]
    found = jax.nn.logsumexp(log_joint(x, jnp.float32(0.4)), axis=1) - jnp.log(2 * jnp.pi) / 2
    np.testing.assert_allclose(found, exact.perturbed(VP, jnp.float32(0.4)).log_prob(x), rtol=1e-5)
