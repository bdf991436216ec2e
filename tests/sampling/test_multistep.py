"""DPM-Solver++ and UniPC written out on every kind of SDE, and the limits of their orders; see `test_released`, too."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import ndtr

from score_jax import distributions, sampling
from score_jax.sampling import grids
from tests.helpers import SAMPLERS, SDES, key, stepwise

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


def written_2m(alpha, sigma, lam, factor, x, lower_order_final, eta=0):
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


def written_unipc(alpha, sigma, lam, factor, x, lower_order_final, order):
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


def written_3m(alpha, sigma, lam, factor, x, lower_order_final):
    """First, second (2M), then third-order steps, with the polynomial's 2 φ₃; released code has φ₃ there."""
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


WRITTEN = {
    "dpm_solver_pp": (sampling.dpm_solver_pp, written_2m),
    "dpm_solver_pp_3": (functools.partial(sampling.dpm_solver_pp, order=3), written_3m),
    **{
        f"unipc_{p}": (functools.partial(sampling.unipc, order=p), functools.partial(written_unipc, order=p))
        for p in (1, 2, 3)
    },
}


def test_sde_dpm_solver_pp_2m_has_the_mean_written_out(x64):
    """Of 40,000 draws of N(0, V)'s linear score: noise that enters linearly leaves the mean of written_2m(eta=1)."""
    sde, n = SDES["vp"], 40_000
    sampler = SAMPLERS["dpm_solver_pp_sde"](sde, linear_score(sde))
    x = sampling.sample(key(), sampler, jnp.full((n, 1), 1.3), jnp.asarray(TIMES))
    mean = written_2m(*schedule(sde, TIMES), 1.3, lower_order_final=True, eta=1)
    np.testing.assert_allclose(x.mean(), mean, atol=4 * float(x.std()) / 200)


@pytest.mark.parametrize(("make", "written"), WRITTEN.values(), ids=WRITTEN.keys())
def test_it_is_the_algorithm_written_out(make, written, x64):
    """Four steps of growing order from x = 1.3, the last of them of first order or not."""
    for name in ("vp", "ve", "flow"):
        for limit in ("never", "long"):
            sampler = make(SDES[name], linear_score(SDES[name]), lower_order=limit)
            end = stepwise(sampler, key(), jnp.full((1, 1), 1.3), jnp.asarray(TIMES))[0, 0]
            expected = written(*schedule(SDES[name], TIMES), 1.3, lower_order_final=limit == "long")
            np.testing.assert_allclose(end, expected, rtol=1e-12, err_msg=f"{name} {limit}")


def test_orders_are_limited_where_steps_are_long_or_grow(x64):
    """The end of three steps of ½, ½ and h in λ: of third order where h² ≤ ½, the last of second where h ≤ ½.

    h² is 0.98/2 and 1.02/2, then h is 0.49 and 0.51; a step of the sampler by itself is of no grid, and not its last.
    """
    sde, start = SDES["vp"], jnp.full((1, 1), 1.3)
    score_fn = linear_score(sde)

    def ends(make, ts):
        samplers = [make(sde, score_fn, order=p, lower_order=limit) for limit in ("never", "long") for p in (2, 3)]
        of_no_grid = samplers[3]._replace(along=None)
        return [stepwise(sampler, key(), start, ts)[0, 0] for sampler in (*samplers, of_no_grid)]

    same = lambda a, b: abs(a - b) < 1e-12
    for h, third, second in ((0.70, True, False), (0.72, False, False), (0.49, True, True), (0.51, True, False)):
        ts = sde.time(2 * jnp.asarray([-1.0, -0.5, 0.0, h]))  # log-SNR is 2 λ
        for make in (sampling.dpm_solver_pp, sampling.unipc):
            p2, p3, long2, long3, alone = ends(make, ts)
            # an order moves the end by 1e-3 and more, double precision by 1e-15
            assert abs(p3 - p2) > 1e-4
            assert same(alone, p3 if third else p2), h
            assert same(long2, p2) == second, h
            assert same(long3, p3 if second else long2), h


@pytest.mark.parametrize("make", [sampling.dpm_solver_pp, sampling.unipc, sampling.deis])
def test_limits_by_the_steps_that_are_left_take_no_account_of_standing_still(make, x64):
    """Of order 3 on five steps, three ends; the same where the grid goes on standing at its end."""
    sde, start = SDES["vp"], jnp.full((1, 1), 1.3)
    ts = sde.time(2 * jnp.linspace(-1.0, 1.0, 6))

    def ends(ts):
        limits = "never", "denoised", "last"
        samplers = [make(sde, linear_score(sde), order=3, lower_order=limit) for limit in limits]
        return jnp.stack([stepwise(sampler, key(), start, ts)[0, 0] for sampler in samplers])

    found = ends(ts)
    assert (abs(found[:, None] - found[None]) > 1e-5).sum() == 6
    np.testing.assert_allclose(ends(jnp.append(ts, jnp.full(3, ts[-1]))), found, rtol=1e-12)


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
    makers = [
        sampling.dpm_solver_pp,
        functools.partial(sampling.dpm_solver_pp, order=3),
        functools.partial(sampling.dpm_solver_pp, lower_order="never"),
        functools.partial(sampling.dpm_solver_pp, order=3, quadratic="halved", lower_order="never"),
        sampling.unipc,
        functools.partial(sampling.unipc, order=3),
    ]

    def run(start, end, ts):
        sde = SDES["vp"]
        data = distributions.GaussianMixture(jnp.asarray(weights), jnp.asarray(means)[:, None], variance)
        score_fn = distributions.score_of(data, sde)
        x = jnp.stack([end, *(sampling.sample(key(), make(sde, score_fn), start, ts) for make in makers)])
        return jax.vmap(lambda x: sde.denoise(x, ts[-1], score_fn(x, ts[-1])))(x)

    return jax.jit(run)


# Of an implementation in NumPy: (SDE, grid, steps), and the errors of 2M and 3M; of both as released for long runs, no
# lower orders and half of the quadratic term; and of UniPC-2 and UniPC-3. More are in experiments/studies/few_steps.
ERRORS = {
    ("edm", "karras", 5): (0.2871, 0.2871, 0.4583, 1.331, 0.2918, 0.2921),
    ("edm", "karras", 8): (0.2024, 0.2024, 0.2490, 0.1765, 0.1963, 0.1981),
    ("vp", "karras", 20): (0.01952, 0.0489, 0.02021, 0.03046, 0.007626, 0.04029),
    ("vp", "uniform", 10): (0.07889, 0.07474, 0.3195, 1.585, 0.07199, 0.07512),
    ("flow", "log_snr", 8): (0.2606, 0.2606, 0.2687, 0.2218, 0.2523, 0.2543),
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
