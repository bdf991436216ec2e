"""Every sampler on every SDE reaches the mixture's moments; orders, identities and closed forms pin each one down."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from score_jax import arrays, distributions, sampling
from score_jax import sde as sdes
from score_jax.sampling import grids
from score_jax.types import InputError
from tests.helpers import (
    MULTISTEP,
    SAMPLERS,
    SDES,
    AnySDE,
    key,
    mixture,
    mixture_score,
    moments,
    often,
    stepwise,
    trace_counter,
)
from tests.sampling import test_gaussian_laws

pytestmark = pytest.mark.usefixtures("strict_dtypes")
each_sde = pytest.mark.parametrize("sde", SDES.values(), ids=SDES.keys())
# Langevin steps work at the level arrived at, and move on a step to the same time.
STANDING = {name: make for name, make in SAMPLERS.items() if name != "predictor_corrector"}
WITHOUT_NOISE = {name: make for name, make in MULTISTEP.items() if name != "dpm_solver_pp_sde"}
each_sampler = pytest.mark.parametrize("make", SAMPLERS.values(), ids=SAMPLERS.keys())


STEPS, ROWS = 100, 1024
INDEX = {name: i for i, name in enumerate(SDES)}
OFTEN = ("vp", "ve", "flow")  # those of most tests have a program of their own


@functools.cache
def compiled(make, names):
    """`(index, keys (B,), x (B, 2), ts (STEPS + 1,)) -> (x, denoised)` on the mixture, once for SDEs of these names."""

    def run(index, keys, x, ts):
        sde = AnySDE(index, names)
        score_fn = distributions.score_of(mixture(), sde)
        x = sampling.sample(keys, make(sde, score_fn), x, ts)
        return x, sde.denoise(x, ts[-1], score_fn(x, ts[-1]))

    return jax.jit(run)


def run(make, name, keys, x, ts):
    """Runs a sampler on the SDE of that name; a short grid ends standing still, as Langevin steps wouldn't."""
    ts = jnp.concatenate([ts, jnp.full(STEPS + 1 - len(ts), ts[-1])])
    names = OFTEN if name in OFTEN else tuple(SDES)
    return compiled(make, names)(names.index(name), arrays.example_keys(keys, len(x)), x, ts)


@functools.cache
def exact_start(name):
    return mixture().perturbed(SDES[name], SDES[name].t_max).sample(key(1), ROWS)


@functools.cache
def log_snr_grid(name, n=STEPS + 1):
    return grids.log_snr(SDES[name], n)


# Each time those whose law on every SDE is among the slow tests of `test_gaussian_laws`, on two SDEs.
@pytest.mark.parametrize("name", often(SDES, ("ve", "vp")))
@pytest.mark.parametrize("sampler", often(SAMPLERS, {*SAMPLERS} - {*test_gaussian_laws.OFTEN}))
def test_it_reaches_the_mixtures_moments_from_the_exact_marginal(sampler, name):
    make = SAMPLERS[sampler]
    mean, covariance = moments(mixture())
    x = np.asarray(run(make, name, key(2), exact_start(name), log_snr_grid(name))[1], np.float64)
    # 4 standard errors, and what 100 steps of a first-order method leave: 0.05 of the mean's spread of 1.3, and of
    # probability-flow Euler's variance on VE (0.18 at 200 uniform steps) at most 0.4. Of errors small beside these,
    # 5 % of a noise or a score, see `test_gaussian_laws`.
    np.testing.assert_allclose(x.mean(0), mean, atol=4 * np.sqrt(np.diag(covariance).max() / ROWS) + 0.05)
    fourth = ((x - x.mean(0)) ** 2).std(0).max()
    slack = 0.4 if make is sampling.euler else 0.12
    np.testing.assert_allclose(np.cov(x.T), covariance, atol=4 * fourth / ROWS**0.5 + slack)


