"""Operators: adjoints by dot products, singular values by what they compose to, pseudo-inverses, observations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from score_jax import arrays
from score_jax.conditioning import operators
from score_jax.conditioning.operators import (
    Blur,
    Downsample,
    Gray,
    Linear,
    Mask,
    bicubic,
    box,
    gaussian_kernel,
    motion_kernel,
    pseudo_inverse,
    random_mask,
    regularised_inverse,
)
from tests.helpers import assert_mean, key, refused

pytestmark = pytest.mark.usefixtures("strict_dtypes")

SHAPE = (8, 12, 3)
MATRIX = np.random.default_rng(0).normal(size=(40, 288)).astype(np.float32) / 17
OPERATORS = {
    "mask": Mask(np.random.default_rng(1).random((8, 12, 1)) < 0.5),
    "box": box(SHAPE, 2, 3, 4, 5),
    "random": random_mask(key(3), SHAPE, 0.3),
    "downsample": Downsample(4),
    "bicubic": bicubic(2, 8, 12),
    "blur": Blur(gaussian_kernel(5, 1.0)),
    "motion": Blur(motion_kernel(5, 30)),
    "even": Blur(np.ones((2, 4)) / 8),
    "gray": Gray((0.3, 0.6, 0.1)),
    "linear": Linear(MATRIX, SHAPE),
}
X = arrays.normal(key(1), jnp.zeros((3, *SHAPE)))


@pytest.fixture(params=OPERATORS.values(), ids=OPERATORS.keys())
def operator(request):
    return request.param


def dense(f, x):
    """The matrix of a linear map of one example."""
    basis = jnp.eye(x[0].size, dtype=x.dtype).reshape(-1, *x.shape[1:])
    return np.asarray(f(basis).reshape(len(basis), -1), np.float64).T


def test_the_adjoint_is_one(operator):
    """⟨A x, y⟩ = ⟨x, Aᵀ y⟩ to 20 roundings of the lengths, for each row."""
    y = arrays.normal(key(2), operator(X))
    dot = lambda a, b: np.asarray(a * b, np.float64).reshape(len(a), -1).sum(1)
    size = np.sqrt(dot(operator(X), operator(X)) * dot(y, y))
    assert (np.abs(dot(operator(X), y) - dot(X, operator.adjoint(y))) <= 20 * 2.0**-24 * size).all()
    with jax.default_matmul_precision("bfloat16"):
        np.testing.assert_allclose(operator.adjoint(operator(X)), jax.vjp(operator, X)[1](operator(X))[0], atol=1e-5)


def test_the_singular_values_compose_to_the_operator(operator):
    """A = U Σ Vᵀ, V Vᵀ = 1, and they are those of the dense matrix."""
    v = operator.to_spectrum(X)
    np.testing.assert_allclose(operator.from_spectrum(v), X, atol=2e-5)
    scaled = operator.singular_values(v) * v
    np.testing.assert_allclose(operator.observed_spectrum(operator(X)), scaled, atol=5e-5)
    values = np.linalg.svd(dense(operator, X), compute_uv=False)
    found = np.broadcast_to(operator.singular_values(v), v.shape)[0]
    found = np.sort((found[..., 0] if isinstance(operator, Blur) else found).ravel())[::-1]  # of pairs once
    np.testing.assert_allclose(found[: len(values)], values, atol=2e-5)
    assert (found[len(values) :] < 2e-5).all()


def test_inverses_are_those_of_the_dense_matrix(operator):
    a, y = dense(operator, X), operator(X)
    rows = np.asarray(y, np.float64).reshape(3, -1)
    shaped = lambda flat: flat.reshape(X.shape)
    expected = rows @ np.linalg.pinv(a, rcond=1e-4).T
    well = np.linalg.svd(a, compute_uv=False)
    if not ((well > 1e-6) & (well < 1e-3)).any():  # else roundings of small singular values are all there is
        np.testing.assert_allclose(pseudo_inverse(operator, y), shaped(expected), atol=2e-3)
    for ridge in (0.1, np.array([0.1, 1.0, 10.0], np.float32)):
        c = np.broadcast_to(ridge, 3)
        ridged = [a.T @ np.linalg.solve(a @ a.T + c[i] * np.eye(len(a)), rows[i]) for i in range(3)]
        np.testing.assert_allclose(regularised_inverse(operator, y, ridge), shaped(np.array(ridged)), atol=1e-4)


def test_what_is_observed_is_what_the_words_say():
    block = Downsample(2)(X)
    np.testing.assert_allclose(block[0, 1, 2], X[0, 2:4, 4:6].mean((0, 1)), rtol=1e-5)
    np.testing.assert_allclose(Gray()(X)[..., 0], X.mean(3), atol=1e-6)
    assert float(box(SHAPE, 2, 3, 4, 5)(jnp.ones_like(X))[0, :, :, 0].sum()) == 8 * 12 - 20
    point = jnp.zeros((1, 9, 9, 1)).at[0, 4, 4].set(1)
    kernel = motion_kernel(5, 0)
    np.testing.assert_allclose(Blur(kernel)(point)[0, 2:7, 2:7, 0], kernel, atol=1e-6)
    np.testing.assert_allclose(bicubic(2, 8, 8)(jnp.full((1, 8, 8, 1), 0.7)), 0.7, rtol=1e-5)
    image = arrays.normal(key(7), jnp.zeros((1, 32, 32, 1)))
    expected = Image.fromarray(np.asarray(image[0, :, :, 0])).resize((8, 8), Image.Resampling.BICUBIC)
    np.testing.assert_allclose(bicubic(4, 32, 32)(image)[0, :, :, 0], expected, atol=1e-5)


def test_noise_and_counts_have_their_moments():
    x = jnp.full((4000, 2), 0.5)
    identity = lambda x: x
    assert_mean(operators.observe(key(4), identity, x, 0.2), 0.5)
    np.testing.assert_allclose(np.var(operators.observe(key(4), identity, x, 0.2)), 0.04, rtol=4 * np.sqrt(2 / 8000))
    counts = operators.observe_counts(key(5), identity, x, 30.0)
    assert_mean(counts, 0.5)
    np.testing.assert_allclose(np.var(counts), 0.5 / 30, rtol=4 * np.sqrt((2 + 1 / 15) / 8000))
    np.testing.assert_allclose(np.asarray(counts) * 30, np.rint(np.asarray(counts) * 30), atol=1e-4)


def test_functions_have_derivatives_where_they_should():
    image = X[:1]
    energy = lambda x: (operators.magnitudes(x, padding=2) ** 2).sum()
    np.testing.assert_allclose(energy(image), (image**2).sum(), rtol=1e-5)  # F is unitary
    np.testing.assert_allclose(jax.grad(energy)(image), 2 * image, atol=1e-4)
    assert np.isfinite(jax.grad(lambda x: operators.magnitudes(x).sum())(jnp.zeros((1, 4, 4, 1)))).all()
    levels = jnp.linspace(-1, 1, 5)[None]
    np.testing.assert_allclose(operators.quantized(levels, levels=5), levels, atol=1e-6)
    slope = jax.vmap(jax.grad(lambda v: operators.quantized(v, levels=5)))(jnp.linspace(-1, 1, 81))
    np.testing.assert_allclose([slope.min(), slope.max()], [0.1, 1.9], atol=1e-3)
    np.testing.assert_array_equal(operators.saturated(jnp.array([-2.0, 0.5, 2.0])), [-1, 0.5, 1])


def test_what_does_not_fit_is_one_line():
    refused("box: rows 6 to 9, columns 0 to 1 are not inside images of 8×12", box, SHAPE, 6, 0, 4, 2)
    refused(r"Downsample\(5\) takes images \(H, W, C\) of multiples of 5, got \(8, 12, 3\)", Downsample(5), X)
    refused(r"Gray takes images \(H, W, 2\), got \(8, 12, 3\)", Gray((0.5, 0.5)), X)
    refused("no smaller than its kernel", Blur(np.ones((9, 9))), X)
    refused("Linear takes a matrix", Linear, MATRIX, (3, 3))
    refused(r"a matrix \(40, 288\) acts on 288 elements", Linear(MATRIX), X[:, :2])
    refused("bicubic: the factor divides both sizes, got 3 of 8×12", bicubic, 3, 8, 12)
    refused("random_mask: share is between 0 and 1, got 1.5", random_mask, key(), SHAPE, 1.5)
    refused("motion_kernel: size is odd", motion_kernel, 4, 0)
    refused("noise_std must be at least 0, got -1", operators.observe, key(), Gray(), X, -1)
