"""What is meant to be exact multiplies matrices in full precision, whatever an accelerator's default.

Read from the programs: every product of matrices in them asks for HIGHEST. Networks follow the user's setting, and a
loss, a sampler or a likelihood of a score function without products has none of its own below HIGHEST either.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from score_jax import arrays, distributions, integrate, likelihood, losses, metrics, noise_levels, sampling
from score_jax.networks import DivideBySigma, LevelInstanceNormPlus, NCSNv2, layers
from tests.helpers import IMPLICIT_OBJECTIVES, KERNELS, SAMPLERS, SDES, TIMES, WEIGHTINGS, key, mixture
from tests.networks.filling import filled

HIGH, HIGHEST = jax.lax.Precision.HIGH, jax.lax.Precision.HIGHEST
SDE, T = SDES["vp"], np.linspace(0.1, 0.9, 5, dtype=np.float32)
X = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
IMAGES = np.random.default_rng(1).normal(size=(2, 6, 5, 4)).astype(np.float32)
FULL, ISOTROPIC = mixture(3, full=True), mixture(3)
POINTS = distributions.Empirical(X)
A, Y = X[:2], X[2, :2]
LEVELS = np.arange(2, dtype=np.float32)


def products(jaxpr):
    """Yields the (name, precision) of the products and convolutions of a program, those of its parts among them."""
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("dot_general", "conv_general_dilated", "ragged_dot_general"):
            yield equation.primitive.name, equation.params["precision"]
        for inner in jaxprs_in_params(equation.params):
            yield from products(inner)


def below_highest(fn, *args):
    """Returns how many products `fn(*args)` has, and those in which a factor may be rounded."""
    found = list(products(jax.make_jaxpr(fn)(*args).jaxpr))
    return len(found), [item for item in found if item[1] not in (HIGHEST, (HIGHEST, HIGHEST))]


def summed(fn):
    """The gradient of a sum: the products of derivatives are made where `fn` is not."""
    return jax.grad(lambda x: jax.tree.reduce(jnp.add, jax.tree.map(jnp.sum, fn(x))))


def posterior(y):
    return tuple(vars(FULL.posterior(A, y, 0.1)).values())


def at_levels(network):
    """The network at the first two noise levels, as a function of its input."""
    variables = filled(network, IMAGES, LEVELS)
    return lambda x: network.apply(variables, x, LEVELS)


TABLE = filled(LevelInstanceNormPlus(), IMAGES, np.eye(2, dtype=np.float32))
# Name: function, argument; each has a product at least, or its derivative has.
PRODUCTS = {
    "log_prob, of covariances": (lambda c: FULL.replace(variances=c).log_prob(X), FULL.variances),
    "score, covariances": (FULL.score, X),
    "score, isotropic": (ISOTROPIC.score, X),
    "score of a Gaussian": (distributions.Gaussian(X[0], np.float32([0.1, 0.2, 0.3])).score, X),
    "score of points": (POINTS.smoothed(0.3).score, X),
    "score of the process": (lambda x: distributions.score_of(FULL, SDE)(x, T), X),
    "samples, covariances": (lambda c: FULL.replace(variances=c).sample(key(), 5), FULL.variances),
    "posterior": (posterior, Y),
    "posterior of isotropic": (lambda y: ISOTROPIC.posterior(A, y, 0.1).means, Y),
    "sliced Wasserstein": (lambda x: metrics.sliced_wasserstein(key(), x, X + 1), X),
    "score error": (lambda x: metrics.score_error(key(), SDE, lambda y, t: y * x, FULL, ts=T, n=4).error, X[0, 0]),
    "largest distance": (lambda x: noise_levels._largest_squared(x, X), X),
    "resizing": (lambda x: layers.resize_aligned(x, jnp.zeros((2, 9, 7, 4))), IMAGES),
    "table of levels": (lambda x: LevelInstanceNormPlus().apply(TABLE, x, jnp.eye(2)), IMAGES),
    "F/σ of levels": (at_levels(DivideBySigma((2.0, 0.1))), IMAGES),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_exact_results_and_their_derivatives_multiply_in_full_precision(name):
    fn, x = PRODUCTS[name]
    n, rounded = below_highest(summed(fn), x)
    assert n and not rounded


def test_integration_multiplies_in_full_precision():
    n, rounded = below_highest(lambda x: integrate.solve(lambda t, y: -y, x, 0.0, 1.0)[0], X)
    assert n and not rounded


def test_ncsnv2_divides_by_its_levels_exactly_and_its_layers_follow_the_users_setting():
    network = at_levels(NCSNv2(2, 4, (2.0, 0.1)))
    of = lambda kind: {precision for name, precision in products(jax.make_jaxpr(network)(IMAGES).jaxpr) if name == kind}
    assert of("dot_general") == {(HIGHEST, HIGHEST)} and of("conv_general_dilated") == {None}
    with jax.default_matmul_precision("tensorfloat32"):
        assert of("dot_general") == {(HIGHEST, HIGHEST)} and of("conv_general_dilated") == {(HIGH, HIGH)}


def static(x):
    return jnp.tanh(-x)


def of_time(x, t):
    return jnp.tanh(-x) * arrays.expand_right(1 + t, x)


# Losses, samplers and likelihood of score functions without a product.
OWN = {
    "esm": lambda x: losses.explicit_score_matching(static, x, FULL.score),
    **{name: lambda x, loss=loss: loss(key(), static, x) for name, loss in IMPLICIT_OBJECTIVES.items()},
    **{
        f"dsm_{name}": lambda x, kernel=kernel: losses.denoising_score_matching(key(), static, x, kernel)
        for name, kernel in KERNELS.items()
    },
    **{
        f"weighting_{name}": lambda x, w=w: losses.diffusion_loss(key(), SDE, of_time, x, weighting=w)
        for name, w in WEIGHTINGS.items()
    },
    **{
        f"times_{name}": lambda x, draw=draw: losses.diffusion_loss(key(), SDE, of_time, x, times=draw)
        for name, draw in TIMES.items()
    },
    "bound": lambda x: likelihood.variational_bound(key(), SDE, of_time, x, ts=T[::-1]).total,
    **{
        f"sampler_{name}": lambda x, make=make: sampling.sample(key(), make(SDE, of_time), x, T[::-1])
        for name, make in SAMPLERS.items()
    },
    "langevin": lambda x: sampling.langevin(key(), static, x, step_size=0.1, n_steps=2),
    "mala": lambda x: sampling.mala(key(), FULL.log_prob, x, step_size=0.1, n_steps=2)[0],
    "probability_flow": lambda x: sampling.probability_flow(SDE, of_time, x)[0],
    "log_likelihood": lambda x: likelihood.log_likelihood(SDE, of_time, x).log_prob,
    "mmd": lambda x: metrics.mmd(x, X + 1),
    "energy_distance": lambda x: metrics.energy_distance(x, X + 1),
    "mode_weights": lambda x: metrics.mode_weights(x, X).weights,
}


def test_losses_samplers_and_likelihood_add_no_rounded_product():
    assert not {name: rounded for name, fn in OWN.items() if (rounded := below_highest(fn, X)[1])}


def test_a_plain_product_is_found_wherever_it_is():
    plain = lambda x: x @ x.T
    image = lambda x: jax.lax.conv(x[None, None], x[None, None], (1, 1), "SAME")
    custom = jax.custom_jvp(plain)
    custom.defjvp(lambda primals, tangents: (plain(*primals), plain(*tangents)))
    hidden = {
        "bare": plain,
        "convolution": image,
        "jit": jax.jit(plain),
        "vmap": lambda x: jax.vmap(lambda row: row @ x.T)(x),
        "scan": lambda x: jax.lax.scan(lambda c, row: (c, x @ row), 0, x)[1],
        "while": lambda x: jax.lax.while_loop(lambda c: c.sum() < 0, lambda c: c @ x[:3], x[:3]),
        "cond": lambda x: jax.lax.cond(x.sum() > 0, plain, lambda x: jnp.zeros((5, 5)), x),
        "custom derivative": custom,
        "checkpoint": jax.checkpoint(plain),
        "half of it": lambda x: jnp.matmul(x, x.T, precision=("highest", "default")),
    }
    for name, fn in hidden.items():
        n, rounded = below_highest(fn, X)
        assert n == len(rounded) == 1, name
    assert below_highest(lambda x: jnp.matmul(x, x.T, precision=HIGHEST), X) == (1, [])
    with jax.default_matmul_precision("bfloat16"):
        assert below_highest(FULL.score, X)[1] == [] != below_highest(plain, X)[1]
