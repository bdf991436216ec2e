"""What a method costs: calls of the score, and vector–Jacobian products with it, counted while it runs."""

from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from score_jax.sampling import Sampler, sample
from score_jax.types import Array, ArrayLike, Key, ScoreFn


class Cost(NamedTuple):
    """How often a run called the score, and took a vector–Jacobian product with it, each on the whole batch."""

    calls: int
    products: int


def cost_of(make: Callable[[ScoreFn], Sampler], score_fn: ScoreFn, key: Key, x: Array, ts: ArrayLike) -> Cost:
    """Runs `make(score_fn)` from x along ts and counts, loops and all; one row of x is enough.

    A product costs about two calls, and what it keeps of the network's layers in memory.
    """
    counts: Counter[str] = Counter()
    counted = counting(score_fn, counts)
    jax.block_until_ready(jax.jit(lambda x: sample(key, make(counted), x, ts))(x))
    jax.effects_barrier()
    return Cost(counts["calls"], counts["products"])


def counting(score_fn: ScoreFn, counts: Counter[str]) -> ScoreFn:
    """Returns a function of x and t that counts its `calls` and `products` on the host whenever they are computed."""
    count = lambda what: jax.debug.callback(lambda: counts.update([what]))

    @jax.custom_vjp
    def counted(x: Array, t: Array) -> Array:
        count("calls")
        return score_fn(x, t)

    def forward(x: Array, t: Array) -> tuple[Array, tuple[Any, Array]]:
        count("calls")
        score, pull = jax.vjp(lambda x: score_fn(x, t), x)
        return score, (pull, jnp.zeros_like(t))

    def backward(kept: tuple[Any, Array], cotangent: Array) -> tuple[Array, Array]:
        count("products")
        pull, of_time = kept
        return pull(cotangent)[0], of_time

    counted.defvjp(forward, backward)
    return counted
