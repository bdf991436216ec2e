"""Objectives at one density, against exact scores: values and gradients agree, and the truth is the optimum."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax import arrays, distributions, kernels, losses
from score_jax.types import InputError
from tests.helpers import IMPLICIT_OBJECTIVES, KERNELS, assert_mean, key, mixture

pytestmark = pytest.mark.usefixtures("strict_dtypes")
each_objective = pytest.mark.parametrize("objective", IMPLICIT_OBJECTIVES.values(), ids=IMPLICIT_OBJECTIVES.keys())
N = 20_000


def model(theta, density):
    """The true score with a linear and a nonlinear error; theta = 0 is exact."""
    return lambda x: density.score(x) + theta[0] * x + theta[1] * jnp.sin(x) + theta[2]


THETA = jnp.array([0.3, -0.5, 0.2])
ZERO = jnp.zeros(3)


def per_example_gradients(objective, theta, x, density):
    """Gradient in theta of each example's loss, `(B, 3)`: the loss of a batch of one, drawn with its own key."""

    def one(theta, key, row):
        return objective(key[None], model(theta, density), row[None])[0]

    keys = arrays.example_keys(key(7), len(x))
    return jax.vmap(jax.grad(one), (None, 0, 0))(theta, keys, x)


@each_objective
def test_its_gradient_vanishes_at_the_true_score(objective):
    density = mixture()
    x = density.sample(key(1), N)
    gradients = jax.jit(lambda x: per_example_gradients(objective, ZERO, x, density))(x)
    assert_mean(gradients, 0.0)


@each_objective
def test_its_gradient_is_explicit_score_matchings_away_from_the_truth(objective):
    density = mixture()
    x = density.sample(key(1), N)
    explicit = lambda k, s, x: losses.explicit_score_matching(s, x, density.score)
    difference = jax.jit(
        lambda x: (
            per_example_gradients(objective, THETA, x, density) - per_example_gradients(explicit, THETA, x, density)
        )
    )(x)
    assert_mean(difference, 0.0)
    # and the gradient compared is not zero: 2-sigma from the smallest entry is far away
    gradients = per_example_gradients(explicit, THETA, x[:2000], density)
    assert np.abs(np.asarray(gradients).mean(0)).min() > 0.05


@each_objective
def test_its_mean_is_explicit_score_matchings_minus_half_the_fisher_information(objective):
    density = mixture()
    x = density.sample(key(2), N)
    score_fn = model(THETA, density)
    explicit = losses.explicit_score_matching(score_fn, x, density.score)
    fisher = arrays.sum_dims(density.score(x) ** 2)
    assert_mean(objective(key(3), score_fn, x) - explicit + 0.5 * fisher, 0.0)


def test_explicit_score_matching_is_half_the_squared_distance():
    x = jnp.arange(12.0).reshape(2, 3, 2)
    np.testing.assert_allclose(losses.explicit_score_matching(lambda x: x + 2, x, lambda x: x), [12, 12])


def test_implicit_score_matching_of_a_gaussian_is_its_closed_form():
    """s = −x/v on any x: ½‖x‖²/v² − d/v."""
    x, v = jnp.asarray(np.random.default_rng(0).normal(size=(4, 2, 3)), jnp.float32), 0.7
    expected = 0.5 * (np.asarray(x) ** 2).sum((1, 2)) / v**2 - 6 / v
    np.testing.assert_allclose(losses.implicit_score_matching(lambda x: -x / v, x), expected, rtol=1e-5)


@pytest.mark.parametrize("name", IMPLICIT_OBJECTIVES)
def test_images_are_treated_as_their_flattened_pixels(name):
    objective, matrix = (
        IMPLICIT_OBJECTIVES[name],
        jnp.asarray(np.random.default_rng(1).normal(size=(12, 12)) * 0.3, jnp.float32),
    )
    flat = lambda x: jnp.tanh(x @ matrix)
    image = lambda x: flat(x.reshape(-1, 12)).reshape(x.shape)
    x = arrays.normal(key(), jnp.zeros((5, 12)))
    np.testing.assert_allclose(
        objective(key(1), image, x.reshape(5, 2, 3, 2)), objective(key(1), flat, x), rtol=2e-4, atol=2e-4
    )


def test_variances_over_projections_are_the_published_ones():
    """Var over v of vᵀAv: Gaussian 2‖A‖², Rademacher 2(‖A‖² − ΣA_ii²), sphere 2d/(d+2)·(‖A‖² − tr(A)²/d)."""
    a = np.random.default_rng(3).normal(size=(3, 3)).astype(np.float32)
    symmetric = (a + a.T) / 2
    frobenius, trace = (symmetric**2).sum(), np.trace(symmetric)
    expected = {
        "gaussian": 2 * frobenius,
        "rademacher": 2 * (frobenius - (np.diag(symmetric) ** 2).sum()),
        "sphere": 2 * 3 / 5 * (frobenius - trace**2 / 3),
    }
    x = jnp.zeros((40_000, 3))
    for projection, variance in expected.items():
        values = losses.sliced_score_matching(
            key(1), lambda x: x @ jnp.asarray(a).T, x, projection=projection, variance_reduced=True
        )
        assert_mean((np.asarray(values) - trace) ** 2, variance)


def test_projections_are_averaged_per_example():
    """With n projections the variance over keys falls by n and the mean stays."""
    x = jnp.broadcast_to(jnp.array([[0.4, -0.9]]), (4000, 2))
    field = lambda x: jnp.sin(x[:, ::-1])
    one, many = (np.asarray(losses.sliced_score_matching(key(5), field, x, n_projections=n)) for n in (1, 16))
    assert_mean(many, np.asarray(losses.implicit_score_matching(field, x[:1]))[0])
    np.testing.assert_allclose(one.var() / many.var(), 16, rtol=0.15)  # 4 s.e. of a variance ratio at n = 4000


