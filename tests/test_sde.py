"""Noising processes: derived drift and diffusion are the textbook's, published tables are met, time inverts log-SNR."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from score_jax import sde as sdes
from score_jax.types import InputError
from tests.helpers import SDES, assert_mean, key

pytestmark = pytest.mark.usefixtures("strict_dtypes")
each_sde = pytest.mark.parametrize("sde", SDES.values(), ids=SDES.keys())


def times_of(sde, n=9):
    return jnp.linspace(sde.t_min + 0.003, sde.t_max - 0.003, n)


BETA = lambda t: 0.1 + t * 19.9
INTEGRAL = lambda t: 0.1 * t + 0.5 * 19.9 * t**2
TEXTBOOK = {
    "ve": (lambda t: 0 * t, lambda t: 2 * np.log(5000) * (0.01 * 5000**t) ** 2),
    "vp": (lambda t: -0.5 * BETA(t), BETA),
    "subvp": (lambda t: -0.5 * BETA(t), lambda t: BETA(t) * (1 - np.exp(-2 * INTEGRAL(t)))),
    "edm": (lambda t: 0 * t, lambda t: 2 * t),
    "cosine": (lambda t: -0.5 * np.pi * np.tan(np.pi * t / 2), lambda t: np.pi * np.tan(np.pi * t / 2)),
    "flow": (lambda t: -1 / (1 - t), lambda t: 2 * t / (1 - t)),
}


@pytest.mark.parametrize("name", TEXTBOOK)
def test_drift_and_diffusion_are_the_textbooks(name):
    sde, (drift, diffusion2) = SDES[name], TEXTBOOK[name]
    t = times_of(sde)
    t64 = np.asarray(t, np.float64)
    np.testing.assert_allclose(sde.drift(t), drift(t64), rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(sde.diffusion(t) ** 2, diffusion2(t64), rtol=2e-5)


@each_sde
def test_time_inverts_log_snr(sde):
    t = times_of(sde)
    # log-SNR is good to about 1e-6 absolute; VP's t moves by at most 0.5 per unit of it.
    np.testing.assert_allclose(sde.time(sde.log_snr(t)), t, rtol=2e-5, atol=2e-6)


@each_sde
def test_bisection_finds_the_closed_form_time(sde):
    t = times_of(sde)
    np.testing.assert_allclose(sdes.SDE.time(sde, sde.log_snr(t)), t, rtol=2e-5, atol=2e-6)


@each_sde
def test_log_snr_decreases(sde):
    assert np.all(np.diff(sde.log_snr(jnp.linspace(sde.t_min, sde.t_max, 200))) < 0)


@each_sde
def test_moments_solve_the_forward_sde(sde):
    """Euler on dα = fα dt and dσ² = (2fσ² + g²) dt from t to t + dt agrees with the closed moments to O(dt²)."""
    t, dt = times_of(sde, 5)[1:-1] + 1.7e-4, 1e-4  # off the knots of the tabulated schedule
    with jax.enable_x64(True):
        t = jnp.asarray(t, jnp.float64)
        alpha = sde.alpha(t) * (1 + sde.drift(t) * dt)
        variance = sde.variance(t) + (2 * sde.drift(t) * sde.variance(t) + sde.diffusion(t) ** 2) * dt
        # The second derivatives are at most (2·8.5)² (VE) to (π/2 tan)² (Cosine near 1): 1e-4 covers dt²/2 of them.
        np.testing.assert_allclose(alpha, sde.alpha(t + dt), rtol=1e-4)
        np.testing.assert_allclose(variance, sde.variance(t + dt), rtol=1e-4)


@each_sde
def test_perturb_has_the_kernels_moments_and_returns_its_noise(sde):
    t = jnp.asarray(0.4 * sde.t_max)
    x0 = jnp.full((20_000, 2), 1.3)
    x, eps = sde.perturb(key(), x0, t)
    np.testing.assert_allclose(x, sde.alpha(t) * x0 + sde.sigma(t) * eps, rtol=1e-6)
    assert_mean(x, 1.3 * float(sde.alpha(t)))
    assert_mean((x - 1.3 * sde.alpha(t)) ** 2, float(sde.variance(t)))


@each_sde
def test_prior_log_prob_and_samples_are_normal_at_t_max(sde):
    std = float(sde.sigma(sde.t_max))
    x = sde.prior_sample(key(), (20_000, 3))
    assert_mean(x**2, std**2)
    expected = -0.5 * (np.asarray(x[:5]) ** 2).sum(1) / std**2 - 1.5 * np.log(2 * np.pi * std**2)
    np.testing.assert_allclose(sde.prior_log_prob(x[:5]), expected, rtol=1e-5)


@each_sde
def test_denoise_returns_x0_when_given_the_kernels_score(sde):
    t = times_of(sde, 4)
    x0 = jnp.arange(8.0).reshape(4, 2) - 3
    x, eps = sde.perturb(key(), x0, t)
    x0_hat = sde.denoise(x, t, -eps / sde.sigma(t)[:, None])
    # Rounding of x is amplified by 1/α, up to 1/α(t_max) = 250 on Flow.
    np.testing.assert_allclose(x0_hat, x0, atol=2e-4 * float((np.abs(x).max(1) / sde.alpha(t)).max()) / 10 + 1e-4)


VP_ANCHORS = [
    (1.0, 0.006571586494929619, 0.9999784068923386),
    (0.5, 0.2811828807967524, 0.9596542020680363),
    (0.25, 0.7236571850830864, 0.6901596036263088),
    (1e-3, 0.9999450265110976, 0.010485416335094895),
]


@pytest.mark.parametrize(("t", "alpha", "sigma"), VP_ANCHORS)
def test_vp_meets_its_published_values(t, alpha, sigma):
    np.testing.assert_allclose(sdes.VP().alpha(t), alpha, rtol=2e-6)
    np.testing.assert_allclose(sdes.VP().sigma(t), sigma, rtol=2e-6)


def test_subvp_and_ve_meet_their_published_values():
    np.testing.assert_allclose(sdes.SubVP().sigma(0.5), 0.9209361875468394, rtol=2e-6)
    np.testing.assert_allclose(sdes.SubVP().sigma(1e-3), 1.0994395572027488e-4, rtol=1e-5)
    np.testing.assert_allclose(sdes.VE().diffusion(0.0), 0.0412727348049926, rtol=1e-5)
    np.testing.assert_allclose(sdes.VE().diffusion(1.0), 206.363674024963, rtol=1e-5)


def test_importance_constant_of_vp_is_the_published_one():
    vp = sdes.VP()
    np.testing.assert_allclose(vp.log_snr(1e-5) - vp.log_snr(1.0), 23.864472365469528, rtol=1e-5)


def test_ddpm_linear_schedule_meets_its_published_values():
    tables = sdes.ddpm_schedule(1000, "linear")
    np.testing.assert_allclose(
        tables.alphas_bar[[0, 1, 499, 999]],
        [0.9999, 0.9997800920720721, 0.07858724288177824, 4.035829765375676e-05],
        rtol=1e-12,
    )
    np.testing.assert_allclose(
        tables.posterior_variance[[1, 2, 999]], [5.4531876613e-5, 8.5489115231e-5, 0.01999998352656061], rtol=1e-9
    )
    assert tables.posterior_variance[0] == 0


def test_ddpm_cosine_schedule_meets_its_published_values():
    tables = sdes.ddpm_schedule(1000, "cosine")
    np.testing.assert_allclose(
        tables.betas[[0, 499, 998, 999]], [4.128422482196914e-5, 0.0031458862304780677, 0.7499993929, 0.999], rtol=1e-9
    )
    np.testing.assert_allclose(tables.alphas_bar[[499, 999]], [0.4938435904406382, 2.4287669070348567e-9], rtol=1e-9)


def test_tabulated_is_exact_at_its_knots():
    tables, sde = sdes.ddpm_schedule(1000), SDES["tabulated"]
    knots = sde.knots()
    np.testing.assert_allclose(sde.alpha(knots) ** 2, tables.alphas_bar, rtol=2e-6)
    np.testing.assert_allclose(sde.variance(knots), 1 - tables.alphas_bar, rtol=2e-6)


def test_tabulated_as_an_argument_of_jit_is_as_exact_as_closed_over():
    """Its leaf is log ᾱ taken in float64; from float32 ᾱ, 1 − ᾱ of the first knot would be off by 3e-4."""
    tables, sde = sdes.ddpm_schedule(1000), SDES["tabulated"]
    variance = jax.jit(lambda sde: sde.variance(sde.knots()))(sde)
    np.testing.assert_allclose(variance, 1 - tables.alphas_bar, rtol=2e-6)
    assert abs((1 - np.float32(tables.alphas_bar[0])) / (1 - tables.alphas_bar[0]) - 1) > 1e-4


def test_tabulated_approaches_vp_like_one_over_n():
    """max |ᾱ_i − exp(−B((i+1)/N))| is 8.113e-4 at N = 1000 and shrinks like 1/N."""
    gaps = []
    for n in (1000, 4000):
        t = np.arange(1, n + 1) / n
        gaps.append(np.abs(sdes.ddpm_schedule(n).alphas_bar - np.exp(-INTEGRAL(t))).max())
    np.testing.assert_allclose(gaps[0], 8.113e-4, rtol=1e-3)
    np.testing.assert_allclose(gaps[0] / gaps[1], 4, rtol=0.02)


def test_geometric_sigmas_are_the_published_ladder():
    expected = [1, 0.59948425, 0.35938137, 0.21544347, 0.12915497, 0.07742637, 0.04641589, 0.02782559, 0.01668101, 0.01]
    np.testing.assert_allclose(sdes.geometric_sigmas(1.0, 0.01, 10), expected, rtol=1e-6)


def test_an_author_writes_two_functions():
    """A new SDE is log α and σ²: everything else follows, `time` included (Ornstein–Uhlenbeck with rate 3)."""

    @struct.dataclass
    class OU(sdes.SDE):
        t_min: float = 1e-3
        t_max: float = 2.0

        def log_alpha(self, t):
            return -3 * t

        def variance(self, t):
            return -jnp.expm1(-6 * t)

    t = jnp.linspace(0.05, 1.0, 4)
    np.testing.assert_allclose(OU().drift(t), -3, rtol=1e-6)
    np.testing.assert_allclose(OU().diffusion(t), 6**0.5, rtol=1e-5)
    np.testing.assert_allclose(OU().time(OU().log_snr(t)), t, rtol=1e-4)


def test_schedules_stay_float32_for_half_precision_data():
    t = jnp.asarray(0.3, jnp.bfloat16)
    for sde in SDES.values():
        assert sde.sigma(t).dtype == sde.drift(t).dtype == jnp.float32
    x, _ = sdes.VP().perturb(key(), jnp.ones((2, 3), jnp.bfloat16), jnp.array([0.1, 0.2]))
    assert x.dtype == jnp.bfloat16


@each_sde
def test_double_precision_stays_double(sde, x64):
    t = jnp.linspace(0.1, 0.9, 3)
    assert sde.log_snr(t).dtype == sde.time(sde.log_snr(t)).dtype == jnp.float64
    np.testing.assert_allclose(sde.time(sde.log_snr(t)), t, rtol=1e-9)


def test_numbers_are_leaves_sweepable_under_vmap_and_learnable():
    values = jax.vmap(lambda s: sdes.VE(0.01, s).sigma(0.5))(jnp.array([1.0, 4.0, 100.0]))
    np.testing.assert_allclose(values, [0.1, 0.2, 1.0], rtol=1e-5)
    slope = jax.grad(lambda b: sdes.VP(0.1, b).log_snr(0.7))(20.0)
    expected = (sdes.VP(0.1, 20.05).log_snr(0.7) - sdes.VP(0.1, 19.95).log_snr(0.7)) / 0.1
    np.testing.assert_allclose(slope, expected, rtol=1e-3)


def test_rebuilding_an_sde_does_not_retrace():
    f = jax.jit(chex.assert_max_traces(lambda sde: sde.sigma(0.5), n=1))
    assert f(sdes.VE(0.01, 50.0)) != f(sdes.VE(0.02, 90.0))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: sdes.VE(0.0, 50.0), "sigma_min must be positive, got 0.0"),
        (lambda: sdes.VE(-0.1, 50.0), "sigma_min must be positive, got -0.1"),
        (lambda: sdes.VE(50.0, 0.01), "sigma_min must be below sigma_max, got 50.0 and 0.01"),
        (lambda: sdes.VP(0.0), "beta_min must be positive"),
        (lambda: sdes.EDM(sigma_max=-1.0), "sigma_max must be positive"),
        (lambda: sdes.Flow(t_min=0.5, t_max=0.2), "t_min must be below t_max"),
        (lambda: sdes.Tabulated(np.array([0.5, 0.9])), "must decrease strictly inside"),
        (lambda: sdes.ddpm_schedule(1000, "sine"), '"linear", "quadratic" or "cosine", got \'sine\''),
        (lambda: sdes.ddpm_schedule(10), "at least 21 steps"),
        (lambda: sdes.geometric_sigmas(0.01, 1.0, 5), "sigma_min must be below sigma_max"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(build, message):
    with pytest.raises(InputError, match=message):
        build()


@pytest.mark.parametrize(
    "make",
    [
        lambda: sdes.Cosine(t_max=1.0),
        lambda: sdes.Flow(t_max=1.0),
        lambda: sdes.Flow(t_max=1 - 1e-12),  # 1 in float32
        lambda: sdes.VP(beta_max=1000.0),
        lambda: sdes.SubVP(beta_min=400.0),
        lambda: sdes.Tabulated(np.array([0.9, 0.5, 1e-90])),
        lambda: sdes.Tabulated(jnp.array([0.9, 0.5, 1e-36])),
    ],
)
def test_processes_whose_data_vanish_are_refused_with_the_cure(make):
    with pytest.raises(InputError, match=r"α.* vanishes"):
        make()


def test_tables_of_jax_are_read_as_those_of_numpy():
    table = [0.9, 0.5, 0.2, 0.0]  # zero terminal SNR
    ours, theirs = sdes.Tabulated(jnp.array(table)), sdes.Tabulated(np.float32(table))
    assert ours.t_max == theirs.t_max == 0.75
    np.testing.assert_array_equal(ours.log_alphas_bar, theirs.log_alphas_bar)
    with pytest.raises(InputError, match="must decrease strictly"):
        sdes.Tabulated(jnp.array([0.9, jnp.nan, 0.2]))
