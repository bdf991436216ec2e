"""Every loss of a small score function, and the gradient of its parameters, is the CPU's."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax import arrays, losses
from score_jax.likelihood import variational_bound
from score_jax.sampling.flow import radius
from tests.device.compare import MARKS, assert_close, both, rounding
from tests.helpers import IMPLICIT_OBJECTIVES, KERNELS, SDES, TIMES, WEIGHTINGS, key, mixture

pytestmark = [*MARKS, pytest.mark.usefixtures("float32_products")]

N, DIMS, WIDTH = 16, 3, 8
SDE = SDES["vp"]
LEVELS = np.linspace(0.9, 0.1, 5, dtype=np.float32)
DRAW = np.random.default_rng(0)
X = DRAW.normal(size=(N, DIMS)).astype(np.float32)
GREY = (2 * DRAW.integers(0, 256, (N, DIMS)) / 255 - 1).astype(np.float32)
SHAPES = {"inner": (DIMS, WIDTH), "noise": (1, WIDTH), "outer": (WIDTH, DIMS)}
PARAMS = {name: DRAW.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}
# Noise, two layers and the loss, forwards and backwards: some 30 operations in a row. Residuals such as σ s + ε cancel
# by a factor of four at most.
BOUND = rounding(30, 4)
AMPLIFIED = {
    # (s(x + εv) − s(x − εv))/2ε with ε = 0.01: the difference of two numbers, both some 25 times as large as it is.
    "fd_ssm": 25,
}


def score(params, x, log_snr):
    """A network of two layers, of inputs of scale 1."""
    hidden = jnp.tanh(x @ params["inner"] + arrays.expand_right(log_snr, x) * params["noise"] / 8)
    return hidden @ params["outer"]


def static(params):
    return lambda x: score(params, x, jnp.float32(1))


def of_time(params):
    return lambda x, t: score(params, x / arrays.expand_right(radius(SDE, t), x), SDE.log_snr(t))


def with_variance(params):
    """The variance of a step is some number between σ²/e and σ² e."""
    spread = lambda x: jnp.exp(jnp.tanh(x * params["noise"][:, :DIMS]))
    return lambda x, t, s: (of_time(params)(x, t), arrays.expand_right(SDE.variance(t), x) * spread(x))


def at_one_level(objective):
    return lambda params, key: objective(key, static(params), X)


def diffusion(**options):
    return lambda params, key: losses.diffusion_loss(key, SDE, of_time(params), X, **options)


def with_noise(kernel):
    return at_one_level(lambda key, s, x: losses.denoising_score_matching(key, s, x, kernel))


# One compiled program each: most of its time is that of the draws, which its losses share.
GROUPS = {
    "one level": {
        "esm": at_one_level(lambda key, s, x: losses.explicit_score_matching(s, x, mixture(DIMS).score)),
        **{name: at_one_level(objective) for name, objective in IMPLICIT_OBJECTIVES.items()},
    },
    "noise": {f"dsm_{name}": with_noise(kernel) for name, kernel in KERNELS.items()},
    "diffusion": {
        **{f"weighting_{name}": diffusion(weighting=weighting) for name, weighting in WEIGHTINGS.items()},
        **{f"times_{name}": diffusion(times=draw) for name, draw in TIMES.items()},
    },
    "bound": {
        "hybrid": lambda params, key: losses.hybrid_loss(key, SDE, with_variance(params), GREY, ts=LEVELS),
        "bound": lambda params, key: variational_bound(key, SDE, of_time(params), GREY, ts=LEVELS).total,
    },
}


@functools.cache
def results(group):
    """Returns {loss: (values, gradient)} of the device and of the CPU."""

    def values_and_gradient(loss, params, key):
        total = lambda params: (lambda values: (values.mean(), values))(loss(params, key))
        return jax.grad(total, has_aux=True)(params)[::-1]

    def program(params, key):
        return {name: values_and_gradient(loss, params, key) for name, loss in GROUPS[group].items()}

    return both(program, PARAMS, key(1))


@pytest.mark.parametrize(("group", "name"), [(group, name) for group, table in GROUPS.items() for name in table])
def test_losses_and_their_gradients_are_the_cpus(group, name, record_property):
    found, expected = (result[name] for result in results(group))
    bound = BOUND * AMPLIFIED.get(name, 1)
    assert_close(record_property, f"loss {name}", found[0], expected[0], bound)
    assert_close(record_property, f"gradient of loss {name}", found[1], expected[1], bound)
