"""Filtered changes of resolution against published numbers and against filters and convolutions written out naively."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax.networks import fir, layers
from score_jax.networks.residual_blocks import Layers, fan_average
from tests.networks import naive
from tests.networks.naive import TAPS, images


def along(values, axis):
    return jnp.asarray(values, jnp.float32).reshape((1, -1, 1, 1) if axis == 1 else (1, 1, -1, 1))


def inner(x, axis):
    """The numbers along an axis; along the other one a single row has become two of the same, or stayed one."""
    return np.asarray(x)[0, :, 0, 0] if axis == 1 else np.asarray(x)[0, 0, :, 0]


@pytest.mark.parametrize("axis", [1, 2])
def test_published_numbers_of_the_filter(axis):
    """On one row: across, `up` sees it beside zeros and gives ¾ of it, and so does `down`, which repeats odd rows."""

    def up(values):
        x = along(values, axis)
        like = jnp.zeros((1, 2 * x.shape[1], 2 * x.shape[2], 1))
        return inner(fir.filtered_upsample(x, like, TAPS), axis) / 0.75

    def down(values):
        return inner(fir.filtered_downsample(along(values, axis), TAPS), axis) / 0.75

    # sums of four binary fractions, exact; division by ¾ costs one rounding
    np.testing.assert_allclose(up(np.ones(4)), [0.75, 1, 1, 1, 1, 1, 1, 0.75], rtol=1e-6)
    np.testing.assert_allclose(up([0, 1, 0, 0]), [0, 0.25, 0.75, 0.75, 0.25, 0, 0, 0], rtol=1e-6)
    np.testing.assert_allclose(down(np.ones(8)), [0.875, 1, 1, 0.875], rtol=1e-6)
    np.testing.assert_allclose(down(np.arange(8)), [0.625, 2.5, 4.5, 5.5], rtol=1e-6)


def test_two_equal_taps_are_means_and_repeated_pixels():
    x, like = images(0, 2, 7, 4, 3), np.zeros((2, 13, 8, 3))
    np.testing.assert_allclose(fir.filtered_downsample(x, (1, 1)), layers.downsample(x), atol=1e-6)
    np.testing.assert_array_equal(fir.filtered_upsample(x, like, (1, 1)), layers.upsample(x, like))


LAYERS = Layers(fan_average, 32, 4, 1e-6, None)


class Resampled(nn.Module):
    """One layer, by the method of `Layers` of that name."""

    method: str
    features: int
    taps: tuple[float, ...] | None

    @nn.compact
    def __call__(self, *images):
        return getattr(LAYERS, self.method)(*images, self.features, "layer", self.taps)


def resampled(method, *images, taps=TAPS):
    return np.asarray(Resampled(method, 3, taps).apply({"params": {"layer": PARAMS}}, *images))


PARAMS = {"kernel": images(1, 3, 3, 2, 3), "bias": images(2, 3)}


@pytest.mark.parametrize("shape", [(6, 4), (5, 7)])
def test_strided_convolution_filters_first(shape):
    x = images(0, 2, *shape, 2)
    whole = np.pad(x, ((0, 0), (0, shape[0] % 2), (0, shape[1] % 2), (0, 0)), mode="edge")
    expected = naive.conv_down(whole, PARAMS)
    assert expected.shape == (2, -(-shape[0] // 2), -(-shape[1] // 2), 3)
    # sums of 18·16 terms of order one: 17·2⁻²⁴ ≈ 1e-6
    np.testing.assert_allclose(resampled("conv_down", x), expected, atol=5e-6)


@pytest.mark.parametrize("shape", [(6, 4), (5, 7)])
def test_transposed_convolution_is_filtered_afterwards_and_its_bias_is_not(shape):
    x, like = images(0, 2, 3, 4, 2), np.zeros((2, *shape, 1))
    expected = naive.conv_up(x, PARAMS)[:, : shape[0], : shape[1]]
    np.testing.assert_allclose(resampled("conv_up", x, like), expected, atol=5e-6)


def test_without_a_filter_convolutions_pad_after_the_last_pixel_and_repeat_pixels():
    x = images(0, 2, 6, 4, 2)
    below_and_right = np.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))
    expected = naive.correlate(below_and_right, PARAMS["kernel"], stride=2) + PARAMS["bias"]
    np.testing.assert_allclose(resampled("conv_down", x, taps=None), expected, atol=5e-6)
    repeated = x.repeat(2, 1).repeat(2, 2)[:, :11, :7]
    expected = naive.conv(repeated, PARAMS)
    np.testing.assert_allclose(resampled("conv_up", x, repeated, taps=None), expected, atol=5e-6)
