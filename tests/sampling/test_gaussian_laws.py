"""The law of every sampler's end on Gaussian data, without drawing: a score or a noise wrong by a per cent shows.

With the exact score of N(m, v) a sampler is affine in its start and in its draws, z_k of step k. One run whose rows
have the start's mean, the mean and one standard deviation, and the mean with a single z_k = 1 and all others 0, gives
the mean of the end, as the first row's, and its variance, as the sum of the squares of the others' distances from it.

Discretisation errors of n steps, e(n) = c₁/n + c₂/n² + …, are extrapolated to none: from 32, 64 and 128 steps the first
two terms go, and what is left is of third order.
"""

import functools
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax import arrays, distributions, sampling
from score_jax.sampling import grids
from tests.helpers import SAMPLERS, SDES, AnySDE, key, often

pytestmark = pytest.mark.usefixtures("strict_dtypes", "x64")

MEAN, VARIANCE = 0.7, 0.5
STEPS = (32, 64, 128)
INDEX = {name: i for i, name in enumerate(SDES)}


def langevin(sde, score_fn):
    return sampling.annealed_langevin(sde, score_fn, step_size=0.1, n_steps=1, sigma_min=1.0, noise=late)


def late(key, x):
    """`arrays.normal` as it is when called: a default argument would be the one that is not replaced."""
    return arrays.normal(key, x)


# The first two are biased; Euler's steps down from noise raised by a tenth are as long however many there are; of the
# others `test_released` has the numbers to 1e-10.
ELSEWHERE = ("consistent_annealed", "predictor_corrector", "euler_churn")
ELSEWHERE += ("kdpm2", "lms", "deis", "dpm_solver_3", "ancestral_learned_range")
CONVERGENT = {
    **{name: make for name, make in SAMPLERS.items() if name not in ELSEWHERE},
    "unipc_1": functools.partial(sampling.unipc, order=1),
    "dpm_solver_pp_sde_3": functools.partial(sampling.dpm_solver_pp, order=3, eta=1.0),
}
BIASED = {
    "annealed_langevin": langevin,
    "predictor_corrector": lambda sde, s: sampling.predictor_corrector(sampling.ancestral(sde, s), langevin(sde, s)),
    "consistent_annealed": lambda sde, s: sampling.consistent_annealed(
        sde, s, step_size=0.5, sigma_min=1.0, noise=late
    ),
}


def law(make, draws):
    """`(SDE's index, n, ts) -> (mean, variance)` after n steps from the exact marginal, `draws` of z at most in each.

    In units of the marginal at the end: 0 and 1.
    """

    def run(index, n, ts):
        sde, rows = AnySDE(index), 2 + draws * (len(ts) - 1)
        score_fn = distributions.score_of(distributions.Gaussian(jnp.full(1, MEAN), VARIANCE), sde)
        sampler = make(sde, score_fn)
        sampler = sampler if sampler.along is None else sampler.along(ts)
        means, stds = sde.alpha(ts) * MEAN, jnp.sqrt(sde.alpha(ts) ** 2 * VARIANCE + sde.variance(ts))
        x, keys = jnp.full((rows, 1), means[0]).at[1].add(stds[0]), arrays.example_keys(key(), rows)

        def step(i, state):
            drawn = iter(range(draws))

            def normal(key, like):
                return jnp.where(jnp.arange(rows) == 2 + draws * i + next(drawn), 1.0, 0.0)[:, None]

            with mock.patch.object(arrays, "normal", normal):
                return sampler.step(keys, state, ts[i], ts[i + 1])

        x = jax.lax.fori_loop(0, n, step, sampler.init(x)).x[:, 0]
        return jnp.stack([(x[0] - means[-1]) / stds[-1], ((x[1:] - x[0]) ** 2).sum() / stds[-1] ** 2])

    return jax.jit(run)


