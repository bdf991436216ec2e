"""Log-likelihood against closed forms on every SDE, Hutchinson's error bars, bits per dimension, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax import arrays, distributions, likelihood
from score_jax import sde as sdes
from score_jax.data import images
from score_jax.types import InputError
from tests.helpers import SDES, key, mixture, standard_error
from tests.sampling.test_flow import gaussian_score, law

pytestmark = pytest.mark.usefixtures("strict_dtypes")
each_sde = pytest.mark.parametrize("sde", SDES.values(), ids=SDES.keys())


def normal_log_prob(x, mean, std):
    return (-0.5 * ((x - mean) / std) ** 2 - np.log(std) - 0.5 * np.log(2 * np.pi)).sum(1)


@each_sde
def test_the_likelihood_of_a_gaussian_is_the_closed_form(sde):
    """Of the flow from the prior, which is Gaussian too; with the law at t_max in the prior's place, of the data."""
    (mean, std), (mean_end, std_end) = law(sde, sde.t_max), law(sde, sde.t_min)
    x = mean_end + std_end * np.array([[0.3, -1.2], [2.0, 0.1], [-1.0, 1.0]])
    run = jax.jit(lambda x: likelihood.log_likelihood(sde, gaussian_score(sde), x))
    found = run(jnp.asarray(x, jnp.float32))
    x = np.asarray(jnp.asarray(x, jnp.float32), np.float64)
    prior = float(sde.sigma(sde.t_max))
    # x_0 = m_0 + (std_0/std_T)(x_T − m_T), x_T ~ N(0, σ_T²).  A dozen steps within 1e-5·(1 + 3 nats) each.
    flowed = normal_log_prob(x, mean_end - std_end / std * mean, std_end / std * prior)
    np.testing.assert_allclose(found.log_prob, flowed, atol=3e-4)
    np.testing.assert_allclose(found.z, mean + std * (x - mean_end) / std_end, atol=3e-4 * std.max())
    mismatch = normal_log_prob(np.asarray(found.z), mean, std) - normal_log_prob(np.asarray(found.z), 0, prior)
    np.testing.assert_allclose(found.log_prob + mismatch, normal_log_prob(x, mean_end, std_end), atol=3e-4)
    np.testing.assert_array_equal(found.standard_error, 0)
    assert found.nfe <= 67


@pytest.fixture(scope="module")
def oracle():
    """An anisotropic mixture on VP, its exact likelihood from t and Hutchinson's with 2 probes, both compiled once."""
    sde, data = SDES["vp"], mixture(3, full=True)
    score_fn = distributions.score_of(data, sde)
    between = jax.jit(lambda x, low, high: likelihood.log_likelihood(sde, score_fn, x, t_min=low, t_max=high))
    exact = lambda x, t_min=sde.t_min, t_max=sde.t_max: between(x, t_min, t_max)
    estimate = jax.jit(lambda key, x: likelihood.log_likelihood(sde, score_fn, x, key=key, n_probes=2))
    return sde, data, exact, estimate


def test_the_likelihood_of_a_mixture_is_the_closed_form(oracle):
    sde, data, exact, _ = oracle
    x = data.perturbed(sde, sde.t_min).sample(key(), 64)
    found, truth = exact(x), data.perturbed(sde, sde.t_min).log_prob(x)
    mismatch = data.perturbed(sde, sde.t_max).log_prob(found.z) - sde.prior_log_prob(found.z)
    # Fifteen steps within 1e-5·(1 + 5 nats), as much again for errors of x times the score.
    np.testing.assert_allclose(found.log_prob + mismatch, truth, atol=2e-3)
    # log N(z; 0, I) against N(α m, α² C + σ² I), α = 0.0066 and |m|² about 7: at most α|m||z| + …, 0.06 nats.
    assert 1e-4 < np.abs(found.log_prob - truth).max() < 0.06


