import jax
import numpy as np
import pytest

from score_jax.metrics import kid
from tests.helpers import key, reference_features, reference_metrics, refused, trace_counter


def exact(x, y):
    """The estimate in float64, kernels summed as they are."""
    kernel = lambda u, v: (u @ v.T / u.shape[1] + 1) ** 3
    n, (xx, yy, xy) = len(x), (kernel(x, x), kernel(y, y), kernel(x, y))
    return (xx.sum() - np.trace(xx) + yy.sum() - np.trace(yy)) / (n * (n - 1)) - 2 * xy.mean()


def test_one_subset_of_all_rows_is_what_published_packages_say():
    real, fake, _ = reference_features()
    value, standard_error = kid(key(), real, fake[:300], subset_size=300, n_subsets=1)
    for package in ("torch_fidelity", "piq"):
        np.testing.assert_allclose(value, reference_metrics()["kid"][package], rtol=1e-6)
    assert np.isnan(standard_error)


def test_what_is_small_beside_the_kernels_is_not_rounded_away():
    x = np.random.default_rng(0).normal(size=(500, 8)).astype(np.float32) + 3
    y = x[::-1] + np.float32(1e-3)
    expected = exact(x.astype(np.float64), y.astype(np.float64))
    value, _ = kid(key(), x, y, subset_size=500, n_subsets=1)
    # kernels are near 1,000 with a float32 rounding of 6e-5 each, of which 250,000 are averaged
    np.testing.assert_allclose(value, expected, atol=1e-5)


def sets(n, m, shift, repeats):
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(repeats, n, 5)), shift + rng.normal(size=(repeats, m, 5))
    return np.float32(a), np.float32(b)


def test_splits_of_one_law_average_to_zero_within_the_stated_error():
    a, b = sets(200, 300, 0.0, 60)
    values, errors = jax.jit(
        lambda a, b: jax.lax.map(lambda ab: kid(key(), *ab, subset_size=50, n_subsets=30), (a, b))
    )(a, b)
    assert abs(values.mean()) < 4 * values.std() / 60**0.5
    assert values.min() < 0
    assert values.std() < np.sqrt((errors**2).mean()) < 4 * values.std()  # on the safe side, by up to √6 and draws


@pytest.mark.slow
def test_the_stated_error_is_the_spread_over_new_data():
    a, b = sets(200, 200, 0.4, 100)
    values, errors = jax.jit(
        lambda a, b: jax.lax.map(lambda ab: kid(key(), *ab, subset_size=50, n_subsets=60), (a, b))
    )(a, b)
    # the spread of 100 values is known to 7 %; what remains of the pairs' term adds to the stated error
    np.testing.assert_allclose(np.sqrt((errors**2).mean()), values.std(ddof=1), rtol=0.3)
    np.testing.assert_allclose(values.mean(), np.mean([exact(x, y) for x, y in zip(a, b, strict=True)]), rtol=0.05)


def test_all_subsets_are_one_program():
    a, b = sets(40, 40, 0.0, 1)
    counted = trace_counter(lambda k, a, b: kid(k, a, b, subset_size=10, n_subsets=20))
    program = jax.jit(counted)
    assert program(key(0), a[0], b[0])[0] != program(key(1), a[0], b[0])[0]
    assert program(key(0), a[0], b[0])[0] == program(key(0), a[0], b[0])[0] and counted.count == 1


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: kid(key(), np.ones((5, 2)), np.ones((9, 2))), "subset_size 1000 is more than the 5 rows"),
        (lambda: kid(key(), np.ones((5, 2)), np.ones((5, 3))), r"got \(5, 2\) and \(5, 3\)"),
        (lambda: kid(key(), np.ones((5, 2)), np.ones((5, 2)), subset_size=1), "subset_size must be at least 2"),
        (lambda: kid(key(), np.ones((5, 2)), np.ones((5, 2)), n_subsets=0), "n_subsets must be at least 1"),
    ],
)
def test_what_has_no_distance_is_refused_in_one_line(call, message):
    refused(message, call)