def levels(name, n):
    """n steps equal in log-SNR, and a grid that stands at the end from then on, of the same length for all n."""
    sde = SDES[name]
    end = None if name in ("ve", "edm") else 1e-3
    return jnp.pad(grids.log_snr(sde, n + 1, t_end=end), (0, STEPS[-1] - n), mode="edge")


def extrapolated(run, name):
    """Mean and variance of the end in the limit of many steps."""
    few, more, most = (run(INDEX[name], n, levels(name, n)) for n in STEPS)
    return (4 * (2 * most - more) - (2 * more - few)) / 3


# A sampler of every kind of step; the others are these of another order or noise
OFTEN = ("euler_maruyama", "reverse_diffusion", "ddim", "heun", "dpm_solver_pp")


@pytest.mark.parametrize("name", often(CONVERGENT, OFTEN))
def test_its_law_converges_to_the_marginals(name):
    """On every SDE. What extrapolation leaves of the variance is 0.005 at most, 0.014 of Euler's on VE.

    A noise or a score wrong by 5 %, either way, changes it by 0.09 to 0.11 where noise is drawn (of `ddim_eta_half` the
    score by 0.19 to 0.3, of `heun_churn` by 0.04), by 0.35 to 1.1 on the probability flow.
    """
    run = law(CONVERGENT[name], draws=1)
    found = {sde_name: extrapolated(run, sde_name) for sde_name in SDES}
    slack = 0.02 if name == "euler" else 0.007
    for sde_name, (mean, variance) in found.items():
        np.testing.assert_allclose(mean, 0, atol=1e-3, err_msg=sde_name)
        np.testing.assert_allclose(variance, 1, atol=slack, err_msg=sde_name)


def test_the_adaptive_flow_keeps_the_law():
    """From one end to the other, on every SDE, at a tolerance of 1e-5."""
    run = law(sampling.adaptive_flow, draws=0)
    for sde_name in SDES:
        np.testing.assert_allclose(run(INDEX[sde_name], 1, levels(sde_name, 1)), [0, 1], atol=1e-4, err_msg=sde_name)


def variance_by_hand(name, sde, ts):
    """The variance of the chain by its recursion, in units of the marginal's at the end."""
    alpha, noise = (np.asarray(f(ts)) for f in (sde.alpha, sde.variance))
    u = alpha**2 * VARIANCE + noise
    v = u[0]
    for t, s in zip(range(len(ts) - 1), range(1, len(ts)), strict=True):
        ratio = alpha[t] / alpha[s]
        if name == "consistent_annealed":
            gamma = np.sqrt(noise[s] / noise[t]) * ratio
            kept = np.clip(0.75, -gamma, gamma)
            v = ((1 - (1 - kept) * noise[t] / u[t]) / ratio) ** 2 * v + noise[s] * (1 - (kept / gamma) ** 2)
            continue
        if name == "annealed_langevin":
            v = v / ratio**2  # carried over in x/α
        if name == "predictor_corrector":
            added = noise[t] - ratio**2 * noise[s]
            v = ((1 - added / u[t]) / ratio) ** 2 * v + added * noise[s] / noise[t]
        eps = 0.1 * noise[s]
        v = (1 - eps / (2 * u[s])) ** 2 * v + eps
    return v / u[-1]


@pytest.mark.parametrize("name", BIASED)
def test_its_law_is_that_of_its_recursion(name):
    """128 steps on every SDE of samplers that Langevin steps bias, in double precision.

    Of so many, `consistent_annealed` adds noise at every one: γ > 0.9, and three quarters of the noise is kept.
    """
    run = law(BIASED[name], draws=2)
    for sde_name, sde in SDES.items():
        ts = levels(sde_name, STEPS[-1])
        found = run(INDEX[sde_name], STEPS[-1], ts)
        np.testing.assert_allclose(found[1], variance_by_hand(name, sde, ts), rtol=1e-6, err_msg=sde_name)
