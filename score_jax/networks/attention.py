"""Attention between pixels, softmax(q kᵀ/√d) v, in the ways it can be computed.

    "xla"     two matrix products and a softmax, which keeps the N × N weights of every head; everywhere, to any order
    "cudnn"   NVIDIA's fused kernel, which recomputes them in the backward pass: memory grows with N instead of N²

The fused kernel takes bfloat16 and heads of a multiple of 8 up to 128 channels (cuDNN's limit before Hopper), and has a
gradient but no forward-mode derivative. Where it cannot be had, on another device, in float32 or with other heads,
"cudnn" computes what "xla" does, so a network trained with the one is sampled with the other.

On a CPU time goes into moving the N × N weights of all heads and examples to memory and back. So there "xla" takes a
few heads at a time, whose weights stay in the cache, and computes them again in the backward pass instead of keeping
them; not with several devices, where a loop over examples would gather those that a mesh has cut.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from score_jax.networks.embeddings import at_least_float32
from score_jax.types import Array, InputError

IMPLEMENTATIONS = ("xla", "cudnn")


def attend(q: Array, k: Array, v: Array, implementation: str = "xla") -> Array:
    """Returns `softmax(q kᵀ/√d) v` of queries, keys and values `(B, N, heads, d)`; the softmax is float32 or wider.

    Raises:
      InputError: of an implementation that does not exist.
    """
    if implementation not in IMPLEMENTATIONS:
        raise InputError(f"attention {implementation!r} does not exist: choose one of {', '.join(IMPLEMENTATIONS)}")
    # Tracing the fused kernel asks the driver for its version, so that is left out where there is none.
    if implementation == "cudnn" and fits_cudnn(q) and jax.default_backend() == "gpu":
        return jax.lax.platform_dependent(q, k, v, cuda=_fused, default=_plain)
    if jax.default_backend() == "cpu" and jax.device_count() == 1 and heads_in_cache(q) < q.shape[0] * q.shape[2]:
        return jax.lax.platform_dependent(q, k, v, cpu=in_pieces, default=_plain)
    return _plain(q, k, v)


def fits_cudnn(q: Array) -> bool:
    """Whether the fused kernel takes queries of this dtype and head size."""
    return q.dtype in (jnp.bfloat16, jnp.float16) and q.shape[-1] % 8 == 0 and q.shape[-1] <= 128


def _plain(q: Array, k: Array, v: Array) -> Array:
    # As jax.nn.dot_product_attention's, but for a softmax that stays in double precision where x is.
    logits = jnp.einsum("bqhd,bkhd->bhqk", q, k, preferred_element_type=at_least_float32(q))
    weights = nn.softmax(logits * q.shape[-1] ** -0.5).astype(v.dtype)
    return jnp.einsum("bhqk,bkhd->bqhd", weights, v)


def heads_in_cache(q: Array) -> int:
    """How many heads, a divisor of all of all examples, have weights of 4 MiB together, in float32; one at least."""
    rows, most = q.shape[0] * q.shape[2], max(2**20 // q.shape[1] ** 2, 1)
    return max((n for n in range(1, min(rows, most) + 1) if rows % n == 0), default=1)


def in_pieces(q: Array, k: Array, v: Array) -> Array:
    """What `attend` returns, for as many heads at a time as fit into the cache."""
    batch, places, heads, d = q.shape
    per_piece = heads_in_cache(q)
    # The order of axes in which neither products nor their gradients need a transposed N × N array.
    rows = q.swapaxes(1, 2).reshape(-1, per_piece, places, d)
    columns = (array.transpose(0, 2, 3, 1).reshape(-1, per_piece, d, places) for array in (k, v))
    out = jax.lax.map(jax.checkpoint(_of_heads), (rows, *columns))
    return out.reshape(batch, heads, places, d).swapaxes(1, 2)


def _of_heads(qkv: tuple[Array, Array, Array]) -> Array:
    """Attention `(heads, N, d)` of `q` `(heads, N, d)`, `k` and `v` `(heads, d, N)`, divided by sums at its end."""
    q, k, v = qkv
    logits = jnp.einsum("hqd,hdk->hqk", q * q.shape[-1] ** -0.5, k, preferred_element_type=at_least_float32(q))
    weights = jnp.exp(logits - jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True)))
    sums = jnp.sum(weights, axis=-1, keepdims=True)
    weighted = jnp.einsum("hqk,hdk->hqd", weights.astype(v.dtype), v, preferred_element_type=sums.dtype)
    return (weighted / sums).astype(v.dtype)


def _fused(q: Array, k: Array, v: Array) -> Array:
    return jax.nn.dot_product_attention(q, k, v, implementation="cudnn")
