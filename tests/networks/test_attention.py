"""Attention equals its definition, in every dtype and however it is to be computed; what cuDNN cannot take is told."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax.networks import UNet, attention
from score_jax.networks.attention import IMPLEMENTATIONS, attend, fits_cudnn, heads_in_cache, in_pieces
from score_jax.networks.layers import SelfAttention
from score_jax.types import InputError
from tests.networks.filling import filled, jit


def drawn(heads, features, dtype):
    rng = np.random.default_rng(0)
    return tuple(jnp.asarray(rng.normal(size=(2, 6, heads, features)), dtype) for _ in range(3))


def by_definition(q, k, v):
    q, k, v = (np.asarray(a, np.float64) for a in (q, k, v))
    out = np.zeros_like(v)
    for b, h in np.ndindex(q.shape[0], q.shape[2]):
        weights = np.exp(q[b, :, h] @ k[b, :, h].T / np.sqrt(q.shape[3]))
        out[b, :, h] = weights / weights.sum(1, keepdims=True) @ v[b, :, h]
    return out


@pytest.mark.parametrize("implementation", ["xla", "cudnn"])
@pytest.mark.parametrize(
    # bfloat16: weights and values are rounded to 8 bits, 2^-9 each, and so is the result
    ("dtype", "tolerance"), [(jnp.float64, 1e-14), (jnp.float32, 1e-6), (jnp.bfloat16, 3 * 2**-9)]
)  # fmt: skip
def test_attention_is_the_softmax_mean_of_values(implementation, dtype, tolerance, x64):
    q, k, v = drawn(2, 8, dtype)
    out = attend(q, k, v, implementation)
    expected = by_definition(q, k, v)
    assert out.dtype == dtype
    assert np.linalg.norm(np.asarray(out, np.float64) - expected) <= tolerance * np.linalg.norm(expected)


@pytest.mark.parametrize("dtype, tolerance", [(jnp.float64, 1e-14), (jnp.float32, 2e-6), (jnp.bfloat16, 2**-6)])
def test_attention_in_pieces_is_the_same_to_the_second_derivative(dtype, tolerance, monkeypatch, x64):
    """Three pieces of two heads; of bfloat16 values and gradients, which are rounded to 2^-8 at every product."""
    q, k, v = drawn(3, 4, dtype)
    monkeypatch.setattr(attention, "heads_in_cache", lambda q: 2)

    def all_of(attend):
        gradient = jax.grad(lambda *qkv: jnp.sum(jnp.sin(attend(*qkv).astype(jnp.float32))), (0, 1, 2))
        second = jax.jvp(gradient, (q, k, v), (k, v, q))[1] if dtype != jnp.bfloat16 else ()
        return attend(q, k, v), gradient(q, k, v), second

    for ours, plain in zip(
        *(jax.tree.leaves(jax.jit(all_of, static_argnums=0)(f)) for f in (in_pieces, attend)), strict=True
    ):
        assert ours.dtype == plain.dtype == dtype
        ours, plain = np.asarray(ours, np.float64), np.asarray(plain, np.float64)
        assert np.linalg.norm(ours - plain) <= tolerance * np.linalg.norm(plain)


@pytest.mark.parametrize(("shape", "heads"), [((32, 256, 16, 8), 16), ((6, 256, 5, 8), 15), ((2, 2048, 3, 8), 1)])
def test_pieces_are_whole_heads_of_four_mebibytes(shape, heads):
    assert heads_in_cache(jax.ShapeDtypeStruct(shape, jnp.float32)) == heads


@pytest.mark.parametrize("devices", [1, 8])
def test_attention_of_one_processor_is_in_pieces_and_of_other_devices_is_not(devices, monkeypatch):
    """Programs for accelerators have neither the loop nor what keeps weights from being kept."""
    monkeypatch.setattr(jax, "device_count", lambda: devices)
    q = jax.ShapeDtypeStruct((4, 512, 2, 8), jnp.float32)
    traced = jax.jit(jax.grad(lambda q: jnp.sum(attend(q, q, q)))).trace(q)
    loops = {name: traced.lower(lowering_platforms=(name,)).as_text().count("while") for name in ("cpu", "cuda", "tpu")}
    assert (loops["cpu"] > 0) is (devices == 1) and loops["cuda"] == loops["tpu"] == 0


@pytest.mark.parametrize(
    ("features", "dtype", "fits"),
    [(64, jnp.bfloat16, True), (128, jnp.float16, True), (136, jnp.bfloat16, False), (20, jnp.bfloat16, False)]
    + [(64, jnp.float32, False)],
)
def test_cudnn_takes_half_precision_and_heads_up_to_128(features, dtype, fits):
    assert fits_cudnn(drawn(1, features, dtype)[0]) is fits


@pytest.mark.parametrize(
    "module", [SelfAttention(jnp.bfloat16, "cudnn"), UNet(4, (1,), dtype=jnp.bfloat16)], ids=["layer", "unet"]
)
def test_what_was_trained_with_cudnn_is_the_same_where_there_is_none(module):
    x = np.random.default_rng(0).normal(size=(2, 4, 4, 64)).astype(np.float32)
    args = (x,) if isinstance(module, SelfAttention) else (x, np.ones(2, np.float32))
    field = "implementation" if isinstance(module, SelfAttention) else "attention_implementation"
    outputs = [jit(module.clone(**{field: how}).apply)(filled(module, *args), *args) for how in IMPLEMENTATIONS]
    np.testing.assert_array_equal(*outputs)


def test_an_implementation_that_does_not_exist_is_refused():
    with pytest.raises(InputError, match="attention 'flash' does not exist: choose one of xla, cudnn"):
        attend(*drawn(1, 8, jnp.float32), "flash")
