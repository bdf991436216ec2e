"""Parameterizations round-trip between network output, score and target, on every SDE."""

import jax.numpy as jnp
import numpy as np
import pytest

from score_jax import parameterization
from score_jax import sde as sdes
from score_jax.types import InputError
from tests.helpers import PARAMETERIZATIONS, SDES, key

pytestmark = pytest.mark.usefixtures("strict_dtypes")
each_sde = pytest.mark.parametrize("sde", SDES.values(), ids=SDES.keys())
each = pytest.mark.parametrize("p", PARAMETERIZATIONS.values(), ids=PARAMETERIZATIONS.keys())


def noised(sde):
    t = jnp.linspace(sde.t_min + 0.05, 0.9 * sde.t_max, 5)
    x0 = jnp.asarray(np.random.default_rng(0).normal(size=(5, 2, 2, 1)), jnp.float32)
    x, eps = sde.perturb(key(), x0, t)
    return t, x0, x, eps


@each_sde
@each
def test_the_target_is_the_output_whose_score_is_the_kernels(sde, p):
    t, x0, x, eps = noised(sde)
    score = p.to_score(sde, x, t, p.target(sde, x, t, x0))
    sigma = np.asarray(sde.sigma(t)).reshape(-1, 1, 1, 1)
    # In noise units; x is rounded to 6e-8 of itself, which σ/α ≤ 72 (EDM) magnifies for x0-like outputs.
    np.testing.assert_allclose(score * sigma, -eps, atol=2e-4)


@each_sde
def test_targets_are_the_textbooks(sde):
    t, x0, x, eps = noised(sde)
    alpha, sigma = (np.asarray(v, np.float64).reshape(-1, 1, 1, 1) for v in (sde.alpha(t), sde.sigma(t)))
    norm = np.sqrt(alpha**2 + sigma**2)
    edm_norm = np.sqrt((sigma / alpha) ** 2 + 0.25)
    expected = {
        "score": -eps / sigma,
        "eps": eps,
        "x0": x0,
        "v": (alpha * eps - sigma * x0) / norm,
        "flow": eps - x0,
        "edm": (x0 - 0.25 / edm_norm**2 * x / alpha) / (sigma / alpha * 0.5 / edm_norm),
    }
    for name, value in expected.items():
        target = PARAMETERIZATIONS[name].target(sde, x, t, x0)
        np.testing.assert_allclose(target, value, atol=3e-4 * np.abs(value).max())


@each_sde
@each
def test_output_to_score_is_affine_and_exact_for_any_output(sde, p):
    """Every output stands for one x_0 estimate: score → x̂_0, ε̂ → p x̂_0 + q ε̂ is the output again."""
    t, _, x, _ = noised(sde)
    F = jnp.asarray(np.random.default_rng(1).normal(size=x.shape), jnp.float32)
    score = p.to_score(sde, x, t, F)
    alpha, sigma = (np.asarray(v).reshape(-1, 1, 1, 1) for v in (sde.alpha(t), sde.sigma(t)))
    eps_hat, x0_hat = -sigma * score, (x + sigma**2 * score) / alpha
    a, b = (np.asarray(v).reshape(-1, 1, 1, 1) for v in p.coefficients(sde, t))
    np.testing.assert_allclose(a * x0_hat + b * eps_hat, F, rtol=1e-3, atol=1e-3 * float((sigma / alpha).max()))


@pytest.mark.parametrize(
    ("sigma", "c_skip", "c_out", "c_in", "c_noise"),
    [(0.5, 0.5, 0.35355339059, 1.41421356237, -0.1732867951), (1.0, 0.2, 0.4472135955, 0.894427191, 0.0)],
)
def test_edm_meets_the_published_preconditioning(sigma, c_skip, c_out, c_in, c_noise):
    sde, p, t = sdes.EDM(), parameterization.EDM(0.5), jnp.asarray(sigma)
    np.testing.assert_allclose(p.inputs(sde, t), [c_in, c_noise], rtol=1e-5, atol=1e-7)
    x, F = jnp.full((1, 1), 0.7), jnp.full((1, 1), -0.4)
    denoised = sde.denoise(x, t, p.to_score(sde, x, t, F))
    np.testing.assert_allclose(denoised, c_skip * x + c_out * F, rtol=1e-5)


@each
def test_what_a_network_sees_does_not_depend_on_the_sde(p):
    """At equal SNR, c_noise agrees and c_in x agrees for the same x/α: a trained backbone outlives its SDE."""
    if p in (parameterization.Score(), PARAMETERIZATIONS["eps_as_given"]):
        pytest.skip("such a network sees x itself")
    log_snr = jnp.array([3.0, 0.0, -2.0])
    seen = []
    for sde in SDES.values():
        t = sde.time(log_snr)
        c_in, c_noise = p.inputs(sde, t)
        seen.append(np.stack([c_in * sde.alpha(t), c_noise]))
    np.testing.assert_allclose(seen, np.broadcast_to(seen[0], np.shape(seen)), rtol=1e-4, atol=1e-5)


@each
def test_normalised_inputs_have_unit_variance_for_unit_data(p):
    """E‖c_in x‖² = D for data of unit variance (edm: of variance σ_data²), on every SDE."""
    if p in (parameterization.Score(), PARAMETERIZATIONS["eps_as_given"]):
        pytest.skip("such a network sees x itself")
    variance = 0.25 if p == PARAMETERIZATIONS["edm"] else 1.0
    for sde in SDES.values():
        t = jnp.linspace(0.1, 0.9, 4) * sde.t_max
        c_in, _ = p.inputs(sde, t)
        np.testing.assert_allclose(c_in**2 * (variance * sde.alpha(t) ** 2 + sde.variance(t)), 1, rtol=1e-4)


def test_edm_refuses_a_data_scale_that_is_not_positive():
    with pytest.raises(InputError, match="sigma_data must be positive, got 0"):
        parameterization.EDM(0.0)
