"""Attention between pixels, softmax(q kᵀ/√d) v, in the two ways it can be computed.

    "xla"     two matrix products and a softmax, which keeps the N × N weights of every head; everywhere, to any order
    "cudnn"   NVIDIA's fused kernel, which recomputes them in the backward pass: memory grows with N instead of N²

The fused kernel takes bfloat16 and heads of a multiple of 8 up to 128 channels (cuDNN's limit before Hopper), and has a
gradient but no forward-mode derivative. Where it cannot be had, on another device, in float32 or with other heads,
"cudnn" computes what "xla" does, so a network trained with the one is sampled with the other.
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
    if implementation == "xla" or not fits_cudnn(q) or jax.default_backend() != "gpu":
        return _plain(q, k, v)
    return jax.lax.platform_dependent(q, k, v, cuda=_fused, default=_plain)


def fits_cudnn(q: Array) -> bool:
    """Whether the fused kernel takes queries of this dtype and head size."""
    return q.dtype in (jnp.bfloat16, jnp.float16) and q.shape[-1] % 8 == 0 and q.shape[-1] <= 128


def _plain(q: Array, k: Array, v: Array) -> Array:
    # As jax.nn.dot_product_attention's, but for a softmax that stays in double precision where x is.
    logits = jnp.einsum("bqhd,bkhd->bhqk", q, k, preferred_element_type=at_least_float32(q))
    weights = nn.softmax(logits * q.shape[-1] ** -0.5).astype(v.dtype)
    return jnp.einsum("bhqk,bkhd->bqhd", weights, v)


def _fused(q: Array, k: Array, v: Array) -> Array:
    return jax.nn.dot_product_attention(q, k, v, implementation="cudnn")
