"""Linen, NNX and plain functions are one kind of network: equal numbers, one trace, dropout by row, exact resume."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

from score_jax import adapters, losses, parameterization, score, training
from score_jax import sde as sdes
from score_jax.losses import times
from tests.helpers import key, refused
from tests.training import tiny

VP = sdes.VP()
DIMS, WIDTH, RATE = 2, 8, 0.5


class LinenNet(nn.Module):
    """Two layers with dropout between them."""

    @nn.compact
    def __call__(self, x, cond, label=None, *, train=False):
        h = nn.tanh(nn.Dense(WIDTH, name="hidden")(jnp.concatenate([x, cond[:, None]], axis=1)))
        return nn.Dense(DIMS, name="out")(nn.Dropout(RATE, deterministic=not train)(h))


class NNXNet(nnx.Module):
    """The same; it has no labels."""

    def __init__(self, rngs):
        self.hidden = nnx.Linear(DIMS + 1, WIDTH, rngs=rngs)
        self.dropout = nnx.Dropout(RATE, rngs=rngs)
        self.out = nnx.Linear(WIDTH, DIMS, rngs=rngs)

    def __call__(self, x, cond):
        return self.out(self.dropout(nnx.tanh(self.hidden(jnp.concatenate([x, cond[:, None]], axis=1)))))


def plain_net(params, x, cond, label, key):
    """The same as a function."""
    layer = lambda name, h: h @ params[name]["kernel"] + params[name]["bias"][None]
    h = jnp.tanh(layer("hidden", jnp.concatenate([x, cond[:, None]], axis=1)))
    if key is not None:
        h = jnp.where(jax.vmap(lambda key: jax.random.bernoulli(key, 1 - RATE, (WIDTH,)))(key), h / (1 - RATE), 0)
    return layer("out", h)


def plain_params(key, x, cond, label):
    return LinenNet().init(key, x, cond, label)["params"]


# Each builds its network anew.
NETWORKS = {
    "linen": lambda: adapters.linen(LinenNet()),
    "nnx": lambda: adapters.nnx(NNXNet(nnx.Rngs(0))),
    "plain": lambda: adapters.plain(plain_net, plain_params),
}
EXAMPLE = key(), jnp.zeros((1, DIMS)), jnp.zeros(1), None


@pytest.fixture(params=NETWORKS)
def name(request):
    return request.param


def values():
    """The variables of all three: parameters of the same names."""
    rng = np.random.default_rng(0)
    layer = lambda n, m: {"kernel": rng.normal(size=(n, m)), "bias": rng.normal(size=m)}
    params = {"hidden": layer(DIMS + 1, WIDTH), "out": layer(WIDTH, DIMS)}
    return {"params": jax.tree.map(lambda v: jnp.asarray(v, jnp.float32), params)}


def model(name):
    return score.ScoreModel(values(), VP, NETWORKS[name](), parameterization.Eps())


called = jax.jit(lambda model, x, t, **given: model(x, t, **given))


def points(n=5):
    rng = np.random.default_rng(1)
    return jnp.asarray(rng.normal(size=(n, DIMS)), jnp.float32), jnp.linspace(0.1, 0.9, n)


def test_the_score_is_the_closed_form(name):
    x, t = points()
    c_in, cond = (np.asarray(c, np.float64) for c in parameterization.Eps().inputs(VP, t))
    layers = jax.tree.map(lambda v: np.asarray(v, np.float64), values()["params"])
    h = np.concatenate([c_in[:, None] * np.asarray(x), cond[:, None]], axis=1)
    h = np.tanh(h @ layers["hidden"]["kernel"] + layers["hidden"]["bias"])
    F = h @ layers["out"]["kernel"] + layers["out"]["bias"]
    np.testing.assert_allclose(called(model(name), x, t), -F / np.asarray(VP.sigma(t))[:, None], rtol=1e-4, atol=1e-5)


def test_init_returns_parameters_of_these_names(name):
    assert jax.tree.map(jnp.shape, NETWORKS[name]().init(*EXAMPLE)) == jax.tree.map(jnp.shape, values())


def test_gradients_of_a_loss_are_those_of_the_linen_network(name):
    def gradient(name):
        loss = lambda model: losses.diffusion_loss(key(), VP, model, points()[0]).sum()
        return jax.jit(jax.grad(loss))(model(name)).variables

    for ours, linens in zip(*(jax.tree.leaves(gradient(n)) for n in (name, "linen")), strict=True):
        np.testing.assert_allclose(ours, linens, rtol=1e-6, atol=1e-6 * float(abs(linens).max()))


def test_vmap_over_examples_is_the_batch(name):
    x, t = points()
    one = jax.jit(jax.vmap(lambda x, t: model(name)(x[None], t[None])[0]))
    np.testing.assert_allclose(one(x, t), model(name)(x, t), rtol=1e-5, atol=1e-6)


def test_a_network_built_again_is_not_traced_again(name):
    chex.clear_trace_counter()
    f = jax.jit(chex.assert_max_traces(lambda model, x, t: model(x, t), n=1))
    np.testing.assert_array_equal(f(model(name), *points()), f(model(name), *points()))
    assert NETWORKS[name]() == NETWORKS[name]()
    assert hash(NETWORKS[name]()) == hash(NETWORKS[name]())


def test_dropout_is_drawn_from_the_key_of_each_row(name):
    x, t = jnp.ones((6, DIMS)), jnp.full(6, 0.5)
    keys = jax.random.split(key(4), 6)
    dropped = model(name)(x, t, key=keys)
    assert len(np.unique(dropped[:, 0])) == 6
    np.testing.assert_allclose(model(name)(x[3:], t[3:], key=keys[3:]), dropped[3:], rtol=1e-5)
    np.testing.assert_allclose(model(name).conditioned(key=keys)(x, t), dropped, rtol=1e-5)


def test_dropout_keeps_the_mean(name):
    x, t = jnp.ones((4000, DIMS)), jnp.full(4000, 0.5)
    dropped = np.asarray(called(model(name), x, t, key=key(5)))
    expected = np.asarray(model(name)(x[:1], t[:1]))[0]  # F is linear in what is dropped
    np.testing.assert_array_less(abs(dropped.mean(0) - expected), 4 * dropped.std(0) / 4000**0.5)


@pytest.mark.slow
def test_training_resumes_to_the_bit(name, tmp_path):
    network = NETWORKS[name]()
    start = score.ScoreModel(network.init(*EXAMPLE), tiny.SDE, network, parameterization.Eps())
    step = training.make_train_step(
        start, tiny.objective, tiny.chain(), times=times.uniform(), placement=tiny.placement(), dropout=True
    )

    def run(folder, steps):
        state = training.create(key(7), network.init(*EXAMPLE), tiny.chain())
        how = {"log_every": 5, "checkpoint_every": 5, "progress": False, "config": tiny.CONFIG}
        how |= {"workdir": tmp_path / folder, "placement": tiny.placement(), "steps_per_dispatch": tiny.K}
        state = training.train(state, step, tiny.Batches(), steps=steps, **how).state
        return jax.device_get(state.replace(key=jax.random.key_data(state.key)))

    whole = run("whole", 10)
    run("parts", 5)
    jax.tree.map(np.testing.assert_array_equal, whole, run("parts", 10))
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max() > 1e-3, whole.params, network.init(*EXAMPLE)["params"])
    assert all(jax.tree.leaves(moved))


# What NNX modules alone have


class Rich(nnx.Module):
    """A list of layers, statistics of batches, a fixed array, labels and two dropouts."""

    def __init__(self, rngs):
        self.layers = nnx.List([nnx.Linear(1, 1, rngs=rngs) for _ in range(12)])
        self.norm = nnx.BatchNorm(1, epsilon=0.0, rngs=rngs)
        self.norm.mean[...], self.norm.var[...] = jnp.full(1, 3.0), jnp.full(1, 4.0)
        self.offset = jnp.full(1, 10.0)
        self.dropouts = nnx.List([nnx.Dropout(0.5, rngs=rngs) for _ in range(2)])

    def __call__(self, x, cond, label=None):
        label = jnp.zeros(len(x)) if label is None else label.astype(x.dtype)
        first, second = (dropout(jnp.ones((len(x), 32))) for dropout in self.dropouts)
        same = (first == second).mean(1, keepdims=True)
        return self.norm(x) + self.offset[None] + label[:, None] + 100 * (1 - same)


def test_statistics_of_batches_and_arrays_are_fixed_and_used_as_they_are():
    network = adapters.nnx(Rich(nnx.Rngs(0)))
    variables = network.init(*EXAMPLE)
    assert jax.tree.map(jnp.shape, variables["fixed"]) == {"norm": {"mean": (1,), "var": (1,)}, "offset": (1,)}
    assert set(variables["params"]["layers"]) == {str(i) for i in range(12)}
    x, label = jnp.array([[5.0], [9.0]]), jnp.array([0, 2])
    out = network(variables, x, jnp.zeros(2), label, None)
    np.testing.assert_allclose(out, [[11], [15]], rtol=1e-6)  # (x − 3)/2 + 10 + label
    moved = variables | {"fixed": jax.tree.map(lambda v: v + 1, variables["fixed"])}
    np.testing.assert_allclose(network(moved, x, jnp.zeros(2), label, None), [[11.447214], [15.236068]], rtol=1e-6)
    trained = network(variables, x, jnp.zeros(2), label, jax.random.split(key(), 2))
    different = (trained - out) / 100  # share of 32 places where two dropouts differ: ½, s.e. 0.09
    assert (abs(different - 0.5) < 0.36).all()


def test_places_in_lists_keep_their_order():
    module = Rich(nnx.Rngs(0))
    for i, layer in enumerate(module.layers):
        layer.kernel[...] = jnp.full((1, 1), float(i))
    network = adapters.nnx(module)
    again = network._module(network.init(*EXAMPLE), key(), train=False)
    assert [float(layer.kernel[0, 0]) for layer in again.layers] == list(range(12))


def test_the_instance_is_left_as_it_is_and_its_values_survive_donation():
    module = NNXNet(nnx.Rngs(0))
    network = adapters.nnx(module)
    donated = jax.jit(lambda v: jax.tree.map(lambda a: a + 1, v), donate_argnums=0)(network.init(*EXAMPLE))
    again = network.init(*EXAMPLE)
    np.testing.assert_array_equal(donated["params"]["out"]["kernel"], again["params"]["out"]["kernel"] + 1)
    network(again, *points(), None, jax.random.split(key(), 5))
    assert module.dropout.deterministic is False and module.dropout.rngs.count[...] == 0


def test_labels_for_a_module_without_are_refused_in_one_line():
    refused("NNXNet, whose __call__ takes no `label`", model("nnx"), *points(), label=jnp.zeros(5, jnp.int32))


def test_an_uncertain_network_is_the_network_and_starts_certain():
    plain = model("linen")
    network = adapters.uncertain(plain.apply)
    variables = network.init(*EXAMPLE)
    uncertain = plain.replace(variables=variables, apply=network)
    alone = plain.replace(variables=plain.apply.init(*EXAMPLE))
    np.testing.assert_array_equal(uncertain(*points()), alone(*points()))
    np.testing.assert_array_equal(uncertain.uncertainty(jnp.array([0.1, 0.9])), np.zeros(2))
    out = variables["params"]["uncertainty"]["out"]["kernel"]
    variables["params"]["uncertainty"]["out"]["kernel"] = jnp.linspace(0.1, 1.0, out.size).reshape(out.shape)
    t, parts = jnp.array([0.1, 0.9]), {name: values["uncertainty"] for name, values in variables.items()}
    expected = network.module.apply(parts, jnp.log(VP.sigma(t) / VP.alpha(t)) / 4)
    np.testing.assert_allclose(plain.replace(variables=variables, apply=network).uncertainty(t), expected, rtol=1e-4)
    refused(r"learned no uncertainty: make the score model of adapters.uncertain", alone.uncertainty, jnp.ones(1))
