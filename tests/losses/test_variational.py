"""DDPM's bound and the hybrid loss: published formulas, closed forms on Gaussian data, learned variances."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from scipy.stats import norm

from score_jax import arrays, likelihood, losses, networks, parameterization, sampling
from score_jax import sde as sdes
from score_jax.adapters import linen
from score_jax.losses import variational
from score_jax.sampling import grids
from score_jax.score import ScoreModel
from score_jax.types import InputError
from tests.helpers import SDES, AnySDE, assert_mean, key, trace_counter

pytestmark = pytest.mark.usefixtures("strict_dtypes")

TABLES = sdes.ddpm_schedule(1000)
DDPM = sdes.Tabulated(TABLES.alphas_bar)
FIXED_LARGE = np.append(TABLES.posterior_variance[1], TABLES.betas[1:])
decode = jax.jit(variational.grey_level_decoder())
FIXED_SMALL = np.append(TABLES.posterior_variance[1], TABLES.posterior_variance[1:])


def published_mean(i, x, x0):
    """Mean of q(x_{i−1} | x_i, x_0) by DDPM's posterior coefficients."""
    previous = TABLES.alphas_bar[i - 1]
    coef1 = TABLES.betas[i] * np.sqrt(previous) / (1 - TABLES.alphas_bar[i])
    coef2 = (1 - previous) * np.sqrt(TABLES.alphas[i]) / (1 - TABLES.alphas_bar[i])
    return coef1 * x0 + coef2 * x


def published_term(i, x0, eps, x0_hat, log_variance):
    """The bound's term of step i in nats, summed over dims: normal_kl, or −log of the decoder's bins at i = 0."""
    x = np.sqrt(TABLES.alphas_bar[i]) * x0 + np.sqrt(1 - TABLES.alphas_bar[i]) * eps
    if i == 0:
        std = np.exp(0.5 * log_variance)
        above = np.where(x0 > 0.999, 1, norm.cdf((x0 - x0_hat + 1 / 255) / std))
        below = np.where(x0 < -0.999, 0, norm.cdf((x0 - x0_hat - 1 / 255) / std))
        return -np.log(np.maximum(above - below, 1e-12)).sum(-1)
    logvar1 = np.log(TABLES.posterior_variance[i])
    apart = published_mean(i, x, x0) - published_mean(i, x, x0_hat)
    return 0.5 * (-1 + log_variance - logvar1 + np.exp(logvar1 - log_variance) + apart**2 * np.exp(-log_variance)).sum(
        -1
    )


def grey(n, dims=4, seed=3):
    """Pixels 2k/255 − 1 of all sorts, 0 and 255 among them."""
    k = np.random.default_rng(seed).integers(0, 256, (n, dims))
    k[0, :2] = 0, 255
    return 2 * k / 255 - 1


@pytest.mark.parametrize(("name", "variances"), [("posterior", FIXED_SMALL), ("transition", FIXED_LARGE)])
def test_the_bound_is_ddpms(name, variances, x64):
    """Term by term on the same draws: prior, 999 KLs, decoder, for an ε-network that is sin of its input."""
    x0, ts = jnp.asarray(grey(2)), grids.ddpm(DDPM, t_end=1e-3)
    sigma = lambda t, x: arrays.expand_right(DDPM.sigma(t), x)
    score_fn = trace_counter(lambda x, t: -jnp.sin(x) / sigma(t, x))
    run = jax.jit(
        lambda x0: likelihood.variational_bound(
            key(),
            DDPM,
            score_fn,
            x0,
            ts=ts,
            variance=name,
            prior_variance=1.0,
            last_variance=TABLES.posterior_variance[1],
        )
    )
    bound = run(x0)
    assert bound.steps.shape == (999, 2) and score_fn.count == 1
    keys, x0 = arrays.example_keys(key(), 2), np.asarray(x0)
    draw = jax.jit(lambda n: arrays.normal(arrays.fold_in(keys, n), jnp.asarray(x0)))
    for n in (0, 1, 500, 997, 998, 999):
        i, eps = 999 - n, np.asarray(draw(n))
        x = np.sqrt(TABLES.alphas_bar[i]) * x0 + np.sqrt(1 - TABLES.alphas_bar[i]) * eps
        x0_hat = (x - np.sqrt(1 - TABLES.alphas_bar[i]) * np.sin(x)) / np.sqrt(TABLES.alphas_bar[i])
        expected = published_term(i, x0, eps, x0_hat, np.log(variances[i]))
        found = bound.decoder if i == 0 else bound.steps[n]
        # Rounding of log ᾱ, 1e-16, over the 1e-4 by which it changes in a step.
        np.testing.assert_allclose(found, expected, rtol=1e-7)
    np.testing.assert_allclose(bound.total, bound.prior + bound.steps.sum(0) + bound.decoder, rtol=1e-12)


