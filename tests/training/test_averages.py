import jax.numpy as jnp
import numpy as np
import pytest

from score_jax.training import ema_decay, power_decay, reconstruction
from score_jax.training.averages import exponent
from score_jax.types import InputError


def test_warmed_up_average_starts_at_a_tenth():
    rate = ema_decay(0.99, warmup=True)
    np.testing.assert_allclose([rate(n) for n in (0, 1, 90, 10_000)], [0.1, 2 / 11, 0.91, 0.99], rtol=1e-6)


def test_decay_of_one_is_refused():
    with pytest.raises(InputError, match=r"\[0, 1\), got 1"):
        ema_decay(1.0)


def test_exponents_are_those_published():
    np.testing.assert_allclose([exponent(0.05), exponent(0.10)], [16.97, 6.94], atol=5e-3)  # two decimals in the paper
    np.testing.assert_allclose(exponent(12**-0.5), 0.0, atol=1e-9)


@pytest.mark.parametrize("std", [0.0, 0.3, -1.0])
def test_widths_that_no_average_has_are_refused(std):
    with pytest.raises(InputError, match=r"is in \(0, 0.2887\]"):
        power_decay(std)


def _averages(std, values):
    """The recursion in float64, after every update."""
    power, found, average = exponent(std) + 1, [], 0.0
    for n, value in enumerate(values):
        d = (1 - 1 / (n + 1)) ** power
        average = d * average + (1 - d) * value
        found.append(average)
    return np.array(found)


@pytest.mark.parametrize("std", [0.05, 0.1, 12**-0.5])
def test_power_decay_is_the_published_recursion(std):
    n = np.array([0, 1, 2, 10, 1000, 1_000_000])
    exact = (1 - 1 / (n + 1.0)) ** (exponent(std) + 1)
    np.testing.assert_allclose(power_decay(std)(jnp.asarray(n)), exact, atol=3e-7)  # float32 about 1


@pytest.mark.parametrize("std", [0.05, 0.1, 0.2])
def test_averages_have_the_width_and_mean_of_their_profile(std):
    t = np.arange(1, 20_001.0)
    first, second = _averages(std, t)[-1], _averages(std, t**2)[-1]
    gamma = exponent(std)
    np.testing.assert_allclose(first / t[-1], (gamma + 1) / (gamma + 2), rtol=2e-4)  # a step is 1/20,000 of t
    np.testing.assert_allclose(np.sqrt(second - first**2) / t[-1], std, rtol=1e-3)


def test_an_average_that_was_kept_is_itself():
    weights, distance = reconstruction([100, 200, 300] * 2, [0.05] * 3 + [0.1] * 3, 200, 0.1)
    np.testing.assert_allclose(weights, [0, 0, 0, 0, 1, 0], atol=1e-6)
    assert distance < 1e-6


@pytest.mark.parametrize("std", [0.06, 0.08, 0.15, 0.2])
def test_other_averages_are_made_of_those_that_were_kept(std):
    values = np.sin(np.arange(4096) / 700.0) + np.arange(4096) / 4096  # a parameter on its way
    times = list(range(256, 4097, 256))
    kept = np.concatenate([_averages(one, values)[np.array(times) - 1] for one in (0.05, 0.1)])
    weights, distance = reconstruction(times * 2, [0.05] * 16 + [0.1] * 16, 4096, std)
    exact = _averages(std, values)[-1]
    np.testing.assert_allclose(weights.sum(), 1.0, rtol=1e-6)
    # The error is that of the profile times how much the parameter moves, its standard deviation of 0.7 or so.
    assert distance < 0.05 and abs(weights @ kept - exact) < 0.01 * np.std(values)
    assert abs(kept[-1] - exact) > 5 * abs(weights @ kept - exact)  # the nearest that was kept is not as near


def test_one_width_and_few_times_say_how_far_they_are():
    near, far = (reconstruction([1000, 2000, 3000, 4000], [0.1] * 4, 4000, std)[1] for std in (0.11, 0.02))
    assert near < 0.1 and far > 0.3


@pytest.mark.parametrize(
    ("kept", "time", "message"),
    [(([100], [0.1]), 101, "kept up to 100 updates"), (([], []), 1, "as many widths"), (([9], [0.4]), 9, "0.2887")],
)
def test_averages_that_cannot_be_made_are_refused(kept, time, message):
    with pytest.raises(InputError, match=message):
        reconstruction(*kept, time, 0.1)
