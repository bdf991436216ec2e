"""Energy score, ranks and coverage of posterior samples, against closed forms."""

import jax.numpy as jnp
import numpy as np
from scipy.special import erf

from score_jax.metrics import energy_scores, posterior_ranks, rank_calibration
from tests.helpers import refused

RNG = np.random.default_rng(0)
N, L = 2000, 63


def drawn(shift=0.0, spread=1.0):
    """Truths and samples of N(y, 1) given y ~ N(0, 4), and of N(y + shift, spread²)."""
    y = 2 * RNG.normal(size=(N, 1, 1))
    return y + shift + spread * RNG.normal(size=(N, L, 1)), y[:, 0] + RNG.normal(size=(N, 1))


def test_the_energy_score_is_that_of_gaussians():
    """Of N(μ, s²) at truths of N(0, 1): √(2(1 + s²)/π) e^{−μ²/2(1 + s²)} + μ erf(μ/√(2(1 + s²))) − s/√π."""
    for shift, spread in ((0.0, 1.0), (0.7, 1.0), (0.0, 0.3)):
        found = np.asarray(energy_scores(*map(jnp.asarray, drawn(shift, spread))), np.float64)
        width = np.sqrt(1 + spread**2)
        expected = width * np.sqrt(2 / np.pi) * np.exp(-0.5 * (shift / width) ** 2)
        expected += shift * erf(shift / width / np.sqrt(2)) - spread / np.sqrt(np.pi)
        np.testing.assert_allclose(found.mean(), expected, atol=4 * found.std() / np.sqrt(N))


def test_ranks_of_the_posterior_are_uniform_and_others_are_not():
    """Narrow draws cover by what their law says; 4 standard errors."""
    found = rank_calibration(posterior_ranks(*drawn(), np.ones((1, 1))), L)
    assert found.nominal == 58 / 64 and abs(found.coverage - found.nominal) < 4 * found.coverage_error
    assert found.p_value > 1e-3 and found.deviation < 1.95 / np.sqrt(N)  # Kolmogorov's 0.001
    narrow = rank_calibration(posterior_ranks(*drawn(spread=0.5), np.ones((1, 1))), L)
    # ±1.645 standard deviations of 0.5, to the grain of 63 draws: P(|z| < 0.84) = 0.60, within 0.02 of places
    assert abs(narrow.coverage - 0.60) < 4 * narrow.coverage_error + 0.02 and narrow.p_value < 1e-6
    shifted = rank_calibration(posterior_ranks(*drawn(shift=0.2), np.ones((1, 1))), L)
    np.testing.assert_allclose(shifted.deviation, 0.0564, atol=1.4 / np.sqrt(N))  # ≈ 2Φ(0.2/(2√2)) − 1: P(z + z' < 0.2)


def test_the_energy_score_pairs_no_sample_with_itself():
    """By hand: X = 0, 4 and x* = 1: (1 + 3)/2 − ½·4 = 0."""
    np.testing.assert_allclose(energy_scores(np.array([[[0.0], [4.0]]]), np.array([[1.0]])), [0], atol=1e-6)


def test_ranks_count_along_each_direction():
    samples, truth = np.array([[[0.0, 3.0], [1.0, 2.0], [2.0, 1.0]]]), np.array([[1.5, 1.5]])
    np.testing.assert_array_equal(posterior_ranks(samples, truth, np.eye(2)), [[2, 1]])
    np.testing.assert_array_equal(posterior_ranks(samples, truth, [[-1.0, 0.0]]), [[1]])


def test_what_does_not_fit_is_one_line():
    refused("two or more for each of the truths", energy_scores, jnp.zeros((3, 1, 2)), jnp.zeros((3, 2)))
    refused("two or more for each of the truths", posterior_ranks, jnp.zeros((3, 4, 2)), jnp.zeros((2, 2)), np.eye(2))
    refused(r"directions are \(P, 2\)", posterior_ranks, jnp.zeros((3, 4, 2)), jnp.zeros((3, 2)), np.eye(3))
    refused("ranks \\(N, P\\) in 0", rank_calibration, np.full((3, 1), 1.5), 4)
    refused("ranks \\(N, P\\) in 0 … 4", rank_calibration, np.full((3, 1), 5), 4)