IDENTITIES = {
    "ddim_eta_one_is_ancestral": (lambda sde, s: sampling.ddim(sde, s, eta=1.0), sampling.ancestral),
    "dpm_solver_pp_1_is_ddim": (lambda sde, s: sampling.dpm_solver_pp(sde, s, order=1), sampling.ddim),
    "sde_dpm_solver_pp_1_is_ancestral": (
        lambda sde, s: sampling.dpm_solver_pp(sde, s, order=1, eta=1.0),
        sampling.ancestral,
    ),
    "dpm_solver_pp_1_has_ddims_eta": (
        lambda sde, s: sampling.dpm_solver_pp(sde, s, order=1, eta=0.5),
        SAMPLERS["ddim_eta_half"],
    ),
}


@pytest.mark.parametrize(("one", "other"), IDENTITIES.values(), ids=IDENTITIES.keys())
def test_one_sampler_is_another(one, other):
    """Five steps from t_max to t_min with the same noise, on every SDE.

    In float32 x̂_0 is wrong by 6e-8 |x|/α = 6e-8·3 σ/α. The first step's error, up to 1e-3 on VE, is forgotten at the
    next level, of which σ/α is 14 to 40 times smaller; that of the levels near 1, after which nothing is forgotten, is
    some ten roundings of 6e-8·3·σ/α with σ/α up to 25: 5e-5 (1.5e-5 is the largest found). Rows that so few steps throw
    far out, to |x| of 66 on VP, have ten roundings of their own size besides: 6e-7 |x| (5.3e-5 found there).
    """
    for name in SDES:
        x, ts = exact_start(name), log_snr_grid(name, 6)
        samplers = [make(SDES[name], mixture_score(SDES[name])) for make in (one, other)]
        a, b = (stepwise(sampler, key(2), x, ts) for sampler in samplers)
        np.testing.assert_allclose(a, b, rtol=6e-7, atol=5e-5, err_msg=name)


# Grids for orders: equal steps h in log-SNR, the first three of them cut so that the steps grow 1.5-fold from h/1000 to
# h: the first steps of multistep methods are of first order, and errors of h² each would hide a higher one (3M's on a
# grid of equal steps falls as h^2.05; UniPC's third-order one, which starts at second order, as h^3.4).
ORDERS = {"euler": 1, "ddim": 1, "heun": 2, "dpm_solver_pp": 2, "dpm_solver_pp_3": 3, "unipc": 3, "unipc_3": 4}
ORDERS |= {"dpm_solver_3": 3, "deis": 3}
REFINED = 3 * 1.5 ** -np.arange(19, 0, -1.0)


@functools.cache
def flow_ends(name, sde_name):
    """Ends of the mixture's probability flow from σ/α = 4 to 0.1 in 48, 96 and 384 steps, `(3, 32, 2)` float64."""
    sde, longest = SDES[sde_name], 384 + len(REFINED) - 1
    x = mixture().perturbed(sde, sde.time(-2 * jnp.log(4.0))).sample(key(1), 32)
    ends = []
    for n in (48, 96, 384):
        ends_of_steps = np.concatenate([[0.0], REFINED, np.arange(3, n + 1)]) / n
        ts = np.full(longest, float(sde.time(-2 * jnp.log(0.1))))
        ts[: len(ends_of_steps)] = sde.time(-2 * (np.log(4.0) + np.log(0.1 / 4.0) * ends_of_steps))
        index, keys = OFTEN.index(sde_name), arrays.example_keys(key(), 32)
        ends.append(compiled(SAMPLERS[name], OFTEN)(index, keys, x, jnp.asarray(ts))[0])
    return np.stack(ends)


@pytest.mark.parametrize("sde_name", often(OFTEN, ("vp",)))
@pytest.mark.parametrize(("name", "order"), ORDERS.items(), ids=ORDERS.keys())
def test_empirical_order_on_the_probability_flow(name, order, sde_name, x64):
    """Halving the step divides the error by 2^order; the truth is the best method's end at an eighth of the step."""
    truth = flow_ends("unipc_3", sde_name)[2]
    errors = np.sqrt(((flow_ends(name, sde_name)[:2] - truth) ** 2).mean((1, 2)))
    np.testing.assert_allclose(np.log2(errors[0] / errors[1]), order, atol=0.1)


