import numpy as np
import pytest
import scipy.stats

from score_jax.metrics import c2st
from tests.helpers import key, refused

RNG = np.random.default_rng(0)


@pytest.mark.slow
def test_equal_laws_are_told_apart_half_of_the_time():
    accuracy, standard_error = c2st(key(), *RNG.normal(size=(2, 150, 1)))
    np.testing.assert_allclose(standard_error, (0.25 / 300) ** 0.5, rtol=0.05)
    assert abs(accuracy - 0.5) < 4 * standard_error


def test_shifted_gaussians_are_told_apart_as_the_best_classifier_does():
    """The best one has Φ(δ/2) right; the scale of the numbers does not matter."""
    a, b = RNG.normal(size=(2, 150, 1))
    accuracy, standard_error = c2st(key(), 1e4 * a, 1e4 * (b + 2))
    assert abs(accuracy - scipy.stats.norm.cdf(1)) < 4 * standard_error


@pytest.mark.slow
def test_disjoint_sets_are_always_told_apart_and_the_key_decides_all():
    a = np.concatenate([RNG.normal(size=(20, 1)), np.ones((20, 1))], 1)  # a column without deviation
    assert c2st(key(), a, a + [100, 0]) == (1, 0)
    b = RNG.normal(size=(8, 2))
    assert c2st(key(1), a[:8], b) == c2st(key(1), a[:8], b)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: c2st(key(), np.ones((9, 2)), np.ones((8, 2))), "equally many rows, at least 5 each, got 9 and 8"),
        (lambda: c2st(key(), np.ones((4, 2)), np.ones((4, 2))), "got 4 and 4"),
        (lambda: c2st(key(), np.ones((9, 2)), np.full((9, 2), np.nan)), "NaN or infinite"),
    ],
)
def test_what_cannot_be_told_apart_is_refused_in_one_line(call, message):
    refused(message, call)
