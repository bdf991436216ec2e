import numpy as np
import pytest

from score_jax.metrics import Moments, frechet, frechet_distance, frechet_of_parts
from tests.helpers import peak_of, reference_features, reference_metrics, refused

RNG = np.random.default_rng(0)


def orthogonal(dims, rng):
    return np.linalg.qr(rng.normal(size=(dims, dims)))[0]


def with_moments(mean, covariance, n=400):
    """Rows whose mean and unbiased covariance are exactly these."""
    x = np.random.default_rng(1).normal(size=(n, len(mean)))
    x -= x.mean(0)
    x = x @ np.linalg.inv(np.linalg.cholesky(np.cov(x, rowvar=False))).T
    return mean + x @ np.linalg.cholesky(covariance).T


def test_it_is_the_closed_form_where_covariances_commute():
    basis, a, b = orthogonal(20, RNG), RNG.uniform(0.1, 4, 20), RNG.uniform(0.1, 4, 20)
    mean_a, mean_b = RNG.normal(size=(2, 20))
    value = frechet_distance(mean_a, basis * a @ basis.T, mean_b, basis * b @ basis.T)
    np.testing.assert_allclose(value, ((mean_a - mean_b) ** 2).sum() + ((a**0.5 - b**0.5) ** 2).sum(), rtol=1e-12)


def test_features_with_the_moments_of_gaussians_give_their_closed_form():
    mean_a, mean_b = np.array([1.0, -2.0]), np.array([0.5, 1.0])
    cov_a, cov_b = np.array([[2.0, 0.7], [0.7, 1.0]]), np.array([[0.5, -0.3], [-0.3, 1.5]])
    # of two by two matrices tr √M = √(tr M + 2 √det M), and M has the eigenvalues of Σ_a Σ_b
    shared = np.sqrt(np.trace(cov_a @ cov_b) + 2 * np.sqrt(np.linalg.det(cov_a) * np.linalg.det(cov_b)))
    expected = ((mean_a - mean_b) ** 2).sum() + np.trace(cov_a + cov_b) - 2 * shared
    value = frechet(with_moments(mean_a, cov_a), with_moments(mean_b, cov_b, 700))
    np.testing.assert_allclose(value, expected, rtol=1e-11)


def test_it_is_what_published_packages_say():
    real, fake, _ = reference_features()
    expected = reference_metrics()["frechet"]
    np.testing.assert_allclose(frechet(real, fake), expected["torch_fidelity"], rtol=1e-12)
    np.testing.assert_allclose(frechet(real, fake), expected["piq"], rtol=5e-6)  # its Newton iteration stops at 1e-5


@pytest.mark.parametrize("rank", [1, 3])
def test_covariances_without_full_rank_have_their_exact_distance(rank):
    """Σ_a = U Uᵀ and Σ_b = V Vᵀ: the shared trace is the nuclear norm of Uᵀ V, here of a known matrix."""
    u = orthogonal(64, RNG)[:, :rank]
    v = 0.5 * orthogonal(64, RNG)[:, :rank]
    expected = rank * 1.25 - 2 * np.linalg.svd(u.T @ v, compute_uv=False).sum()
    # a root of the product's eigenvalues, which are known to 1e-16, would be off by 64·1e-8
    np.testing.assert_allclose(frechet_distance(np.zeros(64), u @ u.T, np.zeros(64), v @ v.T), expected, rtol=1e-12)


def test_a_point_mass_is_as_far_as_its_mean_and_the_others_variance():
    covariance = np.diag([1.0, 2.0, 0.0])
    value = frechet_distance(np.ones(3), np.zeros((3, 3)), np.zeros(3), covariance)
    np.testing.assert_allclose(value, 3 + 3, rtol=1e-15)


def test_fewer_rows_than_features_are_said_and_the_distance_of_equal_sets_is_zero():
    x = RNG.normal(size=(10, 64))
    assert Moments.of(x).lacks_rank and not Moments.of(RNG.normal(size=(65, 64))).lacks_rank
    assert frechet(x, x) < 1e-11  # rounding of traces near 64
    np.testing.assert_allclose(frechet(x, x + 1), 64, rtol=1e-12)


def test_moments_of_batches_are_those_of_the_whole():
    x = (1e3 + RNG.normal(size=(5003, 6)) * np.arange(1, 7)).astype(np.float32)  # more rows than are taken at once
    whole = Moments.of(x)
    np.testing.assert_allclose(whole.covariance, np.cov(x.astype(np.float64), rowvar=False), rtol=1e-10)
    for size in (1, 64, 1000):
        parts = Moments.over(x[i : i + size] for i in range(0, len(x), size))
        assert parts.n == 5003
        np.testing.assert_array_equal(parts.mean, whole.mean)
        np.testing.assert_array_equal(parts.scatter, whole.scatter)
    merged = Moments.merged([Moments.of(x[i : i + 7]) for i in range(0, len(x), 7)])
    # 715 merges each round to 1e-16 of terms that are no larger than the scatter
    np.testing.assert_allclose(merged.scatter, whole.scatter, atol=1e-13 * whole.scatter.max())


def test_the_order_of_parts_does_not_matter():
    parts = [Moments.of(RNG.normal(i, 1, size=(n, 3))) for i, n in enumerate((1, 20, 300))]
    a, b = Moments.merged(parts), parts[2] + (parts[0] + parts[1])
    np.testing.assert_allclose(a.scatter, b.scatter, rtol=1e-12)
    assert frechet_of_parts(parts, parts[::-1]) < 1e-10


def test_batches_are_not_held_together():
    batches = lambda: (np.full((500, 8), float(i)) for i in range(200))  # 6.4 MB together
    assert peak_of(lambda: Moments.over(batches())) < 1_000_000  # 4,096 rows and their deviations


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: frechet(np.ones((1, 3)), np.ones((4, 3))), "at least 2 rows of features, got 1"),
        (lambda: frechet(np.ones((5, 3)), np.ones((5, 4))), r"one width, got means of shapes \(3,\) and \(4,\)"),
        (lambda: Moments.of(np.ones(3)), r"features \(n, F\), got shape \(3,\)"),
        (lambda: Moments.of([[1.0, np.nan], [1, 2]]), "1 of 2 rows of features hold NaN"),
        (lambda: Moments.over([]), "at least one set of features, got none"),
        (lambda: frechet_distance(np.ones(2), np.eye(3), np.ones(2), np.eye(2)), r"expected covariances \(2, 2\)"),
        (
            lambda: frechet_distance(np.ones(2), np.diag([1.0, -1]), np.ones(2), np.eye(2)),
            "negative eigenvalues: got -1",
        ),
        (lambda: frechet_distance([np.inf], np.eye(1), [1.0], np.eye(1)), "NaN or infinite"),
    ],
)
def test_what_has_no_distance_is_refused_in_one_line(call, message):
    refused(message, call)
