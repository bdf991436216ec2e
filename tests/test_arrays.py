"""Draws depend on the seed and the example's index alone; divergences are exact or unbiased."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from score_jax import arrays
from tests.helpers import assert_mean, key

pytestmark = pytest.mark.usefixtures("strict_dtypes")


def test_expand_right_broadcasts_per_example_and_takes_the_dtype_of_x():
    x = jnp.ones((3, 2, 2), jnp.bfloat16)
    t = jnp.array([1.0, 2.0, 3.0])
    product = arrays.expand_right(t, x) * x
    assert product.dtype == jnp.bfloat16
    np.testing.assert_array_equal(product[:, 1, 0], [1, 2, 3])
    np.testing.assert_array_equal(arrays.expand_right(2.0, x) * x, 2 * np.ones((3, 2, 2)))


def test_expand_right_refuses_a_time_of_rank_two():
    with pytest.raises(ValueError, match=r"got \(3, 1\)"):
        arrays.expand_right(jnp.ones((3, 1)), jnp.ones((3, 2)))


def test_sums_of_half_precision_are_accumulated_in_float32():
    x = jnp.ones((1, 1000), jnp.bfloat16)  # in bfloat16 a sum of ones stops at 256
    assert arrays.sum_dims(x)[0] == 1000 and arrays.sum_dims(x).dtype == jnp.float32


@pytest.mark.parametrize("draw", [arrays.normal, arrays.unit_uniform, arrays.rademacher, arrays.sphere])
def test_a_row_is_drawn_from_its_own_index_whatever_the_batch(draw):
    whole = draw(key(3), jnp.zeros((8, 3, 2)))
    np.testing.assert_array_equal(draw(key(3), jnp.zeros((5, 3, 2))), whole[:5])
    second_half = draw(arrays.example_keys(key(3), 4, start=4), jnp.zeros((4, 3, 2)))
    np.testing.assert_array_equal(second_half, whole[4:])


@pytest.mark.parametrize("draw", [arrays.normal, arrays.rademacher, arrays.sphere])
def test_projections_have_identity_covariance(draw):
    v = np.asarray(draw(key(), jnp.zeros((20_000, 3))))
    assert_mean(v[:, :, None] * v[:, None, :], np.eye(3))


def test_sphere_has_radius_root_d():
    np.testing.assert_allclose(np.linalg.norm(arrays.sphere(key(), jnp.zeros((50, 7))), axis=1), 7**0.5, rtol=1e-6)


def test_split_and_fold_in_act_on_each_example_key_alone():
    keys = arrays.example_keys(key(), 6)
    np.testing.assert_array_equal(
        jax.random.key_data(arrays.split(keys, 3))[:, 4], jax.random.key_data(jax.random.split(keys[4], 3))
    )
    np.testing.assert_array_equal(
        jax.random.key_data(arrays.fold_in(keys, 7))[4], jax.random.key_data(jax.random.fold_in(keys[4], 7))
    )


def test_a_key_of_the_wrong_length_is_refused():
    with pytest.raises(ValueError, match=r"shape \(\) or \(5,\), got \(6,\)"):
        arrays.normal(arrays.example_keys(key(), 6), jnp.zeros((5, 2)))


def quadratic_field(dims):
    matrix = jnp.asarray(np.random.default_rng(1).normal(size=(dims, dims)), jnp.float32)
    return matrix, lambda x: (jnp.sin(x.reshape(len(x), -1)) @ matrix.T).reshape(x.shape)


@pytest.mark.parametrize("shape", [(4, 3), (4, 2, 3, 1), (3, 70)])  # 70 dimensions: more than one block
def test_exact_divergence_is_the_trace_of_the_jacobian(shape):
    x = arrays.normal(key(2), jnp.zeros(shape))
    matrix, f = quadratic_field(x[0].size)
    expected = (np.cos(x.reshape(len(x), -1)) * np.diag(matrix)[None]).sum(1)
    np.testing.assert_allclose(arrays.divergence(f, x), expected, atol=2e-5)


def test_hutchinson_is_unbiased_and_exact_for_a_diagonal_jacobian():
    x = jnp.broadcast_to(jnp.array([[0.3, -1.0, 2.0]]), (20_000, 3))
    _, f = quadratic_field(3)
    assert_mean(arrays.divergence(f, x, key=key(1)), np.asarray(arrays.divergence(f, x[:1]))[0])
    np.testing.assert_allclose(
        arrays.divergence(jnp.sin, x[:4], key=key(1), n_probes=2), np.cos(x[:4]).sum(1), atol=1e-6
    )


def test_interpolation_is_linear_between_points_exact_at_them_and_flat_beyond(x64):
    rng = np.random.default_rng(0)
    xs, ys = np.sort(rng.normal(size=30)), rng.normal(size=30)
    x = np.concatenate([xs, rng.uniform(xs[0] - 1, xs[-1] + 1, 200)]).reshape(23, 10)
    np.testing.assert_allclose(
        arrays.piecewise_linear(x, jnp.asarray(xs), jnp.asarray(ys)), np.interp(x, xs, ys), atol=1e-14
    )
    np.testing.assert_array_equal(arrays.piecewise_linear(jnp.asarray(xs), jnp.asarray(xs), jnp.asarray(ys)), ys)


def test_interpolation_has_no_loop():
    """Two of `jnp.interp`'s in the loop of a sampler are refused by XLA (jax 0.12) for an H100."""
    names = {
        equation.primitive.name
        for equation in _equations(jax.make_jaxpr(arrays.piecewise_linear)(*[jnp.arange(4.0)] * 3).jaxpr)
    }
    assert "div" in names and not names & {"while", "scan"}


def _equations(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for inner in jaxprs_in_params(equation.params):
            yield from _equations(inner)
