"""Fixed noise kernels q(x̃ | x): what denoising score matching denoises.

A kernel draws x̃ given x and knows `∇_x̃ log q(x̃ | x)`, the regression target whose conditional mean is the score of
the noised density `q(x̃) = ∫ q(x̃ | x) p(x) dx` (Vincent 2011). Any noise with a known log-density will do: the base
class differentiates `log_prob`; closed forms override it. The named kernels are independent in every element, so
they work on points `(B, D)` and on images alike; a scale is one number or one per element, shape `S`.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct

from score_jax import arrays, pytrees
from score_jax.types import Array, ArrayLike, InputError, Key, require_positive


def _elementwise(value: ArrayLike, x: Array) -> Array:
    """Broadcasts a number, or one number per element of shape S, against `x` `(B, *S)`."""
    value = jnp.asarray(value, x.dtype)
    if value.ndim and value.shape != x.shape[1:]:
        raise InputError(
            f"a kernel's scale must be a number or have the shape of one example {x.shape[1:]}, got shape {value.shape}"
        )
    return value if value.ndim == 0 else value[None]


class Kernel:
    """Noise kernel q(x̃ | x); subclasses provide `sample` and `log_prob`, and `score` where it has a closed form.

    Examples:
      One of one's own, logistic: the score of log q is differentiated, −tanh(r/2) of r = x̃ − x.

      >>> class Logistic(kernels.Kernel):
      ...     log_prob = lambda self, x_tilde, x: -2 * jnp.log(jnp.cosh((x_tilde - x) / 2)).sum(1)
      >>> print(f"{Logistic().score(jnp.ones((1, 1)), jnp.zeros((1, 1)))[0, 0]:.3f} {-np.tanh(0.5):.3f}")
      -0.462 -0.462
    """

    def sample(self, key: Key, x: Array) -> Array:
        """Draws x̃ ~ q(· | x), `(B, *S)`."""
        raise NotImplementedError

    def log_prob(self, x_tilde: Array, x: Array) -> Array:
        """Returns log q(x̃ | x) in nats, `(B,)`."""
        raise NotImplementedError

    def score(self, x_tilde: Array, x: Array) -> Array:
        """Returns ∇_x̃ log q(x̃ | x), `(B, *S)`."""
        return jax.grad(lambda y: self.log_prob(y, x).sum())(x_tilde)

    def information(self, x: Array) -> Array:
        """Returns E‖score(x̃, x)‖² given x, `()`: the Fisher information of location, summed over dimensions.

        Raises:
          InputError: where there is no closed form.
        """
        raise InputError(
            f"kernel {type(self).__name__} has no closed form of E‖score‖²: use Gaussian, Laplace, StudentT"
        )


def _summed(per_element: Array, x: Array) -> Array:
    """Sums a number, or one number per element, over the elements of one example."""
    return jnp.broadcast_to(per_element, (1, *x.shape[1:])).sum()


@pytrees.dataclass
class Gaussian(Kernel):
    """q = N(x, σ²I): score −(x̃ − x)/σ² = −z/σ (Vincent 2011).

    Examples:
      At a distance of 1, and the mean square of the score, d/σ².

      >>> kernel, x = kernels.Gaussian(0.5), jnp.zeros((1, 2))
      >>> print(kernel.score(x + 1, x), kernel.information(x))
      [[-4. -4.]] 8.0
    """

    sigma: ArrayLike

    def __post_init__(self) -> None:
        require_positive("Gaussian", sigma=self.sigma)

    def sample(self, key: Key, x: Array) -> Array:
        return x + _elementwise(self.sigma, x) * arrays.normal(key, x)

    def log_prob(self, x_tilde: Array, x: Array) -> Array:
        return arrays.sum_dims(jax.scipy.stats.norm.logpdf(x_tilde - x, scale=_elementwise(self.sigma, x)))

    def score(self, x_tilde: Array, x: Array) -> Array:
        return (x - x_tilde) / _elementwise(self.sigma, x) ** 2

    def information(self, x: Array) -> Array:
        return _summed(_elementwise(self.sigma, x) ** -2, x)


@pytrees.dataclass
class Laplace(Kernel):
    """q = ∏ exp(−|x̃ − x|/b) / 2b with scale b: score −sign(x̃ − x)/b, variance 2b².

    Examples:
      A score that doesn't grow with the distance.

      >>> kernel, x = kernels.Laplace(0.5), jnp.zeros((1, 1))
      >>> print(kernel.score(x + 1, x), kernel.score(x + 100, x))
      [[-2.]] [[-2.]]
    """

    scale: ArrayLike

    def __post_init__(self) -> None:
        require_positive("Laplace", scale=self.scale)

    def sample(self, key: Key, x: Array) -> Array:
        return x + _elementwise(self.scale, x) * arrays.draw(jax.random.laplace, key, x.shape, x.dtype)

    def log_prob(self, x_tilde: Array, x: Array) -> Array:
        scale = _elementwise(self.scale, x)
        return arrays.sum_dims(-jnp.abs(x_tilde - x) / scale - jnp.log(2 * scale))

    def score(self, x_tilde: Array, x: Array) -> Array:
        return -jnp.sign(x_tilde - x) / _elementwise(self.scale, x)

    def information(self, x: Array) -> Array:
        return _summed(_elementwise(self.scale, x) ** -2, x)


@pytrees.dataclass
class StudentT(Kernel):
    """Student-t noise in every element with `df` degrees of freedom ν and scale s: score −(ν+1) r / (ν s² + r²).

    Examples:
      A score that falls with the distance from √ν s on, as −(ν + 1)/r.

      >>> kernel, x = kernels.StudentT(3.0), jnp.zeros((1, 1))
      >>> print(f"{kernel.score(x + 1, x)[0, 0]:.2f} {kernel.score(x + 100, x)[0, 0]:.2f}")
      -1.00 -0.04
    """

    df: ArrayLike
    scale: ArrayLike = 1.0

    def __post_init__(self) -> None:
        require_positive("StudentT", df=self.df, scale=self.scale)

    def sample(self, key: Key, x: Array) -> Array:
        draws = arrays.draw(lambda k, shape, dtype: jax.random.t(k, self.df, shape, dtype), key, x.shape, x.dtype)
        return x + _elementwise(self.scale, x) * draws

    def log_prob(self, x_tilde: Array, x: Array) -> Array:
        df, scale = _elementwise(self.df, x), _elementwise(self.scale, x)
        return arrays.sum_dims(jax.scipy.stats.t.logpdf(x_tilde - x, df, scale=scale))

    def score(self, x_tilde: Array, x: Array) -> Array:
        df, scale, residual = _elementwise(self.df, x), _elementwise(self.scale, x), x_tilde - x
        return -(df + 1) * residual / (df * scale**2 + residual**2)

    def information(self, x: Array) -> Array:
        df, scale = _elementwise(self.df, x), _elementwise(self.scale, x)
        return _summed((df + 1) / ((df + 3) * scale**2), x)


@pytrees.dataclass
class GaussianMixtureNoise(Kernel):
    """Noise drawn in every element from the scalar mixture Σ_k w_k N(m_k, s_k²); weights, means, scales: `(K,)`.

    Examples:
      Two components at ±2 of variance 1 have a variance of 5.

      >>> kernel = kernels.GaussianMixtureNoise(np.array([0.5, 0.5]), np.array([-2.0, 2.0]), np.ones(2))
      >>> print(f"{kernel.sample(key, jnp.zeros((4096, 1))).var():.0f}")
      5
    """

    weights: ArrayLike
    means: ArrayLike
    scales: ArrayLike

    def _log_terms(self, residual: Array) -> tuple[Array, Array]:
        """Log of each weighted component and each component's own score, `(K, B, *S)`."""
        shapes = [jnp.shape(v) for v in (self.weights, self.means, self.scales)]
        if len(set(shapes)) != 1 or len(shapes[0]) != 1:
            raise InputError(
                f"GaussianMixtureNoise: weights, means and scales must be vectors of one length, got shapes {shapes}"
            )
        weights, means, scales = (
            jnp.asarray(v, residual.dtype).reshape((-1,) + (1,) * residual.ndim)
            for v in (self.weights, self.means, self.scales)
        )
        log_density = jax.scipy.stats.norm.logpdf(residual[None], means, scales)
        return jnp.log(weights / weights.sum()) + log_density, (means - residual[None]) / scales**2

    def sample(self, key: Key, x: Array) -> Array:
        weights, means, scales = (jnp.asarray(v, x.dtype) for v in (self.weights, self.means, self.scales))
        key_component, key_noise = arrays.split(arrays.example_keys(key, len(x)))

        def categorical(key, shape, dtype):
            return jax.random.categorical(key, jnp.log(weights), shape=shape)

        component = arrays.draw(categorical, key_component, x.shape)
        return x + means[component] + scales[component] * arrays.normal(key_noise, x)

    def log_prob(self, x_tilde: Array, x: Array) -> Array:
        return arrays.sum_dims(jax.nn.logsumexp(self._log_terms(x_tilde - x)[0], axis=0))

    def score(self, x_tilde: Array, x: Array) -> Array:
        log_terms, scores = self._log_terms(x_tilde - x)
        return (jax.nn.softmax(log_terms, axis=0) * scores).sum(0)


@pytrees.dataclass
class FromLogDensity(Kernel):
    """Any noise: `log_density(x_tilde, x) -> (B,)`, up to a constant, and `sampler(key, x) -> x_tilde`.

    Examples:
      Gaussian noise of σ = 1/2 once more, whose score at a distance of 1 is −1/σ².

      >>> log_density = lambda x_tilde, x: -2 * ((x_tilde - x) ** 2).sum(1)
      >>> kernel = kernels.FromLogDensity(log_density, lambda key, x: x + 0.5 * arrays.normal(key, x))
      >>> print(kernel.score(jnp.ones((1, 1)), jnp.zeros((1, 1))))
      [[-4.]]
    """

    log_density: Callable[[Array, Array], Array] = struct.field(pytree_node=False)
    sampler: Callable[[Key, Array], Array] = struct.field(pytree_node=False)

    def sample(self, key: Key, x: Array) -> Array:
        return self.sampler(key, x)

    def log_prob(self, x_tilde: Array, x: Array) -> Array:
        return self.log_density(x_tilde, x)