def test_the_priors_term_meets_its_published_values(x64):
    """Bits per dimension of x0 = 1 and x0 = 0 against N(0, I)."""
    x0, score_fn = jnp.array([[1.0], [0.0]]), lambda x, t: -x
    levels = grids.ddpm(DDPM)[:3]
    run = jax.jit(lambda p: likelihood.variational_bound(key(), DDPM, score_fn, x0, ts=levels, prior_variance=p).prior)
    np.testing.assert_allclose(run(1.0) / math.log(2), [2.9112945e-5, 5.87e-10], rtol=1e-3)
    own = likelihood.variational_bound(key(), DDPM, score_fn, x0, ts=levels).prior  # of the SDE: nothing at x0 = 0
    np.testing.assert_allclose(own, [0.5 * TABLES.alphas_bar[-1] / (1 - TABLES.alphas_bar[-1]), 0], atol=1e-15)


@pytest.mark.parametrize(("mean", "std"), [(0.1, 0.5), (-0.98, 0.007), (3.0, 0.02), (-1.5, 0.05)])
@pytest.mark.parametrize("n", [17, 256])
def test_the_decoders_probabilities_add_up_to_one(n, mean, std):
    """Of as many grey levels as the data have; the level nearest to a mean in between is the likeliest."""
    levels = 2 * jnp.arange(n)[:, None].astype(jnp.float32) / (n - 1) - 1
    means = jnp.full_like(levels, mean)
    log_probs = jax.jit(variational.grey_level_decoder(n))(levels, means, jnp.asarray(std**2, jnp.float32))
    # float32 edges, 1e-7 over std, at densities of 0.4 over std.
    np.testing.assert_allclose(jnp.exp(log_probs).sum(), 1, rtol=2e-5)
    assert np.isfinite(log_probs).all()
    if std < 0.1 and n == 256:  # wider, and the bins of the ends hold more
        assert log_probs.argmax() == jnp.abs(levels[:, 0] - mean).argmin()


def test_the_decoder_keeps_its_digits_in_the_tails():
    """log(Φ(b) − Φ(a)) at 5 to 80 standard deviations on either side, against scipy's tails in float64."""
    x0 = jnp.array([[0.0]])
    for mean, std in [(0.5, 0.1), (-0.5, 0.1), (0.8, 0.01), (-0.8, 0.01)]:
        low, high = (-1 / 255 - abs(mean)) / std, (1 / 255 - abs(mean)) / std
        expected = norm.logcdf(high) + np.log1p(-np.exp(norm.logcdf(low) - norm.logcdf(high)))
        found = decode(x0, jnp.array([[mean]]), jnp.asarray(std**2))
        np.testing.assert_allclose(found[0], expected, rtol=1e-4)


# Gaussian data N(0, V) and their exact score: every term has a closed mean.
V, DIMS = 0.4, 2


def exact_score(sde):
    return lambda x, t: -x / arrays.expand_right(V * sde.alpha(t) ** 2 + sde.variance(t), x)


def gaussian_steps(sde, ts):
    """β̃, and the variance of x_s given x_t, of each step; of x_0 given x_{t_N}. Float64."""
    alpha, variance = (np.asarray(f(ts), np.float64) for f in (sde.alpha, sde.variance))
    ratio = alpha[:-1] / alpha[1:]
    added = variance[:-1] - ratio**2 * variance[1:]
    posterior = added * variance[1:] / variance[:-1]
    marginal = V * alpha**2 + variance
    optimal = marginal[1:] * added / marginal[:-1]
    return posterior, optimal, variance[-1] * V / marginal[-1]


