"""What is exact elsewhere is float32 on the device too, at its own default precision of matrix products."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest

from score_jax import distributions, integrate, metrics, noise_levels
from score_jax.networks import DivideBySigma, LevelInstanceNormPlus
from score_jax.networks.layers import resize_aligned
from tests.device.compare import MARKS, assert_close, both, rounding
from tests.helpers import SDES, key, mixture
from tests.networks.filling import filled

pytestmark = MARKS

DRAW = np.random.default_rng(0)
X = DRAW.normal(size=(32, 4)).astype(np.float32)
A, Y = DRAW.normal(size=(2, 4)).astype(np.float32), np.float32([0.5, -1.0])
IMAGES = DRAW.normal(size=(4, 5, 5, 6)).astype(np.float32)
FULL = mixture(4, full=True)
# Factorizing, solving and averaging in four dimensions: some 50 operations in a row, amplified by the covariances'
# condition number, up to 5.
BOUND = rounding(50, 5)


def schedule(sde, t):
    """The functions of an SDE at times between its ends."""
    t = sde.t_min + t * (sde.t_max - sde.t_min)
    names = ("alpha", "sigma", "log_snr", "drift", "diffusion")
    return {name: getattr(sde, name)(t) for name in names} | {"time": sde.time(sde.log_snr(t))}


def posterior(y):
    found = FULL.posterior(A, y, 0.3)
    return {"weights": found.weights, "means": found.means, "variances": found.variances}


def smoothed(x):
    return distributions.Empirical(x[:8]).smoothed(0.5).score(x)


def integrated(x):
    """Along dx/dt = −x (1 + t), to a tolerance beyond which steps no longer matter."""
    field = lambda t, x: -x * (1 + t)[:, None]
    return integrate.solve(field, x, jnp.float32(0), jnp.float32(1), rtol=1e-6, atol=1e-6)[0]


# Name: function, argument, bound.
CASES = {
    **{
        f"schedule {name}": (functools.partial(schedule, sde), np.linspace(0.05, 0.95, 16, dtype=np.float32), bound)
        # Some ten operations in a row, on exponents up to 10; a table's slope is the difference of 1,000 knots.
        for name, sde in SDES.items()
        for bound in [rounding(10, 1000 if name == "tabulated" else 10)]
    },
    "log_prob": (FULL.log_prob, X, BOUND),
    "score": (FULL.score, X, BOUND),
    "score of points": (smoothed, X, BOUND),
    "samples": (lambda key: FULL.sample(key, 32), key(), BOUND),
    "posterior": (posterior, Y, BOUND),
    # Steps are off by 1e-6·(1 + |x|), whatever the program, some ten of them.
    "integration": (integrated, X, 1e-5),
    # Sums over 32 projected and sorted points in 128 directions, of frames off by some ten roundings a direction.
    "sliced Wasserstein": (lambda x: metrics.sliced_wasserstein(key(), x, x[::-1] * 1.5), X, rounding(100, 2)),
    # Differences of means that cancel to a half.
    "MMD": (lambda x: metrics.mmd(x, x + 2), X, rounding(100, 2)),
    "energy distance": (lambda x: metrics.energy_distance(x, x + 2), X, rounding(100, 2)),
    "resizing": (lambda x: resize_aligned(x, jnp.zeros((4, 9, 7, 6))), IMAGES, rounding(4)),
    # exp(log σ): a rounding of log σ is one of σ, up to log 50 = 4 times as large.
    "F/σ": (lambda x: of_levels(DivideBySigma(SIGMAS), x), IMAGES, rounding(4, 4)),
}
SIGMAS, LEVELS = (50.0, 3.0, 0.2, 0.01), np.arange(4, dtype=np.float32)


def of_levels(module, x):
    return module.apply({"fixed": {"sigmas": np.float32(SIGMAS)}}, x, LEVELS)


@functools.cache
def results():
    """Returns {name: result} of the device and of the CPU."""
    arguments = {name: argument for name, (_, argument, _) in CASES.items()}
    return both(lambda arguments: {name: CASES[name][0](x) for name, x in arguments.items()}, arguments)


@pytest.mark.parametrize("name", CASES)
def test_oracles_schedules_and_metrics_are_float32_at_the_default_precision(name, record_property):
    found, expected = (result[name] for result in results())
    assert_close(record_property, name, found, expected, CASES[name][2])


def test_a_level_gives_its_row_exactly(record_property):
    """On images of zeros InstanceNorm++ is β, whose rows have all the digits that float32 has."""
    x, weights = np.zeros_like(IMAGES), np.eye(4, dtype=np.float32)
    variables = filled(LevelInstanceNormPlus(), x, weights)
    found, _ = both(LevelInstanceNormPlus().apply, variables, x, weights)
    expected = np.broadcast_to(variables["params"]["embedding"][:, None, None, 12:], x.shape)
    assert_close(record_property, "row of a level", found, expected, 0.0)


def test_the_largest_distance_is_exact(record_property):
    """Found by a matrix product on the device, which may not take one pair for another."""
    x = DRAW.normal(size=(64, 4)).astype(np.float32)
    expected = max(np.linalg.norm(np.float64(a) - b) for a in x for b in x)
    found = noise_levels.max_pairwise_distance(x)
    assert_close(record_property, "largest distance", found, expected, 2.0**-50)
