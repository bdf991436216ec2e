"""Methods under a paper's name against the numbers of azula and deepinv on an exact denoiser, in double precision.

Points, operator, noise and results are stored in tests/data/conditioning; how they were made is said in
tests/data/README.md. The two packages and this one write the same methods in different terms, which the tests convert;
where they compute something else, it is asserted how much else.
"""

import functools
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax import arrays, distributions, sampling
from score_jax import sde as sdes
from score_jax.conditioning import (
    classifier_free,
    ddrm,
    diffpir,
    dps,
    dps_ancestral,
    likelihood_guidance,
    mmps,
    pigdm,
    repaint,
    replacement,
    tds,
    tmpd,
)
from score_jax.conditioning.observed import remaining_variance
from score_jax.conditioning.operators import Linear, Mask
from tests.helpers import key, mixture

pytestmark = pytest.mark.usefixtures("x64")

DATA = Path(__file__).parent.parent / "data" / "conditioning"
PROBLEM, AZULA, DEEPINV = (dict(np.load(DATA / f"{name}.npz")) for name in ("problem", "azula", "deepinv"))
X, MATRIX, NOISE, TIMES = (PROBLEM[name] for name in ("x", "matrix", "noise", "times"))
Y, STD, ZETA = PROBLEM["y"][None], 0.4, 0.7
VP = sdes.VP()
LATER = pytest.mark.slow  # than the first
STEPS = [pytest.param(i, *TIMES[2 * i : 2 * i + 2], id=f"{TIMES[2 * i]}", marks=[LATER] * i) for i in (0, 1)]


_SCORE = jax.jit(lambda p, sde, x, t: distributions.score_of(p, sde)(x, t))


def exact(sde, scale=1.0):
    """The exact score function of `mixture`, its data times `scale`."""
    return functools.partial(_SCORE, mixture(6, full=True).affine(scale, 0.0), sde)


def score_fn(x, t):
    return exact(VP)(x, t)


def x_and(t):
    return jnp.asarray(X), jnp.asarray(t)


def estimate(guided, t):
    """The denoised estimate that a score stands for, `(4, 6)`."""
    x, t = x_and(t)
    return VP.denoise(x, t, guided(x, t))


def stepped(sampler, x, t, s, noise=()):
    """The state after a step from t to s of x, or of a state, whose draws are `noise` in turn."""
    drawn, keys = iter(noise), arrays.example_keys(key(), len(X))
    state = x if hasattr(x, "x") else sampler.init(jnp.asarray(x))
    with mock.patch.object(arrays, "normal", lambda key, like: jnp.asarray(next(drawn))):
        end = sampler.step(keys, state, jnp.asarray(t), jnp.asarray(s))
    assert next(drawn, None) is None, "the released code drew more noise"
    return end


def check(found, expected, rtol=1e-8):
    np.testing.assert_allclose(found, expected, rtol=0, atol=rtol * np.abs(expected).max())


def distance(found, expected):
    """Root mean square distance, relative to `expected`."""
    return float(np.linalg.norm(np.asarray(found) - expected) / np.linalg.norm(expected))


def length(x0):
    """‖y − A x0‖ of each row."""
    return jnp.linalg.norm(Y - x0 @ MATRIX.T, axis=1)


# azula


@pytest.mark.parametrize(("i", "t", "s"), STEPS)
def test_guided_estimates_are_azulas(i, t, s):
    """Its ω counts from the conditional model on, ours from the unconditional one: w = 1 + ω."""
    operator, p = Linear(MATRIX), mixture(6, full=True)
    one = distributions.GaussianMixture(jnp.ones(1), p.means[:1], p.variances[:1])
    conditional = distributions.score_of(one, VP)
    check(estimate(classifier_free(conditional, score_fn, 1 + 1.5), t), AZULA[f"cfg_{i}"])
    check(estimate(tmpd(VP, score_fn, operator, Y, noise_std=STD), t), AZULA[f"tmpd_{i}"])
    for n in (1, 3):
        found = estimate(mmps(VP, score_fn, operator, Y, noise_std=STD, n_steps=n), t)
        check(found, AZULA[f"mmps_cg_{n}_{i}"])
    check(found, AZULA[f"mmps_gmres_3_{i}"])