@pytest.mark.parametrize(
    "name", ["euler_maruyama", "reverse_diffusion", "ancestral", "ancestral_transition", "ddim_eta_half"]
)
@pytest.mark.parametrize("sde_name", often(SDES, ("vp", "ve")))
def test_a_stochastic_step_has_its_closed_form_mean_and_variance(name, sde_name):
    """One step t → s on the exact score of N(0, v): a linear map plus noise, both written out here."""
    sde = SDES[sde_name]
    t, s, v, n = 0.5 * sde.t_max, 0.45 * sde.t_max, 0.5, 20_000
    at, as_ = float(sde.alpha(t)), float(sde.alpha(s))
    vt, vs = float(sde.variance(t)), float(sde.variance(s))
    score = -1 / (at**2 * v + vt)
    alpha, added = at / as_, vt - (at / as_) ** 2 * vs
    f, g2 = float(sde.drift(jnp.asarray(t))), float(sde.diffusion(jnp.asarray(t))) ** 2
    tau2 = 0.25 * added * vs / vt
    x0_hat = (1 + vt * score) / at
    mean, variance = {
        "euler_maruyama": (1 - (f - g2 * score) * (t - s), g2 * (t - s)),
        "reverse_diffusion": (2 - alpha + added * score, added),
        "ancestral": ((1 + added * score) / alpha, added * vs / vt),
        "ancestral_transition": ((1 + added * score) / alpha, added),
        "ddim_eta_half": (as_ * x0_hat - np.sqrt(vs - tau2) * np.sqrt(vt) * score, tau2),
    }[name]
    score_fn = distributions.score_of(distributions.Gaussian(jnp.zeros(1), v), sde)
    start = 1.7
    x = sampling.sample(key(), SAMPLERS[name](sde, score_fn), jnp.full((n, 1), start), jnp.array([t, s]))
    np.testing.assert_allclose(x.mean(), mean * start, atol=4 * np.sqrt(variance / n) + 2e-4 * abs(mean * start))
    np.testing.assert_allclose(x.var(), variance, rtol=4 * np.sqrt(2 / n) + 2e-3)


def test_ancestral_on_the_table_is_ddpms_published_step():
    """x_{t−1} = (x − β ε/√(1−ᾱ))/√(1−β) + √β̃ z with β̃ = β(1−ᾱ_{t−1})/(1−ᾱ_t) (Ho et al. 2020, algorithm 2)."""
    tables, sde = sdes.ddpm_schedule(1000), SDES["tabulated"]
    score_fn = distributions.score_of(mixture(), sde)
    x, i = mixture().sample(key(1), 5), 600
    t, s = sde.knots()[i], sde.knots()[i - 1]
    stepped = sampling.sample(key(2), sampling.ancestral(sde, score_fn), x, jnp.stack([t, s]))
    eps = -np.sqrt(1 - tables.alphas_bar[i]) * np.asarray(score_fn(x, t), np.float64)
    mean = (x - tables.betas[i] / np.sqrt(1 - tables.alphas_bar[i]) * eps) / np.sqrt(tables.alphas[i])
    z = arrays.normal(arrays.fold_in(arrays.example_keys(key(2), 5), 0), x)
    np.testing.assert_allclose(stepped, mean + np.sqrt(tables.posterior_variance[i]) * z, atol=3e-5)


def test_a_constant_variance_function_is_used_as_given():
    sde = sdes.VP()
    score_fn = lambda x, t: jnp.zeros_like(x)
    sampler = sampling.ancestral(sde, score_fn, variance=lambda x, t, s: jnp.asarray(0.25))
    x = sampling.sample(key(), sampler, jnp.zeros((20_000, 1)), jnp.array([0.5, 0.4]))
    np.testing.assert_allclose(x.std(), 0.5, rtol=0.02)  # 4 s.e. of a standard deviation


@pytest.mark.parametrize("make", STANDING.values(), ids=STANDING.keys())
def test_a_step_to_the_same_time_leaves_x_as_it_is(make):
    for name in OFTEN:
        x, sampler = exact_start(name), make(SDES[name], mixture_score(SDES[name]))
        moved = stepwise(sampler, key(), x, jnp.full(4, 0.3))
        np.testing.assert_allclose(moved, x, rtol=3e-5, atol=1e-6, err_msg=name)  # roundings of x/α·α


