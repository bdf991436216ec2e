"""Why `networks.Conv` has gradients of its own: on CPUs those of JAX's convolutions are slow inside loops.

    python benchmarks/conv_in_loops.py

The same work is compiled twice: one call dispatched n times from Python, and a `lax.scan` over n calls, each fed with
the result of the one before; the ratio is the time in the scan over that outside. XLA's CPU backend rewrites gradients
of convolutions into the form it has fast code for only outside of loops; `networks.convolution` writes them in it.
Forward passes, which is what sampling scans, and gradients of matrix products are there for comparison.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from timing import Row, alternate, compare, main, seconds

from score_jax.networks.convolution import conv_general_dilated
from score_jax.types import Array

CHANNELS = 32
Network = Callable[[Array, Array], Array]


def convolutions(conv: Callable[..., Array], filters: Array, x: Array) -> Array:
    """Convolutions of 3×3 with tanh between."""
    numbers = jax.lax.conv_dimension_numbers(x.shape, filters.shape[1:], ("NHWC", "HWIO", "NHWC"))
    for f in filters:
        x = jnp.tanh(conv(x, f, (1, 1), "SAME", dimension_numbers=numbers))
    return x


def matrices(weights: Array, x: Array) -> Array:
    """A perceptron with tanh."""
    for w in weights:
        x = jnp.tanh(x @ w)
    return x


def forward(network: Network, params: Array, x: Array) -> tuple[Array, Array]:
    """A step of sampling, as far as cost goes."""
    return params, network(params, x)


def gradient(network: Network, params: Array, x: Array) -> tuple[Array, Array]:
    """A step of training, as far as cost goes."""
    return params - 1e-3 * jax.grad(lambda p: jnp.sum(network(p, x) ** 2) / x.size)(params), x


def programs(step, params: Array, x: Array, n: int) -> tuple[Callable, Callable]:
    """Returns the n calls from Python and in a scan, both compiled."""
    once = jax.jit(step)
    scanned = jax.jit(lambda *carry: jax.lax.scan(lambda c, _: (step(*c), None), carry, length=n)[0])

    def outside():
        carry = params, x
        for _ in range(n):
            carry = once(*carry)
        return carry

    jax.block_until_ready((once(params, x), scanned(params, x)))
    return outside, lambda: scanned(params, x)


def measure_step(what: str, step, params: Array, x: Array, *, n: int, pairs: int) -> Row:
    """One row of the table."""
    outside, inside = programs(step, params, x, n)
    loop, calls, ratio = compare(*alternate(partial(seconds, inside), partial(seconds, outside), pairs))
    return {"step": what, "outside, ms": 1e3 * calls / n, "in a scan, ms": 1e3 * loop / n, "ratio": ratio}


def measure(quick: bool) -> Row:
    """Measures forward passes and gradients of three layers, on 32 images of 14×14 or 1,024 rows."""
    options = {"n": 2 if quick else 5, "pairs": 1 if quick else 5}
    x, filters, weights = (
        jax.random.normal(jax.random.key(i), shape) / 16
        for i, shape in enumerate([(32, 14, 14, CHANNELS), (3, 3, 3, CHANNELS, CHANNELS), (3, 256, 256)])
    )
    rows = jax.random.normal(jax.random.key(3), (1024, 256))
    jaxs, ours = (partial(convolutions, conv) for conv in (jax.lax.conv_general_dilated, conv_general_dilated))
    return {
        "rows": [
            measure_step("JAX's convolutions, gradient", partial(gradient, jaxs), filters, x, **options),
            measure_step("networks.Conv, gradient", partial(gradient, ours), filters, x, **options),
            measure_step("networks.Conv, forward", partial(forward, ours), filters, x, **options),
            measure_step("matrix products, gradient", partial(gradient, matrices), weights, rows, **options),
        ]
    }


if __name__ == "__main__":
    main(measure, __doc__)
