"""Every sampler on every SDE reaches the mixture's moments; orders, identities and closed forms pin each one down."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax import arrays, distributions, sampling
from score_jax import sde as sdes
from score_jax.sampling import grids
from score_jax.types import InputError
from tests.helpers import SAMPLERS, SDES, key, mixture, moments, trace_counter

pytestmark = pytest.mark.usefixtures("strict_dtypes")
each_sde = pytest.mark.parametrize("sde", SDES.values(), ids=SDES.keys())
each_sampler = pytest.mark.parametrize("make", SAMPLERS.values(), ids=SAMPLERS.keys())


@each_sde
@each_sampler
def test_it_reaches_the_mixtures_moments_from_the_exact_marginal(make, sde):
    data, n = mixture(), 1024
    mean, covariance = moments(data)
    score_fn = distributions.score_of(data, sde)
    ts = grids.log_snr(sde, 100)
    x = data.perturbed(sde, sde.t_max).sample(key(1), n)
    x = jax.jit(lambda k, x: sampling.sample(k, make(sde, score_fn), x, ts))(key(2), x)
    x = np.asarray(sde.denoise(x, ts[-1], score_fn(x, ts[-1])), np.float64)
    # 4 standard errors, and what 100 steps of a first-order method leave: 0.05 of the mean's spread of 1.3, and of
    # probability-flow Euler's variance on VE (0.18 at 200 uniform steps) at most 0.4.
    np.testing.assert_allclose(x.mean(0), mean, atol=4 * np.sqrt(np.diag(covariance).max() / n) + 0.05)
    fourth = ((x - x.mean(0)) ** 2).std(0).max()
    slack = 0.4 if make is sampling.euler else 0.12
    np.testing.assert_allclose(np.cov(x.T), covariance, atol=4 * fourth / n**0.5 + slack)


def gaussian_spread(make, sde, ts, v=0.25, mean=0.0):
    """Std to which a sampler on the exact score of N(0, v) scales x, for a sampler linear in x and without noise."""
    score_fn = distributions.score_of(distributions.Gaussian(jnp.zeros(1), v), sde)
    return sampling.sample(key(), make(sde, score_fn), jnp.ones((1, 1)), ts)[0, 0]


@pytest.mark.parametrize(("name", "order"), [("euler", 1), ("ddim", 1), ("heun", 2)])
@pytest.mark.parametrize("sde", [SDES["vp"], SDES["ve"], SDES["flow"]], ids=["vp", "ve", "flow"])
def test_empirical_order_on_the_probability_flow(name, order, sde, x64):
    """The exact flow of N(0, v) scales x by std(s)/std(t); halving the step divides the error by 2^order."""
    t, s, v = 0.7, 0.2, 0.25
    std = lambda t: np.sqrt(sde.alpha(t) ** 2 * v + sde.variance(t))  # noqa: E731
    exact = float(std(s) / std(t))
    errors = [abs(float(gaussian_spread(SAMPLERS[name], sde, jnp.linspace(t, s, n + 1), v)) - exact) for n in (64, 128)]
    np.testing.assert_allclose(np.log2(errors[0] / errors[1]), order, atol=0.12)


@pytest.mark.parametrize(
    "name", ["euler_maruyama", "reverse_diffusion", "ancestral", "ancestral_transition", "ddim_eta_half"]
)
@each_sde
def test_a_stochastic_step_has_its_closed_form_mean_and_variance(name, sde):
    """One step t → s on the exact score of N(0, v): a linear map plus noise, both written out here."""
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


def test_ddim_eta_one_is_ancestral_with_the_posterior_variance():
    for sde in SDES.values():
        score_fn = distributions.score_of(mixture(), sde)
        x, ts = mixture().sample(key(1), 6) * float(sde.sigma(sde.t_max)), grids.log_snr(sde, 6)
        a, b = (
            sampling.sample(key(2), sampler, x, ts)
            for sampler in (sampling.ddim(sde, score_fn, eta=1.0), sampling.ancestral(sde, score_fn))
        )
        np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-3)


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
    score_fn = lambda x, t: jnp.zeros_like(x)  # noqa: E731
    sampler = sampling.ancestral(sde, score_fn, variance=lambda x, t, s: jnp.asarray(0.25))
    x = sampling.sample(key(), sampler, jnp.zeros((20_000, 1)), jnp.array([0.5, 0.4]))
    np.testing.assert_allclose(x.std(), 0.5, rtol=0.02)  # 4 s.e. of a standard deviation


@each_sampler
def test_a_step_to_the_same_time_leaves_x_as_it_is(make):
    if make is SAMPLERS["predictor_corrector"]:
        pytest.skip("its Langevin steps work at the level arrived at")
    for sde in (SDES["vp"], SDES["ve"], SDES["flow"]):
        x, t = mixture().sample(key(), 4), jnp.asarray(0.3)
        moved = sampling.sample(key(), make(sde, distributions.score_of(mixture(), sde)), x, jnp.stack([t, t]))
        np.testing.assert_allclose(moved, x, atol=1e-5)


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
    multistep = sampling.Sampler(lambda x: x, lambda key, state, t, s: state, multistep=True)
    with pytest.raises(InputError, match="memory of a multistep sampler"):
        sampling.predictor_corrector(multistep, sampling.ddim(sdes.VP(), lambda x, t: x))


def test_langevin_corrector_is_the_published_rule_per_example():
    """x + δ s + √(2δ) z with δ = 2 (snr ‖z‖/‖s‖)², its norms those of one example."""
    sde, x, snr = sdes.VP(), mixture(8).sample(key(), 5), 0.16
    score_fn = distributions.score_of(mixture(8), sde)
    corrector = sampling.langevin_corrector(sde, score_fn, snr=snr)
    keys = arrays.example_keys(key(2), 5)
    moved = corrector.step(keys, corrector.init(x), jnp.asarray(0.6), jnp.asarray(0.5)).x
    z, s = (np.asarray(v) for v in (arrays.normal(arrays.fold_in(keys, 0), x), score_fn(x, jnp.asarray(0.5))))
    delta = 2 * (snr * np.linalg.norm(z, axis=1) / np.linalg.norm(s, axis=1))[:, None] ** 2
    np.testing.assert_allclose(moved, x + delta * s + np.sqrt(2 * delta) * z, rtol=1e-5)


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
    sde = SDES["vp"]
    sampler, ts = make(sde, distributions.score_of(mixture(), sde)), grids.log_snr(sde, 5)
    x = sde.prior_sample(key(), (6, 2))
    whole = sampling.sample(key(1), sampler, x, ts)
    part = sampling.sample(arrays.example_keys(key(1), 2, start=3), sampler, x[3:5], ts)
    np.testing.assert_allclose(part, whole[3:5], rtol=2e-5, atol=1e-6)


@each_sampler
def test_a_step_of_length_zero_has_a_gradient_in_the_schedule(make):
    """√(t − s) has none at s = t; NaN there would spoil every learned schedule and swept grid."""

    def end(beta_max):
        sde = sdes.VP(0.1, beta_max)
        sampler = make(sde, distributions.score_of(mixture(), sde))
        return sampling.sample(key(), sampler, jnp.ones((2, 2)), jnp.array([0.5, 0.5, 0.3])).sum()

    assert np.isfinite(jax.jit(jax.grad(end))(20.0))


def test_sampling_is_one_program_traced_once():
    sde, score_fn = sdes.VP(), trace_counter(distributions.score_of(mixture(), sdes.VP()))
    run = jax.jit(lambda k, x: sampling.sample(k, sampling.ddim(sde, score_fn), x, grids.uniform(sde, 50)))
    run(key(0), jnp.zeros((2, 2))), run(key(1), jnp.ones((2, 2)))
    assert score_fn.count == 1


def test_unknown_variance_and_churn_are_refused():
    with pytest.raises(InputError, match=r"'posterior', 'transition'.* got 'small'"):
        sampling.ancestral(sdes.VP(), lambda x, t: x, variance="small")
    with pytest.raises(InputError, match="churn is the γ of one step"):
        sampling.heun(sdes.VP(), lambda x, t: x, churn=40.0)