@pytest.mark.parametrize("make", WITHOUT_NOISE.values(), ids=WITHOUT_NOISE.keys())
def test_standing_still_on_the_way_leaves_the_memory_of_multistep_samplers(make):
    for name in ("vp", "flow"):
        ts = log_snr_grid(name, 6)
        plain, paused = (run(make, name, key(), exact_start(name), grid)[0] for grid in (ts, jnp.repeat(ts, 3)))
        np.testing.assert_array_equal(paused, plain, err_msg=name)


def variance_by_hand(sde, ts, variance, snr, dims):
    """The variance of N(0, variance I)'s chain of reverse diffusion and a Langevin step, denoised at its end.

    u is the variance of the level. The corrector multiplies x by 1 − δ/u and adds 2δ‖z‖², δ = 2 snr² u² ‖z‖²/‖x‖²; with
    E‖z‖⁴ = d(d + 2) and, x being near to Gaussian, E 1/‖x‖² = 1/((d − 2)V).
    """
    alpha, noise = (np.asarray(f(ts), np.float64) for f in (sde.alpha, sde.variance))
    u = alpha**2 * variance + noise
    v, excess = u[0], (dims + 2) / (dims - 2)
    for t, s in zip(range(len(ts) - 1), range(1, len(ts)), strict=True):
        ratio = alpha[t] / alpha[s]
        added = noise[t] - ratio**2 * noise[s]
        v = (2 - ratio - added / u[t]) ** 2 * v + added
        v = v - 4 * snr**2 * u[s] + 4 * snr**2 * (1 + snr**2) * u[s] ** 2 * excess / v
    return v * (alpha[-1] * variance / u[-1]) ** 2


@functools.cache
def published_predictor_corrector(dims, snr):
    """`(SDE's index, x, ts) -> denoised` of the mixture in so many dimensions, compiled once for all."""

    def run(index, x, ts):
        sde = AnySDE(index)
        score_fn = distributions.score_of(mixture(dims), sde)
        predictor = sampling.reverse_diffusion(sde, score_fn)
        sampler = sampling.predictor_corrector(predictor, sampling.langevin_corrector(sde, score_fn, snr=snr))
        x = sampling.sample(key(2), sampler, x, ts)
        return sde.denoise(x, ts[-1], score_fn(x, ts[-1]))

    return jax.jit(run)


@pytest.mark.parametrize("name", often(SDES, ("ve", "vp", "subvp")))
def test_the_published_predictor_corrector_reaches_the_mixtures_moments(name):
    """Reverse diffusion and a Langevin step at snr = 0.16, 50 steps, on a mixture of three modes in 32 dimensions.

    Its modes' shares are the mixture's, their variance is that of `variance_by_hand`. It is biased: the corrector alone
    would end at (1 + snr²)(d + 2)/(d − 2) = 1.16 times the variance (1.03 on images, d = 3,072), the predictor is at
    1.2 to 1.3 after 50 steps, and both together are at 1.17.
    """
    sde, data, dims, rows, snr = SDES[name], mixture(32), 32, 512, 0.16
    ts = grids.log_snr(sde, 51)
    draw = published_predictor_corrector(dims, snr)
    x = np.asarray(draw(INDEX[name], data.perturbed(sde, sde.t_max).sample(key(1), rows), ts), np.float64)
    weights, means, variances = (np.asarray(v, np.float64) for v in (data.weights, data.means, data.variances))
    squares = ((x[:, None] - means) ** 2).mean(2)
    mode = squares.argmin(1)  # 10 standard deviations apart and more
    share = np.bincount(mode, minlength=3) / rows
    np.testing.assert_allclose(share, weights, atol=4 * np.sqrt(0.25 / rows))
    expected = np.array([variance_by_hand(sde, ts, v, snr, dims) for v in variances])
    relative = squares[np.arange(rows), mode] / expected[mode]
    np.testing.assert_allclose(relative.mean(), 1, atol=4 * np.sqrt(2 / (rows * dims)))
    assert np.all((expected / variances > 1) & (expected / variances < 1.2))


