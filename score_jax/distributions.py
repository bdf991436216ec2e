"""Densities whose score is known exactly at every noise level: the oracles of the tests and the toy experiments.

A Gaussian mixture noised by any Gaussian process stays a Gaussian mixture: component N(m, C) becomes
N(α m, α² C + σ² I). So `perturbed(sde, t)` is exact, `score_of` turns a distribution into the score function
`(x, t) -> score` of the whole process, and a finite data set is the mixture of its points (a Parzen window).

Points may have any shape `S` (images too): means are `(K, *S)`, samples `(n, *S)`; matrices act on flattened points.

What other numbers are measured against must not be rounded to TF32 or bfloat16, as accelerators round the factors of
matrix products by default (2⁻¹¹ and 2⁻⁸): all products here are in full precision, whatever the caller's setting.
"""

import math
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_solve

from score_jax import arrays, pytrees
from score_jax.sde import SDE
from score_jax.types import Array, ArrayLike, InputError, Key, ScoreFn, require_at_least, require_positive

_F = TypeVar("_F", bound=Callable[..., Any])


def _exactly(function: _F) -> _F:
    """Decorates what multiplies matrices, also in functions of JAX that it calls."""
    return jax.default_matmul_precision("highest")(function)


@pytrees.dataclass
class GaussianMixture:
    """Σ_k w_k N(m_k, C_k).

    Args:
      weights: `(K,)`, positive; normalised here.
      means: `(K, *S)`.
      variances: one number for all, `(K,)` (isotropic), or `(K, D, D)` covariance matrices.

    Examples:
      Beside one of two equal modes the score is that mode's; halfway a point is as likely of either.

      >>> law = distributions.GaussianMixture(jnp.ones(2), jnp.array([[-3.0], [3.0]]), 1.0)
      >>> print(f"{jax.jit(law.score)(jnp.array([[4.0]]))[0, 0]:.2f}", jax.jit(law.responsibilities)(jnp.zeros((1, 1))))
      -1.00 [[0.5 0.5]]
    """

    weights: ArrayLike
    means: ArrayLike
    variances: ArrayLike

    def __post_init__(self) -> None:
        require_positive("GaussianMixture", variances=self.variances)

    def _full(self) -> bool:
        return jnp.ndim(self.variances) == 3

    def _log_weights(self, dtype) -> Array:
        weights = jnp.asarray(self.weights, dtype)
        return jnp.log(weights / weights.sum())

    def _variances(self, dtype) -> Array:
        """Isotropic variances `(K,)`, or covariances `(K, D, D)`."""
        # Checked here, not on construction: as a pytree it may be rebuilt with batched or abstract leaves.
        weights, means, shape = (jnp.shape(v) for v in (self.weights, self.means, self.variances))
        k, dims = means[0], math.prod(means[1:])
        if weights != (k,) or shape not in ((), (k,), (k, dims, dims)):
            raise InputError(
                f"GaussianMixture: with means {means}, weights must be ({k},) and variances (), ({k},) or "
                f"({k}, {dims}, {dims}); got {weights} and {shape}"
            )
        variances = jnp.asarray(self.variances, dtype)
        return jnp.broadcast_to(variances, (k,)) if variances.ndim == 0 else variances

    def _components(self, point: Array) -> tuple[Array, Array]:
        """Weighted log-densities `(K,)` of the components at one flat point, and their scores `(K, D)`."""
        means = jnp.asarray(self.means, point.dtype).reshape(-1, point.size)
        variances, residual = self._variances(point.dtype), means - point[None]
        if self._full():
            factors = jnp.linalg.cholesky(variances)
            scores = jax.vmap(lambda c, r: cho_solve((c, True), r))(factors, residual)
            log_det = 2 * jnp.log(jnp.diagonal(factors, axis1=1, axis2=2)).sum(1)
        else:
            scores = residual / variances[:, None]
            log_det = point.size * jnp.log(variances)
        mahalanobis = (residual * scores).sum(1)
        normaliser = log_det + point.size * jnp.log(2 * jnp.pi)
        return self._log_weights(point.dtype) - 0.5 * (mahalanobis + normaliser), scores

    def _point_log_prob(self, point: Array) -> Array:
        return jax.nn.logsumexp(self._components(point)[0])

    @_exactly
    def _point_score(self, point: Array) -> Array:
        log_terms, scores = self._components(point)
        return jax.nn.softmax(log_terms) @ scores

    @_exactly
    def sample(self, key: Key, n: int) -> Array:
        """Draws `(n, *S)`."""
        means = jnp.asarray(self.means)
        dtype = means.dtype
        key_component, key_noise = arrays.split(arrays.example_keys(key, n))
        component = jax.vmap(lambda k: jax.random.categorical(k, self._log_weights(dtype)))(key_component)
        z = arrays.draw(jax.random.normal, key_noise, (n, *means.shape[1:]), dtype)
        if self._full():
            factors = jnp.linalg.cholesky(self._variances(dtype))
            # Of all components, and one chosen: K·D numbers a draw, where a factor for each would be D²; K is small
            # beside D where covariances are full.
            noise = jnp.einsum("kij,nj->nki", factors, z.reshape(n, -1))
            noise = jax.vmap(lambda of_all, one: of_all[one])(noise, component).reshape(z.shape)
        else:
            noise = arrays.expand_right(jnp.sqrt(self._variances(dtype))[component], z) * z
        return means[component] + noise

    def log_prob(self, x: Array) -> Array:
        """Returns log p(x) in nats, `(B,)`."""
        return jax.vmap(self._point_log_prob)(x.reshape(len(x), -1))

    def score(self, x: Array) -> Array:
        """Returns ∇ log p(x), of the shape of x."""
        return jax.vmap(self._point_score)(x.reshape(len(x), -1)).reshape(x.shape)

    def responsibilities(self, x: Array) -> Array:
        """Returns p(component | x), `(B, K)`."""
        return jax.vmap(lambda point: jax.nn.softmax(self._components(point)[0]))(x.reshape(len(x), -1))

    def affine(self, scale: ArrayLike, variance: ArrayLike) -> "GaussianMixture":
        """Returns the law of `scale·x + √variance·z`, x from this mixture and z ~ N(0, I); both may be tracers."""
        means, variances = jnp.asarray(self.means), self._variances(jnp.asarray(self.means).dtype)
        scale, variance = jnp.asarray(scale, means.dtype), jnp.asarray(variance, means.dtype)
        added = variance * jnp.eye(variances.shape[-1], dtype=means.dtype)[None] if self._full() else variance
        return GaussianMixture(self.weights, scale * means, scale**2 * variances + added)

    def smoothed(self, sigma: ArrayLike) -> "GaussianMixture":
        """Returns the convolution with N(0, σ²I)."""
        require_at_least("smoothed", 0, sigma=sigma)
        return self.affine(1.0, sigma**2)

    def perturbed(self, sde: SDE, t: ArrayLike) -> "GaussianMixture":
        """Returns the law of x_t when x_0 is from this mixture; t is one time, `()`."""
        return self.affine(sde.alpha(t), sde.variance(t))

    @_exactly
    def posterior(self, matrix: Array, y: Array, noise_std: ArrayLike) -> "GaussianMixture":
        """Returns p(x | y) for y = A x + noise_std·z: again a mixture, by Kalman's update of each component.

        Args:
          matrix: A, `(M, D)`, acting on flattened points.
          y: observation, `(M,)`.
          noise_std: standard deviation of the observation's noise, positive.
        """
        require_positive("GaussianMixture.posterior", noise_std=noise_std)
        means = jnp.asarray(self.means)
        flat, eye = means.reshape(len(means), -1), jnp.eye(matrix.shape[1], dtype=means.dtype)
        variances = self._variances(means.dtype)
        covariances = variances if self._full() else variances[:, None, None] * eye[None]

        def update(log_weight, mean, covariance):
            innovation = matrix @ covariance @ matrix.T + noise_std**2 * jnp.eye(len(matrix), dtype=means.dtype)
            factor = jnp.linalg.cholesky(innovation), True
            gain = cho_solve(factor, matrix @ covariance).T
            # Joseph's form stays positive definite in float32 where C - K A C does not.
            rest = eye - gain @ matrix
            evidence = jax.scipy.stats.multivariate_normal.logpdf(y, matrix @ mean, innovation)
            updated = rest @ covariance @ rest.T + noise_std**2 * gain @ gain.T
            return log_weight + evidence, mean + gain @ (y - matrix @ mean), updated

        log_weights, flat, covariances = jax.vmap(update)(self._log_weights(means.dtype), flat, covariances)
        return GaussianMixture(jax.nn.softmax(log_weights), flat.reshape(means.shape), covariances)


