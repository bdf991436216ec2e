"""What metrics of features take: two sets of rows of one width, finite."""

import jax.numpy as jnp
import numpy as np

from score_jax.types import Array, ArrayLike, InputError


def two_sets(a: ArrayLike, b: ArrayLike) -> tuple[Array, Array]:
    """Returns both as JAX's arrays (N, F) and (M, F), float32 or wider; works on tracers.

    Raises:
      InputError: for other shapes.
    """
    a, b = jnp.asarray(a), jnp.asarray(b)
    require_shapes(a, b)
    dtype = jnp.promote_types(jnp.result_type(a, b), jnp.float32)
    return a.astype(dtype), b.astype(dtype)


def two_finite_sets(a: ArrayLike, b: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Returns both as NumPy's arrays (N, F) and (M, F), on the host.

    Raises:
      InputError: for other shapes, and numbers that are not finite.
    """
    a, b = np.asarray(a), np.asarray(b)
    require_shapes(a, b)
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise InputError("features hold NaN or infinite values: drop the rows that diverged")
    return a, b


def require_shapes(a: Array | np.ndarray, b: Array | np.ndarray) -> None:
    """Raises `InputError` unless the shapes are (N, F) and (M, F)."""
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(a.size, b.size) == 0:
        raise InputError(f"expected features (N, F) and (M, F) of one width F, got {a.shape} and {b.shape}")
