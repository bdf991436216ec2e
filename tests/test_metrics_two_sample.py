from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from score_jax.metrics import (
    energy_distance,
    mmd,
    mode_coverage,
    mode_weights,
    sliced_wasserstein,
    two_sample,
    wasserstein2,
)
from score_jax.types import InputError

REPEATS = 400


def repeated(metric, draw_b, *, n=20, m=30, dims=2):
    """Mean and standard error of `metric` over independent draws of N(0, I) against `draw_b(key, shape)`."""

    def once(key):
        key_a, key_b = jax.random.split(key)
        return metric(jax.random.normal(key_a, (n, dims)), draw_b(key_b, (m, dims)))

    values = jax.jit(jax.vmap(once))(jax.random.split(jax.random.key(7), REPEATS))
    return values.mean(), values.std() / REPEATS**0.5


def shifted_scaled(key, shape):
    """N((0.5, …), 1.5² I)."""
    return 0.5 + 1.5 * jax.random.normal(key, shape)


def test_wasserstein2_of_normal_quantiles_is_the_gaussian_formula():
    a = scipy.stats.norm.ppf((np.arange(500) + 0.5) / 500)[:, None]
    b = np.random.default_rng(0).permutation(2.0 + 3.0 * a)
    expected = np.sqrt(2.0**2 + (3.0 - 1.0) ** 2 * (a**2).mean())  # W2² = (m₁−m₂)² + (s₁−s₂)²
    np.testing.assert_allclose(wasserstein2(a, b), expected, rtol=1e-6)  # float32 inputs


def test_wasserstein2_of_a_shift_is_its_length():
    a = np.random.default_rng(0).normal(size=(300, 3))
    b = np.random.default_rng(1).permutation(a + np.array([1.0, -2.0, 2.0]))
    np.testing.assert_allclose(wasserstein2(a, b), 3.0, rtol=1e-6)


def test_wasserstein2_is_nan_for_diverged_samples():
    assert np.isnan(wasserstein2(np.full((4, 2), np.inf), np.zeros((4, 2))))


@pytest.mark.parametrize("dims, n_projections", [(1, 5), (2, 128), (7, 7)])
def test_sliced_wasserstein_of_a_shift_is_its_length_over_root_dims(dims, n_projections):
    a = jax.random.normal(jax.random.key(0), (200, dims))
    shift = jnp.linspace(-1.0, 2.0, dims) if dims > 1 else jnp.array([2.0])
    value = sliced_wasserstein(jax.random.key(1), a, a[::-1] + shift[None], n_projections=n_projections)
    # whole orthonormal frames: Σ (θ·δ)² = |δ|² with no Monte Carlo error
    np.testing.assert_allclose(value, jnp.linalg.norm(shift) / dims**0.5, rtol=1e-5)


def test_sliced_wasserstein_averages_over_uniform_directions():
    # δ = (1, 0, 0, 0, 0) with one direction a frame: (θ·δ)² ~ Beta(1/2, 2), mean 1/5, variance 8/175
    a = jnp.zeros((3, 5))
    keys = jax.random.split(jax.random.key(0), 2000)
    squared = jax.vmap(lambda k: sliced_wasserstein(k, a, a + jnp.eye(5)[:1], n_projections=1) ** 2)(keys)
    assert abs(squared.mean() - 0.2) < 4 * (8 / 175 / 2000) ** 0.5
    assert abs(squared.var() - 8 / 175) < 0.006  # s.e. of the variance about 1.5e-3


@pytest.mark.parametrize("n, m", [(12, 18), (5, 7), (1, 4)])
def test_sliced_wasserstein_handles_unequal_counts_exactly(n, m):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(n, 1)).astype(np.float32), rng.normal(size=(m, 1)).astype(np.float32)
    repeated_a, repeated_b = np.sort(np.repeat(a[:, 0], m)), np.sort(np.repeat(b[:, 0], n))  # both of n·m points
    expected = np.sqrt(((repeated_a - repeated_b) ** 2).mean())
    np.testing.assert_allclose(sliced_wasserstein(jax.random.key(0), a, b, n_projections=1), expected, rtol=1e-5)


def test_quantile_coupling_gives_scipys_wasserstein_1():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=70), rng.standard_t(3, size=110)
    i, j, weight = two_sample._quantile_coupling(70, 110)
    value = (weight * np.abs(np.sort(a)[i] - np.sort(b)[j])).sum()
    np.testing.assert_allclose(value, scipy.stats.wasserstein_distance(a, b), rtol=1e-12)