@pytrees.dataclass
class Gaussian:
    """N(mean, variance): mean `S`; variance a number, one per element (shape S), or a covariance matrix `(D, D)`.

    Examples:
      Noised on EDM's SDE it is N(0, 1/4 + t²); of an observation with noise of its own variance half is believed.

      >>> law = distributions.Gaussian(jnp.zeros(1), 0.25)
      >>> noised, posterior = law.perturbed(sde.EDM(), 2.0), jax.jit(law.posterior)(jnp.eye(1), jnp.ones(1), 0.5)
      >>> print(f"{noised.variances[0]:.2f} {posterior.means[0, 0]:.2f}")
      4.25 0.50
    """

    mean: ArrayLike
    variance: ArrayLike

    def __post_init__(self) -> None:
        require_positive("Gaussian", variance=self.variance)

    def mixture(self) -> GaussianMixture:
        """Returns this density as a mixture of one component."""
        mean, variance = jnp.asarray(self.mean), jnp.asarray(self.variance)
        if variance.ndim and variance.shape == mean.shape:
            variance = jnp.diag(variance.ravel())
        return GaussianMixture(jnp.ones(1, mean.dtype), mean[None], variance[None])

    def sample(self, key: Key, n: int) -> Array:
        """Draws `(n, *S)`."""
        return self.mixture().sample(key, n)

    def log_prob(self, x: Array) -> Array:
        """Returns log p(x) in nats, `(B,)`."""
        return self.mixture().log_prob(x)

    def score(self, x: Array) -> Array:
        """Returns ∇ log p(x), of the shape of x."""
        return self.mixture().score(x)

    def smoothed(self, sigma: ArrayLike) -> GaussianMixture:
        """Returns the convolution with N(0, σ²I)."""
        return self.mixture().smoothed(sigma)

    def perturbed(self, sde: SDE, t: ArrayLike) -> GaussianMixture:
        """Returns the law of x_t when x_0 is from this density; t is one time, `()`."""
        return self.mixture().perturbed(sde, t)

    def posterior(self, matrix: Array, y: Array, noise_std: ArrayLike) -> GaussianMixture:
        """Returns p(x | y) for y = A x + noise_std·z: see GaussianMixture.posterior."""
        return self.mixture().posterior(matrix, y, noise_std)


