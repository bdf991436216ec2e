"""DPM-Solver++ and UniPC: their published equations, orders, relatives, and a memory that a standing step leaves."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax import distributions, sampling
from score_jax.sampling import grids, multistep
from tests.helpers import SAMPLERS, SDES, key, mixture

pytestmark = pytest.mark.usefixtures("strict_dtypes")

# The exact score of N(0, V): the estimate of x0 is linear in x, and so is every sampler without noise.
V, TIMES = 0.25, (0.9, 0.7, 0.55, 0.35, 0.2)


def linear_score(sde):
    return distributions.score_of(distributions.Gaussian(jnp.zeros(1), V), sde)


def schedule(sde, ts):
    """α, σ, λ in float64, and the factor of x in the estimate of x0, at the times."""
    alpha, sigma = (np.asarray(f(jnp.asarray(ts)), np.float64) for f in (sde.alpha, sde.sigma))
    return alpha, sigma, np.log(alpha / sigma), alpha * V / (alpha**2 * V + sigma**2)


def published_2m(alpha, sigma, lam, factor, x, eta=0):
    """Lu et al. 2022, algorithm 2; with eta = 1 and no noise, the mean of SDE-DPM-Solver++ 2M."""
    before = None
    for i in range(len(alpha) - 1):
        m, h = factor[i] * x, lam[i + 1] - lam[i]
        r = (lam[i] - lam[i - 1]) / h if i else None
        d = m if before is None else (1 + 1 / (2 * r)) * m - before / (2 * r)
        x = sigma[i + 1] / sigma[i] * np.exp(-eta * h) * x + alpha[i + 1] * (1 - np.exp(-(1 + eta) * h)) * d
        before = m
    return x


def published_unipc(alpha, sigma, lam, factor, x, order):
    """Zhao et al. 2023, algorithms 5 to 8, data prediction, B₂(h): linear systems R ρ = b, as in their appendix."""

    def coefficients(r, hh):
        phi, b = np.expm1(hh) / hh - 1, []
        for j in range(1, len(r) + 1):
            b.append(phi * float(np.prod(np.arange(1, j + 1))) / np.expm1(hh))
            phi = phi / hh - 1 / float(np.prod(np.arange(1, j + 2)))
        return np.linalg.solve(np.vander(r, increasing=True).T, b)

    ms = [factor[0] * x]
    for i in range(1, len(alpha)):
        p = min(i, order)
        h = lam[i] - lam[i - 1]
        r = [(lam[i - 1 - k] - lam[i - 1]) / h for k in range(1, p)]
        d = [(ms[-1 - k] - ms[-1]) / r[k - 1] for k in range(1, p)]
        base = sigma[i] / sigma[i - 1] * x - alpha[i] * np.expm1(-h) * ms[-1]
        rho = [] if p == 1 else [0.5] if p == 2 else coefficients(np.array(r), -h)
        predicted = base - alpha[i] * np.expm1(-h) * np.dot(rho, d)
        if i == len(alpha) - 1:
            return predicted
        m = factor[i] * predicted
        rho = [0.5] if p == 1 else coefficients(np.array([*r, 1.0]), -h)
        x = base - alpha[i] * np.expm1(-h) * np.dot(rho, [*d, m - ms[-1]])
        ms.append(m)
    return None


def published_3m(alpha, sigma, lam, factor, x):
    """DPM-Solver++ 3M: first, second (2M), then third-order steps, with 2 φ₃ for the quadratic term."""
    ms = []
    for i in range(len(alpha) - 1):
        ms.insert(0, factor[i] * x)
        h = lam[i + 1] - lam[i]
        phi1 = np.expm1(-h)
        phi2 = phi1 / h + 1
        phi3 = phi2 / h - 0.5
        new = sigma[i + 1] / sigma[i] * x - alpha[i + 1] * phi1 * ms[0]
        if i == 1:
            new -= 0.5 * alpha[i + 1] * phi1 * (ms[0] - ms[1]) * h / (lam[1] - lam[0])
        if i > 1:
            r0, r1 = (lam[i] - lam[i - 1]) / h, (lam[i - 1] - lam[i - 2]) / h
            d0, d1 = (ms[0] - ms[1]) / r0, (ms[1] - ms[2]) / r1
            d2 = (d0 - d1) / (r0 + r1)
            new += alpha[i + 1] * (phi2 * (d0 + r0 * d2) - 2 * phi3 * d2)
        x = new
    return x


PUBLISHED = {
    "dpm_solver_pp": (SAMPLERS["dpm_solver_pp"], published_2m),
    "dpm_solver_pp_3": (SAMPLERS["dpm_solver_pp_3"], published_3m),
    "unipc_1": (functools.partial(sampling.unipc, order=1), functools.partial(published_unipc, order=1)),
    "unipc_2": (SAMPLERS["unipc"], functools.partial(published_unipc, order=2)),
    "unipc_3": (SAMPLERS["unipc_3"], functools.partial(published_unipc, order=3)),
}


def test_sde_dpm_solver_pp_2m_has_the_published_mean(x64):
    """Of 40,000 draws of N(0, V)'s linear score: noise that enters linearly leaves the mean of published_2m(eta=1)."""
    sde, n = SDES["vp"], 40_000
    sampler = SAMPLERS["dpm_solver_pp_sde"](sde, linear_score(sde))
    x = sampling.sample(key(), sampler, jnp.full((n, 1), 1.3), jnp.asarray(TIMES))
    np.testing.assert_allclose(x.mean(), published_2m(*schedule(sde, TIMES), 1.3, eta=1), atol=4 * float(x.std()) / 200)


