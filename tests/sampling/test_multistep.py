"""DPM-Solver++ and UniPC: their published equations, orders, relatives, and a memory that a standing step leaves."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import ndtr

from score_jax import arrays, distributions, sampling
from score_jax.sampling import grids
from tests.helpers import SAMPLERS, SDES, key

pytestmark = pytest.mark.usefixtures("strict_dtypes")

# The exact score of N(0, V): the estimate of x0 is linear in x, and so is every sampler without noise. On VP, VE and
# flow the steps are from 0.4 to 0.86 long in λ, no h²/h_before is above 0.86, and the last step is 0.57 and more long.
V, TIMES = 0.25, (0.5, 0.4, 0.3, 0.2, 0.12)


def linear_score(sde):
    return distributions.score_of(distributions.Gaussian(jnp.zeros(1), V), sde)


def schedule(sde, ts):
    """α, σ, λ in float64, and the factor of x in the estimate of x0, at the times."""
    alpha, sigma = (np.asarray(f(jnp.asarray(ts)), np.float64) for f in (sde.alpha, sde.sigma))
    return alpha, sigma, np.log(alpha / sigma), alpha * V / (alpha**2 * V + sigma**2)


def published_2m(alpha, sigma, lam, factor, x, lower_order_final, eta=0):
    """Lu et al. 2022, algorithm 2; with eta = 1 and no noise, the mean of SDE-DPM-Solver++ 2M."""
    before = None
    for i in range(len(alpha) - 1):
        m, h = factor[i] * x, lam[i + 1] - lam[i]
        r = (lam[i] - lam[i - 1]) / h if i else None
        first = before is None or (lower_order_final and i == len(alpha) - 2)
        d = m if first else (1 + 1 / (2 * r)) * m - before / (2 * r)
        x = sigma[i + 1] / sigma[i] * np.exp(-eta * h) * x + alpha[i + 1] * (1 - np.exp(-(1 + eta) * h)) * d
        before = m
    return x


def published_unipc(alpha, sigma, lam, factor, x, lower_order_final, order):
    """Zhao et al. 2023, algorithms 5 to 8, data prediction, B₂(h): linear systems R ρ = b, as in their appendix."""

    def coefficients(r, hh):
        phi, b = np.expm1(hh) / hh - 1, []
        for j in range(1, len(r) + 1):
            b.append(phi * float(np.prod(np.arange(1, j + 1))) / np.expm1(hh))
            phi = phi / hh - 1 / float(np.prod(np.arange(1, j + 2)))
        return np.linalg.solve(np.vander(r, increasing=True).T, b)

    ms = [factor[0] * x]
    for i in range(1, len(alpha)):
        p = 1 if lower_order_final and i == len(alpha) - 1 else min(i, order)
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


def published_3m(alpha, sigma, lam, factor, x, lower_order_final):
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
        if i > 1 and not (lower_order_final and i == len(alpha) - 2):
            r0, r1 = (lam[i] - lam[i - 1]) / h, (lam[i - 1] - lam[i - 2]) / h
            d0, d1 = (ms[0] - ms[1]) / r0, (ms[1] - ms[2]) / r1
            d2 = (d0 - d1) / (r0 + r1)
            new += alpha[i + 1] * (phi2 * (d0 + r0 * d2) - 2 * phi3 * d2)
        x = new
    return x


PUBLISHED = {
    "dpm_solver_pp": (sampling.dpm_solver_pp, published_2m),
    "dpm_solver_pp_3": (functools.partial(sampling.dpm_solver_pp, order=3), published_3m),
    **{
        f"unipc_{p}": (functools.partial(sampling.unipc, order=p), functools.partial(published_unipc, order=p))
        for p in (1, 2, 3)
    },
}


def test_sde_dpm_solver_pp_2m_has_the_published_mean(x64):
    """Of 40,000 draws of N(0, V)'s linear score: noise that enters linearly leaves the mean of published_2m(eta=1)."""
    sde, n = SDES["vp"], 40_000
    sampler = SAMPLERS["dpm_solver_pp_sde"](sde, linear_score(sde))
    x = sampling.sample(key(), sampler, jnp.full((n, 1), 1.3), jnp.asarray(TIMES))
    mean = published_2m(*schedule(sde, TIMES), 1.3, lower_order_final=True, eta=1)
    np.testing.assert_allclose(x.mean(), mean, atol=4 * float(x.std()) / 200)


@pytest.mark.parametrize(("make", "published"), PUBLISHED.values(), ids=PUBLISHED.keys())
def test_it_is_the_published_algorithm(make, published, x64):
    """Four steps of growing order from x = 1.3, the last of them of first order or not."""
    ts = jnp.asarray(TIMES)

    @jax.jit
    def ends(sde):
        x = jnp.full((1, 1), 1.3)
        makers = [functools.partial(make, lower_order_final=lower) for lower in (False, True)]
        return [sampling.sample(key(), make(sde, linear_score(sde)), x, ts)[0, 0] for make in makers]

    for name in ("vp", "ve", "flow"):
        expected = [published(*schedule(SDES[name], TIMES), 1.3, lower_order_final=lower) for lower in (False, True)]
        np.testing.assert_allclose(ends(SDES[name]), expected, rtol=1e-12, err_msg=name)