def test_energy_distance_of_gaussians_is_the_closed_form():
    def mean_absolute(m, variance):
        s = variance**0.5
        return s * np.sqrt(2 / np.pi) * np.exp(-(m**2) / (2 * variance)) + m * (1 - 2 * scipy.stats.norm.cdf(-m / s))

    expected = 2 * mean_absolute(0.5, 1 + 1.5**2) - mean_absolute(0, 2) - mean_absolute(0, 2 * 1.5**2)
    mean, standard_error = repeated(energy_distance, shifted_scaled, dims=1)
    assert abs(mean - expected) < 4 * standard_error
    assert expected > 10 * standard_error  # so the test has power


def test_mmd_of_gaussians_is_the_closed_form():
    bandwidths, dims = (0.7, 2.0), 2

    def mean_kernel(shift, variance):  # of N(shift, variance I), the law of x − y
        return np.mean(
            [
                (h**2 / (h**2 + variance)) ** (dims / 2) * np.exp(-dims * shift**2 / (2 * (h**2 + variance)))
                for h in bandwidths
            ]
        )

    expected = mean_kernel(0, 2) + mean_kernel(0, 2 * 1.5**2) - 2 * mean_kernel(0.5, 1 + 1.5**2)
    mean, standard_error = repeated(lambda a, b: mmd(a, b, bandwidths=bandwidths), shifted_scaled, dims=dims)
    assert abs(mean - expected) < 4 * standard_error
    assert expected > 10 * standard_error


@pytest.mark.parametrize(
    "metric, bias", [(lambda a, b: mmd(a, b, bandwidths=(1.0,)), 2 / 3 * (1 / 20 + 1 / 30)), (energy_distance, None)]
)
def test_unbiased_estimates_average_to_zero_for_equal_distributions(metric, bias):
    mean, standard_error = repeated(metric, jax.random.normal)
    # Pairing points with themselves would add E[k(x,x) − k(x,x')]·(1/n + 1/m) = (1 − 1/3)·(1/20 + 1/30),
    # and to the energy distance E‖x − x'‖·(1/n + 1/m) = √π·(1/20 + 1/30).
    bias = np.sqrt(np.pi) * (1 / 20 + 1 / 30) if bias is None else bias
    assert abs(mean) < 4 * standard_error < bias / 3


def test_energy_distance_agrees_with_scipy_once_scipys_bias_is_taken_out():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=60).astype(np.float32), rng.exponential(size=45).astype(np.float32)
    within = sum(np.abs(x[:, None] - x[None]).mean() / (len(x) - 1) for x in (a, b))  # pairs i = j count as 0 there
    expected = scipy.stats.energy_distance(a, b) ** 2 - within
    np.testing.assert_allclose(energy_distance(a[:, None], b[:, None]), expected, rtol=1e-4)


def test_mmd_default_bandwidths_are_half_one_and_two_median_distances():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(40, 2)).astype(np.float32), rng.normal(size=(50, 2)).astype(np.float32) + 1
    squared = scipy.spatial.distance.cdist(np.concatenate([a, b]), np.concatenate([a, b]), "sqeuclidean")
    lengths = np.median(np.sqrt(squared[np.triu_indices(90, 1)])) * np.array([0.5, 1, 2])
    kernel = np.exp(-squared / (2 * lengths.reshape(3, 1, 1) ** 2)).mean(0) * (1 - np.eye(90))  # no point with itself
    expected = kernel[:40, :40].sum() / (40 * 39) + kernel[40:, 40:].sum() / (50 * 49) - 2 * kernel[:40, 40:].mean()
    np.testing.assert_allclose(mmd(a, b), expected, atol=5e-7)  # float32 sums of terms near 1
    np.testing.assert_array_equal(mmd(np.ones((5, 2)), np.ones((5, 2))), 0.0)


@pytest.mark.parametrize("metric", [partial(mmd, bandwidths=(1.0,)), energy_distance])
def test_values_do_not_depend_on_blocks(monkeypatch, metric):
    a = jax.random.normal(jax.random.key(0), (37, 3))
    b = 0.3 + jax.random.normal(jax.random.key(1), (23, 3))
    whole = jax.jit(lambda a, b: metric(a, b))(a, b)
    monkeypatch.setattr(two_sample, "_BLOCK_ELEMENTS", 250)  # 2 or 3 rows at a time
    np.testing.assert_allclose(metric(a, b), whole, atol=5e-7)  # float32 sums of terms near 1 in another order