def test_finite_differences_are_exact_for_a_linear_score_at_any_eps():
    """E over w of FD equals ISM with no O(ε²) term when s is linear, ε = 2 here."""
    a = jnp.asarray(np.random.default_rng(3).normal(size=(3, 3)), jnp.float32)
    x = jnp.broadcast_to(jnp.array([[0.5, -1.0, 0.2]]), (40_000, 3))
    exact = losses.implicit_score_matching(lambda x: x @ a.T, x[:1])
    values = losses.finite_difference_score_matching(key(1), lambda x: x @ a.T, x, eps=2.0)
    assert_mean(values, np.asarray(exact)[0])


@pytest.mark.parametrize("eps", [0.4, 0.2, 0.1])
def test_finite_difference_bias_is_its_taylor_remainder(eps):
    """s = x³ in one dimension, where w = ±ε: the bias is exactly ε²(1 + 3x⁴) + 4.5 x² ε⁴, of order ε²."""
    x = jnp.array([[0.7]])
    bias = losses.finite_difference_score_matching(key(), lambda x: x**3, x, eps=eps)
    bias -= losses.implicit_score_matching(lambda x: x**3, x)
    np.testing.assert_allclose(bias, eps**2 * (1 + 3 * 0.7**4) + 4.5 * 0.7**2 * eps**4, rtol=1e-3)


def test_finite_differences_refuse_half_precision():
    with pytest.raises(InputError, match="float32 or wider, got bfloat16"):
        losses.finite_difference_score_matching(key(), jnp.sin, jnp.ones((2, 2), jnp.bfloat16))


@pytest.mark.parametrize("name", KERNELS)
def test_denoising_learns_the_score_of_the_noised_density(name):
    """For data at two points, q(x̃) is known for any noise: the gradient of DSM vanishes at its score."""
    kernel, points = KERNELS[name], jnp.array([[-0.5], [0.8]])

    def noised_log_prob(x_tilde):
        each = jax.vmap(lambda point: kernel.log_prob(x_tilde, jnp.broadcast_to(point, x_tilde.shape)))(points)
        return jax.nn.logsumexp(each, axis=0)

    truth = lambda x: jax.grad(lambda x: noised_log_prob(x).sum())(x)

    def loss(theta, key, row):
        score_fn = lambda x: truth(x) + theta[0] + theta[1] * jnp.sin(3 * x)
        return losses.denoising_score_matching(key[None], score_fn, row[None], kernel)[0]

    x = distributions.Empirical(points).sample(key(1), N)
    keys = arrays.example_keys(key(2), N)
    gradients = jax.jit(jax.vmap(jax.grad(loss), (None, 0, 0)))(jnp.zeros(2), keys, x)
    assert_mean(gradients, 0.0)


def test_denoising_is_explicit_on_the_noised_density_plus_its_constant():
    """J_DSM = J_ESM(q_σ) + ½(d/σ² − I(q_σ)) for Gaussian data, N(0, v): I = d/(v + σ²)."""
    v, sigma, d = 0.5, 0.6, 2
    data = distributions.Gaussian(jnp.zeros(d), v)
    x = data.sample(key(1), N)
    score_fn = lambda x: -0.3 * x + 0.1
    constant = 0.5 * (d / sigma**2 - d / (v + sigma**2))
    noised = data.smoothed(sigma)
    x_tilde = noised.sample(key(3), N)
    explicit = losses.explicit_score_matching(score_fn, x_tilde, noised.score)
    denoising = losses.denoising_score_matching(key(2), score_fn, x, kernels.Gaussian(sigma))
    expected = explicit.mean() + constant
    spread = np.hypot(np.std(explicit), np.std(denoising)) / N**0.5
    np.testing.assert_allclose(denoising.mean(), expected, atol=4 * spread)


def test_a_batch_of_keys_gives_each_example_the_loss_of_its_own_key():
    density = mixture()
    x, keys = density.sample(key(), 6), arrays.example_keys(key(9), 6)
    whole = losses.sliced_score_matching(keys, density.score, x, n_projections=3)
    np.testing.assert_allclose(
        losses.sliced_score_matching(keys[2:4], density.score, x[2:4], n_projections=3), whole[2:4], rtol=1e-5
    )


@each_objective
def test_one_key_draws_what_its_example_keys_draw(objective):
    x, score_fn = mixture().sample(key(), 3), lambda x: jnp.sin(x) * x[:, ::-1]
    whole, by_row = (objective(k, score_fn, x) for k in (key(9), arrays.example_keys(key(9), 3)))
    np.testing.assert_array_equal(whole, by_row)


def test_losses_of_half_precision_data_are_float32():
    x = jnp.ones((2, 3), jnp.bfloat16)
    assert losses.denoising_score_matching(key(), jnp.negative, x, kernels.Gaussian(0.5)).dtype == jnp.float32
    assert losses.sliced_score_matching(key(), jnp.negative, x).dtype == jnp.float32


def test_bad_arguments_are_named():
    with pytest.raises(InputError, match="projection must be one of"):
        losses.sliced_score_matching(key(), jnp.sin, jnp.ones((2, 2)), projection="sobol")
    with pytest.raises(InputError, match="eps must be positive, got 0"):
        losses.finite_difference_score_matching(key(), jnp.sin, jnp.ones((2, 2)), eps=0)
