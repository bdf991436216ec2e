from functools import partial

import jax
import numpy as np
import pytest

from score_jax.metrics import (
    PRDC,
    Moments,
    bootstrap,
    energy_distance,
    frechet,
    frechet_of_parts,
    half_sums,
    mmd,
    prdc,
)
from tests.helpers import key, refused

SETS, STATED = 200, 12  # data sets of which the spread is taken, and of which the error is stated


def spread_and_stated(statistic, *shifts, n=200, dims=2, n_stated=STATED, **options):
    """The spread of a statistic over data sets, and what `bootstrap` says it is: root mean squares."""
    rng = np.random.default_rng(0)
    draw = lambda: [np.float32(shift + rng.normal(size=(n, dims))) for shift in shifts]
    values = [np.asarray(statistic(*draw())) for _ in range(SETS)]
    stated = [np.asarray(bootstrap(key(i), statistic, *draw(), **options)) for i in range(n_stated)]
    return np.std(values, 0, ddof=1), np.sqrt(np.mean(np.square(stated), 0))


def mean_square(a):
    return (a**2).mean()


MMD = jax.jit(partial(mmd, bandwidths=(1.0,)))
ENERGY = jax.jit(energy_distance)
# The spread is known to 1/√(2·200) = 5 %, a stated error to 10 % from its splits and to as much from its data, the mean
# over 12 of them to 4 %: three of both together are 20 %.
TOLERANCE = 0.2


@pytest.mark.parametrize(
    "statistic, shifts",
    [
        pytest.param(mean_square, [0.5], id="moment", marks=pytest.mark.slow),
        pytest.param(frechet, [0.0, 0.7], id="frechet"),
        pytest.param(MMD, [0.0, 0.7], id="mmd", marks=pytest.mark.slow),
        pytest.param(ENERGY, [0.0, 0.7], id="energy", marks=pytest.mark.slow),
    ],
)
def test_the_stated_error_is_the_spread_over_new_data(statistic, shifts):
    spread, stated = spread_and_stated(statistic, *shifts)
    np.testing.assert_allclose(stated, spread, rtol=TOLERANCE)


def test_the_stated_error_of_prdc_is_the_spread_over_new_data():
    spread, stated = spread_and_stated(partial(prdc, k=3), 0.0, 0.7, dims=4)
    np.testing.assert_allclose(stated, spread, rtol=TOLERANCE + 0.1)


@pytest.mark.parametrize("statistic", [frechet, ENERGY, MMD], ids=["frechet", "energy", "mmd"])
def test_of_equal_laws_the_half_sums_have_the_error(statistic):
    spread, stated = spread_and_stated(statistic, 0.0, 0.0, variance=half_sums)
    np.testing.assert_allclose(stated, spread, rtol=TOLERANCE)


@pytest.mark.slow
def test_of_equal_laws_the_error_is_too_large_by_root_two():
    spread, stated = spread_and_stated(ENERGY, 0.0, 0.0, n_stated=200)  # each varies by about itself
    np.testing.assert_allclose(stated, 2**0.5 * spread, rtol=TOLERANCE)


def test_of_a_mean_it_is_the_textbooks_error():
    x = np.random.default_rng(0).normal(size=(51, 1))
    stated = bootstrap(key(), np.mean, x, n_resamples=1000)
    np.testing.assert_allclose(stated, x.std(ddof=1) / 51**0.5, rtol=0.08)  # 3/√2000


def test_moments_of_parts_have_the_error_of_their_rows():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(1000, 3)), 0.6 + rng.normal(size=(1000, 3))
    parts = [[Moments.of(rows) for rows in np.split(x, 25)] for x in (a, b)]
    of_parts = bootstrap(key(), frechet_of_parts, *parts, n_resamples=200)
    of_rows = bootstrap(key(), frechet, a, b, n_resamples=200)
    np.testing.assert_allclose(of_parts, of_rows, rtol=0.4)  # 2.5/√(2·24), and 5 % of each from resamples


def test_errors_have_the_structure_of_the_statistic():
    a, b = np.random.default_rng(0).normal(size=(2, 20, 2))
    found = bootstrap(key(), partial(prdc, k=2), a, b, n_resamples=3)
    assert isinstance(found, PRDC) and all(type(value) is float for value in found)
    assert found == bootstrap(key(), partial(prdc, k=2), a, b, n_resamples=3)


def test_too_few_rows_are_refused_in_one_line():
    refused(r"at least 4 rows each, got \[9, 3\]", bootstrap, key(), frechet, np.ones((9, 2)), np.ones((3, 2)))
    refused(r"at least 4 rows each, got \[\]", bootstrap, key(), frechet)
    refused("n_resamples must be at least 2", bootstrap, key(), np.mean, np.ones(9), n_resamples=1)