def test_sliced_wasserstein_does_not_depend_on_blocks(monkeypatch):
    a, b = jax.random.normal(jax.random.key(0), (2, 20, 3))
    whole = sliced_wasserstein(jax.random.key(2), a, b, n_projections=7)
    monkeypatch.setattr(two_sample, "_BLOCK_ELEMENTS", 50)  # 2 directions at a time
    np.testing.assert_allclose(sliced_wasserstein(jax.random.key(2), a, b, n_projections=7), whole, rtol=1e-6)


def test_a_distant_offset_costs_no_digits():
    a = jax.random.normal(jax.random.key(0), (50, 2)).round(2)
    b = jax.random.normal(jax.random.key(1), (50, 2)).round(2)
    # at 1,024 float32 keeps 6e-5 of the coordinates; ‖x‖² + ‖y‖² − 2x·y would be off by 0.1
    distance = jax.jit(energy_distance)
    np.testing.assert_allclose(distance(a + 1024, b + 1024), distance(a, b), atol=2e-4)


MODES = np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0], [10.0, 10.0]])
SAMPLES = np.array([[0.1, 0], [0, 0.2], [-0.3, 0], [9.5, 0], [10, 3.0], [0.0, 10.0], [40.0, 40.0], [4.9, 0]])


def test_mode_weights_count_the_nearest_mode():
    found = mode_weights(SAMPLES, MODES)
    np.testing.assert_allclose(found.weights, [4 / 8, 2 / 8, 1 / 8, 1 / 8])
    assert found.covered == 1


def test_mode_weights_leave_out_samples_beyond_the_radius():
    found = mode_weights(SAMPLES, MODES, radius=1.0)
    np.testing.assert_allclose(found.weights, [3 / 5, 1 / 5, 1 / 5, 0], rtol=1e-6)
    np.testing.assert_allclose(found.covered, 5 / 8)
    np.testing.assert_array_equal(mode_weights(SAMPLES + 500, MODES, radius=1.0).weights, 0)


def test_mode_coverage_is_the_fraction_of_modes_with_their_share():
    assert mode_coverage(SAMPLES, MODES) == 1  # weights 4/8, 2/8, 1/8, 1/8
    assert mode_coverage(SAMPLES, MODES, radius=1.0) == 0.75  # 3/8, 1/8, 1/8, 0 of all samples
    assert mode_coverage(SAMPLES, MODES, share=0.6) == 0.5  # of 1/4 each: 0.15 is needed
    assert mode_coverage(SAMPLES, MODES, share=0.6, weights=np.array([0.5, 0.3, 0.1, 0.1])) == 1


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: mmd(np.zeros((4, 2)), np.zeros((4, 3))), r"\(4, 2\) and \(4, 3\)"),
        (lambda: energy_distance(np.zeros((4, 8, 8, 1)), np.zeros((4, 64))), r"of one shape S, got \(4, 8, 8, 1\)"),
        (lambda: mmd(np.zeros(()), np.zeros(4)), r"got \(\) and \(4,\)"),
        (lambda: energy_distance(np.zeros((1, 2)), np.zeros((4, 2))), "at least 2 samples"),
        (lambda: wasserstein2(np.zeros((4, 2)), np.zeros((5, 2))), "got 4 and 5"),
        (lambda: wasserstein2(np.zeros((2001, 2)), np.zeros((2001, 2))), "sliced_wasserstein"),
        (lambda: mode_weights(np.zeros((0, 2)), MODES), r"\(0, 2\)"),
    ],
)
def test_bad_samples_are_refused_in_one_line(call, message):
    with pytest.raises(InputError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("shape", [(), (1,), (3, 2), (2, 2, 2, 1)])
def test_distances_are_of_the_numbers_of_an_example_whatever_its_shape(shape):
    """Of scalars, sequences and volumes as of the vectors of the same numbers."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(7, *shape)).astype(np.float32), rng.normal(size=(9, *shape)).astype(np.float32)
    for distance in (mmd, energy_distance, partial(sliced_wasserstein, jax.random.key(0))):
        assert distance(a, b) == distance(a.reshape(7, -1), b.reshape(9, -1))
