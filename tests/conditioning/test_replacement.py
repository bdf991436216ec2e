"""Inpainting by replacement on exact scores: what is exact, what is nearly right, and what is known to be wrong."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax import arrays, distributions, sampling
from score_jax import sde as sdes
from score_jax.conditioning import impose, replacement
from score_jax.conditioning.operators import Mask
from score_jax.sampling import grids
from score_jax.types import InputError
from tests.helpers import MULTISTEP, ONE_STEP, key, mixture, often

pytestmark = pytest.mark.usefixtures("strict_dtypes")

VE = sdes.VE(0.01, 10.0)
FIRST = Mask(np.array([True, False]))
C = np.array([[1.0, 0.8], [0.8, 1.0]])
Y = jnp.array([[1.5, jnp.nan]])  # x_2 | x_1 = 1.5 is N(1.2, 0.36)


def correlated(x, t):
    """Score of N(0, C) on VE: C's eigenvalues are 1.8 along (1, 1) and 0.2 along (1, −1)."""
    along, across = x.sum(1) / 2, (x[:, 0] - x[:, 1]) / 2
    along, across = -along / (1.8 + VE.variance(t)), -across / (0.2 + VE.variance(t))
    return jnp.stack([along + across, along - across], 1)


def complete(make, ts, *, score_fn=correlated, y=Y, n=2000, sde=VE):
    """Samples (n, 2) whose first coordinate is observed, `make(sde, score_fn)` run down `ts`."""
    sampler = replacement(make(sde, score_fn), sde, FIRST, y)
    x = jax.jit(lambda x: sampling.sample(key(1), sampler, x, ts))(sde.prior_sample(key(), (n, 2)))
    return np.asarray(x, np.float64)


def langevin(h, n_steps=1):
    """Annealed Langevin dynamics with ε = 2hσ²."""
    return lambda sde, s: sampling.annealed_langevin(sde, s, step_size=2 * h, n_steps=n_steps, sigma_min=1.0)


def levels(n, repeats):
    return grids.levels(VE, jnp.repeat(sdes.geometric_sigmas(10.0, 0.01, n), repeats))


@pytest.mark.parametrize(
    "name", often(ONE_STEP, ("annealed_langevin", "reverse_diffusion", "ancestral", "ddim", "heun"))
)
def test_the_observed_part_is_exact_at_every_step_and_the_rest_keeps_its_last_update(name):
    sde, mask = sdes.VE(0.01, 10.0), Mask(np.array([[1, 0, 1], [0, 0, 1]]))
    data = distributions.GaussianMixture(jnp.ones(2), jnp.stack([jnp.ones((2, 3)), -jnp.ones((2, 3))]), 0.3)
    score_fn = distributions.score_of(data, sde)
    y, ts = jnp.where(mask.mask == 1, arrays.normal(key(3), jnp.zeros((4, 2, 3))), jnp.nan), grids.log_snr(sde, 6)
    sampler = replacement(ONE_STEP[name](sde, score_fn), sde, mask, y)
    x, path = jax.jit(lambda x: sampling.sample(key(1), sampler, x, ts, trace=lambda state: state.x))(
        sde.prior_sample(key(), (4, 2, 3))
    )
    observed = np.broadcast_to(mask.mask == 1, path.shape)
    np.testing.assert_array_equal(np.asarray(path)[observed], np.broadcast_to(y, path.shape)[observed])
    moved = np.abs(np.diff(np.asarray(path), axis=0))[~observed[1:]]
    assert moved.min() > 0 and np.isfinite(path).all()
    denoised = impose(mask, sde.denoise(x, ts[-1], score_fn(x, ts[-1])), y)
    np.testing.assert_array_equal(np.asarray(denoised)[observed[0]], np.asarray(y)[observed[0]])


def test_on_a_process_that_shrinks_the_data_the_observed_part_is_alpha_y():
    vp = sdes.VP()
    ts = grids.log_snr(vp, 5, t_end=0.1)
    score_fn = distributions.score_of(mixture(), vp)
    x = complete(sampling.ancestral, ts, score_fn=score_fn, n=6, sde=vp)
    np.testing.assert_allclose(x[:, 0], 1.5 * float(vp.alpha(0.1)), rtol=1e-6)


def recursion(sigmas, repeats, h):
    """Mean and variance of x_2 after replaced Langevin steps from N(0, σ_1²): linear with Gaussian noise throughout."""
    mean, variance, before = 0.0, sigmas[0] ** 2, sigmas[0]
    for sigma in np.repeat(sigmas, repeats):
        by_observed, by_itself = -h * sigma**2 * np.linalg.inv(C + sigma**2 * np.eye(2))[1]
        mean += by_itself * mean + by_observed * 1.5
        # the observation carries noise of the level before the step
        variance = (1 + by_itself) ** 2 * variance + (by_observed * before) ** 2 + 2 * h * sigma**2
        before = sigma
    return mean, variance


def test_it_is_the_recursion_written_down():
    """x_1 ← y + σ_t z, then x_2 ← x_2 + (ε/2) score_2 + √ε z, on a score linear in both."""
    n = 20_000
    x = complete(langevin(0.2), levels(8, 5), n=n)[:, 1]
    mean, variance = recursion(np.geomspace(10.0, 0.01, 8), 5, 0.2)
    np.testing.assert_allclose(x.mean(), mean, atol=4 * np.sqrt(variance / n))
    np.testing.assert_allclose(x.var(), variance, rtol=4 * np.sqrt(2 / n))