def test_orders_are_limited_where_steps_are_long_or_grow(x64):
    """The end of three steps of ½, ½ and h in λ: of third order where h² ≤ ½, the last of second where h ≤ ½.

    h² is 0.98/2 and 1.02/2, then h is 0.49 and 0.51; a step of the sampler by itself is of no grid, and not its last.
    """
    sde, start = SDES["vp"], jnp.full((1, 1), 1.3)
    score_fn = linear_score(sde)
    makers = [
        functools.partial(make, sde, score_fn, order=p, lower_order_final=lower)
        for make in (sampling.dpm_solver_pp, sampling.unipc)
        for p, lower in ((3, False), (2, False), (3, True), (2, True))
    ]

    def step_by_step(sampler, ts):
        state = sampler.init(start)
        for t, s in itertools.pairwise(ts):
            state = sampler.step(arrays.example_keys(key(), 1), state, t, s)
        return state.x[0, 0]

    @jax.jit
    def ends(ts):
        along = [sampling.sample(key(), make(), start, ts)[0, 0] for make in makers]
        return along, [step_by_step(makers[i](), ts) for i in (3, 7)]

    for h, third, second in ((0.70, True, False), (0.72, False, False), (0.49, True, True), (0.51, True, False)):
        ts = sde.time(2 * jnp.asarray([-1.0, -0.5, 0.0, h]))  # log-SNR is 2 λ
        along, by_hand = ends(ts)
        for (p3, p2, lower_p3, lower_p2), alone in zip((along[:4], along[4:]), by_hand, strict=True):
            # an order moves the end by 1e-3 and more, double precision by 1e-15
            assert (abs(p3 - p2) > 1e-4) == third, h
            assert (abs(lower_p2 - p2) > 1e-4) == (not second), h
            assert (abs(lower_p3 - p3) > 1e-4) == (not second), h
            assert abs(alone - p2) < 1e-12


ON_THE_LINE = np.array([0.7, 0.3]), np.array([2.0, -1.0]), 0.05  # weights, means, variance


def quantiles(sde, t):
    """The quantiles (i + ½)/200 of the mixture's marginal at t, `(200, 1)`, by bisection."""
    weights, means, variance = ON_THE_LINE
    alpha, std = float(sde.alpha(t)), float(jnp.sqrt(sde.alpha(t) ** 2 * variance + sde.variance(t)))
    low, high = np.full((200, 1), -6 * alpha - 9 * std), np.full((200, 1), 6 * alpha + 9 * std)
    for _ in range(60):
        middle = (low + high) / 2
        below = (weights * ndtr((middle - alpha * means) / std)).sum(1, keepdims=True) < (
            (np.arange(200) + 0.5)[:, None] / 200
        )
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return jnp.asarray(middle)


@functools.cache
def few_steps():
    """`(start, end, ts) -> x̂_0 (7, 200, 1)` on VP, at the exact end and at those of six samplers, compiled."""
    weights, means, variance = ON_THE_LINE

    def run(start, end, ts):
        sde = SDES["vp"]
        data = distributions.GaussianMixture(jnp.asarray(weights), jnp.asarray(means)[:, None], variance)
        score_fn = distributions.score_of(data, sde)
        makers = [
            functools.partial(make, order=p, lower_order_final=lower)
            for make, lower in ((sampling.dpm_solver_pp, True), (sampling.dpm_solver_pp, False), (sampling.unipc, True))
            for p in (2, 3)
        ]
        x = jnp.stack([end, *(sampling.sample(key(), make(sde, score_fn), start, ts) for make in makers)])
        return jax.vmap(lambda x: sde.denoise(x, ts[-1], score_fn(x, ts[-1])))(x)

    return jax.jit(run)


# Of an implementation in NumPy: (SDE, grid, steps), and the errors of 2M and 3M, of 2M and 3M without the lower order
# at the end, and of UniPC-2 and UniPC-3.
ERRORS = {
    ("edm", "karras", 5): (0.2871, 0.2871, 0.4583, 0.4583, 0.2918, 0.2921),
    ("edm", "karras", 8): (0.2024, 0.2024, 0.2490, 0.2490, 0.1963, 0.1981),
    ("vp", "karras", 20): (0.01952, 0.0489, 0.02021, 0.05375, 0.007626, 0.04029),
    ("vp", "uniform", 10): (0.07889, 0.07474, 0.3195, 0.3066, 0.07199, 0.07512),
    ("flow", "log_snr", 8): (0.2606, 0.2606, 0.2687, 0.2687, 0.2523, 0.2543),
}


@pytest.mark.parametrize("case", ERRORS, ids=str)
def test_errors_of_few_steps_are_those_measured(case, x64):
    """Relative root mean square errors of x̂_0 at the end, on the quantiles (i + ½)/200 of a mixture on the line.

    The flow keeps quantiles. Steps know σ/α alone, so that VP visits the levels of all grids. Numbers have four digits.
    """
    name, grid, steps = case
    ends = {} if name == "edm" else {"t_end": 1e-3}
    ts = SDES["vp"].time(SDES[name].log_snr(getattr(grids, grid)(SDES[name], steps + 1, **ends)))
    start, truth = (quantiles(SDES["vp"], t) for t in (ts[0], ts[-1]))
    found = np.asarray(few_steps()(start, truth, jnp.pad(ts, (0, 20 - steps), mode="edge")))
    errors = np.sqrt(((found[1:] - found[0]) ** 2).mean((1, 2))) / found[0].std()
    np.testing.assert_allclose(errors, ERRORS[case], rtol=1e-3)
