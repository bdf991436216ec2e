import numpy as np
import pytest
import scipy.special

from score_jax.metrics import inception_score
from tests.helpers import reference_features, reference_metrics, refused


def test_it_is_what_torch_fidelity_says():
    *_, logits = reference_features()
    found = inception_score(scipy.special.softmax(logits.astype(np.float64), 1))  # 505 rows in 10 parts
    np.testing.assert_allclose(found, reference_metrics()["inception_score"]["torch_fidelity"], rtol=1e-12)


def test_it_lies_between_one_and_the_number_of_classes():
    np.testing.assert_allclose(inception_score(np.full((40, 8), 1 / 8)), (1, 0), atol=1e-12)
    np.testing.assert_allclose(inception_score(np.tile(np.eye(8), (10, 1))), (8, 0), atol=1e-12)
    assert inception_score(np.repeat(np.eye(8), 10, 0), n_splits=8)[0] == 1  # rows in the order of their classes


def test_the_score_of_few_rows_is_low_by_what_the_docstring_says():
    """One-hot rows drawn from K equal classes: E log IS = E H(counts/n) ≈ log K − (K − 1)/(2n)."""
    rng = np.random.default_rng(0)
    mean, std = inception_score(np.eye(10)[rng.integers(0, 10, 20_000)], n_splits=100)  # parts of 200
    assert abs(mean / 10 - (1 - 9 / 400)) < 4 * std / 10 / 99**0.5 + 0.001  # and terms of the order 1/n²


@pytest.mark.parametrize(
    "p, message",
    [
        (np.ones((9, 2)) / 2, "N ≥ 10 rows"),
        (np.ones((20, 2)), "sum to 1: give a softmax"),
        (np.full((20, 2), np.nan), "are not probabilities"),
        (np.ones(20), r"got shape \(20,\)"),
    ],
)
def test_what_has_no_score_is_refused_in_one_line(p, message):
    refused(message, inception_score, p)
