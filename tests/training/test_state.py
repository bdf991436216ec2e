import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from score_jax.training import create, ema_decay, optimizer
from score_jax.training.state import learning_rates
from score_jax.types import InputError


def _updates(transformation, grads, params):
    state = transformation.init(params)
    for g in grads:
        update, state = transformation.update(g, state, params)
        yield update
        params = optax.apply_updates(params, update)


def test_learning_rate_warms_up_linearly_and_first_update_moves():
    rate = learning_rates(0.8, warmup_steps=4)
    np.testing.assert_allclose([rate(n) for n in range(6)], [0.2, 0.4, 0.6, 0.8, 0.8, 0.8], rtol=1e-6)


def test_cosine_falls_from_the_warmed_up_rate_to_zero():
    rate = learning_rates(2.0, warmup_steps=10, schedule="cosine", total_steps=110)
    np.testing.assert_allclose([rate(n) for n in (9, 10, 60, 110, 500)], [2.0, 2.0, 1.0, 0.0, 0.0], atol=1e-6)


def test_first_adam_update_has_the_size_of_the_learning_rate():
    # m̂/(√v̂ + ε) = sign(g) at the first step; ε/|g| = 1e-8 is below float32 here
    params = {"w": jnp.zeros(3)}
    (update,) = _updates(optimizer(0.1), [{"w": jnp.array([3.0, -0.2, 50.0])}], params)
    np.testing.assert_allclose(update["w"], [-0.1, 0.1, -0.1], rtol=1e-5)


def test_clipping_scales_to_the_norm_and_leaves_small_gradients_alone():
    # With b1 = b2 = 0 and a large ε the update is −lr·g/(|g| + ε) ≈ −lr·g/ε: it shows the clipped gradient itself.
    eps = 1e4
    chain = optimizer(eps, clip_norm=1.0, b1=0.0, b2=0.0, eps=eps)
    grads = [{"a": jnp.array([30.0]), "b": jnp.array([40.0])}, {"a": jnp.array([0.3]), "b": jnp.array([0.4])}]
    big, small = _updates(chain, grads, {"a": jnp.zeros(1), "b": jnp.zeros(1)})
    np.testing.assert_allclose([big["a"][0], big["b"][0]], [-0.6, -0.8], rtol=2e-4)  # |g|/ε = 1e-4
    np.testing.assert_allclose([small["a"][0], small["b"][0]], [-0.3, -0.4], rtol=2e-4)


def test_clipping_equals_optax():
    grads = {"a": jnp.arange(6.0).reshape(2, 3), "b": jnp.array([-7.0, 0.1])}
    ours = optimizer(1e-3, clip_norm=2.5)
    theirs = optax.chain(optax.clip_by_global_norm(2.5), optax.adam(1e-3))
    params = jax.tree.map(jnp.zeros_like, grads)
    for a, b in zip(_updates(ours, [grads] * 3, params), _updates(theirs, [grads] * 3, params)):
        chex.assert_trees_all_close(a, b, rtol=1e-5)


def test_weight_decay_pulls_matrices_and_not_biases():
    params = {"kernel": jnp.full((2, 2), 3.0), "bias": jnp.full(2, 3.0)}
    (update,) = _updates(optimizer(0.1, weight_decay=0.5), [jax.tree.map(jnp.zeros_like, params)], params)
    np.testing.assert_allclose(update["kernel"], -0.1 * 0.5 * 3.0, rtol=1e-6)
    np.testing.assert_array_equal(update["bias"], 0.0)


def test_warmed_up_average_starts_at_a_tenth():
    rate = ema_decay(0.99, warmup=True)
    np.testing.assert_allclose([rate(n) for n in (0, 1, 90, 10_000)], [0.1, 2 / 11, 0.91, 0.99], rtol=1e-6)


def test_state_keeps_other_collections_fixed_and_gives_them_back():
    variables = {"params": {"w": jnp.ones(2)}, "frequencies": {"f": jnp.arange(3.0)}}
    state = create(jax.random.key(0), variables, optimizer(0.1))
    assert jax.tree.structure(state.variables(ema=True)) == jax.tree.structure(variables)
    np.testing.assert_array_equal(state.variables(ema=False)["frequencies"]["f"], [0, 1, 2])
    assert all(x.shape != (3,) for x in jax.tree.leaves(state.opt_state))  # out of the optimizer's reach


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learning_rate": 0.0}, "learning_rate must be positive, got 0.0"),
        ({"schedule": "linear"}, "'constant' or 'cosine', got 'linear'"),
        ({"schedule": "cosine", "warmup_steps": 10, "total_steps": 10}, "total_steps above warmup_steps"),
        ({"clip_norm": -1.0}, "clip_norm must be positive"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        optimizer(**{"learning_rate": 1e-3} | settings)


def test_decay_of_one_is_refused():
    with pytest.raises(InputError, match=r"\[0, 1\), got 1"):
        ema_decay(1.0)