@pytest.mark.parametrize(("make", "published"), PUBLISHED.values(), ids=PUBLISHED.keys())
def test_it_is_the_published_algorithm(make, published, x64):
    """Four steps of growing order from x = 1.3, on a grid whose steps in λ all differ by less than two."""
    for sde in (SDES["vp"], SDES["ve"], SDES["flow"]):
        x = sampling.sample(key(), make(sde, linear_score(sde)), jnp.full((1, 1), 1.3), jnp.asarray(TIMES))
        np.testing.assert_allclose(x[0, 0], published(*schedule(sde, TIMES), 1.3), rtol=1e-12)


@pytest.mark.parametrize(("name", "with_rule", "without"), [("dpm_solver_pp_3", 0.081, 1.35), ("unipc_3", 0.082, 1.44)])
def test_a_step_over_twice_as_long_as_the_last_is_of_first_order(name, with_rule, without, monkeypatch):
    """Ten uniform steps on VP down to 1e-3, of which the last is 4.6 times as long in λ as the one before.

    Root mean square errors of 256 rows against 100 steps in log-SNR, themselves wrong by less than 1e-4; the starts are
    always the same, and what is beyond rounding (1e-6, which the extrapolation multiplies by some 50) is 5 %.
    """
    sde, rows = SDES["vp"], 256
    score_fn, x = distributions.score_of(mixture(), sde), mixture().perturbed(sde, sde.t_max).sample(key(1), rows)

    def compiled():
        sampler = SAMPLERS[name](sde, score_fn)
        return jax.jit(lambda ts: sampling.sample(key(), sampler, x, ts))

    fine, coarse = (make(sde, n, t_end=1e-3) for make, n in ((grids.log_snr, 101), (grids.uniform, 11)))
    coarse = jnp.append(coarse, jnp.full(90, coarse[-1]))  # stands at the end: one program for both
    run = compiled()
    truth, found = run(fine), run(coarse)
    monkeypatch.setattr(multistep, "_trusted", lambda places, count: count)
    errors = [float(jnp.sqrt(((x - truth) ** 2).mean())) for x in (found, compiled()(coarse))]
    np.testing.assert_allclose(errors, [with_rule, without], rtol=0.05)


def test_twice_the_step_before_is_where_extrapolation_ends():
    sde, start = SDES["vp"], jnp.full((1, 1), 1.3)
    makers = [functools.partial(make, order=p) for make in (sampling.dpm_solver_pp, sampling.unipc) for p in (1, 2)]
    ends = jax.jit(
        lambda ts: [sampling.sample(key(), make(sde, linear_score(sde)), start, ts)[0, 0] for make in makers]
    )
    for ratio, extrapolated in ((1.98, True), (2.02, False)):
        ts = sde.time(2 * jnp.asarray([-1.0, -0.5, -0.5 + 0.5 * ratio]))  # log-SNR is 2 λ
        first, second, unipc_first, unipc_second = ends(ts)
        # the second order moves the end by a tenth of x̂_0's change, rounding by 1e-7
        assert (abs(second - first) > 1e-3) == extrapolated
        assert (abs(unipc_second - unipc_first) > 1e-3) == extrapolated