@pytest.mark.slow
def test_enough_langevin_steps_find_the_conditional_law():
    """60 levels of 20 steps, the observation renewed before each: mean 1.2 within 2 % and variance 0.36 within 4 %."""
    x = complete(langevin(0.3), levels(60, 20), n=1000)[:, 1]
    np.testing.assert_allclose(x.mean(), 1.2, atol=4 * 0.6 / np.sqrt(len(x)) + 0.02)
    np.testing.assert_allclose(x.var(), 0.36, rtol=4 * np.sqrt(2 / len(x)) + 0.04)


@pytest.mark.slow
def test_langevin_steps_without_renewal_forget_the_observation():
    renewed = complete(langevin(0.1), levels(10, 100), n=400)[:, 1].mean()
    inside = complete(langevin(0.1, n_steps=100), levels(10, 1), n=400)[:, 1].mean()
    np.testing.assert_allclose(renewed, 1.117, atol=4 * 0.65 / np.sqrt(400))  # by the recursion
    assert inside < 0.87  # 0.72 and 4 s.e.


@pytest.mark.parametrize(("make", "share"), [(sampling.ancestral, 0.63), (sampling.ddim, 0.43)])
def test_one_step_a_level_leaves_the_bias_that_the_docstring_states(make, share):
    """However fine the grid: the share of the shift E[x_2 | y] − E[x_2] = 1.2 that is found."""
    for n in (100, 300):
        found = complete(make, grids.log_snr(VE, n), n=1000)[:, 1].mean() / 1.2
        np.testing.assert_allclose(found, share, atol=4 * 0.75 / 1.2 / np.sqrt(1000) + 0.02)


@pytest.mark.parametrize(
    ("mode", "y", "expected", "right"),
    [
        ([0.0, 4.0], 0.4, 0.7, 0.7),  # y says nothing, and the weights are the prior's
        ([4.0, 1.0], -3.8, 0.0, 0.0),  # y has decided before the unobserved part does
        ([1.0, 4.0], 0.4, 0.7, 0.9999),  # y would decide, but is lost in its noise at the σ where the modes part
    ],
)
def test_mode_weights_are_those_of_the_level_where_the_modes_part(mode, y, expected, right):
    data = distributions.GaussianMixture(jnp.array([0.7, 0.3]), jnp.array([mode, [-v for v in mode]]), 0.1)
    exact = data.posterior(jnp.array([[1.0, 0.0]]), jnp.array([y]), 1e-3)
    np.testing.assert_allclose(exact.weights[0], right, atol=1e-4)
    score_fn = distributions.score_of(data, VE)
    x = complete(sampling.ancestral, grids.log_snr(VE, 60), score_fn=score_fn, y=jnp.array([[y, 0.0]]))
    # 4 standard errors, and 0.02 for what 60 ancestral steps get wrong
    np.testing.assert_allclose((x[:, 1] > 0).mean(), expected, atol=4 * np.sqrt(0.21 / 2000) + 0.02)


def test_a_sample_depends_on_the_seed_and_its_index_alone():
    score_fn, ts = distributions.score_of(mixture(), VE), grids.log_snr(VE, 5)
    y = arrays.normal(key(3), jnp.zeros((6, 2)))
    x = VE.prior_sample(key(), (6, 2))
    run = lambda k, x, y: sampling.sample(k, replacement(sampling.ancestral(VE, score_fn), VE, FIRST, y), x, ts)
    part = run(arrays.example_keys(key(1), 2, start=3), x[3:5], y[3:5])
    np.testing.assert_allclose(part, run(key(1), x, y)[3:5], rtol=2e-5, atol=1e-6)


def test_what_the_start_holds_in_the_observed_part_does_not_matter():
    sampler = replacement(sampling.ddim(VE, distributions.score_of(mixture(), VE)), VE, FIRST, Y)
    a, b = (sampling.sample(key(), sampler, jnp.array([[v, 2.0]]), grids.log_snr(VE, 4)) for v in (0.0, 1e3))
    np.testing.assert_array_equal(a, b)


def test_unusable_samplers_and_observations_are_refused():
    for make in MULTISTEP.values():
        with pytest.raises(InputError, match="replacement changes x between steps"):
            replacement(make(VE, correlated), VE, FIRST, Y)
    ddim = sampling.ddim(VE, lambda x, t: x)
    with pytest.raises(InputError, match=r"mask of shape \(2,\) does not fit examples of shape \(3,\)"):
        sampling.sample(key(), replacement(ddim, VE, FIRST, jnp.zeros((1, 3))), jnp.ones((4, 3)), jnp.array([0.5, 0.4]))
    for y, shown in ((jnp.zeros((3, 2)), r"y is \(3, 2\)"), (jnp.zeros((1, 2, 2)), r"y is \(1, 2, 2\)")):
        with pytest.raises(InputError, match=shown):
            sampling.sample(key(), replacement(ddim, VE, FIRST, y), jnp.ones((4, 2)), jnp.array([0.5, 0.4]))
