"""What a gradient step of each objective costs, beside denoising score matching's.

    python benchmarks/objectives.py

One step is loss, gradient and Adam on a batch, compiled; the networks are the 2-D MLP of the toy config and the U-Net
of the digits, at one noise level. Every objective takes turns with denoising score matching, one direction an example
where it takes any. The aims: variance-reduced sliced score matching at most 2.5 times as long, by finite differences at
most 2.2 times.
"""

from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from timing import Row, alternate, compare, main, peak, prepared, seconds

from score_jax import kernels, losses, networks
from score_jax.types import Array, Key, StaticScoreFn

Objective = Callable[[Key, StaticScoreFn, Array], Array]
DSM = "denoising"
OBJECTIVES: Mapping[str, Objective] = {
    DSM: lambda key, score, x: losses.denoising_score_matching(key, score, x, kernels.Gaussian(0.1)),
    "denoising, control variate": lambda key, score, x: losses.denoising_score_matching(
        key, score, x, kernels.Gaussian(0.1), control=1.0
    ),
    "finite differences": lambda key, score, x: losses.finite_difference_score_matching(key, score, x),
    "sliced, variance reduced": lambda key, score, x: losses.sliced_score_matching(
        key, score, x, variance_reduced=True
    ),
    "sliced": lambda key, score, x: losses.sliced_score_matching(key, score, x),
    "implicit, Hutchinson's trace": lambda key, score, x: losses.implicit_score_matching(score, x, key=key),
}
NETWORKS = {
    "MLP, 2-D": (networks.MLP((128, 128, 128)), (512, 2)),
    "U-Net, 8×8": (networks.UNet(32, (1, 2)), (64, 8, 8, 1)),
}


@cache
def step_of(name: str, network: str) -> tuple[Callable[[], Array], int]:
    """Returns a compiled step, which goes on from where it was, and its operations."""
    module, shape = NETWORKS[network]
    x, cond, adam = jax.random.normal(jax.random.key(0), shape), jnp.zeros(shape[0]), optax.adam(1e-4)

    def loss(params, key):
        score: Callable[..., Any] = partial(module.apply, params, cond=cond)
        return OBJECTIVES[name](key, score, x).mean()

    def step(state, key):
        params, moments = state
        value, gradient = jax.value_and_grad(loss)(params, key)
        updates, moments = adam.update(gradient, moments)
        return (optax.apply_updates(params, updates), moments), value

    params = module.init(jax.random.key(1), x, cond)
    held = [(params, adam.init(params))]
    compiled, operations = prepared(jax.jit(step, donate_argnums=0), held[0], jax.random.key(2))

    def go_on() -> Array:
        held[0], value = compiled(held[0], jax.random.key(2))
        return value

    return go_on, operations


def measure_one(network: str, name: str, pairs: int, of_products: float) -> Row:
    """One row: the objective and denoising score matching in turns."""
    (ours, operations), (reference, _) = step_of(name, network), step_of(DSM, network)
    ours(), reference()
    time, of_reference, ratio = compare(*alternate(lambda: seconds(ours), lambda: seconds(reference), pairs))
    return {
        "network": network,
        "objective": name,
        "step, ms": 1e3 * time,
        "denoising, ms": 1e3 * of_reference,
        "ratio": ratio,
        "share of products": operations / time / of_products,
    }


def measure(quick: bool) -> Row:
    """Measures every objective but the reference with both networks."""
    pairs = 3 if quick else 31
    others, of_products = [name for name in OBJECTIVES if name != DSM], peak()
    return {"rows": [measure_one(network, name, pairs, of_products) for network in NETWORKS for name in others]}


if __name__ == "__main__":
    main(measure, __doc__)
