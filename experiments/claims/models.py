"""Small score models for the claims, and the few lines that fit one."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from score_jax.types import Array, Key, PyTree


def wavy_params(seed: int, dims: int, size: float = 1.0) -> PyTree:
    """Random parameters of `wavy_score`."""
    rng = np.random.default_rng(seed)
    shapes = {"A": (dims, dims), "b": (1, dims), "W": (dims, dims), "V": (dims, dims)}
    return {name: size * rng.normal(size=shape) for name, shape in shapes.items()}


def wavy_score(params: PyTree, x: Array) -> Array:
    """x A + b + sin(x W) V: smooth everywhere, not a gradient field, and integrated exactly by few nodes."""
    return x @ params["A"] + params["b"] + jnp.sin(x @ params["W"]) @ params["V"]


def wavy_exact(params: PyTree, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`wavy_score` and its divergence in numpy, by hand: `(N, D)` and `(N,)`."""
    A, b, W, V = (params[name] for name in "AbWV")
    return x @ A + b + np.sin(x @ W) @ V, np.trace(A) + np.einsum("ij,nj,ji->n", W, np.cos(x @ W), V)


def mlp_init(key: Key, sizes: list[int]) -> PyTree:
    """Random weights and zero biases of a fully connected network."""
    keys = jax.random.split(key, len(sizes) - 1)
    layers = zip(keys, sizes[:-1], sizes[1:], strict=True)
    return [(jax.random.normal(k, (i, o)) / i**0.5, 0.1 * jax.random.normal(k, (1, o))) for k, i, o in layers]


def mlp(params: PyTree, x: Array, activation: Callable[[Array], Array] = jax.nn.softplus) -> Array:
    """A fully connected network, `(B, sizes[0]) -> (B, sizes[-1])`."""
    for weight, bias in params[:-1]:
        x = activation(x @ weight + bias)
    weight, bias = params[-1]
    return x @ weight + bias


def fit(loss: Callable[[PyTree], Array], params: PyTree, *, steps: int, learning_rate: float) -> PyTree:
    """Minimises `loss(params)` by `steps` steps of Adam, as one compiled loop; returns the parameters."""
    optimizer = optax.adam(learning_rate)

    def step(carry, _):
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss)(params), state)
        return (optax.apply_updates(params, updates), state), None

    return jax.lax.scan(step, (params, optimizer.init(params)), length=steps)[0][0]