@pytest.fixture(scope="module")
def gaussian_bound():
    """`(variance of the steps (N − 1,), of the decoder) -> bound` of 4,096 examples on 12 levels of VP."""
    sde = sdes.VP()
    ts = grids.log_snr(sde, 12)
    x0 = math.sqrt(V) * arrays.normal(key(), jnp.zeros((4096, DIMS)))

    @jax.jit
    def run(steps, last):
        table = lambda x, t, s: jnp.append(steps, last)[jnp.abs(ts - t).argmin()]
        options = {"variance": table, "decoder": variational.gaussian_decoder}
        return likelihood.variational_bound(key(1), sde, exact_score(sde), x0, ts=ts, **options)

    return sde, ts, lambda steps, last: run(jnp.asarray(steps, jnp.float32), jnp.asarray(last, jnp.float32))


def test_with_the_exact_reverse_steps_the_bound_is_the_entropy(gaussian_bound):
    """E[bound] = entropy of the data + KL(q(x_T) ‖ prior): nothing is lost on the way."""
    sde, ts, run = gaussian_bound
    _, optimal, last = gaussian_steps(sde, ts)
    marginal, prior = V * float(sde.alpha(1.0)) ** 2 + float(sde.variance(1.0)), float(sde.variance(1.0))
    mismatch = 0.5 * DIMS * (marginal / prior - 1 - np.log(marginal / prior))
    assert_mean(run(optimal, last).total, 0.5 * DIMS * np.log(2 * np.pi * np.e * V) + mismatch)


def test_every_kl_has_its_closed_mean_and_other_variances_cost_more(gaussian_bound):
    """½ D [β̃/v − 1 − log(β̃/v) + (v* − β̃)/v], v* the variance of x_s given x_t alone, at which it is least."""
    sde, ts, run = gaussian_bound
    posterior, optimal, last = gaussian_steps(sde, ts)
    for v in (posterior, optimal, 2 * optimal):
        expected = 0.5 * DIMS * (optimal / v - 1 - np.log(posterior / v))
        steps = np.asarray(run(v, last).steps, np.float64)
        assert_mean(steps.T, expected)
    assert (np.log(optimal / posterior) > 1e-3).any()


def test_the_bounds_optimum_is_the_true_variance(gaussian_bound):
    """The derivative of every term in log v vanishes at v*, and not at β̃."""
    sde, ts, run = gaussian_bound
    posterior, optimal, last = gaussian_steps(sde, ts)

    def slopes(v):
        return (np.asarray(run(1.01 * v, last).steps, np.float64) - np.asarray(run(v / 1.01, last).steps)) / (
            2 * np.log(1.01)
        )

    assert_mean(slopes(optimal).T, 0.0, slack=1e-4)  # (0.01)²/6 of the third derivative
    far = optimal / posterior > 1.1
    assert far.any() and (np.abs(slopes(posterior).mean(1))[far] > 0.04).all()


def test_the_bound_is_the_likelihood_weighted_loss_in_continuous_time(x64):
    """Steps of length dt: Σ KL → ∫ g²·½‖score + ε/σ‖² dt, here for score + ε/σ = (0.3, 0.3)/σ; the error is O(dt)."""
    sde = sdes.VP(t_min=1e-2)
    middle = jnp.linspace(sde.t_min, sde.t_max, 20_001)
    middle = 0.5 * (middle[1:] + middle[:-1])
    integral = float((sde.diffusion(middle) ** 2 / sde.variance(middle)).mean()) * (1 - 1e-2) * 0.5 * DIMS * 0.09

    @jax.jit
    def total(ts):
        eps = jnp.ones((len(ts) - 1, DIMS))
        variance = sde.posterior_variance(ts[:-1], ts[1:])
        score = -0.7 / sde.sigma(ts[:-1])[:, None] * eps
        return variational.step_kl(sde, score, eps, variance=variance, t=ts[:-1], s=ts[1:]).sum()

    errors = [float(total(grids.uniform(sde, n + 1))) / integral - 1 for n in (1000, 2000)]
    assert abs(errors[1]) < 0.02
    np.testing.assert_allclose(errors[0] / errors[1], 2, rtol=0.1)


# Learned variances


class Doubled(nn.Module):
    """ε̂ = w x in the first half, v = u x + b in the second."""

    @nn.compact
    def __call__(self, x, cond, label=None, train=False):
        w, u, b = (self.param(n, nn.initializers.constant(v), ()) for n, v in [("w", 0.8), ("u", 0.5), ("b", -0.1)])
        return jnp.concatenate([w * x, u * x + b], axis=-1)