def test_predictor_corrector_predicts_to_s_then_corrects_at_s():
    sde = sdes.VP()
    score_fn = distributions.score_of(mixture(), sde)
    predictor, corrector = sampling.ddim(sde, score_fn), sampling.langevin_corrector(sde, score_fn, snr=0.1)
    x, ts = mixture().sample(key(), 4), jnp.array([0.6, 0.5])
    both = sampling.sample(key(3), sampling.predictor_corrector(predictor, corrector), x, ts)
    k = arrays.fold_in(arrays.example_keys(key(3), 4), 0)
    _, key_correct = arrays.split(k)
    predicted = predictor.step(k, predictor.init(x), ts[0], ts[1])
    np.testing.assert_allclose(both, corrector.step(key_correct, predicted, ts[0], ts[1]).x, rtol=1e-5)


def test_correction_refuses_multistep_samplers():
    for make in MULTISTEP.values():
        with pytest.raises(InputError, match="memory of a multistep sampler"):
            sampling.predictor_corrector(make(sdes.VP(), jnp.sin), sampling.ddim(sdes.VP(), jnp.sin))


@pytest.mark.parametrize("norm", ["example", "batch"])
def test_langevin_corrector_is_the_published_rule(norm):
    """x + δ s + √(2δ) z with δ = 2 (snr ‖z‖/‖s‖)², its norms those of one example, or their means over the batch."""
    sde, x, snrs = sdes.VP(), mixture(8).sample(key(), 5), np.array([0.16, 0.05], np.float32)
    score_fn = distributions.score_of(mixture(8), sde)
    keys = arrays.example_keys(key(2), 5)

    def correct(snr):
        corrector = sampling.langevin_corrector(sde, score_fn, snr=snr, norm=norm)
        return corrector.step(keys, corrector.init(x), jnp.asarray(0.6), jnp.asarray(0.5)).x

    moved = jax.vmap(correct)(jnp.asarray(snrs))
    z, s = (np.asarray(v) for v in (arrays.normal(arrays.fold_in(keys, 0), x), score_fn(x, jnp.asarray(0.5))))
    norms = [np.linalg.norm(v, axis=1, keepdims=True) for v in (z, s)]
    norms = [np.broadcast_to(v.mean(), v.shape) for v in norms] if norm == "batch" else norms
    for snr, corrected in zip(snrs, moved, strict=True):
        delta = 2 * (snr * norms[0] / norms[1]) ** 2
        np.testing.assert_allclose(corrected, x + delta * s + np.sqrt(2 * delta) * z, rtol=1e-5)


def test_the_trace_is_stacked_over_steps_and_ends_with_the_sample():
    sde = sdes.VP()
    score_fn = distributions.score_of(mixture(), sde)
    x, ts = sde.prior_sample(key(), (4, 2)), grids.uniform(sde, 7)
    sampler = sampling.ancestral(sde, score_fn)
    plain = sampling.sample(key(1), sampler, x, ts)
    end, path = sampling.sample(key(1), sampler, x, ts, trace=lambda state: state.x)
    assert path.shape == (6, 4, 2)
    np.testing.assert_array_equal(path[-1], end)
    np.testing.assert_array_equal(plain, end)


@each_sampler
def test_a_sample_depends_on_the_seed_and_its_index_alone(make):
    """Rows 3 to the last of one batch are rows 0 on of another, whose keys begin at 3."""
    x, ts = exact_start("vp"), log_snr_grid("vp", 6)
    sampler = make(SDES["vp"], mixture_score(SDES["vp"]))
    whole = stepwise(sampler, key(1), x, ts)
    shifted = stepwise(sampler, arrays.example_keys(key(1), ROWS, start=3), jnp.roll(x, -3, 0), ts)
    np.testing.assert_allclose(shifted[:-3], whole[3:], rtol=2e-5, atol=1e-6)


@pytest.mark.slow
def test_a_step_of_length_zero_has_a_gradient_in_the_schedule():
    """√(t − s) has none at s = t; NaN there would spoil every learned schedule and swept grid."""

    keys = arrays.example_keys(key(), 2)

    def end(make, beta_max):
        sampler = make(sdes.VP(0.1, beta_max), lambda x, t: -x)
        state = sampler.init(jnp.ones((2, 2)))
        for t, s in ((0.5, 0.5), (0.5, 0.3), (0.3, 0.3)):  # operation by operation, compiled once for all samplers
            state = sampler.step(keys, state, jnp.asarray(t), jnp.asarray(s))
        return state.x.sum()

    slopes = {name: jax.jvp(functools.partial(end, make), (20.0,), (1.0,))[1] for name, make in SAMPLERS.items()}
    assert {name: slope for name, slope in slopes.items() if not np.isfinite(slope) or slope == 0} == {}