def test_hutchinsons_estimate_is_unbiased_and_its_error_bar_is_right(oracle):
    """One point 1,024 times, each row with probes of its own."""
    _, _, exact, estimate = oracle
    x = jnp.array([[1.2, 0.3, 0.8]])
    rows = jnp.broadcast_to(x, (1024, 3))
    found = estimate(key(3), rows)
    values, truth = np.asarray(found.log_prob, np.float64), float(exact(x).log_prob[0])
    assert abs(values.mean() - truth) < 4 * standard_error(values) + 2e-4
    # Mean of the squared error bars against the variance over rows: each to √(2/1024), 4 s.e. of the two.
    squared = np.asarray(found.standard_error, np.float64) ** 2
    np.testing.assert_allclose(squared.mean(), values.var(ddof=1), rtol=4 * np.sqrt(4 / 1024))
    assert values.std() > 0.02  # there is something to estimate


def test_half_precision_is_integrated_in_float32(oracle):
    _, data, exact, _ = oracle
    x = data.sample(key(), 64).astype(jnp.bfloat16)
    found, expected = exact(x), exact(x.astype(jnp.float32))
    # Two programs, whose last digits decide on the steps: apart by tolerances, not by bfloat16's 0.4 % of x.
    np.testing.assert_allclose(found.log_prob, expected.log_prob, atol=5e-4)
    assert found.z.dtype == jnp.bfloat16 and found.log_prob.dtype == jnp.float32 and found.nfe == expected.nfe


@pytest.mark.parametrize("t_max", [0.8, 1.0])
def test_the_likelihood_may_start_above_t_min_and_end_below_t_max(oracle, t_max):
    """From t = 0.3, of the law there, to where the law is not yet the prior N(0, σ(0.8)²)."""
    t = 0.3
    sde, data, exact, _ = oracle
    x = data.perturbed(sde, t).sample(key(), 64)
    found, truth = exact(x, t, t_max), data.perturbed(sde, t).log_prob(x)
    prior = normal_log_prob(np.asarray(found.z), 0, float(sde.sigma(t_max)))
    mismatch = data.perturbed(sde, t_max).log_prob(found.z) - prior
    # Fifteen steps within 1e-5·(1 + 5 nats), as much again for errors of x times the score.
    np.testing.assert_allclose(found.log_prob + mismatch, truth, atol=2e-3)


def test_probes_belong_to_their_example(oracle):
    _, data, _, estimate = oracle
    x = data.sample(key(), 256)
    whole = estimate(key(1), x)
    keys = arrays.example_keys(key(1), 256)
    turned = estimate(jnp.roll(keys, 5), jnp.roll(x, 5, axis=0))
    np.testing.assert_allclose(turned.log_prob, np.roll(whole.log_prob, 5), rtol=1e-5, atol=1e-5)


def test_images_of_many_dimensions_and_single_probes():
    """N(0, 0.5) in 100 dimensions: the score's Jacobian is a multiple of 1, so a Rademacher probe is exact."""
    sde = sdes.VP()
    score_fn = lambda x, t: -x / arrays.expand_right(0.5 * sde.alpha(t) ** 2 + sde.variance(t), x)
    x = 0.7 * arrays.normal(key(), jnp.zeros((3, 10, 5, 2)))
    std, end = (np.sqrt(0.5 * float(sde.alpha(t)) ** 2 + float(sde.variance(t))) for t in (sde.t_max, sde.t_min))
    truth = normal_log_prob(np.asarray(x, np.float64).reshape(3, 100), 0, end / std * float(sde.sigma(sde.t_max)))
    exact = likelihood.log_likelihood(sde, score_fn, x)
    one = likelihood.log_likelihood(sde, score_fn, x, key=key(1))
    # About ten steps within 1e-5·(1 + 100 nats).
    np.testing.assert_allclose(exact.log_prob, truth, atol=1e-2)
    np.testing.assert_allclose(one.log_prob, truth, atol=1e-2)
    assert np.isnan(one.standard_error).all()


