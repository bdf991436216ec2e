import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax.networks.layers import (
    SelfAttention,
    downsample,
    fan_in_uniform,
    from_patches,
    resize_aligned,
    to_patches,
    upsample,
)
from tests.networks.filling import filled, jit


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def grid(*values):
    return jnp.asarray(values, jnp.float32)[None, ..., None]


def blank(*size):
    return jnp.zeros((1, *size, 1))


def test_aligned_resize_by_hand():
    out = resize_aligned(grid([0.0, 2.0], [4.0, 10.0]), blank(3, 3))[0, ..., 0]
    np.testing.assert_allclose(out, [[0, 1, 2], [2, 4, 6], [4, 7, 10]], atol=1e-6)
    out = resize_aligned(grid([0.0, 3.0, 9.0]), blank(1, 7))[0, ..., 0]  # pixel i reads from i/3
    np.testing.assert_allclose(out, [[0, 1, 2, 3, 5, 7, 9]], atol=1e-5)
    np.testing.assert_allclose(resize_aligned(grid([5.0]), blank(2, 3))[0, ..., 0], np.full((2, 3), 5.0))


def test_aligned_resize_keeps_corners_and_size():
    x = normal(2, 4, 5, 3)
    assert resize_aligned(x, x) is x
    big = resize_aligned(x, jnp.zeros((1, 9, 8, 1)))
    np.testing.assert_allclose(big[:, ::8, ::7], x[:, ::3, ::4], atol=1e-6)


def test_downsample_means_and_repeats_the_last_row_of_odd_sizes():
    out = downsample(grid([1.0, 3.0, 5.0], [5.0, 7.0, 9.0], [2.0, 4.0, 10.0]))[0, ..., 0]
    np.testing.assert_allclose(out, [[4, 7], [3, 10]])


def test_upsample_is_four_times_the_adjoint_of_downsample():
    x = normal(2, 6, 4, 3)
    y = normal(2, 3, 2, 3, seed=1)
    np.testing.assert_allclose(4 * jnp.vdot(downsample(x), y), jnp.vdot(x, upsample(y, x)), rtol=1e-5)
    odd = upsample(y, jnp.zeros((1, 5, 3, 1)))
    assert odd.shape == (2, 5, 3, 3)
    np.testing.assert_array_equal(odd[:, 4, 2], y[:, 2, 1])


@pytest.mark.parametrize("size", [(7,), (4, 5), (3, 4, 5), (1, 1, 1)])
def test_means_and_repeats_in_any_number_of_dimensions_are_those_of_loops(size):
    x, half = np.asarray(normal(2, *size, 3)), tuple(-(-n // 2) for n in size)
    means, repeated = np.empty((2, *half, 3)), np.empty_like(x)
    for place in np.ndindex(*half):
        corners = itertools.product(*((2 * i, min(2 * i + 1, n - 1)) for i, n in zip(place, size, strict=True)))
        means[:, *place] = np.mean([x[:, *corner] for corner in corners], axis=0)
    np.testing.assert_allclose(downsample(x), means, rtol=1e-5, atol=1e-6)
    for place in np.ndindex(*size):
        repeated[:, *place] = means[:, *(i // 2 for i in place)]
    np.testing.assert_array_equal(upsample(jnp.asarray(means, jnp.float32), x), repeated)


@pytest.mark.parametrize(("size", "patch"), [((7,), 2), ((4, 5), 3), ((6, 4), 2), ((3, 4, 5), 2), ((2, 2), 1)])
def test_patches_are_blocks_of_the_image_as_channels_and_come_back(size, patch):
    x = np.asarray(normal(2, *size, 3))
    patches = np.asarray(to_patches(jnp.asarray(x), patch))
    assert patches.shape == (2, *(-(-n // patch) for n in size), 3 * patch ** len(size))
    np.testing.assert_array_equal(from_patches(jnp.asarray(patches), jnp.asarray(x), patch), x)
    cut = patches.reshape(*patches.shape[:-1], *(patch for _ in size), 3)
    for place in np.ndindex(*patches.shape[1:-1]):
        for inside in np.ndindex(*(patch for _ in size)):
            pixel = (min(patch * i + j, n - 1) for i, j, n in zip(place, inside, size, strict=True))
            np.testing.assert_array_equal(cut[:, *place, *inside], x[:, *pixel])


def test_fan_in_uniform_fills_its_interval():
    draws = fan_in_uniform(25)(jax.random.key(0), (4000,))
    assert abs(draws).max() <= 0.2
    np.testing.assert_allclose(draws.std(), 0.2 / 3**0.5, rtol=4 * 0.45 / 4000**0.5)  # s.e. of a uniform's std


@pytest.mark.parametrize("channels", [6, 128])  # one head, two heads
def test_attention_is_the_formula(channels):
    x = normal(2, 2, 3, channels)
    variables = filled(SelfAttention(), x)
    out = jit(SelfAttention().apply)(variables, x)
    weights = jax.tree.map(lambda a: np.asarray(a, np.float64), variables["params"])
    groups = channels // 4 if channels % 4 == 0 else 1
    h = np.asarray(x, np.float64).reshape(2, 6, groups, -1)
    h = (h - h.mean((1, 3), keepdims=True)) / np.sqrt(h.var((1, 3), keepdims=True) + 1e-5)
    h = h.reshape(2, 6, channels) * weights["norm"]["scale"] + weights["norm"]["bias"]
    heads = max(1, channels // 64)
    q, k, v = np.moveaxis((h @ weights["qkv"]["kernel"]).reshape(2, 6, 3, heads, -1), 2, 0)
    mixed = np.empty_like(v)
    for b, head in np.ndindex(2, heads):
        scores = np.exp(q[b, :, head] @ k[b, :, head].T / np.sqrt(channels / heads))
        mixed[b, :, head] = scores / scores.sum(-1, keepdims=True) @ v[b, :, head]
    attended = mixed.reshape(2, 6, channels) @ weights["out"]["kernel"] + weights["out"]["bias"]
    expected = (np.asarray(x).reshape(2, 6, channels) + attended) / np.sqrt(2)
    np.testing.assert_allclose(out.reshape(2, 6, channels), expected, atol=2e-5)
