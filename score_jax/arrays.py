"""Broadcasting, sums, random draws and divergences: the array operations every other module is written in.

Random draws. A key is `()` or `(B,)`. Every draw gives row i of the batch its own key (row i of a `(B,)` key, else
the scalar key folded with i), so row i depends on the seed and on i alone: not on the batch size, on gradient
accumulation, nor on how the batch is spread over devices. `example_keys` makes `(B,)` keys from a scalar key and
the global index of the first row; whoever cuts a batch into pieces calls it first.
"""

import hashlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from score_jax.types import Array, ArrayLike, InputError, Key, PyTree, require_at_least

# Above this many dimensions the exact trace is taken in blocks, so that memory stays that of 64 Jacobian columns.
_TRACE_BLOCK = 64


def tree_hash(tree: PyTree) -> str:
    """Returns the first 16 digits of the SHA-256 of the arrays of a tree: their places, shapes, dtypes and bytes."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.ascontiguousarray(np.asarray(leaf), np.dtype(leaf.dtype).newbyteorder("<"))
        digest.update(f"{jax.tree_util.keystr(path)} {array.shape} {array.dtype.str}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()[:16]


def expand_right(t: ArrayLike, x: Array) -> Array:
    """Returns `t`, `()` or `(B,)`, with trailing axes added and cast so that it broadcasts against `x` `(B, *S)`."""
    t = jnp.asarray(t, x.dtype)
    if t.ndim > 1:
        raise InputError(f"t must have shape () or (B,), got {t.shape}")
    return t if t.ndim == 0 else t.reshape(t.shape + (1,) * (x.ndim - 1))


def safe_sqrt(x: ArrayLike) -> Array:
    """Returns √x with the derivative 0 at x = 0, where √ has none: the noise of a step of length zero."""
    return jnp.where(x == 0, 0, jnp.sqrt(jnp.where(x == 0, 1, x)))


def piecewise_linear(x: Array, xs: Array, ys: Array) -> Array:
    """Returns the piecewise linear function through the points `(xs, ys)`, `(N,)` ascending in xs, at `x`; flat beyond.

    As `jnp.interp`, whose binary search is a loop: two of them inside the loop of a sampler are refused by XLA (jax
    0.12) when it compiles for an H100. Here all N comparisons are made at once.
    """
    right = jnp.clip(jnp.searchsorted(xs, x, side="right", method="compare_all"), 1, len(xs) - 1)
    left = right - 1
    inside = ys[left] + (x - xs[left]) / (xs[right] - xs[left]) * (ys[right] - ys[left])
    return jnp.where(x < xs[0], ys[0], jnp.where(x > xs[-1], ys[-1], inside))


def wide(dtype: DTypeLike) -> jnp.dtype:
    """Returns `dtype` if it is float32 or wider, float32 for a narrower float, JAX's default float for integers."""
    if not jnp.issubdtype(dtype, jnp.floating):
        return jnp.zeros(()).dtype
    return jnp.dtype(jnp.float32) if jnp.finfo(dtype).bits < 32 else jnp.dtype(dtype)


def sum_dims(x: Array) -> Array:
    """Sums over all axes but the first, in float32 or wider: `(B, *S) -> (B,)`."""
    return x.sum(axis=tuple(range(1, x.ndim)), dtype=wide(x.dtype))


def per_example(value: Array, x: Array) -> Array:
    """Broadcasts `value`, `()` or `(B,)`, to the batch of `x`: `(B,)`."""
    return jnp.broadcast_to(value, x.shape[:1])


def example_keys(key: Key, n: int, start: ArrayLike = 0) -> Key:
    """Returns `(n,)` keys, row i folded from `key` and the global index `start + i`; `(n,)` keys pass unchanged."""
    if key.ndim == 0:
        return jax.vmap(jax.random.fold_in, (None, 0))(
            key, jnp.asarray(start, jnp.uint32) + jnp.arange(n, dtype=jnp.uint32)
        )
    if key.shape != (n,):
        raise InputError(f"key must be one key or one per example: expected shape () or ({n},), got {key.shape}")
    return key


def split(key: Key, n: int = 2) -> Key:
    """Splits a key `()` or `(B,)` into `n` of the same shape, stacked on a new first axis."""
    return jax.random.split(key, n) if key.ndim == 0 else jax.vmap(jax.random.split, (0, None), 1)(key, n)


def fold_in(key: Key, data: ArrayLike) -> Key:
    """Folds an integer into a key `()` or into each of `(B,)`."""
    return jax.random.fold_in(key, data) if key.ndim == 0 else jax.vmap(jax.random.fold_in, (0, None))(key, data)


def draw(sampler: Callable[..., Array], key: Key, shape: tuple[int, ...], dtype: DTypeLike | None = None) -> Array:
    """Draws `(B, *S)` row by row: `sampler(key_i, S, dtype)` for each row; `dtype` None is JAX's default float."""
    dtype = jnp.zeros(()).dtype if dtype is None else dtype
    return jax.vmap(lambda k: sampler(k, shape[1:], dtype))(example_keys(key, shape[0]))


def normal(key: Key, like: Array) -> Array:
    """Draws N(0, I) of the shape and dtype of `like`."""
    return draw(jax.random.normal, key, like.shape, like.dtype)


def unit_uniform(key: Key, like: Array) -> Array:
    """Draws U[0, 1) of the shape and dtype of `like`."""
    return draw(jax.random.uniform, key, like.shape, like.dtype)


def rademacher(key: Key, like: Array) -> Array:
    """Draws ±1 with equal probability, of the shape and dtype of `like`."""
    return draw(jax.random.rademacher, key, like.shape, like.dtype)


def sphere(key: Key, like: Array) -> Array:
    """Draws uniformly from the sphere of radius √d, so that E[vvᵀ] = I; shape and dtype of `like`."""
    z = normal(key, like)
    return z * expand_right(jnp.sqrt(like[0].size / sum_dims(z**2)), z)


def divergence(f: Callable[[Array], Array], x: Array, *, key: Key | None = None, n_probes: int = 1) -> Array:
    """Returns `tr ∂f/∂x` per example, `(B,)`, where row i of `f(x)` depends on row i of `x` alone.

    Exact with `key=None`: one Jacobian-vector product for each of the d dimensions. With a key, Hutchinson's
    estimate `mean_k v_kᵀ (∂f/∂x) v_k` with Rademacher probes, unbiased, at `n_probes` products.

    Args:
      f: `(B, *S) -> (B, *S)`.
      x: `(B, *S)`.
      key: None for the exact trace, else a key `()` or `(B,)`.
      n_probes: number of probes with a key.
    """
    require_at_least("divergence", 1, n_probes=n_probes)

    def along(v: Array) -> Array:
        return sum_dims(jax.jvp(f, (x,), (v,))[1] * v)

    if key is not None:
        return jax.vmap(lambda k: along(rademacher(k, x)))(split(example_keys(key, len(x)), n_probes)).mean(0)
    dims = x[0].size

    def column(i: Array) -> Array:
        one_hot = jax.nn.one_hot(i, dims, dtype=x.dtype).reshape(x.shape[1:])
        return along(jnp.broadcast_to(one_hot, x.shape))

    if dims <= _TRACE_BLOCK:
        return jax.vmap(column)(jnp.arange(dims)).sum(0)
    return jax.lax.map(column, jnp.arange(dims), batch_size=_TRACE_BLOCK).sum(0)