def doubled_model(sde, floor=1e-6):
    module = Doubled()
    variables = module.init(key(), jnp.zeros((1, DIMS)), jnp.zeros(1))
    return ScoreModel(variables, sde, linen(module), parameterization.learned(parameterization.Eps(), floor=floor))


def test_a_learned_variance_lies_between_the_two_fixed_ones():
    model, x = doubled_model(DDPM, float(TABLES.posterior_variance[1])), jnp.array([[3.0, -1.0], [0.2, 0.4]])
    t, s = DDPM.knots()[jnp.array([600, 30])], DDPM.knots()[jnp.array([599, 29])]
    score, variance = model.with_variance(x, t, s)
    np.testing.assert_allclose(score, -0.8 * x / DDPM.sigma(t)[:, None], rtol=1e-6)
    np.testing.assert_array_equal(model(x, t), score)
    u = (1 + 0.5 * np.asarray(x) - 0.1) / 2
    i = np.array([[600], [30]])
    expected = np.exp(u * np.log(TABLES.betas[i]) + (1 - u) * np.log(TABLES.posterior_variance[i]))
    np.testing.assert_allclose(variance, expected, rtol=2e-4)  # float32 of log ᾱ, over its change in a step
    np.testing.assert_array_equal(model.variance(x, t, s), variance)
    # The last step, to 0: between β_0 and the clipped posterior variance.
    last = model.variance(x, DDPM.knots()[:1], jnp.zeros(1))
    np.testing.assert_allclose(
        last, np.exp(u * np.log(1e-4) + (1 - u) * np.log(TABLES.posterior_variance[1])), rtol=1e-4
    )


def test_ancestral_takes_the_learned_variance():
    model, x = doubled_model(sdes.VP()), jnp.ones((20_000, DIMS))
    t, s = jnp.asarray(0.5), jnp.asarray(0.4)
    sampler = sampling.ancestral(model.sde, model, variance=model.variance)
    stepped = sampling.sample(key(), sampler, x, jnp.stack([t, s]))
    np.testing.assert_allclose(stepped.std(0), np.sqrt(model.variance(x[:1], t, s)[0]), rtol=0.02)  # 4 s.e.
    alpha, added = model.sde.transition(t, s)
    assert_mean(stepped, np.asarray((x[0] + added * model(x[:1], t)[0]) / alpha))


def test_a_learned_variance_is_finite_wherever_a_step_may_go():
    """0 where a step goes nowhere; that of all the noise, or the floor, where it goes to the data: on every SDE."""
    x, v = jnp.zeros((3, 1)), jnp.array([[-1.0], [0.0], [1.0]])
    learned = parameterization.learned(parameterization.Eps(), floor=1e-7)

    @jax.jit
    def run(sde):
        level = sde.time(-2 * jnp.log(jnp.asarray(0.15)))
        of = lambda v, s: learned.variance(sde, level, s, jnp.concatenate([x, v], axis=1))
        slope = jax.grad(lambda v: of(v, level).sum())(v)
        return of(v, level), slope, of(v, jnp.zeros_like(level)), sde.variance(level)

    for name, sde in zip(SDES, map(AnySDE, range(len(SDES))), strict=True):
        still, slope, last, noise = run(sde)
        np.testing.assert_array_equal(still, 0, err_msg=name)
        np.testing.assert_array_equal(slope, 0, err_msg=name)
        expected = np.array([1e-7, np.sqrt(1e-7 * float(noise)), float(noise)])[:, None]
        np.testing.assert_allclose(last, expected, rtol=1e-5, err_msg=name)  # float32 of a logarithm of 16


def test_a_step_from_a_time_to_itself_leaves_x_alone_with_a_learned_variance():
    model, x = doubled_model(sdes.VP()), jnp.ones((4, DIMS))
    sampler = sampling.ancestral(model.sde, model, variance=model.variance)
    run = jax.jit(lambda x, ts: sampling.sample(key(), sampler, x, ts))
    np.testing.assert_array_equal(run(x, jnp.full(3, 0.5)), x)
    assert np.isfinite(run(x, jnp.array([0.5, 0.5, 0.4]))).all()


