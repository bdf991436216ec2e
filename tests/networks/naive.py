"""Layers written out in NumPy, in whatever precision their arguments have, to compare networks with."""

import numpy as np

TAPS = (1.0, 3.0, 3.0, 1.0)


def images(seed, *shape):
    """Standard normal float32."""
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def padded(x, n):
    """Images with n zeros on every side."""
    return np.pad(x, ((0, 0), (n, n), (n, n), (0, 0)))


def spread(x):
    """Images with zeros between their numbers."""
    out = np.zeros((x.shape[0], 2 * x.shape[1] - 1, 2 * x.shape[2] - 1, x.shape[3]))
    out[:, ::2, ::2] = x
    return out


def low_pass(x):
    """`Σ f_j f_k x` with the published taps, of sum 1, wherever all 4×4 numbers are there."""
    f = np.outer(TAPS, TAPS) / 64
    height, width = x.shape[1] - 3, x.shape[2] - 3
    return sum(f[i, j] * x[:, i : i + height, j : j + width] for i in range(4) for j in range(4))


def down(x):
    """Images of even sides, filtered, at every second place."""
    return low_pass(padded(x, 1))[:, ::2, ::2]


def up(x):
    """Images of twice the sides."""
    return 4 * low_pass(padded(spread(x), 2))


def correlate(x, kernel, stride=1):
    """Correlation with a kernel at every `stride`-th place where all its numbers are there."""
    n = kernel.shape[0]
    height, width = x.shape[1] - n + 1, x.shape[2] - n + 1
    places = [(i, j) for i in range(n) for j in range(n)]
    return sum(x[:, i : i + height : stride, j : j + width : stride] @ kernel[i, j] for i, j in places)


def conv(x, params):
    """A convolution that keeps the size."""
    return correlate(padded(x, params["kernel"].shape[0] // 2), params["kernel"]) + params["bias"]


def conv_down(x, params):
    """The filter, then a convolution of stride 2; sides are even."""
    return correlate(low_pass(padded(x, 2)), params["kernel"], stride=2) + params["bias"]


def conv_up(x, params):
    """A transposed convolution of stride 2, then the filter."""
    return 4 * low_pass(padded(correlate(padded(spread(x), 2), params["kernel"]), 1)) + params["bias"]


def norm(x, params, groups, epsilon):
    """GroupNorm."""
    grouped = x.reshape(*x.shape[:3], groups, -1)
    mean, variance = grouped.mean((1, 2, 4), keepdims=True), grouped.var((1, 2, 4), keepdims=True)
    return ((grouped - mean) / np.sqrt(variance + epsilon)).reshape(x.shape) * params["scale"] + params["bias"]


def dense(x, params):
    """An affine map, or a linear one."""
    return x @ params["kernel"] + params.get("bias", 0)


def swish(x):
    """x·sigmoid(x)."""
    return x / (1 + np.exp(-x))
