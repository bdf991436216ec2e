"""ScoreModel is a score function and a pytree; so is the gradient of an energy."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from score_jax import adapters, arrays, losses, parameterization, score
from score_jax import sde as sdes
from tests.helpers import key, mixture

VP = sdes.VP()


class Probe(nn.Module):
    """Returns w·x + cond + label, with dropout: everything a network is given shows in its output."""

    rate: float = 0.0

    @nn.compact
    def __call__(self, x, cond, label=None, train=False):
        w = self.param("w", nn.initializers.constant(2.0), ())
        label = jnp.zeros(len(x)) if label is None else label.astype(x.dtype)
        F = w * x + arrays.expand_right(cond, x) + arrays.expand_right(label, x)
        return nn.Dropout(self.rate, deterministic=not train)(F)


def model(rate=0.0, **kwargs):
    module = Probe(rate)
    variables = module.init(key(), jnp.zeros((1, 2)), jnp.zeros(1))
    return score.ScoreModel(variables, VP, adapters.linen(module), parameterization.Eps(), **kwargs)


def test_score_is_the_parameterized_output_of_the_module():
    x, t = jnp.ones((3, 2)), jnp.array([0.2, 0.5, 0.9])
    c_in, c_noise = parameterization.Eps().inputs(VP, t)
    label = jnp.array([0, 1, 5])
    expected = -(2 * c_in + c_noise + label) / VP.sigma(t)
    np.testing.assert_allclose(model()(x, t, label=label)[:, 0], expected, rtol=1e-6)


def test_one_time_for_all_rows_is_that_time_for_each():
    x = jnp.arange(6.0).reshape(3, 2)
    np.testing.assert_allclose(model()(x, jnp.asarray(0.4)), model()(x, jnp.full(3, 0.4)), rtol=1e-6)


def test_condition_replaces_the_conditioning_number():
    x, t = jnp.zeros((2, 2)), jnp.array([0.25, 0.5])
    value = model(condition=lambda sde, t: 999 * t)(x, t)
    np.testing.assert_allclose(value[:, 0], -999 * t / VP.sigma(t), rtol=1e-6)


def test_dropout_is_drawn_from_each_examples_key():
    x, t = jnp.ones((6, 2)), jnp.full(6, 0.5)
    keys = arrays.example_keys(key(4), 6)
    dropped = model(0.5)(x, t, key=keys)
    np.testing.assert_array_equal(model(0.5)(x[3:], t[3:], key=keys[3:]), dropped[3:])
    kept = dropped != 0
    assert 0 < kept.sum() < 12
    np.testing.assert_allclose(dropped[kept], (2 * model()(x, t))[kept], rtol=1e-6)  # survivors are scaled by 1/(1 − ½)
    np.testing.assert_array_equal(model(0.5)(x, t), model()(x, t))


def test_a_model_passes_through_jit_and_is_traced_once_for_new_parameters():
    f = jax.jit(chex.assert_max_traces(lambda m, x: m(x, jnp.asarray(0.5)), n=1))
    x, first = jnp.ones((2, 2)), model()
    doubled = first.replace(variables=jax.tree.map(lambda w: 2 * w, first.variables))
    assert not np.allclose(f(first, x), f(doubled, x))


def test_energy_score_is_minus_the_energys_gradient():
    density = mixture()
    x = density.sample(key(), 5)
    static = score.energy_score(lambda x: -density.log_prob(x))
    np.testing.assert_allclose(static(x), density.score(x), rtol=1e-4, atol=1e-5)
    timed = score.energy_score(lambda x, t: t * arrays.sum_dims(x**2))
    np.testing.assert_allclose(timed(x, jnp.full(5, 1.5)), -3 * x, rtol=1e-6)


def test_an_energy_score_has_the_second_derivatives_that_ism_needs():
    density = mixture()
    x = density.sample(key(), 5)
    energy = score.energy_score(lambda x: -density.log_prob(x))
    np.testing.assert_allclose(
        losses.implicit_score_matching(energy, x), losses.implicit_score_matching(density.score, x), rtol=1e-3
    )


@pytest.mark.parametrize("t", [0.3, jnp.array([0.3, 0.3])])
def test_half_precision_networks_give_scores_of_the_dtype_of_x(t):
    assert model()(jnp.ones((2, 2)), jnp.asarray(t)).dtype == jnp.float32