def test_double_precision_reaches_tight_tolerances(x64):
    sde = SDES["edm"]
    (mean, std), (mean_end, std_end) = law(sde, sde.t_max), law(sde, sde.t_min)
    x = mean_end + std_end * np.array([[0.3, -1.2]])
    truth = normal_log_prob(x, mean_end - std_end / std * mean, std_end / std * 80)
    run = jax.jit(lambda tol: likelihood.log_likelihood(sde, gaussian_score(sde), jnp.asarray(x), rtol=tol, atol=tol))
    errors = [float(jnp.abs(run(tol).log_prob - truth)[0]) for tol in (1e-4, 1e-7, 1e-10)]
    assert errors[0] < 3e-3 and errors[1] < 3e-6 and errors[2] < 3e-9
    assert run(1e-4).log_prob.dtype == jnp.float64


@pytest.mark.parametrize(("width", "offset"), [(1.0, 8), (2.0, 7)])
def test_bits_per_dim_counts_from_the_published_offsets(width, offset):
    """Uniform data need 8 bits whatever their range; at log p = 0 the released code's offset is left."""
    dims = 12
    uniform = jnp.full(3, -dims * np.log(width), jnp.float32)
    np.testing.assert_allclose(likelihood.bits_per_dim(uniform, dims=dims, data_range=width).value, 8, rtol=1e-6)
    found = likelihood.bits_per_dim(jnp.zeros(3), dims=dims, data_range=width)
    np.testing.assert_allclose(found.value, offset, rtol=1e-6)
    assert "uniformly dequantized" in found.convention
    few = likelihood.bits_per_dim(uniform, dims=dims, data_range=width, grey_levels=16)
    np.testing.assert_allclose(few.value, 4, rtol=1e-6)
    nats = likelihood.bits_per_dim(jnp.ones(1), dims=dims, data_range=width).value - offset
    np.testing.assert_allclose(nats, -1 / (dims * np.log(2)), rtol=1e-5)


def test_the_convention_passes_through_jit():
    found = jax.jit(lambda v: likelihood.bits_per_dim(v, dims=2, data_range=1.0))(jnp.zeros(2))
    assert "256 grey levels" in found.convention


def test_data_without_a_density_are_refused():
    sde = sdes.VP()
    refused = lambda x, **k: likelihood.log_likelihood(sde, lambda x, t: -x, x, **k)
    grey = jax.random.randint(key(), (2, 8, 8, 1), 0, 256).astype(jnp.uint8)
    with pytest.raises(InputError, match=r"x is uint8.*uniform_dequantization"):
        refused(grey)
    scaled = images.to_range(images.scale(grey // 16, grey_levels=16))
    for lattice in (scaled, scaled.reshape(len(grey), -1), (grey // 16).reshape(len(grey), -1).astype(jnp.float32)):
        with pytest.raises(InputError, match=r"128 numbers of x take \d+ values only.*uniform_dequantization"):
            refused(lattice)
    points = jnp.stack(jnp.meshgrid(jnp.arange(8.0), jnp.arange(8.0)), -1).reshape(-1, 2)
    assert np.isfinite(refused(points).log_prob).all()  # a lattice of points at which p is wanted
    with pytest.raises(InputError, match="4 probes need a key"):
        refused(jnp.zeros((2, 2)), n_probes=4)
    with pytest.raises(InputError, match=r"log_likelihood: t_min = 1e-06 is outside .* of VP"):
        refused(jnp.zeros((2, 2)), t_min=1e-6)
    with pytest.raises(InputError, match="dims must be positive, got 0"):
        likelihood.bits_per_dim(jnp.zeros(1), dims=0, data_range=1.0)
    assert np.isfinite(refused(images.uniform_dequantization(key(), grey), key=key()).log_prob).all()