CALLS = {"dpm_solver_3": 3, **dict.fromkeys(("heun", "heun_churn", "kdpm2", "predictor_corrector"), 2)}


def score_calls(jaxpr, loops=1):
    """How often a program evaluates tanh, loops counted out."""
    count = 0
    for equation in jaxpr.eqns:
        length = loops * equation.params.get("length", 1)
        count += loops if equation.primitive.name == "tanh" else 0
        for inner in jaxprs_in_params(equation.params):
            count += score_calls(inner, length)
    return count


@pytest.mark.parametrize(
    ("make", "calls"),
    [
        *[(make, CALLS.get(name, 1)) for name, make in SAMPLERS.items()],
        (lambda sde, s: sampling.annealed_langevin(sde, s, step_size=0.1, n_steps=5), 5),
        (
            lambda sde, s: sampling.predictor_corrector(
                sampling.heun(sde, s), sampling.langevin_corrector(sde, s, snr=0.1, n_steps=3)
            ),
            5,
        ),
    ],
)
def test_calls_is_how_often_a_step_evaluates_the_score(make, calls):
    sampler = make(sdes.VP(), lambda x, t: jnp.tanh(x))
    run = lambda x: sampling.sample(key(), sampler, x, jnp.linspace(1, 0.1, 8))
    assert sampler.calls == calls
    assert score_calls(jax.make_jaxpr(run)(jnp.ones((2, 3))).jaxpr) == 7 * calls


def test_heun_on_the_karras_grid_is_edms_sampler_of_thirty_five_calls():
    """Algorithm 2 of Karras et al. 2022 with n = 18: 17 steps of two calls, and Euler's to 0, which is `denoise`."""
    sde, x = SDES["edm"], exact_start("edm")[:64]
    score_fn, levels = distributions.score_of(mixture(), sde), grids.karras(sde, 18)
    ours = run(sampling.heun, "edm", key(), x, levels)[1]
    calls = 0
    for t, s in zip(levels, [*levels[1:], 0.0], strict=True):
        slope = -t * score_fn(x, t)
        moved, calls = x + (s - t) * slope, calls + 1
        if s > 0:
            moved, calls = x + (s - t) * 0.5 * (slope - s * score_fn(moved, s)), calls + 1
        x = moved
    np.testing.assert_allclose(ours, x, rtol=1e-4, atol=1e-4)  # float32 over 35 calls from σ = 80
    assert calls == 35 == 17 * sampling.heun(sde, score_fn).calls + 1


# t and s of σ/α, churn, s_min, s_max, s_noise: raised above t_max, within, at both bounds, and just outside them.
CHURNED = np.array(
    [
        (80.0, 57.6, 0.1, 0.05, np.inf, 1.007),
        (80.0, 57.6, 0.4, 0.0, 80.0, 1.0),
        (1.0, 0.7, 0.3, 0.05, 50.0, 1.007),
        (0.05, 0.02, 0.4, 0.05, 50.0, 1.0),
        (50.0, 30.0, 0.2, 0.05, 50.0, 1.0),
        (0.049, 0.02, 0.4, 0.05, 50.0, 1.0),
        (50.1, 30.0, 0.2, 0.05, 50.0, 1.0),
    ],
    np.float32,
)


