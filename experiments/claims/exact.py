"""Gaussian mixtures and integrals in numpy, float64: the other side of every comparison.

Nothing here comes from the package: densities and scores are written out, and integrals are sums over a grid (the
trapezoidal rule, whose error falls faster than any power of the spacing for smooth integrands that vanish at the
ends) or Gauss–Hermite and Gauss–Legendre sums. Everything but `score_by_complex_step` takes real or complex points.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from scipy import special

from score_jax import distributions
from score_jax.kernels import Kernel
from score_jax.types import Array, Key


class Mixture(NamedTuple):
    """Σ_k w_k N(m_k, v_k I): weights `(K,)`, means `(K, D)`, variances `(K,)`."""

    weights: np.ndarray
    means: np.ndarray
    variances: np.ndarray

    def _terms(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Weighted densities of the components `(N, K)` and their scores `(N, K, D)`."""
        scores = (self.means - x[:, None]) / self.variances[:, None]
        squares = (scores**2).sum(2) * self.variances
        normaliser = (2 * np.pi * self.variances) ** (x.shape[1] / 2)
        return self.weights * np.exp(-0.5 * squares) / normaliser, scores

    def density(self, x: np.ndarray) -> np.ndarray:
        """p(x), `(N, D) -> (N,)`."""
        return self._terms(x)[0].sum(1)

    def score(self, x: np.ndarray) -> np.ndarray:
        """∇ log p(x) where p does not underflow, `(N, D) -> (N, D)`."""
        terms, scores = self._terms(x)
        return (terms[:, :, None] * scores).sum(1) / terms.sum(1, keepdims=True)

    def smoothed(self, sigma: float) -> "Mixture":
        """The convolution with N(0, σ²I)."""
        return self._replace(variances=self.variances + sigma**2)

    def perturbed(self, alpha: float, sigma: float) -> "Mixture":
        """The law of αx + σz."""
        return self._replace(means=alpha * self.means, variances=alpha**2 * self.variances + sigma**2)

    def posterior_mean(self, x: np.ndarray, sigma: float) -> np.ndarray:
        """E[x | x̃] for x̃ = x + σz: each component's linear regression, weighted by its responsibility."""
        terms, _ = self.smoothed(sigma)._terms(x)
        gain = (self.variances / (self.variances + sigma**2))[:, None]
        means = self.means + gain * (x[:, None] - self.means)
        return (terms[:, :, None] * means).sum(1) / terms.sum(1, keepdims=True)

    def api(self) -> distributions.GaussianMixture:
        """The package's mixture with the same numbers."""
        return distributions.GaussianMixture(*(jnp.asarray(v) for v in self))


def mixture(weights, means, variances) -> Mixture:
    """Makes a mixture of plain lists; `means` of numbers is one-dimensional."""
    means = np.asarray(means, np.float64)
    return Mixture(np.asarray(weights, np.float64), means.reshape(len(means), -1), np.asarray(variances, np.float64))


SKEWED = mixture([0.7, 0.3], [-1.0, 1.5], [0.5, 0.3])
PLANE = mixture([0.5, 0.3, 0.2], [[1.0, 0.5], [-1.2, 0.8], [0.2, -1.0]], [0.4, 0.5, 0.3])
MODES = mixture([0.8, 0.2], [[5.0, 5.0], [-5.0, -5.0]], [1.0, 1.0])


def distribution_function(p: Mixture, x: np.ndarray) -> np.ndarray:
    """F(x) of a mixture on the line, `(N,) -> (N,)`."""
    return p.weights @ special.ndtr((x[None] - p.means) / np.sqrt(p.variances)[:, None])


def quantile(p: Mixture, share: np.ndarray) -> np.ndarray:
    """F⁻¹ of a mixture on the line, `(N,) -> (N,)`: by a table, then Newton's method."""
    half = np.abs(p.means).max() + 8 * np.sqrt(p.variances.max())
    table = np.linspace(-half, half, 20_001)
    x = np.interp(share, distribution_function(p, table), table)
    for _ in range(3):
        x = x - (distribution_function(p, x) - share) / p.density(x[:, None])
    return x