def test_a_floor_is_asked_for():
    with pytest.raises(TypeError, match="floor"):
        parameterization.learned(parameterization.Eps())
    with pytest.raises(InputError, match=r"learned: floor must be positive, got 0\.0"):
        parameterization.learned(parameterization.Eps(), floor=0.0)


class Wide(nn.Module):
    """One matrix to twice the channels."""

    @nn.compact
    def __call__(self, x, cond, label=None, train=False):
        return nn.Dense(2 * x.shape[-1])(x)


def test_score_with_variance_costs_one_evaluation_of_the_network():
    """The compiled ancestral step has as many floating-point operations in matrices as the score alone."""
    x, module = jnp.ones((8, 64)), Wide()
    model = doubled_model(sdes.VP()).replace(apply=linen(module), variables=module.init(key(), x, jnp.zeros(8)))
    sampler, t, s = sampling.ancestral(model.sde, model, variance=model.variance), jnp.asarray(0.5), jnp.asarray(0.4)
    step = lambda x: sampler.step(key(), sampler.init(x), t, s).x
    products = [str(jax.jit(f).lower(x).compile().as_text()).count(" dot(") for f in (lambda x: model(x, t), step)]
    assert products == [1, 1]


def test_the_published_u_net_has_room_for_a_variance():
    module = networks.ResidualUNet(channels=8, multipliers=(1, 1), blocks=1, outputs=2, output_path="skip")
    x, t = jnp.zeros((2, 8, 8, 3)), jnp.array([0.5, 0.6])

    def both(x):
        variables = module.init(key(), x, t)
        model = ScoreModel(
            variables, sdes.VP(), linen(module), parameterization.learned(parameterization.V(), floor=1e-6)
        )
        return model.with_variance(x, t, 0.5 * t)

    assert [v.shape for v in jax.eval_shape(both, x)] == [x.shape, x.shape]


def test_parameterizations_without_a_variance_say_so():
    model = doubled_model(sdes.VP()).replace(parameterization=parameterization.Eps())
    with pytest.raises(InputError, match=r"Eps\(\) has no learned variance: use learned\(Eps\(\)\)"):
        model.replace(apply=linen(Single())).variance(jnp.ones((1, DIMS)), jnp.asarray(0.5), jnp.asarray(0.4))
    with pytest.raises(InputError, match=r"must return mean and variance, \(1, 4\); it returned \(1, 2\)"):
        doubled_model(sdes.VP()).replace(apply=linen(Single()))(jnp.ones((1, DIMS)), jnp.asarray(0.5))


class Single(nn.Module):
    """Returns its input."""

    def __call__(self, x, cond, label=None, train=False):
        return x


@pytest.fixture(scope="module")
def hybrid():
    """The hybrid loss of `Doubled` on DDPM at chosen steps, decoder's among them, with its gradient and draws."""
    index = np.array([0, 1, 2, 500, 999, 0])
    with jax.enable_x64(True):
        model = doubled_model(DDPM, float(TABLES.posterior_variance[1]))
        x0, levels = jnp.asarray(grey(6, DIMS)), DDPM.knots()[::-1]
        chosen = lambda *_: (DDPM.knots()[index], jnp.ones(6))

        def hybrid(variables):
            both = model.replace(variables=variables).with_variance
            return losses.hybrid_loss(key(1), DDPM, both, x0, ts=levels, times=chosen)

        def simple(variables):
            return losses.diffusion_loss(key(1), DDPM, model.replace(variables=variables), x0, times=chosen).sum()

        @jax.jit
        def compute(variables):
            values, pullback = jax.vjp(hybrid, variables)
            return values, (pullback(jnp.ones(6))[0]["params"], jax.grad(simple)(variables)["params"])

        values, gradients = jax.device_get(compute(model.variables))
        eps = arrays.normal(arrays.fold_in(arrays.example_keys(key(1), 6), 1), x0)
    return index, np.asarray(x0), np.asarray(eps), values, gradients


