import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax.networks import MLP, Conservative, GroupNorm
from tests.networks.filling import filled, jit

COND = jnp.array([0.3])


class Convolutional(nn.Module):
    @nn.compact
    def __call__(self, x, cond, label=None, *, train=False):
        h = nn.swish(GroupNorm()(nn.Conv(8, (3, 3))(x)))
        return nn.Conv(x.shape[-1], (3, 3))(h)


@functools.cache
def example(name):
    backbone, shape = {
        "mlp": (MLP((16, 16)), (1, 4)),
        "images": (Convolutional(), (1, 3, 2, 2)),
    }[name]
    x = jnp.asarray(np.random.default_rng(1).normal(size=shape), jnp.float32)
    return Conservative(backbone), backbone, filled(Conservative(backbone), x, COND), x


@pytest.mark.parametrize("name", ["mlp", "images"])
def test_jacobian_is_symmetric_and_the_backbones_is_not(name):
    module, backbone, variables, x = example(name)

    def jacobian(network, variables):
        return jit(jax.jacfwd(lambda x: network.apply(variables, x, COND)))(x).reshape(x.size, x.size)

    wrapped, bare = jacobian(module, variables), jacobian(backbone, {"params": variables["params"]["backbone"]})
    scale = float(abs(wrapped).max())
    np.testing.assert_allclose(wrapped, wrapped.T, atol=1e-5 * max(scale, 1))
    assert abs(bare - bare.T).max() > 1e-2


def test_output_is_the_gradient_of_the_potential_and_the_closed_form():
    module, backbone, variables, x = example("mlp")
    out = jit(module.apply)(variables, x, COND)
    gradient = jit(jax.grad(lambda x: module.apply(variables, x, COND, method="potential")[0]))(x)
    np.testing.assert_allclose(out, gradient, rtol=1e-6)
    bare = functools.partial(backbone.apply, {"params": variables["params"]["backbone"]})

    def closed_form(x):
        value, pullback = jax.vjp(lambda x: bare(x, COND), x)
        return 0.5 * (value + pullback(x)[0])

    np.testing.assert_allclose(out, jit(closed_form)(x), rtol=1e-5, atol=1e-6)


def test_a_linear_gradient_field_is_left_as_it_is():
    class Linear(nn.Module):
        @nn.compact
        def __call__(self, x, cond, label=None, *, train=False):
            half = self.param("matrix", nn.initializers.normal(), (3, 3))
            return x @ (half + half.T)

    x = jnp.asarray(np.random.default_rng(1).normal(size=(5, 3)), jnp.float32)
    variables = filled(Conservative(Linear()), x, jnp.zeros(5))
    out = Conservative(Linear()).apply(variables, x, jnp.zeros(5))
    bare = Linear().apply({"params": variables["params"]["backbone"]}, x, jnp.zeros(5))
    np.testing.assert_allclose(out, bare, rtol=1e-5, atol=1e-6)


def test_training_leaves_the_zero_it_starts_from():
    module, _, variables, x = example("mlp")
    backbone = variables["params"]["backbone"]
    zero = {"params": {"backbone": backbone | {"out": jax.tree.map(jnp.zeros_like, backbone["out"])}}}
    grads = jit(jax.grad(lambda v: ((module.apply(v, x, COND) - 1.0) ** 2).sum()))(zero)
    assert abs(grads["params"]["backbone"]["out"]["kernel"]).max() > 0.1


def test_second_derivatives_train_an_energy_by_implicit_score_matching():
    """One gradient of ½‖s‖² + tr ∂s/∂x: three derivatives of the backbone, under jit and vmap."""
    module, _, variables, x = example("mlp")
    xs = x + jnp.linspace(-1, 1, 3)[:, None]

    def objective(variables, x):
        f = lambda x: module.apply(variables, x[None], COND)[0]
        return 0.5 * jnp.sum(f(x) ** 2) + jnp.trace(jax.jacfwd(f)(x))

    def loss(variables):
        return jax.vmap(objective, (None, 0))(variables, xs).mean()

    value, grads = jit(jax.value_and_grad(loss))(variables)
    step = 1e-3
    moved = jit(loss)(jax.tree.map(lambda p, g: p - step * g, variables, grads))
    squared = sum(jnp.sum(g**2) for g in jax.tree.leaves(grads))
    # first order in the step: the decrease is step·‖grad‖², to the curvature's few per cent
    np.testing.assert_allclose(value - moved, step * squared, rtol=0.1)


def test_potential_is_per_example():
    module, _, variables, x = example("mlp")
    xs = jnp.concatenate([x, 2 * x])
    potential = functools.partial(module.apply, variables, method="potential")
    both = potential(xs, jnp.array([0.3, -1.0]))
    assert both.shape == (2,)
    np.testing.assert_allclose(both[1], potential(2 * x, jnp.array([-1.0]))[0], rtol=1e-5)
