"""Thresholding: the estimate of x0 it makes, the score it leaves alone, DDPM's released step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax import arrays, distributions, sampling
from score_jax import sde as sdes
from score_jax.types import InputError
from tests.helpers import SDES, key, mixture

pytestmark = pytest.mark.usefixtures("strict_dtypes")
T = jnp.asarray(0.4)


def estimates(sde, score_fn, x):
    return np.asarray(sde.denoise(x, T, score_fn(x, T)), np.float64)


@pytest.mark.parametrize("name", ["vp", "ve", "flow"])
def test_a_clipped_score_denoises_to_the_clipped_estimate(name):
    sde = SDES[name]
    score_fn = distributions.score_of(mixture(), sde)
    x = mixture().perturbed(sde, T).sample(key(), 64)
    plain, ours = (estimates(sde, s, x) for s in (score_fn, sampling.clipped(sde, score_fn, low=-0.5, high=0.9)))
    assert (plain < -0.5).any() and (plain > 0.9).any()
    np.testing.assert_allclose(ours, plain.clip(-0.5, 0.9), atol=1e-5)


def test_dynamic_thresholding_is_imagens_rule():
    """s = max(1, quantile of |x0|) of each example, clip to ±s, divide by s; here in the units of [0, 1]."""
    sde, x0 = SDES["vp"], np.random.default_rng(0).normal(0.5, [[[0.2]], [[1.0]], [[3.0]]], (3, 10, 10))
    point = jnp.asarray(x0, jnp.float32)
    score_fn = lambda x, t: (arrays.expand_right(sde.alpha(t), x) * point - x) / sde.variance(t)
    options = {"low": 0.0, "high": 1.0, "quantile": 0.9}
    ours = estimates(sde, sampling.dynamically_thresholded(sde, score_fn, **options), jnp.zeros((3, 10, 10)))
    y = 2 * x0 - 1
    s = np.maximum(np.quantile(abs(y).reshape(3, -1), 0.9, axis=1), 1)[:, None, None]
    assert s[0] == 1 and s[2] > 5
    np.testing.assert_allclose(ours, 0.5 + 0.5 * y.clip(-s, s) / s, atol=1e-5)


def test_estimates_inside_the_range_leave_the_score_exactly_as_it_is():
    sde = SDES["ve"]
    score_fn, x = distributions.score_of(mixture(), sde), mixture().sample(key(), 8)
    for threshold in (sampling.clipped, sampling.dynamically_thresholded):
        kept = threshold(sde, score_fn, low=-1000.0, high=1000.0)
        np.testing.assert_array_equal(kept(x, T), score_fn(x, T))


def test_a_clipped_ancestral_step_is_ddpms_released_one():
    """c₁ clip(x̂_0) + c₂ x + √β̃ z, with the coefficients of q(x_{t−1} | x_t, x_0) (Ho et al. 2020, eq. 7)."""
    tables, sde, i = sdes.ddpm_schedule(1000), SDES["tabulated"], 300
    score_fn, x = distributions.score_of(mixture(), sde), 2 * mixture().sample(key(1), 16)
    t, s = sde.knots()[i], sde.knots()[i - 1]
    sampler = sampling.ancestral(sde, sampling.clipped(sde, score_fn))
    stepped = jax.jit(lambda x: sampling.sample(key(2), sampler, x, jnp.stack([t, s])))(x)
    x0 = np.asarray(sde.denoise(x, t, score_fn(x, t)), np.float64)
    assert (abs(x0) > 1.1).any()
    before, now = tables.alphas_bar[i - 1], tables.alphas_bar[i]
    mean = np.sqrt(before) * tables.betas[i] / (1 - now) * x0.clip(-1, 1)
    mean = mean + np.sqrt(tables.alphas[i]) * (1 - before) / (1 - now) * x
    z = arrays.normal(arrays.fold_in(arrays.example_keys(key(2), 16), 0), x)
    np.testing.assert_allclose(stepped, mean + np.sqrt(tables.posterior_variance[i]) * z, atol=3e-5)


def test_empty_ranges_and_impossible_quantiles_are_refused():
    for threshold in (sampling.clipped, sampling.dynamically_thresholded):
        with pytest.raises(InputError, match="low must be below high"):
            threshold(SDES["vp"], jnp.sin, low=1.0, high=1.0)
    with pytest.raises(InputError, match=r"quantile is a share, from 0 to 1, got 99\.5"):
        sampling.dynamically_thresholded(SDES["vp"], jnp.sin, quantile=99.5)
