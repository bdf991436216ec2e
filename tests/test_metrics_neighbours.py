import numpy as np
import pytest

from score_jax.metrics import copying, memorisation, nearest_neighbours
from score_jax.types import InputError

RNG = np.random.default_rng(0)
TRAIN = RNG.uniform(size=(700, 4, 4, 1)).astype(np.float32)
FRESH = RNG.uniform(size=(400, 4, 4, 1)).astype(np.float32)


def test_neighbours_are_those_of_brute_force_in_order_of_distance():
    index, distance = nearest_neighbours(FRESH[:300], TRAIN, k=5)
    differences = (FRESH[:300, None] - TRAIN[None]).astype(np.float64)
    exact = np.sqrt((differences**2).sum((2, 3, 4)))
    np.testing.assert_array_equal(index, np.argsort(exact, axis=1)[:, :5])
    np.testing.assert_allclose(distance, np.sort(exact, axis=1)[:, :5], rtol=1e-6)


def test_a_copy_has_itself_at_distance_zero():
    # far from the origin, where ‖x‖² + ‖y‖² − 2x·y in float32 would miss by 0.1
    index, distance = nearest_neighbours(TRAIN[100:120] + 1000, TRAIN + 1000)
    np.testing.assert_array_equal(index[:, 0], np.arange(100, 120))
    np.testing.assert_array_equal(distance, 0)


def test_memorisation_tells_copies_from_fresh_samples():
    copied = memorisation(TRAIN[:50] + 1e-4, TRAIN, FRESH)
    assert copied.copies == 1
    np.testing.assert_allclose(copied.sample_distance, 4e-4, rtol=1e-2)  # √16 · 1e-4, in float32 near 1
    np.testing.assert_allclose(copied.ratio, copied.sample_distance / copied.held_out_distance)
    fresh = memorisation(FRESH, TRAIN, FRESH)
    assert fresh.ratio == 1
    assert fresh.copies == 0.01  # 4 of 400 lie below their own 1 % quantile


def test_memorisation_is_calibrated_on_independent_draws():
    result = memorisation(RNG.uniform(size=(400, 4, 4, 1)).astype(np.float32), TRAIN, FRESH)
    assert abs(result.ratio - 1) < 0.03  # spread of the distances 12 %: s.e. of a ratio of medians 0.011
    assert result.copies < 0.04


def spectrum(x):
    """Magnitudes of the Fourier transform: what a cyclic shift leaves as it is."""
    return np.abs(np.fft.fft2(x, axes=(1, 2)))


def test_in_feature_space_a_shifted_copy_finds_its_original():
    shifted = np.roll(TRAIN[100:140], (1, 2), (1, 2))
    by_pixels, distance = nearest_neighbours(shifted, TRAIN)
    assert (by_pixels[:, 0] == np.arange(100, 140)).mean() < 0.2 and distance.min() > 0.3
    by_features, distance = nearest_neighbours(shifted, TRAIN, features=spectrum)
    np.testing.assert_array_equal(by_features[:, 0], np.arange(100, 140))
    np.testing.assert_allclose(distance, 0, atol=1e-5)  # rounding of the transform


def test_features_passed_or_taken_beforehand_are_the_same_and_taken_in_parts():
    sizes = []

    def features(x):
        sizes.append(len(x))
        return spectrum(x)

    many = np.concatenate([TRAIN, FRESH])
    index, distance = nearest_neighbours(FRESH[:9], many, k=3, features=features)
    expected = nearest_neighbours(spectrum(FRESH[:9]), spectrum(many), k=3)
    np.testing.assert_array_equal(index, expected[0])
    np.testing.assert_allclose(distance, expected[1], atol=1e-6)
    assert sizes == [9, 1024, 76]


def test_memorisation_in_feature_space_finds_shifted_copies():
    shifted = np.roll(TRAIN[:50], (1, 2), (1, 2))
    assert memorisation(shifted, TRAIN, FRESH).copies < 0.1
    found = memorisation(shifted, TRAIN, FRESH, features=spectrum)
    assert found.copies == 1 and found.ratio < 1e-5


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: nearest_neighbours(FRESH, TRAIN, features=lambda x: x[:3]), "400 examples gave 3"),
        (lambda: nearest_neighbours(FRESH, TRAIN, k=701), "between 1 and the 700"),
        (lambda: nearest_neighbours(FRESH[:, :2], TRAIN), "8 elements each and data 16"),
        (lambda: nearest_neighbours(np.full((2, 16), np.nan), TRAIN), "diverged"),
        (lambda: nearest_neighbours(np.zeros(16), TRAIN), "1 elements each and data 16"),  # 16 scalars
        (lambda: nearest_neighbours(np.zeros((0, 16)), TRAIN), r"shape \(0, 16\)"),
        (lambda: memorisation(FRESH, TRAIN, TRAIN), "not trained on"),
        (lambda: copying(np.array([np.inf]), np.ones(3)), "beyond the range of their numbers"),
    ],
)
def test_unusable_arrays_are_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()
