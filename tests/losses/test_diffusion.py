"""Objectives at all noise levels: published losses in their normalisations, weights, time samplers, lifting."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax import arrays, distributions, losses
from score_jax import sde as sdes
from score_jax.losses import times, weighting
from score_jax.types import InputError
from tests.helpers import IMPLICIT_OBJECTIVES, KERNELS, SDES, TIMES, WEIGHTINGS, assert_mean, key, mixture, often

pytestmark = pytest.mark.usefixtures("strict_dtypes")
each_sde = pytest.mark.parametrize("sde", SDES.values(), ids=SDES.keys())
each_times = pytest.mark.parametrize("draw", TIMES.values(), ids=TIMES.keys())
N = 20_000


@pytest.mark.parametrize("name", WEIGHTINGS)
@each_sde
def test_weights_are_the_published_ones(name, sde):
    t = jnp.linspace(0.2, 0.8, 4) * sde.t_max
    variance, g2 = np.asarray(sde.variance(t)), np.asarray(sde.diffusion(t)) ** 2
    ratio = np.sqrt(variance) / np.asarray(sde.alpha(t))
    expected = {
        "sigma2": variance,
        "likelihood": g2,
        "edm": variance * (ratio**2 + 0.25) / 0.25,
        "min_snr": variance * np.minimum(ratio**-2.0, 5) * ratio**2,
    }
    np.testing.assert_allclose(WEIGHTINGS[name](sde, t), expected[name], rtol=1e-4)


def test_likelihood_over_sigma2_meets_the_published_ratios():
    for sde, t, expected in [
        (sdes.VE(0.01, 50.0), 0.3, 17.034386382832476),
        (sdes.VP(), 0.5, 10.912808222653158),
        (sdes.SubVP(), 0.5, 11.775616445306316),
    ]:
        t = jnp.asarray(t)
        np.testing.assert_allclose(weighting.likelihood(sde, t) / sde.variance(t), expected, rtol=1e-5)


def test_edm_weight_meets_its_published_values():
    """λ(σ) multiplies ‖D − y‖² = σ⁴‖score error‖²: our weight is λ σ⁴, λ(0.5) = 8 and λ(1) = 5."""
    sigma = jnp.array([0.5, 1.0])
    np.testing.assert_allclose(weighting.edm(0.5)(sdes.EDM(), sigma) / sigma**4, [8, 5], rtol=1e-6)


@each_sde
@each_times
def test_times_lie_in_range_and_belong_to_their_example(sde, draw):
    keys = arrays.example_keys(key(2), 64)
    t, weight = draw(keys, sde, 64)
    assert t.shape == weight.shape == (64,)
    assert sde.t_min <= t.min() and t.max() <= sde.t_max
    if draw is not TIMES["antithetic"]:
        np.testing.assert_allclose(draw(keys[10:20], sde, 10)[0], t[10:20], rtol=1e-6)


@each_sde
@pytest.mark.parametrize("name", ["uniform", "antithetic", "importance"])
def test_weighted_times_integrate_like_uniform_ones(sde, name):
    """E[w f(t)] = mean of f over [t_min, t_max], here for f = σ²/(1 + σ²)."""
    t, weight = TIMES[name](key(1), sde, N)
    f = lambda t: sde.variance(t) / (1 + sde.variance(t))
    grid = jnp.linspace(sde.t_min, sde.t_max, 20_001)
    expected = float(f(0.5 * (grid[1:] + grid[:-1])).mean())
    assert_mean(weight * f(t), expected)


def test_importance_sampling_makes_the_likelihood_weight_constant():
    """t ∝ g²/σ²: weight·g²/σ² is the constant Z/(t_max − t_min), 23.864472 on VP."""
    vp = sdes.VP()
    t, weight = times.importance()(key(), vp, 100)
    constant = weight * weighting.likelihood(vp, t) / vp.variance(t)
    np.testing.assert_allclose(constant, 23.864472365469528 / (1 - 1e-5), rtol=2e-3)
    median = np.median(times.importance()(key(), vp, N)[0])
    np.testing.assert_allclose(median, 0.11442144872953755, rtol=0.05)


def test_antithetic_times_are_stratified():
    t, _ = times.uniform(antithetic=True)(key(), sdes.VP(), 64)
    np.testing.assert_allclose(np.diff(np.sort(t)), (1 - 1e-5) / 64, rtol=1e-3)


def test_lognormal_times_have_the_published_law():
    t, weight = times.lognormal(-1.2, 1.2)(key(), sdes.EDM(), N)
    assert_mean(jnp.log(t), -1.2)
    assert_mean((jnp.log(t) + 1.2) ** 2, 1.44, slack=0.01)  # clipping at σ_min = 0.002, 4.2 sigmas out
    assert np.all(weight == 1)


def test_discrete_times_visit_every_level_equally():
    levels = jnp.array([0.9, 0.5, 0.1])
    t, _ = times.discrete(levels)(key(), sdes.VP(), N)
    assert_mean(t[:, None] == levels[None], 1 / 3)


def test_smld_loss_is_the_published_one():
    """NCSN: mean over examples of ½ Σ(s(x̃) + z/σ)² σ², levels uniform."""
    sde, levels = sdes.VE(0.01, 1.0), sdes.geometric_sigmas(1.0, 0.01, 10)
    draw = times.discrete(sde.time(-2 * jnp.log(levels)))
    x0 = mixture().sample(key(), 6)
    score_fn = lambda x, t: jnp.tanh(x) * arrays.expand_right(t + 1, x)
    loss = losses.diffusion_loss(key(1), sde, score_fn, x0, times=draw)
    keys = arrays.example_keys(key(1), 6)
    key_t, key_noise = arrays.fold_in(keys, 0), arrays.fold_in(keys, 1)
    t, _ = draw(key_t, sde, 6)
    sigma = np.exp(np.log(0.01) + np.asarray(t) * np.log(100))[:, None]
    z = arrays.normal(key_noise, x0)
    perturbed = x0 + sigma * z
    target = -(perturbed - x0) / sigma**2
    expected = 0.5 * ((score_fn(perturbed, t) - target) ** 2).sum(1) * sigma[:, 0] ** 2
    np.testing.assert_allclose(loss, expected, rtol=1e-3)
    assert len(np.unique(np.round(sigma, 6))) > 1


def test_ddpm_simple_loss_is_the_published_one():
    """L_simple = ‖ε − ε_θ(√ᾱ x_0 + √(1−ᾱ) ε)‖² is twice the σ²-weighted loss of score = −ε_θ/σ."""
    tables = sdes.ddpm_schedule(1000)
    sde = sdes.Tabulated(tables.alphas_bar)
    draw = times.discrete(sde.knots())
    x0 = mixture().sample(key(), 8)
    eps_model = lambda x: jnp.sin(x)
    loss = losses.diffusion_loss(
        key(1), sde, lambda x, t: -eps_model(x) / arrays.expand_right(sde.sigma(t), x), x0, times=draw
    )
    keys = arrays.example_keys(key(1), 8)
    key_t, key_noise = arrays.fold_in(keys, 0), arrays.fold_in(keys, 1)
    index = np.round(np.asarray(draw(key_t, sde, 8)[0]) * 1000).astype(int) - 1
    alpha_bar, eps = tables.alphas_bar[index][:, None], np.asarray(arrays.normal(key_noise, x0))
    simple = ((eps - np.sin(np.sqrt(alpha_bar) * x0 + np.sqrt(1 - alpha_bar) * eps)) ** 2).sum(1)
    np.testing.assert_allclose(loss, 0.5 * simple, rtol=1e-4)


@pytest.mark.parametrize("name", ["gaussian", "laplace", "student_t", "mixture"])
def test_with_any_noise_the_optimum_is_the_score_of_the_data_so_noised(name):
    """Of two points: E[(σ s(x_t) − ∇ log q(z))·h(x_t)] = 0 for any h, here the derivative of the loss along h."""
    sde, noise, points = sdes.VE(0.1, 3.0), KERNELS[name], jnp.array([[-1.0, 0.5], [1.0, -0.5]])

    def log_density(x, sigma):
        at = lambda point: noise.log_prob((x - jnp.broadcast_to(point, x.shape)) / sigma, jnp.zeros_like(x))
        parts = jnp.stack([at(point) for point in points])
        return jax.nn.logsumexp(parts, axis=0).sum()

    def score_fn(strength, x, t):
        sigma = arrays.expand_right(sde.sigma(t), x)
        return jax.grad(log_density)(x, sigma) + strength * jnp.sin(2 * x) / sigma

    def loss(strength):
        x0 = points[jnp.arange(N) % 2]
        return losses.diffusion_loss(key(), sde, lambda x, t: score_fn(strength, x, t), x0, noise=noise)

    assert_mean(jax.jit(jax.jacfwd(loss))(0.0), 0.0)


@pytest.mark.parametrize("name", often(("gaussian", "laplace", "student_t"), ("gaussian", "student_t")))
def test_a_control_variate_changes_no_mean_and_removes_the_variance_of_small_noise(name):
    """Loss and derivative along a direction, at levels of 0.01 to 0.1 beside data of scale 0.3 to 0.6."""
    sde, data = sdes.VE(0.01, 0.1), mixture()
    truth = distributions.score_of(data, sde)

    def loss(strength, control):
        score_fn = lambda x, t: truth(x, t) + strength * jnp.sin(x)
        x0, kernel = data.sample(key(1), N), KERNELS[name]
        return losses.diffusion_loss(key(), sde, score_fn, x0, noise=kernel, control=control)

    both = lambda control: jax.jvp(lambda s: loss(s, control), (jnp.ones(()),), (jnp.ones(()),))
    plain, plain_slope = jax.jit(lambda: both(None))()
    less, less_slope = jax.jit(lambda: both(weighting.small_noise(0.3)))()
    assert_mean(plain - less, 0.0)
    assert_mean(plain_slope - less_slope, 0.0)
    # (1 − c)² of that part's variance stays, and c = 0.09/(0.09 + σ²) is 0.9 at σ = 0.1, nearer 1 below.
    assert less.var() < 0.1 * plain.var() and less_slope.var() < 0.1 * plain_slope.var()


@each_sde
def test_the_exact_score_is_the_optimum_at_every_level(sde):
    """The gradient in any perturbation of the exact score vanishes, level by level."""
    data = mixture()
    truth = distributions.score_of(data, sde)
    levels = jnp.array([0.15, 0.5, 0.9]) * sde.t_max
    x0 = data.sample(key(), 3 * 4000)
    t = jnp.repeat(levels, 4000)

    def loss(theta, key, row, t):
        def score_fn(x, t):
            sigma = arrays.expand_right(sde.sigma(t), x)
            return truth(x, t) + (theta[0] + theta[1] * jnp.sin(x / sigma)) / sigma

        return losses.diffusion_loss(key[None], sde, score_fn, row[None], times=lambda *_: (t[None], jnp.ones(1)))[0]

    keys = arrays.example_keys(key(1), len(x0))
    gradients = jax.jit(jax.vmap(jax.grad(loss), (None, 0, 0, 0)))(jnp.zeros(2), keys, x0, t)
    for level in np.split(np.asarray(gradients), 3):
        assert_mean(level, 0.0)


@each_sde
def test_the_loss_at_the_exact_score_is_the_posterior_variance(sde):
    """½E‖σ s* + ε‖² = ½ tr Var(ε | x_t) = ½ D v α²/(α² v + σ²) for data N(0, v)."""
    v, t = 0.5, jnp.asarray(0.4 * sde.t_max)
    data = distributions.Gaussian(jnp.zeros(3), v)
    x0 = data.sample(key(), N)
    loss = losses.diffusion_loss(
        key(1), sde, distributions.score_of(data, sde), x0, times=lambda key, sde, n: (jnp.full(n, t), jnp.ones(n))
    )
    alpha2, variance = float(sde.alpha(t)) ** 2, float(sde.variance(t))
    assert_mean(loss, 1.5 * v * alpha2 / (alpha2 * v + variance))


@pytest.mark.parametrize("name", IMPLICIT_OBJECTIVES)
def test_lifted_objectives_agree_with_denoising_in_gradient(name):
    """perturbed(objective) and diffusion_loss differ by a constant at every level: they share their gradient."""
    sde, data = sdes.VE(0.1, 5.0), mixture()
    truth = distributions.score_of(data, sde)
    draw = times.discrete(jnp.array([0.2, 0.6]))

    def gradient(objective):
        def loss(theta, key, row):
            def score_fn(x, t):
                sigma = arrays.expand_right(sde.sigma(t), x)
                return truth(x, t) + (theta[0] * jnp.sin(x / sigma) + theta[1]) / sigma

            return objective(key[None], score_fn, row[None])[0]

        keys = arrays.example_keys(key(1), 8000)
        return jax.jit(jax.vmap(jax.grad(loss), (None, 0, 0)))(jnp.array([0.4, -0.3]), keys, data.sample(key(), 8000))

    lifted = gradient(losses.perturbed(IMPLICIT_OBJECTIVES[name], sde, times=draw))
    denoising = gradient(lambda key, s, x: losses.diffusion_loss(key, sde, s, x, times=draw))
    spread = np.hypot(np.std(lifted, axis=0), np.std(denoising, axis=0)) / 8000**0.5
    # fd_ssm's own bias: ε = 0.01 in noise units, of order 1e-4
    np.testing.assert_array_less(np.abs(np.mean(lifted, 0) - np.mean(denoising, 0)), 4 * spread + 1e-3)
    assert np.abs(np.mean(denoising, 0)).min() > 4 * spread.max()


def test_lifting_works_in_noise_units():
    """On scores that are −x/σ² · c the lifted objective is the same at every σ: J_u = ½c²‖u‖² − c·d."""
    sde, x0, c = sdes.VE(0.01, 50.0), jnp.zeros((4000, 2)), 0.7
    score_fn = lambda x, t: -c * x / arrays.expand_right(sde.variance(t), x)
    values = losses.perturbed(IMPLICIT_OBJECTIVES["ism"], sde)(key(), score_fn, x0)
    assert_mean(values, 0.5 * c**2 * 2 - c * 2)


def test_weights_multiply_the_loss():
    x0, sde = mixture().sample(key(), 5), sdes.VP()
    score_fn = lambda x, t: -x
    plain = losses.diffusion_loss(key(), sde, score_fn, x0)
    doubled = losses.diffusion_loss(key(), sde, score_fn, x0, weighting=lambda sde, t: 2 * sde.variance(t))
    tripled = losses.diffusion_loss(
        key(), sde, score_fn, x0, times=lambda *args: (times.uniform()(*args)[0], jnp.full(5, 3.0))
    )
    np.testing.assert_allclose(doubled, 2 * plain, rtol=1e-6)
    np.testing.assert_allclose(tripled, 3 * plain, rtol=1e-6)


def test_one_key_draws_at_every_level_what_its_example_keys_draw():
    x0, sde = jnp.ones((3, 2)), sdes.VP()
    score_fn = lambda x, t: jnp.sin(x)
    decoder = lambda x0, mean, variance: arrays.sum_dims(mean)

    def drawn(k):
        both, options = lambda x, t, s: (-x, x**2 + 1), {"ts": jnp.array([0.9, 0.5, 0.1]), "decoder": decoder}
        return {
            "diffusion": losses.diffusion_loss(k, sde, score_fn, x0),
            "lifted": losses.perturbed(IMPLICIT_OBJECTIVES["fd_ssm"], sde)(k, score_fn, x0),
            "hybrid": losses.hybrid_loss(k, sde, both, x0, **options),
        }

    whole, by_row = jax.jit(lambda k: (drawn(k), drawn(arrays.example_keys(k, 3))))(key(5))
    for name, values in whole.items():
        np.testing.assert_array_equal(values, by_row[name], err_msg=name)


def test_losses_follow_the_dtype_of_the_data(x64):
    x0 = jnp.ones((3, 2), jnp.float32)
    assert losses.diffusion_loss(key(), sdes.VP(), lambda x, t: -x, x0).dtype == jnp.float32
    assert losses.diffusion_loss(key(), sdes.VP(), lambda x, t: -x, x0.astype(jnp.float64)).dtype == jnp.float64


def test_levels_that_are_no_vector_are_refused():
    with pytest.raises(InputError, match=r"non-empty vector of times, got shape \(\)"):
        times.discrete(0.5)
