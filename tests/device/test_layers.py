"""Norms, attention, filters, resizing and embeddings, and their derivatives, are the CPU's."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax import networks
from score_jax.networks import fir, layers, refinenet
from score_jax.networks.attention import attend
from score_jax.networks.residual_blocks import Attention, Layers, NoiseAndLabelEmbedding, fan_average
from tests.device.compare import BFLOAT16, MARKS, assert_close, both, rounding
from tests.networks.filling import filled
from tests.networks.naive import TAPS, images

pytestmark = [*MARKS, pytest.mark.usefixtures("float32_products")]

LAYERS = Layers(fan_average, 32, 4, 1e-6, None)
X = 3 * images(0, 2, 7, 6, 8) + 2
EMB, COND = images(1, 2, 8), np.float32([-6.5, 4.5])
# Means of 42 pixels and products of 8 to 72 numbers, some five in a row, back and forth. The mean, 2, is taken off
# numbers of deviation 3.
BOUND = rounding(5 * 100, 2)


class Resampled(nn.Module):
    """A filtered convolution that changes the resolution, by the method of `Layers` of that name."""

    method: str

    @nn.compact
    def __call__(self, *args):
        return getattr(LAYERS, self.method)(*args, 4, "layer", TAPS)


class Function(nn.Module):
    """A function as a module."""

    of: object

    def __call__(self, *args):
        return self.of(*args)


LIKE = np.zeros((2, 13, 12, 8), np.float32)
ONE_HOT = np.eye(4, dtype=np.float32)[[3, 0]]
# Module, arguments, the first of which its derivative is taken by.
CASES = {
    "GroupNorm": (networks.GroupNorm(), X),
    "GroupNorm, modulated": (networks.GroupNorm(), X, EMB, -EMB),
    "InstanceNorm++": (networks.InstanceNormPlus(), X),
    "InstanceNorm++ of one channel": (networks.InstanceNormPlus(), X[..., :1]),
    "InstanceNorm++ of levels": (networks.LevelInstanceNormPlus(), X, ONE_HOT),
    "InstanceNorm++ of an embedding": (networks.ConditionalInstanceNormPlus(), X, EMB),
    "self-attention": (layers.SelfAttention(), X),
    "attention, two heads": (Attention(LAYERS, 0.7, 4), X),
    "FIR down": (Function(functools.partial(fir.filtered_downsample, taps=TAPS)), X),
    "FIR up": (Function(functools.partial(fir.filtered_upsample, taps=TAPS)), X, LIKE),
    "FIR before convolution": (Resampled("conv_down"), X),
    "FIR after convolution": (Resampled("conv_up"), X, LIKE),
    "means of 2×2": (Function(layers.downsample), X),
    "resizing": (Function(layers.resize_aligned), X, LIKE),
    "average pool": (Function(refinenet.average_pool), X),
    "maximum pool": (Function(refinenet.max_pool), X),
    "sines of log σ": (networks.Sinusoidal(16), COND),
    "sines of timesteps": (networks.positional(16), np.float32([0, 999])),
    "Fourier features": (networks.GaussianFourier(16, 16.0, jnp.log), np.float32([0.01, 50.0])),
    "condition and label": (networks.ConditionEmbedding(8, networks.Sinusoidal(16), 3), COND, np.int32([2, -1])),
    "condition, label inside": (NoiseAndLabelEmbedding(LAYERS, 8, 3, "inner"), EMB, np.int32([2, -1])),
    "condition, label outside": (NoiseAndLabelEmbedding(LAYERS, 8, 3, "outer"), EMB, np.int32([2, -1])),
}
BOUNDS = {
    # Angles up to 999, and up to 2π·16·3·ln 100 = 1400, known to one operation.
    "sines of timesteps": rounding(1, 999),
    "Fourier features": rounding(1, 1400),
}


@functools.cache
def results():
    """Returns {name: (output, derivatives)} of the device and of the CPU."""
    variables = {name: filled(module, *args) for name, (module, *args) in CASES.items()}

    def case(name, variables, x, *others):
        out, pullback = jax.vjp(lambda variables, x: CASES[name][0].apply(variables, x, *others), variables, x)
        # Some direction: along ones the derivative of a normalization is zero.
        return out, pullback(jnp.cos(jnp.arange(out.size, dtype=out.dtype)).reshape(out.shape))

    def program(variables, arguments):
        return {name: case(name, variables[name], *arguments[name]) for name in CASES}

    return both(program, variables, {name: tuple(args) for name, (_, *args) in CASES.items()})


@pytest.mark.parametrize("name", CASES)
def test_layers_and_their_derivatives_are_the_cpus(name, record_property):
    found, expected = (result[name] for result in results())
    bound = BOUNDS.get(name, BOUND)
    assert_close(record_property, name, found[0], expected[0], bound)
    assert_close(record_property, f"derivative of {name}", found[1], expected[1], bound)


def test_fused_attention_and_its_gradient_are_the_cpus(record_property):
    """In bfloat16, on a GPU by cuDNN's kernel, elsewhere by the products and the softmax that it stands for."""
    qkv = [jnp.asarray(images(i, 2, 32, 2, 64), jnp.bfloat16) for i in range(3)]

    def program(*qkv):
        out, pullback = jax.vjp(functools.partial(attend, implementation="cudnn"), *qkv)
        return out, pullback(jnp.cos(jnp.arange(out.size, dtype=jnp.float32)).astype(out.dtype).reshape(out.shape))

    found, expected = both(program, *qkv)
    # Weights, their products with values, and in the gradient the derivatives of both, are rounded to bfloat16.
    assert_close(record_property, "fused attention", found[0], expected[0], rounding(3, 1, BFLOAT16))
    assert_close(record_property, "gradient of fused attention", found[1], expected[1], rounding(6, 2, BFLOAT16))
