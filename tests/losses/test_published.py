"""The losses of the papers' code, written out in numpy on the same draws: values and gradients in the parameters.

Networks here are linear in their parameters, net = θ₁ sin x + θ₂ x c, so that the gradients of a sum of squares can be
written out too. Published losses are means over the batch of a sum, or a mean, over D dimensions, without the ½; ours
is ½ the sum: `factor` is what takes one to the other.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax import arrays, losses, parameterization
from score_jax import sde as sdes
from score_jax.losses import times, weighting
from tests.helpers import key, mixture

pytestmark = pytest.mark.usefixtures("strict_dtypes", "x64")

DIMS, BATCH = 3, 16
THETA = np.array([0.7, -0.4])


def ours(sde, parameterize, draw, weigh):
    """Value and gradient of the batch mean, and the draws: t `(B, 1)` and ε, x0 `(B, D)`, float64."""
    x0 = mixture(DIMS).sample(key(), BATCH)

    def loss(theta):
        def score_fn(x, t):
            c_in, c = parameterize.inputs(sde, t)
            seen = arrays.expand_right(c_in, x) * x
            net = theta[0] * jnp.sin(seen) + theta[1] * seen * arrays.expand_right(c, x)
            return parameterize.to_score(sde, x, t, net)

        return losses.diffusion_loss(key(1), sde, score_fn, x0, times=draw, weighting=weigh).mean()

    value, gradient = jax.jit(jax.value_and_grad(loss))(jnp.asarray(THETA))
    keys = arrays.example_keys(key(1), BATCH)
    t, _ = draw(arrays.fold_in(keys, 0), sde, BATCH)
    eps = arrays.normal(arrays.fold_in(keys, 1), x0)
    return value, gradient, np.asarray(t)[:, None], np.asarray(eps), np.asarray(x0)


def published(seen, c, output_factor, target, weight, reduce):
    """Value and gradient of mean_B weight·reduce_D((output_factor·net − target)²)."""
    basis = np.stack([np.sin(seen), seen * c], axis=-1) * np.expand_dims(output_factor * np.ones_like(seen), -1)
    residual = basis @ THETA - target
    value = (weight[:, 0] * reduce(residual**2, axis=1)).mean()
    return value, (weight * reduce(2 * residual[..., None] * basis, axis=1)).mean(0)


def assert_equal(found, expected, factor):
    np.testing.assert_allclose(found[0], factor * expected[0], rtol=1e-6)
    np.testing.assert_allclose(found[1], factor * expected[1], rtol=1e-6)


def test_smld_loss():
    """‖net + noise/σ²‖² σ² at a geometric ladder, the network being the score (score SDE's get_smld_loss_fn)."""
    sde, ladder = sdes.VE(0.01, 50.0), np.exp(np.linspace(np.log(50), np.log(0.01), 1000))
    draw = times.discrete(sde.time(-2 * jnp.log(jnp.asarray(ladder))))
    *found, t, eps, x0 = ours(sde, parameterization.Score(), draw, weighting.sigma2)
    sigma = ladder[np.abs(np.log(ladder)[None] - np.log(0.01 * 5000**t)).argmin(1)][:, None]
    x, ones = x0 + sigma * eps, np.ones_like(sigma)
    whole = published(x, np.log(sigma), ones, -sigma * eps / sigma**2, sigma**2, np.sum)
    assert_equal(found, whole, 0.5)
    mean = published(x, np.log(sigma), ones, -sigma * eps / sigma**2, sigma**2, np.mean)
    assert_equal(found, mean, DIMS / 2)


def test_ddpm_loss():
    """mean ‖ε − net(√ᾱ x_0 + √(1−ᾱ) ε)‖², L_simple (Ho et al. 2020, eq. 14), from the published β alone."""
    alphas_bar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    sde = sdes.Tabulated(alphas_bar)
    *found, t, eps, x0 = ours(sde, parameterization.Eps(), times.discrete(sde.knots()), weighting.sigma2)
    a = alphas_bar[np.round(1000 * t).astype(int) - 1]
    x = np.sqrt(a) * x0 + np.sqrt(1 - a) * eps
    expected = published(x, 0.5 * np.log((1 - a) / a), np.ones_like(a), eps, np.ones_like(a), np.mean)
    assert_equal(found, expected, DIMS / 2)


def marginal(sde, t):
    """mean coefficient, std, g² of score SDE's VE, VP and sub-VP, as its sde_lib has them."""
    if isinstance(sde, sdes.VE):
        std = 0.01 * 5000.0**t
        return np.ones_like(t), std, std**2 * 2 * np.log(5000)
    beta, log_mean = 0.1 + 19.9 * t, -0.25 * t**2 * 19.9 - 0.5 * t * 0.1
    if isinstance(sde, sdes.VP):
        return np.exp(log_mean), np.sqrt(1 - np.exp(2 * log_mean)), beta
    return np.exp(log_mean), 1 - np.exp(2 * log_mean), beta * (1 - np.exp(-2 * 0.1 * t - 19.9 * t**2))


def norm(mean, std):
    return np.sqrt(mean**2 + std**2)


@pytest.mark.parametrize("likelihood", [False, True], ids=["default", "likelihood"])
@pytest.mark.parametrize("sde", [sdes.VE(), sdes.VP(), sdes.SubVP()], ids=["ve", "vp", "subvp"])
def test_continuous_losses_of_score_sde(sde, likelihood):
    """reduce(‖std·score + z‖²), or reduce(‖score + z/std‖²)·g², t uniform; reduce_mean False is ½ the sum already."""
    weigh = weighting.likelihood if likelihood else weighting.sigma2
    *found, t, z, x0 = ours(sde, parameterization.Eps(), times.uniform(), weigh)
    mean, std, g2 = marginal(sde, t)
    x, scale = mean * x0 + std * z, norm(mean, std)
    # The network is called with x/scale and log(std/mean), score = −net/std.
    factor, target = (-1 / std, -z / std) if likelihood else (-np.ones_like(std), -z)
    weight = g2 if likelihood else np.ones_like(std)
    args = (x / scale, np.log(std / mean), factor, target, weight)
    assert_equal(found, published(*args, np.mean), DIMS / 2)
    assert_equal(found, published(*args, lambda v, axis: 0.5 * v.sum(axis)), 1.0)


def test_edm_loss():
    """λ(σ)‖D(y + n; σ) − y‖², ln σ ~ N(−1.2, 1.2²), with its preconditioning (Karras et al. 2022, table 1)."""
    sde = sdes.EDM()
    *found, sigma, z, y = ours(sde, parameterization.EDM(0.5), times.lognormal(-1.2, 1.2), weighting.edm(0.5))
    norm = np.sqrt(sigma**2 + 0.25)
    c_skip, c_out, c_in, c_noise = 0.25 / norm**2, 0.5 * sigma / norm, 1 / norm, np.log(sigma) / 4
    x, weight = y + sigma * z, (sigma**2 + 0.25) / (0.5 * sigma) ** 2
    expected = published(c_in * x, c_noise, c_out, y - c_skip * x, weight, np.sum)
    assert_equal(found, expected, 0.5)


# What the network is, and the weight of its square, of SNR and min(SNR, γ) (Hang et al. 2023, eq. 7 and 8; of v, 4.1).
MIN_SNR = {
    parameterization.X0(): lambda mean, std, x0, eps, snr, clipped: (x0, clipped),
    parameterization.Eps(): lambda mean, std, x0, eps, snr, clipped: (eps, clipped / snr),
    parameterization.V(): lambda mean, std, x0, eps, snr, clipped: (
        (mean * eps - std * x0) / norm(mean, std),
        clipped / (snr + 1),
    ),
}


@pytest.mark.parametrize("sde", [sdes.VP(), sdes.VE()], ids=["vp", "ve"])
@pytest.mark.parametrize("meaning", MIN_SNR, ids=str)
def test_min_snr_loss(meaning, sde):
    """min(SNR, γ)·‖x_0 − x̂_0‖², in terms of x_0, of ε (divided by SNR) or of v (by SNR + 1)."""
    *found, t, z, x0 = ours(sde, meaning, times.uniform(), weighting.min_snr(5.0))
    mean, std, _ = marginal(sde, t)
    snr = mean**2 / std**2
    target, weight = MIN_SNR[meaning](mean, std, x0, z, snr, np.minimum(snr, 5.0))
    x = (mean * x0 + std * z) / norm(mean, std)
    assert_equal(found, published(x, np.log(std / mean), np.ones_like(std), target, weight, np.sum), 0.5)
    assert 2 <= (snr > 5).sum() <= 14  # some clipped, some not


def test_vdm_loss():
    """½γ′(t)‖ε − ε̂‖², γ = −log SNR (Kingma et al. 2021, eq. 17), is the likelihood-weighted loss itself."""
    sde = sdes.VP()
    *found, t, eps, x0 = ours(sde, parameterization.Eps(), times.uniform(antithetic=True), weighting.likelihood)
    mean, std, _ = marginal(sde, t)
    gamma = lambda t: np.log(np.expm1(0.1 * t + 0.5 * 19.9 * t**2))
    slope = (gamma(t * (1 + 1e-5)) - gamma(t * (1 - 1e-5))) / (2e-5 * t)
    x = mean * x0 + std * eps
    assert_equal(found, published(x, np.log(std / mean), np.ones_like(std), eps, slope, np.sum), 0.5)


def test_importance_sampling_meets_its_published_numbers():
    """Z = ∫g²/σ² dt from 1e-3 is 19.165, and the median of t .3046 there, .1144 from 1e-5: where half of Z is spent."""
    for t_min, total, median in [
        (1e-5, 23.864472365469528, 0.11442144872953755),
        (1e-3, 19.165386678778205, 0.30463140976877495),
    ]:
        vp = sdes.VP(t_min=t_min)
        t, weight = times.importance()(key(), vp, 50)
        ratio = weighting.likelihood(vp, t) / vp.variance(t)
        np.testing.assert_allclose(weight * ratio * (1 - t_min), total, rtol=1e-6)
        middle = vp.time(0.5 * (vp.log_snr(vp.t_min) + vp.log_snr(vp.t_max)))
        np.testing.assert_allclose(middle, median, rtol=1e-6)


def test_the_table_of_ddpm_is_near_vp_and_no_nearer():
    table, vp = sdes.Tabulated(sdes.ddpm_schedule(1000).alphas_bar), sdes.VP()
    apart = jnp.abs(table.alpha(table.knots()) ** 2 - vp.alpha(table.knots()) ** 2).max()
    np.testing.assert_allclose(apart, 8.113e-4, rtol=1e-3)