def test_a_step_of_heun_with_churn_is_algorithm_2():
    """Karras et al. 2022, algorithm 2, written out in σ: one row of `CHURNED` a lane of `vmap`, with the same noise.

    float32: steps of Δσ·ε of 50 times a score's 1e-6, and of 80 times x's 6e-8.
    """
    sde, data = SDES["edm"], mixture()
    score_fn, keys = distributions.score_of(data, sde), arrays.example_keys(key(2), 5)
    noise = np.asarray(arrays.normal(keys, jnp.zeros((5, 2))))

    @jax.jit
    @jax.vmap
    def ours(x, row):
        t, s, churn, s_min, s_max, s_noise = row
        sampler = sampling.heun(sde, score_fn, churn=churn, s_min=s_min, s_max=s_max, s_noise=s_noise)
        return sampler.step(keys, sampler.init(x), t, s).x

    def by_hand(x, t, s, churn, s_min, s_max, s_noise):
        gamma = churn if s_min <= t <= s_max else 0.0
        raised = t + gamma * t
        raised_x = x + np.sqrt(raised**2 - t**2) * s_noise * noise
        slope = -raised * data.perturbed(sde, raised).score(jnp.asarray(raised_x, jnp.float32))
        euler = raised_x + (s - raised) * slope
        return raised_x + (s - raised) * 0.5 * (slope - s * data.perturbed(sde, s).score(euler))

    x = np.stack([data.perturbed(sde, row[0]).sample(key(1), 5) for row in CHURNED])
    found = ours(x, jnp.asarray(CHURNED))
    for at_start, stepped, row in zip(x, found, CHURNED, strict=True):
        np.testing.assert_allclose(stepped, by_hand(at_start, *row), rtol=1e-5, atol=2e-6 * row[0], err_msg=str(row))


@each_sde
def test_a_time_beyond_t_max_is_of_that_noise_or_a_tables_end(sde):
    """Closed forms go on, to the noise that churn adds at t_max; a table ends, and no noise is added there."""
    target = sde.log_snr(sde.t_max) - 2 * np.log(np.float32(1.1))
    expected = sde.log_snr(sde.t_max) if isinstance(sde, sdes.Tabulated) else target
    # float32's 6e-8 of t, times dλ/dt: at most 1e3 near t = 1 on cosine and flow, which are the steepest.
    np.testing.assert_allclose(sde.log_snr(sde.time(target)), expected, rtol=0, atol=3e-4)


def test_nothing_is_held_of_the_steps_but_what_is_traced():
    """Scratch memory of the compiled program does not grow with the number of steps; a trace is its output."""
    sde, x = sdes.VP(), jnp.zeros((64, 2))
    sampler = sampling.unipc(sde, lambda x, t: -x)

    def compiled_for(n, trace=None):
        run = jax.jit(lambda x, ts: sampling.sample(key(), sampler, x, ts, trace=trace))
        return run.lower(x, jnp.linspace(1, 0.1, n + 1)).compile().memory_analysis()

    few, many = compiled_for(4), compiled_for(400)
    assert many.temp_size_in_bytes - few.temp_size_in_bytes < 400 * 16  # the grid and a counter, not states of 512 B
    traced = compiled_for(400, lambda state: state.x)
    assert traced.output_size_in_bytes - many.output_size_in_bytes >= 400 * x.nbytes


def test_of_a_trace_only_the_steps_asked_for_are_held():
    sde, x, ts = sdes.VP(), jnp.zeros((64, 2)), jnp.linspace(1, 0.1, 401)
    sampler, keep = sampling.ancestral(sde, lambda x, t: -x), grids.evenly(400, 7)
    np.testing.assert_array_equal(keep, [0, 66, 133, 200, 266, 332, 399])
    np.testing.assert_array_equal(grids.evenly(5, 1), [4])
    draw = lambda k, x, **options: sampling.sample(k, sampler, x, ts, trace=lambda state: state.x, **options)
    all_of_them, some = jax.jit(draw), jax.jit(lambda k, x: draw(k, x, keep=keep))
    np.testing.assert_array_equal(all_of_them(key(), x)[1][keep], some(key(), x)[1])
    np.testing.assert_array_equal(some(key(), x)[0], some(key(), x)[1][-1])
    memory = some.lower(key(), x).compile().memory_analysis()
    assert memory.output_size_in_bytes < 10 * x.nbytes and memory.temp_size_in_bytes < 60 * x.nbytes  # not 400