@pytest.mark.parametrize(("i", "t", "s"), STEPS)
def test_one_iteration_of_azulas_solver_is_not_the_exact_inverse(i, t, s):
    """Its default, for DiffPIR and MMPS; by as many as the system has eigenvalues it is what ours is.

    Of the guidance, one misses these shares in the root mean square.
    """
    plain, strong = estimate(score_fn, t), {"noise_std": STD, "strength": 2.0}
    restored = estimate(diffpir(VP, score_fn, Linear(MATRIX), Y, **strong), t)
    for solver in ("cg", "gmres"):
        check(restored, AZULA[f"diffpir_{solver}_6_{i}"])
    assert distance(AZULA[f"diffpir_gmres_1_{i}"] - plain, restored - plain) == pytest.approx(
        [0.480, 0.741][i], abs=1e-3
    )
    matched = AZULA[f"mmps_gmres_3_{i}"] - plain
    for solver, missed in {"gmres": [0.310, 0.683], "cg": [0.326, 0.683]}.items():
        assert distance(AZULA[f"mmps_{solver}_1_{i}"] - plain, matched) == pytest.approx(missed[i], abs=1e-3)


@pytest.mark.parametrize(("i", "t", "s"), STEPS)
def test_a_step_of_dps_is_azulas(i, t, s):
    """Of one row. It takes the norm of a whole batch at once, so that what a row gets hangs on the others."""
    found = stepped(dps_ancestral(VP, score_fn, Linear(MATRIX), Y, step_size=ZETA), X, t, s, NOISE[:1]).x
    check(found, AZULA[f"dps_{i}"])
    plain = stepped(sampling.ancestral(VP, score_fn), X, t, s, NOISE[:1]).x
    check(plain, AZULA[f"ddpm_{i}"])
    each = length(estimate(score_fn, t))
    check((found - plain) * (each / jnp.linalg.norm(each))[:, None], AZULA[f"dps_batch_{i}"] - AZULA[f"ddpm_{i}"])


@pytest.mark.parametrize(("i", "t", "s"), STEPS)
def test_pigdm_is_azulas_before_the_factor_of_the_released_code(i, t, s):
    """It adds α_s α_t r² ∇log p(y|x) to DDIM's step, of an observation without noise, whatever the step is.

    The score in the same step adds (α_s − σ_s α_t/σ_t) σ_t²/α_t times ∇ log p(y|x).
    """
    operator, (x, time) = Linear(MATRIX), x_and(t)
    plain = stepped(sampling.ddim(VP, score_fn), X, t, s).x
    check(plain, AZULA[f"ddim_{i}"])
    alpha, sigma = zip(*((VP.alpha(v), VP.sigma(v)) for v in (time, jnp.asarray(s))), strict=True)
    for data_std in (1.0, 0.5):
        guided = pigdm(VP, score_fn, operator, Y, noise_std=0.0, data_std=data_std)
        variance = remaining_variance(VP, time, data_std)
        added = AZULA[f"pgdm_{i}"] - AZULA[f"ddim_{i}"]
        check(alpha[1] * alpha[0] * variance * (guided(x, time) - score_fn(x, time)), added)
        ours = stepped(sampling.ddim(VP, guided), X, t, s).x - plain
        share = (alpha[1] - sigma[1] * alpha[0] / sigma[0]) * sigma[0] ** 2 / alpha[0]
        check(ours, share / (alpha[1] * alpha[0] * variance) * added)


@pytest.mark.parametrize(("i", "t", "s"), STEPS)
def test_repaint_is_azulas_but_for_the_noise_on_the_observed_part(i, t, s):
    """It leaves the observed part noised, where ours is y at the end of a step; and it repeats a grid's last step too.

    It noises y to level s, and that to t; here to t at once: with noise z of the same x_t the rest is the same.
    """
    mask = np.array([True, True, False, False, True, False])
    y = np.zeros((1, 6))
    y[:, mask] = Y
    at, to = (np.asarray(f(jnp.asarray([t, s]))) for f in (VP.alpha, VP.sigma))
    ratio, added = (np.asarray(v) for v in VP.transition(*x_and(t)[1:], jnp.asarray(s)))
    first = (X - at[0] * y) / to[0]  # what makes x_t of y
    later = (ratio * to[1] * NOISE[1] + np.sqrt(added) * NOISE[2]) / to[0]
    sampler, ts = sampling.ddim(VP, score_fn), jnp.asarray([t, s, s])
    once = stepped(replacement(sampler, VP, Mask(mask), jnp.asarray(y)), X, t, s, [first]).x
    twice = repaint(sampler, VP, Mask(mask), jnp.asarray(y), n_resample=2).along(ts)  # all steps but the last
    for n, found in ((1, once), (2, stepped(twice, X, t, s, [first, NOISE[2], later]).x)):
        end = AZULA[f"repaint_{n}_{i}"]
        check(found[:, ~mask], end[:, ~mask])
        check(end[:, mask] - found[:, mask], to[1] * NOISE[3 * n - 2][:, mask])