def grid(half_width: float, n: int, dims: int = 1) -> tuple[np.ndarray, float]:
    """n equally spaced points in each of `dims` directions, `(nᵈ, d)`, and the volume of a cell."""
    axis = np.linspace(-half_width, half_width, n)
    points = np.stack(np.meshgrid(*[axis] * dims, indexing="ij"), -1).reshape(-1, dims)
    return points, float((axis[1] - axis[0]) ** dims)


def normal_nodes(n: int, dims: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Gauss–Hermite nodes `(nᵈ, d)` and weights `(nᵈ,)` of the standard normal law."""
    axis, weights = np.polynomial.hermite_e.hermegauss(n)
    points = np.stack(np.meshgrid(*[axis] * dims, indexing="ij"), -1).reshape(-1, dims)
    products = np.stack(np.meshgrid(*[weights] * dims, indexing="ij"), -1).reshape(-1, dims).prod(1)
    return points, products / products.sum()


def interval_nodes(low: float, high: float, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Gauss–Legendre nodes `(n, 1)` and weights `(n,)` on an interval."""
    nodes, weights = np.polynomial.legendre.leggauss(n)
    half = 0.5 * (high - low)
    return (low + half * (nodes + 1))[:, None], half * weights


class Noised(NamedTuple):
    """Pairs of data and noised data with their probabilities: x, x̃ `(N, D)`, weight `(N,)`."""

    x: np.ndarray
    x_tilde: np.ndarray
    weight: np.ndarray


def noised(p: Mixture, sigma: float, n: int) -> Noised:
    """Nodes of (x, x̃ = x + σz), x from p and z ~ N(0, I): n in every direction of every component and of z."""
    dims = p.means.shape[1]
    nodes, weights = normal_nodes(n, 2 * dims)
    x = (p.means[:, None] + np.sqrt(p.variances)[:, None, None] * nodes[None, :, :dims]).reshape(-1, dims)
    z = np.tile(nodes[:, dims:], (len(p.weights), 1))
    return Noised(x, x + sigma * z, np.outer(p.weights, weights).ravel())


class AtNodes(Kernel):
    """A noise kernel that "draws" the given nodes: denoising score matching then is a sum over a quadrature rule."""

    def __init__(self, kernel: Kernel, x_tilde: np.ndarray | Array):
        self.kernel, self.x_tilde = kernel, x_tilde

    def sample(self, key: Key, x: Array) -> Array:
        return jnp.asarray(self.x_tilde)

    def log_prob(self, x_tilde: Array, x: Array) -> Array:
        return self.kernel.log_prob(x_tilde, x)

    def score(self, x_tilde: Array, x: Array) -> Array:
        return self.kernel.score(x_tilde, x)


def fisher_information(p: Mixture, half_width: float, n: int) -> float:
    """E_p‖∇ log p‖² on a grid."""
    x, cell = grid(half_width, n, p.means.shape[1])
    return float(cell * p.density(x) @ (p.score(x) ** 2).sum(1))


def denoising_constant(p: Mixture, sigma: float, half_width: float, n: int) -> float:
    """½(d/σ² − E_q‖∇ log q‖²), q = p noised: what denoising score matching adds to the explicit objective."""
    return 0.5 * (p.means.shape[1] / sigma**2 - fisher_information(p.smoothed(sigma), half_width, n))


def score_by_complex_step(log_density: Callable[[np.ndarray], np.ndarray], x: np.ndarray) -> np.ndarray:
    """Gradient of an analytic real function of `(N, D)` as Im f(x + ih)/h: no subtraction, so exact to rounding."""
    h = 1e-30
    return np.stack([np.imag(log_density(x + 1j * h * e)) / h for e in np.eye(x.shape[1])], 1)


def relative_error(found, truth, weight) -> float:
    """√(E‖found − truth‖²/E‖truth‖²) under `weight` `(N,)`."""
    found, truth = np.asarray(found), np.asarray(truth)
    return float(np.sqrt(weight @ ((found - truth) ** 2).sum(1) / (weight @ (truth**2).sum(1))))


def slope(x, y) -> float:
    """Exponent of a power law: slope of log y against log x by least squares."""
    return float(np.polyfit(np.log(np.asarray(x)), np.log(np.asarray(y)), 1)[0])
