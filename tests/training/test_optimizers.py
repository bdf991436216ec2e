import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax import contrib

from score_jax import networks
from score_jax.lab import settings
from score_jax.lab.build.training import OPTIMIZERS
from score_jax.training import muon, optimizer, schedule_free, schedule_free_x
from score_jax.training.optimizers import learning_rates, weights_of
from score_jax.types import InputError

PARAMS = {"kernel": jnp.full((3, 3, 8, 16), 0.1), "bias": jnp.zeros(16), "norm_0": {"scale": jnp.ones((1, 16))}}


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


def test_trapezoid_keeps_the_rate_and_falls_on_a_line():
    rate = learning_rates(2.0, warmup_steps=10, schedule="trapezoidal", total_steps=100, decay_from=80)
    np.testing.assert_allclose([rate(n) for n in (4, 9, 80, 90, 100)], [1.0, 2.0, 2.0, 1.0, 0.0], atol=1e-6)


def test_inverse_root_halves_the_rate_at_four_times_the_updates():
    rate = learning_rates(2.0, warmup_steps=10, schedule="inverse_sqrt", decay_from=100)
    np.testing.assert_allclose([rate(n) for n in (4, 50, 100, 400, 10_000)], [1.0, 2.0, 2.0, 1.0, 0.2], rtol=1e-6)


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


def test_weights_are_matrices_and_filters_and_nothing_of_norms():
    for module, tables in ((networks.UNet(8, (1, 2)), False), (networks.NCSN(8, 1, 5), True)):
        variables = module.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)), jnp.zeros(1))
        marked = jax.tree_util.tree_leaves_with_path(weights_of(variables["params"]))
        names = {jax.tree_util.keystr(path, simple=True, separator="/"): weight for path, weight in marked}
        assert {name for name, weight in names.items() if weight} == {n for n in names if n.endswith("kernel")}
        assert any(name.endswith("embedding") for name in names) == tables  # of norms by level: matrices by shape


def test_a_row_of_gains_is_no_weight():
    marked = weights_of({"gain": jnp.ones((1, 16)), "dense": jnp.ones((2, 16)), "layers": [jnp.ones((1, 1, 4, 2))]})
    assert marked == {"gain": False, "dense": True, "layers": [True]}


def _grads(n):
    return [jax.tree.map(lambda p, i=i: jnp.cos(jnp.arange(p.size) + i).reshape(p.shape), PARAMS) for i in range(n)]


BY_OPTAX = {
    "adam": lambda: optax.adamw(0.1, 0.9, 0.999, weight_decay=0.5, mask=weights_of),
    "lion": lambda: optax.lion(0.1, 0.9, 0.99, weight_decay=0.5, mask=weights_of),
    "prodigy": lambda: contrib.prodigy(0.1),
    "schedule_free": lambda: contrib.schedule_free_adamw(0.1),
}


@pytest.mark.parametrize("name", BY_OPTAX)
def test_optimizers_by_name_are_optax_with_weight_decay_of_weights(name):
    section = settings.get_config().optimizer
    section.weight_decay = 0.0 if name in ("prodigy", "schedule_free") else 0.5
    ours = OPTIMIZERS[name](section, lambda n: jnp.asarray(0.1))
    for a, b in zip(_updates(ours, _grads(3), PARAMS), _updates(BY_OPTAX[name](), _grads(3), PARAMS)):
        chex.assert_trees_all_close(a, b, rtol=1e-6)


def test_schedule_free_draws_with_the_weighted_average_of_z():
    """Defazio et al. 2024, eq. 3 to 5: z falls along the gradient at y, and x is the mean of z, by squares of the
    largest rates so far."""
    rates, b1 = lambda n: jnp.asarray(0.1) * jnp.minimum(1.0, (n + 1) / 3) * jnp.where(n > 3, 0.2, 1.0), 0.9
    adam = optax.scale_by_rms(0.999, 1e-8, eps_in_sqrt=False, bias_correction=True)
    chain, y = optax.chain(optax.clip_by_global_norm(1e9), schedule_free(rates, b1=b1)), jnp.array([1.0, -2.0])
    of_chain, moments, x, z, total, largest = chain.init(y), adam.init(y), y, y, 0.0, 0.0
    for n in range(7):
        gradient = jnp.array([2.0, 0.5]) * y
        direction, moments = adam.update(gradient, moments)
        update, of_chain = chain.update(gradient, of_chain, y)
        largest = jnp.maximum(largest, rates(n))
        z, weight = z - rates(n) * direction, largest**2
        total = total + weight
        x = x + (z - x) * weight / total
        y = optax.apply_updates(y, update)
        np.testing.assert_allclose(y, (1 - b1) * z + b1 * x, rtol=1e-5)
        np.testing.assert_allclose(schedule_free_x(y, of_chain), x, rtol=1e-4, atol=1e-6)
    with pytest.raises(InputError, match="one schedule-free optimizer, found 0"):
        schedule_free_x(y, adam.init(y))


def test_muon_turns_filters_orthogonal_and_leaves_the_rest_to_adam():
    (first,) = _updates(muon(lambda n: jnp.asarray(0.1)), _grads(1), PARAMS)
    (adam,) = _updates(optax.adam(0.1, nesterov=True), _grads(1), PARAMS)
    chex.assert_trees_all_close(first["bias"], adam["bias"], rtol=1e-6)
    chex.assert_trees_all_close(first["norm_0"], adam["norm_0"], rtol=1e-6)
    # Of a gradient of rank 2, cos(a + b): two singular values, which five iterations bring to 0.7 … 1.2, the others
    # nearly 0; the root mean square of an orthogonal (72, 16) is √(1/72), of which 0.2·√72 makes 0.2.
    values = jnp.linalg.svd(first["kernel"].reshape(72, 16), compute_uv=False) / (0.1 * 0.2 * 72**0.5)
    assert ((values[:2] > 0.6) & (values[:2] < 1.3)).all() and (values[2:] < 0.02).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learning_rate": 0.0}, "learning_rate must be positive, got 0.0"),
        ({"schedule": "linear"}, "constant, cosine, trapezoidal, inverse_sqrt, got 'linear'"),
        ({"schedule": "cosine", "warmup_steps": 10, "total_steps": 10}, "total_steps above warmup_steps"),
        ({"schedule": "trapezoidal", "decay_from": 9, "total_steps": 9}, "total_steps above decay_from"),
        ({"schedule": "inverse_sqrt"}, "decay_from of 1 or more, got None"),
        ({"clip_norm": -1.0}, "clip_norm must be positive"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        optimizer(**{"learning_rate": 1e-3} | settings)
