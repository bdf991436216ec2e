import sys

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from score_jax.metrics import prdc
from tests.helpers import reference_features, reference_metrics, refused

MODULE = sys.modules["score_jax.metrics.prdc"]


def by_definition(real, fake, k):
    """From differences, in float64."""
    real, fake = np.float64(real), np.float64(fake)
    radius = lambda x: np.sort(cdist(x, x), 1)[:, k]  # of the distances the first is to itself
    cross, of_real, of_fake = cdist(real, fake), radius(real), radius(fake)
    inside = cross < of_real[:, None]
    return inside.any(0).mean(), (cross < of_fake).any(1).mean(), inside.sum(0).mean() / k, inside.any(1).mean()


@pytest.mark.parametrize("k", [3, 5])
def test_it_is_what_the_package_prdc_says(k):
    real, fake, _ = reference_features()
    np.testing.assert_allclose(prdc(real, fake, k=k), reference_metrics()[f"prdc_{k}"]["prdc"], rtol=1e-15)


def test_neighbours_that_differ_by_rounding_are_told_apart():
    rng = np.random.default_rng(0)
    real = (100 + rng.normal(size=(200, 30))).astype(np.float32)
    fake = np.nextafter(real, np.float32(np.inf))  # 8e-6 away in each of 30 numbers, at a distance of 550 from 0
    np.testing.assert_allclose(prdc(real, fake, k=1), by_definition(real, fake, 1), rtol=1e-15)
    near = real + np.float32(1e-4) * rng.normal(size=real.shape).astype(np.float32)
    both = np.concatenate([real, near])  # pairs of near duplicates: ‖x‖² + ‖y‖² − 2x·y in float32 is off by 0.1
    other = np.concatenate([near, real])[::-1] + np.float32(5e-5)
    np.testing.assert_allclose(prdc(both, other, k=1), by_definition(both, other, 1), rtol=1e-15)


def test_values_do_not_depend_on_blocks(monkeypatch):
    real, fake, _ = reference_features()
    whole = prdc(real, fake)
    monkeypatch.setattr(MODULE, "_BLOCK_ELEMENTS", 1000)  # 2 or 3 rows at a time
    assert prdc(real, fake) == whole


def test_equal_laws_have_density_one_and_the_coverage_of_the_docstring():
    rng = np.random.default_rng(0)
    found = np.mean([prdc(*rng.normal(size=(2, 300, 3)), k=5) for _ in range(20)], 0)
    coverage = 1 - np.prod([(300 - i) / (600 - i) for i in range(1, 6)])  # about 1 − 1/2⁵
    np.testing.assert_allclose(found[2:], [1, coverage], atol=0.02)  # 4 s.e.: 0.055/√20 and 0.012/√20


def test_samples_of_one_of_two_modes_are_precise_and_cover_half():
    rng = np.random.default_rng(0)
    real = rng.normal(size=(400, 2)) + np.repeat([[0, 0], [50, 0]], 200, 0)
    found = prdc(real, rng.normal(size=(400, 2)))
    assert found.precision > 0.9 and found.density > 0.9
    assert 0.4 < found.coverage <= 0.5 and 0.4 < found.recall <= 0.5


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: prdc(np.ones((5, 2)), np.ones((9, 2))), "below the 5 rows, got 5"),
        (lambda: prdc(np.ones((9, 2)), np.ones((9, 3))), r"got \(9, 2\) and \(9, 3\)"),
        (lambda: prdc(np.ones((9, 2)), np.full((9, 2), np.inf)), "NaN or infinite"),
        (lambda: prdc(np.ones((9, 2)), np.ones((9, 2)), k=0), "at least 1"),
    ],
)
def test_what_has_no_neighbours_is_refused_in_one_line(call, message):
    refused(message, call)