def test_the_hybrid_loss_is_the_published_one(hybrid):
    """mean_D ‖ε − ε̂‖² + 0.001·1000·(term in bits per dimension), times D/2 (Nichol & Dhariwal 2021 and its code)."""
    index, x0, eps, values, _ = hybrid
    for row, i in enumerate(index):
        a = TABLES.alphas_bar[i]
        x = np.sqrt(a) * x0[row] + np.sqrt(1 - a) * eps[row]
        x0_hat = (x - np.sqrt(1 - a) * 0.8 * x) / np.sqrt(a)
        u = (1 + 0.5 * x - 0.1) / 2
        log_variance = u * np.log(TABLES.betas[i]) + (1 - u) * np.log(FIXED_SMALL[i])
        term = published_term(i, x0[row], eps[row], x0_hat, log_variance)
        published = ((eps[row] - 0.8 * x) ** 2).mean() + 0.001 * 1000 * term / (DIMS * np.log(2))
        np.testing.assert_allclose(values[row], DIMS / 2 * published, rtol=1e-6)


def test_the_bound_teaches_the_variance_alone(hybrid):
    *_, (both, simple) = hybrid
    np.testing.assert_allclose(both["w"], simple["w"], rtol=1e-9)
    assert abs(both["u"]) > 1e-3 and abs(both["b"]) > 1e-3 and simple["u"] == simple["b"] == 0


def test_beside_a_named_variance_the_decoder_has_that_of_all_the_noise():
    """E[−log N(x_0; x̂_0, σ²)] = ½ D (log 2πσ² + Var(x_0|x)/σ²), σ² that of the last level, here (σ/α)² = 1e-4.

    On every SDE: VE's is 1.02 σ_min, of which next to nothing has been added since t = 0.
    """
    x0 = math.sqrt(V) * arrays.normal(key(), jnp.zeros((4096, DIMS)))

    @jax.jit
    def run(sde):
        ts = sde.time(-2 * jnp.log(jnp.array([0.0204, 0.0102])))
        options = {"decoder": variational.gaussian_decoder}
        return ts, likelihood.variational_bound(key(1), sde, exact_score(sde), x0, ts=ts, **options).decoder

    for index, sde in enumerate(SDES.values()):
        ts, decoder = run(AnySDE(index))
        variance, (*_, last) = float(sde.variance(ts[-1])), gaussian_steps(sde, ts)
        assert_mean(decoder, 0.5 * DIMS * (np.log(2 * np.pi * variance) + last / variance))


def test_rows_of_the_bound_depend_on_their_own_key():
    sde, x0 = sdes.VP(), arrays.normal(key(), jnp.zeros((6, DIMS)))
    run = jax.jit(
        lambda k, x0: likelihood.variational_bound(k, sde, exact_score(sde), x0, ts=grids.log_snr(sde, 5)).total
    )
    whole = run(arrays.example_keys(key(1), 6), x0)
    np.testing.assert_allclose(run(key(1), x0), whole, rtol=1e-6)
    np.testing.assert_allclose(run(arrays.example_keys(key(1), 6)[::-1], x0[::-1]), whole[::-1], rtol=1e-5)


def test_levels_that_make_no_sense_are_refused():
    sde, x0 = sdes.VP(), jnp.zeros((1, 1))
    bound = lambda ts: likelihood.variational_bound(key(), sde, lambda x, t: -x, x0, ts=ts)
    hybrid = lambda ts: losses.hybrid_loss(key(), sde, lambda x, t, s: (x, x), x0, ts=ts)
    for owner, refused in (("variational_bound", bound), ("hybrid_loss", hybrid)):
        with pytest.raises(InputError, match=rf"{owner}: ts must be a vector of two or more times.*shape \(\)"):
            refused(0.5)
        with pytest.raises(InputError, match=rf"{owner}: ts must decrease.*0\.1 → 0\.9.*leave out one"):
            refused(jnp.array([0.1, 0.9]))
        with pytest.raises(InputError, match=rf"{owner}: ts must decrease.*: leave out one"):
            refused(grids.levels(sde, np.array([5.0, 1.0, 0.1], np.float32)))  # its first level stands twice
        with pytest.raises(InputError, match=rf"{owner}: ts must be positive.*0\.5 → 0"):
            refused(grids.uniform(sde, 3, t_end=0.0))
        with pytest.raises(InputError, match=f"{owner}: ts must decrease"):
            refused(np.array([0.5, np.nan]))
    with pytest.raises(InputError, match="grey_levels must be at least 2, got 1"):
        variational.grey_level_decoder(1)