@pytrees.dataclass
class Empirical:
    """Equal point masses at `points` `(N, *S)`: a data set. It has a density and a score only once noised.

    Examples:
      Smoothed, two points are a mixture of Gaussians; beside one of them its score is (x_i − x)/σ².

      >>> law = distributions.Empirical(jnp.array([[-1.0], [1.0]])).smoothed(0.5)
      >>> print(f"{jax.jit(law.score)(jnp.array([[2.0]]))[0, 0]:.2f}")
      -4.00
    """

    points: ArrayLike

    def sample(self, key: Key, n: int) -> Array:
        """Draws n of the points with replacement, `(n, *S)`."""
        points = jnp.asarray(self.points)
        index = jax.vmap(lambda k: jax.random.randint(k, (), 0, len(points)))(arrays.example_keys(key, n))
        return points[index]

    def log_prob(self, x: Array) -> Array:
        """Raises InputError: point masses have no density."""
        raise InputError("Empirical: point masses have no density or score; use .smoothed(sigma) or .perturbed(sde, t)")

    score = log_prob

    def _affine(self, scale: ArrayLike, variance: ArrayLike) -> GaussianMixture:
        points = jnp.asarray(self.points)
        scale, variance = jnp.asarray(scale, points.dtype), jnp.asarray(variance, points.dtype)
        return GaussianMixture(jnp.ones(len(points), points.dtype), scale * points, variance)

    def smoothed(self, sigma: ArrayLike) -> GaussianMixture:
        """Returns the Parzen window: the convolution with N(0, σ²I)."""
        require_at_least("smoothed", 0, sigma=sigma)
        return self._affine(1.0, sigma**2)

    def perturbed(self, sde: SDE, t: ArrayLike) -> GaussianMixture:
        """Returns the law of x_t when x_0 is one of the points; t is one time, `()`."""
        return self._affine(sde.alpha(t), sde.variance(t))


Distribution = Gaussian | GaussianMixture | Empirical


def score_of(distribution: Distribution, sde: SDE) -> ScoreFn:
    """Returns the exact score function `(x, t) -> ∇ log p_t(x)` of the noised `distribution`; t is `()` or `(B,)`.

    Examples:
      Data N(0, 1/4) have the score −x/(1/4 + t²) on EDM's SDE.

      >>> score = distributions.score_of(distributions.Gaussian(jnp.zeros(1), 0.25), sde.EDM())
      >>> print(f"{jax.jit(score)(jnp.array([[2.0]]), 0.5)[0, 0]:.2f}")
      -4.00
    """

    def score_fn(x: Array, t: Array) -> Array:
        if jnp.ndim(t) == 0:
            return distribution.perturbed(sde, t).score(x)
        return jax.vmap(lambda row, t: distribution.perturbed(sde, t).score(row[None])[0])(x, t)

    return score_fn
