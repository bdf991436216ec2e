"""What the methods of inverse problems share: the denoised estimate, its derivative, and how far it is from y."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from score_jax import arrays
from score_jax.conditioning.operators import require_observation
from score_jax.sde import SDE
from score_jax.types import Array, ArrayLike, ScoreFn, require_at_least


class Estimate(NamedTuple):
    """Tweedie's estimate at x, of one call of the score.

    Attributes:
      x0: x̂0 = E[x0 | x_t] by the score, `(B, *S)`.
      score: `(B, *S)`.
      pull: v -> Jᵀ v with J = ∂x̂0/∂x_t, of the shape of x: a vector–Jacobian product.
      covariance: σ²/α, `()` or `(B,)`: times J it is Cov[x0 | x_t] (Boys et al. 2023, eq. 8).
    """

    x0: Array
    score: Array
    pull: Callable[[Array], Array]
    covariance: Array


def estimate(sde: SDE, score_fn: ScoreFn, x: Array, t: Array) -> Estimate:
    """Returns the denoised estimate at x and t, with its derivative."""

    def denoised(x: Array) -> tuple[Array, Array]:
        return estimate_alone(sde, score_fn, x, t)

    x0, pull, score = jax.vjp(denoised, x, has_aux=True)
    return Estimate(x0, score, lambda v: pull(v)[0], sde.variance(t) / sde.alpha(t))


def estimate_alone(sde: SDE, score_fn: ScoreFn, x: Array, t: Array) -> tuple[Array, Array]:
    """Returns x̂0 and the score, for methods that need no derivative."""
    score = score_fn(x, t)
    return sde.denoise(x, t, score), score


def remaining_variance(sde: SDE, t: Array, data_std: ArrayLike) -> Array:
    """Returns r² = σ² d²/(σ² + α² d²), Var[x0 | x_t] of data N(·, d² I); σ²/α² for d = ∞."""
    ratio = jnp.exp(-sde.log_snr(t))
    return ratio / (1 + ratio / jnp.square(data_std))


def require_problem(owner: str, operator: Any, y: Array, noise_std: Any) -> Callable[[Array], Array]:
    """Returns x0 -> y of each row, without what it may hold where nothing is observed; checked when x is known."""
    require_at_least(owner, 0, noise_std=noise_std)
    without_hidden = getattr(operator, "without_hidden", lambda y: y)

    def fitting(x0: Array) -> Array:
        require_observation(owner, operator, x0, y)
        given = jnp.asarray(y, x0.dtype)
        return without_hidden(jnp.broadcast_to(given, (len(x0), *given.shape[1:])))

    return fitting


def conjugate_gradients(product: Callable[[Array], Array], b: Array, n_steps: int) -> Array:
    """Returns the solution of M x = b after `n_steps`, row by row: M is positive definite, `(B, …) -> (B, …)`.

    Exact after as many steps as M has different eigenvalues; a row that has arrived stays. (JAX's own takes a batch for
    one vector, so that what a row gets would hang on the others.)
    """

    def step(_, state):
        x, residual, direction, norm = state
        along = product(direction)
        curvature = arrays.sum_dims(direction * along)
        length = jnp.where(curvature > 0, norm / jnp.where(curvature > 0, curvature, 1), 0)
        by = lambda scale, v: arrays.expand_right(scale, v) * v
        x, residual = x + by(length, direction), residual - by(length, along)
        after = arrays.sum_dims(residual**2)
        ratio = jnp.where(norm > 0, after / jnp.where(norm > 0, norm, 1), 0)
        return x, residual, residual + by(ratio, direction), after

    start = jnp.zeros_like(b), b, b, arrays.sum_dims(b**2)
    return jax.lax.fori_loop(0, n_steps, step, start)[0]