@pytest.mark.parametrize(("i", "t", "s"), STEPS)
def test_a_particles_step_and_weight_are_azulas(i, t, s):
    """Of one particle at a time: it draws them again before each step, one by one, and ours where few are left.

    By ψ_T too, before the first; its weight after a step is what is gained from there on.
    """
    sampler = tds(VP, score_fn, Linear(MATRIX), Y, noise_std=STD, threshold=1e-9).along(jnp.asarray([t, s, 0.1]))
    state = stepped(sampler, X, t, s, NOISE[:1])
    check(state.x, AZULA[f"tds_{i}"])
    check(state.log_weights - sampler.init(jnp.asarray(X)).log_weights, AZULA[f"tds_log_w_{i}"])


# deepinv, whose fidelities take x and give a gradient in float32


@pytest.mark.parametrize(("i", "t", "s"), STEPS)
def test_guided_scores_are_deepinvs(i, t, s):
    """DPS's σ_y² is σ_y² + σ²/α² there if "annealed", and its likelihood e^{−ζ‖y − A x̂0‖} otherwise."""
    operator, (x, time) = Linear(MATRIX), x_and(t)
    scale = lambda t: STD**2 / (STD**2 + VP.variance(t) / VP.alpha(t) ** 2)
    for name, guided in {
        "pigdm": pigdm(VP, score_fn, operator, Y, noise_std=STD),
        "mmps_1": mmps(VP, score_fn, operator, Y, noise_std=STD, n_steps=1),
        "mmps_3": mmps(VP, score_fn, operator, Y, noise_std=STD, n_steps=3),
        "dps_annealed": dps(VP, score_fn, operator, Y, noise_std=STD, scale=scale),
        "dps_norm": likelihood_guidance(VP, score_fn, lambda x0: -ZETA * length(x0)),
    }.items():
        check(guided(x, time), DEEPINV[f"{name}_{i}"], 1e-5)


@pytest.mark.parametrize(("i", "t", "s"), STEPS)
def test_a_step_of_deepinvs_dps_is_shorter_than_the_released_one(i, t, s):
    """The gradient is part of the score there, which a step multiplies by σ²_{t|s}/α_{t|s}, not ζ alone."""
    by_score = likelihood_guidance(VP, score_fn, lambda x0: -ZETA * length(x0))
    check(stepped(sampling.ancestral(VP, by_score), X, t, s, NOISE[:1]).x, DEEPINV[f"dps_step_{i}"], 1e-5)
    plain = stepped(sampling.ancestral(VP, score_fn), X, t, s, NOISE[:1]).x
    released = stepped(dps_ancestral(VP, score_fn, Linear(MATRIX), Y, step_size=ZETA), X, t, s, NOISE[:1]).x
    ratio, added = VP.transition(*x_and(t)[1:], jnp.asarray(s))
    check(added / ratio * (released - plain), DEEPINV[f"dps_step_{i}"] - plain, 1e-4)
    assert added / ratio == pytest.approx([0.585, 0.179][i], abs=1e-3)


def test_ddrm_is_deepinvs_but_for_the_variance_of_its_noise():
    """Half of the published one: its draws are divided by √2. To 1e-5, since it adds 1e-6 to singular values."""
    sde = sdes.VE(0.01, 50.0)
    of_data = exact(sde)
    operator = Linear(np.diag([1.0, 0.8, 0, 0, 1.2, 0])[np.array([0, 1, 4])])
    sampler = ddrm(sde, of_data, operator, Y, noise_std=0.3, eta=0.85)
    ts = sde.time(-2 * jnp.log(jnp.array([1.0, 0.5, 0.2])))
    for n in (0, 1):
        drawn = NOISE[n + 1 : n + 2] / np.sqrt(2)
        check(stepped(sampler, DEEPINV["ddrm_x"][n], ts[n], ts[n + 1], drawn).x, DEEPINV["ddrm_x"][n + 1], 1e-5)
    last = jnp.asarray(DEEPINV["ddrm_x"][2])
    check(sde.denoise(last, ts[2], of_data(last, ts[2])), DEEPINV["ddrm_end"], 1e-5)


def test_diffpir_is_deepinvs_with_half_its_strength():
    """Its λ goes with σ_y of images in [0, 1] and σ of data in [−1, 1], and a factor 2: ours of data is λ/2.

    Data are the mixture over 4, within [−1, 1], where it clips; its tables are float32.
    """
    sde = sdes.Tabulated(DEEPINV["diffpir_bars"][::-1])
    guided = diffpir(sde, exact(sde, 0.25), Linear(MATRIX), DEEPINV["diffpir_y"], noise_std=2 * 0.05, strength=7 / 2)
    sampler = sampling.ddim(sde, guided, eta=lambda x, t, s: 0.3 * sde.variance(s))
    ts = jnp.array([3, 2, 1]) / 3
    for n in (0, 1):
        found = stepped(sampler, DEEPINV["diffpir_x"][n], ts[n], ts[n + 1], NOISE[n + 1 : n + 2]).x
        check(found, DEEPINV["diffpir_x"][n + 1], 1e-5)