def test_keys_and_hyperparameters_may_be_batched():
    """vmap over keys and over η: η = 0 is the flow, 1 the reverse SDE, each lane what it is alone."""
    sde = SDES["vp"]
    score_fn, ts, x = distributions.score_of(mixture(), sde), log_snr_grid("vp", 9), exact_start("vp")[:16]
    draw = lambda k, eta: sampling.sample(k, sampling.dpm_solver_pp(sde, score_fn, eta=eta), x, ts)
    keys = jax.random.split(key(3), 2)
    both = jax.jit(jax.vmap(draw))(keys, jnp.array([0.0, 1.0]))
    for lane, name in enumerate(("dpm_solver_pp", "dpm_solver_pp_sde")):
        alone = run(SAMPLERS[name], "vp", keys[lane], x, ts)[0]
        np.testing.assert_allclose(both[lane], alone, rtol=0, atol=5e-5)  # as of `test_one_sampler_is_another`


def test_eight_devices_draw_what_one_draws():
    sde = SDES["vp"]
    score_fn, ts, x = distributions.score_of(mixture(), sde), log_snr_grid("vp", 9), exact_start("vp")[:16]
    keys = arrays.example_keys(key(3), 16)
    draw = lambda k, x: sampling.sample(k, sampling.unipc(sde, score_fn), x, ts)
    spread = jax.pmap(draw)(keys.reshape(8, 2), x.reshape(8, 2, 2))
    alone = run(sampling.unipc, "vp", keys, x, ts)[0]
    np.testing.assert_allclose(spread.reshape(16, 2), alone, rtol=1e-4, atol=1e-4)


@each_sampler
def test_sampling_is_one_program_traced_once(make):
    """A step's calls of the score are traced once, however many the steps, and not again for another SDE's numbers."""
    score_fn = trace_counter(lambda x, t: -x)
    run = jax.jit(lambda sde, k, x: sampling.sample(k, make(sde, score_fn), x, grids.uniform(sde, 50)))
    for seed, beta_max in enumerate((20.0, 10.0)):
        run.trace(sdes.VP(0.1, beta_max), key(seed), jnp.full((2, 2), float(seed)))
    assert score_fn.count == make(sdes.VP(), score_fn).calls


def test_options_that_do_not_exist_are_refused():
    with pytest.raises(InputError, match=r"norm must be one of .*'batch', 'example'.* got 'l2'"):
        sampling.langevin_corrector(sdes.VP(), jnp.sin, snr=0.1, norm="l2")
    with pytest.raises(InputError, match="order must be 1, 2 or 3, got 4"):
        sampling.dpm_solver_pp(sdes.VP(), jnp.sin, order=4)
    with pytest.raises(InputError, match="unipc: order must be"):
        sampling.unipc(sdes.VP(), jnp.sin, order=0)
    with pytest.raises(InputError, match="from 0, the probability flow, to 1, the reverse SDE, got 2"):
        sampling.dpm_solver_pp(sdes.VP(), jnp.sin, eta=2)
    with pytest.raises(InputError, match=r"'posterior', 'transition'.* got 'small'"):
        sampling.ancestral(sdes.VP(), lambda x, t: x, variance="small")
    for make in (sampling.heun, sampling.euler_churn, sampling.kdpm2):
        with pytest.raises(InputError, match=f"{make.__name__}: churn is the γ of one step"):
            make(sdes.VP(), lambda x, t: x, churn=40.0)
    words = {
        sampling.dpm_solver_pp: ("lower_order", "solver_type", "quadratic"),
        sampling.unipc: ("lower_order", "variant"),
        sampling.deis: ("lower_order",),
        sampling.dpm_solver: ("prediction", "solver_type", "inner"),
    }
    for make, options in words.items():
        for option in options:
            with pytest.raises(InputError, match=rf"{make.__name__}: {option} must be one of \[.*'\], got 'other'"):
                make(sdes.VP(), jnp.sin, **{option: "other"})
    with pytest.raises(InputError, match="lms: order must be 1, 2, 3 or 4, got 5"):
        sampling.lms(sdes.VP(), jnp.sin, order=5)
    with pytest.raises(InputError, match="num_scales must be at least 0, got -1"):
        sampling.euler_maruyama(sdes.VP(), jnp.sin, num_scales=-1)
    with pytest.raises(InputError, match="β reaches 1 in 20 steps; it needs more than 20"):
        sdes.VP().discretize(0.5, 20)
    with pytest.raises(InputError, match="the table has 1000 steps of its own, not 10"):
        SDES["tabulated"].discretize(0.5, 10)
