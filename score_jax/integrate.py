"""Adaptive integration of ordinary differential equations on device, every example with its own steps.

    dy/dt = f(t, y),    y(t0) given,    y(t1) wanted,

by the explicit Runge–Kutta pair of order 5(4) of Dormand & Prince (1980), which takes the order-5 solution and
estimates its error by the difference from the order-4 one. Its last stage is the first of the next step ("first same
as last"), so a step costs six calls of f.

Each row of the batch has a time and a step size of its own: what a row comes to does not depend on its neighbours. A
row whose error estimate is too large repeats its step with a shorter one, a row that has arrived waits. The batch
makes one call for all of them, and the number of these calls is what is counted.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from score_jax import arrays
from score_jax.types import Array, ArrayLike, InputError, PyTree, require_at_least, require_positive

Field: TypeAlias = Callable[[Array, PyTree], PyTree]  # (t (B,), y: leaves (B, *S)) -> dy/dt, of the shape of y

# Dormand & Prince (1980), table 2. Row i of STAGES makes the argument of stage i; the last row is the order-5 solution.
NODES = np.array([0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1, 1])
STAGES = np.array(
    [
        [0, 0, 0, 0, 0, 0, 0],
        [1 / 5, 0, 0, 0, 0, 0, 0],
        [3 / 40, 9 / 40, 0, 0, 0, 0, 0],
        [44 / 45, -56 / 15, 32 / 9, 0, 0, 0, 0],
        [19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729, 0, 0, 0],
        [9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656, 0, 0],
        [35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84, 0],
    ]
)
ORDER_4 = np.array([5179 / 57600, 0, 7571 / 16695, 393 / 640, -92097 / 339200, 187 / 2100, 1 / 40])

_FIRST_STEP = 0.01  # of the way from t0 to t1; one too long by 5 costs a repetition
_SAFETY, _SHRINK, _GROW = 0.9, 0.2, 10.0  # of the controller h ← h·clip(0.9·error^(−1/5), 0.2, 10)


class Solution(NamedTuple):
    """Where the integration ended: y at t1, leaves `(B, *S)`, NaN in rows that did not arrive; calls of f, `()`."""

    y: PyTree
    n_calls: Array


class _State(NamedTuple):
    t: Array  # (B,)
    y: PyTree
    slope: PyTree  # f(t, y); unknown before the first attempt
    step: Array  # (B,), signed; 0 in rows that have arrived or are stuck
    attempts: Array  # ()


def solve(
    field: Field,
    y0: PyTree,
    t0: ArrayLike,
    t1: ArrayLike,
    *,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    max_attempts: int = 2000,
) -> Solution:
    """Integrates dy/dt = f(t, y) from t0 to t1, up or down.

    A step is taken where the root mean square of error/(atol + rtol·max(|y|, |y_new|)) is at most 1 in each leaf by
    itself, so that a log-density beside an image counts as much as the image.

    Args:
      field: f, `(t (B,), y) -> dy/dt`; row i of the result may depend on row i alone.
      y0: an array `(B, *S)` or a pytree of them, float32 or wider.
      t0: where to start, `()` or `(B,)`.
      t1: where to end, `()` or `(B,)`.
      rtol: relative tolerance of one step. In float32, 1e-6 is about the least that means anything.
      atol: absolute tolerance of one step.
      max_attempts: steps tried, taken or not, after which a row is given up. So is one whose steps no longer change t
        (the field is not finite there). Given up rows are NaN.

    Returns:
      The solution, after 1 + 6·attempts calls of `field`. No reverse-mode gradient: the number of steps is not known.

    Raises:
      InputError: for half precision, which rounds away what tolerances are about.
    """
    require_positive("integrate.solve", rtol=rtol, atol=atol)
    require_at_least("integrate.solve", 1, max_attempts=max_attempts)
    for leaf in jax.tree.leaves(y0):
        if arrays.wide(leaf.dtype) != leaf.dtype:
            raise InputError(f"integrate.solve: y0 is {leaf.dtype}, too coarse to integrate in: y0.astype(jnp.float32)")
    leaf = jax.tree.leaves(y0)[0]
    dtype = arrays.wide(leaf.dtype)
    # Zeros made of y0: under shard_map what the loop carries has to differ between devices from the start.
    zeros = jnp.where(arrays.sum_dims(leaf) > 0, 0, 0).astype(dtype)
    t0, t1 = (zeros + jnp.asarray(t, dtype) for t in (t0, t1))
    slope = jax.tree.map(lambda v: jnp.broadcast_to(arrays.expand_right(zeros, v), v.shape), y0)
    y0 = jax.tree.map(jnp.add, y0, slope)

    def attempt(state: _State) -> _State:
        slopes = _stages(field, state)
        y = _moved(state.y, slopes, state.step, STAGES[-1])
        error = _error(state, y, slopes, rtol, atol)
        # From a full last step to t1 itself: t + (t1 − t) may miss it by a rounding.
        t = jnp.where(state.step == t1 - state.t, t1, state.t + state.step)
        taken = error <= 1  # not so for NaN

        def choose(new: Array, old: Array) -> Array:
            return jnp.where(taken.reshape(taken.shape + (1,) * (old.ndim - 1)), new, old)

        t = choose(t, state.t)
        step = _next_step(state.step, error, t, t1)
        slope = jax.tree.map(lambda k: choose(k[-1], k[0]), slopes)
        return _State(t, jax.tree.map(choose, y, state.y), slope, step, state.attempts + 1)

    def going(state: _State) -> Array:
        return (state.step != 0).any() & (state.attempts < max_attempts)

    start = _State(t0, y0, slope, _FIRST_STEP * (t1 - t0), zeros.sum().astype(jnp.int32))
    end = jax.lax.while_loop(going, attempt, start)
    arrived = end.t == t1
    y = jax.tree.map(lambda v: jnp.where(arrived.reshape(arrived.shape + (1,) * (v.ndim - 1)), v, jnp.nan), end.y)
    return Solution(y, jnp.where(end.attempts > 0, 1 + 6 * end.attempts, 0))


def _stages(field: Field, state: _State) -> PyTree:
    """The seven slopes of a step, leaves `(7, B, *S)`. A loop, so that the field is compiled once."""
    nodes, stages = jnp.asarray(NODES, state.t.dtype), jnp.asarray(STAGES, state.t.dtype)

    def stage(i: Array, slopes: PyTree) -> PyTree:
        y = _moved(state.y, slopes, state.step, stages[i])
        slope = field(state.t + nodes[i] * state.step, y)
        return jax.tree.map(lambda all, one: all.at[i].set(one.astype(all.dtype)), slopes, slope)

    # Zeros and not what an earlier attempt left there: 0·NaN would never heal.
    slopes = jax.tree.map(lambda k: jnp.zeros((len(NODES), *k.shape), k.dtype).at[0].set(k), state.slope)
    return jax.lax.fori_loop(jnp.where(state.attempts == 0, 0, 1), len(NODES), stage, slopes)


def _moved(y: PyTree, slopes: PyTree, step: Array, weights: ArrayLike) -> PyTree:
    return jax.tree.map(lambda v, k: v + arrays.expand_right(step, v) * _combined(k, weights), y, slopes)


def _combined(slopes: Array, weights: ArrayLike) -> Array:
    # Full precision: accelerators multiply matrices in less by default.
    return jnp.einsum("i,i...->...", jnp.asarray(weights, slopes.dtype), slopes, precision="highest")


def _error(state: _State, y: PyTree, slopes: PyTree, rtol: float, atol: float) -> Array:
    """The largest over leaves of the root mean square of the error over its tolerance, `(B,)`."""

    def of_leaf(old: Array, new: Array, k: Array) -> Array:
        error = arrays.expand_right(state.step, old) * _combined(k, STAGES[-1] - ORDER_4)
        scaled = error / (atol + rtol * jnp.maximum(jnp.abs(old), jnp.abs(new)))
        return jnp.sqrt(arrays.sum_dims(scaled**2) / max(old[0].size, 1)).astype(state.t.dtype)

    return jnp.stack(jax.tree.leaves(jax.tree.map(of_leaf, state.y, y, slopes))).max(0)


def _next_step(step: Array, error: Array, t: Array, t1: Array) -> Array:
    """Returns the next step, cut at t1; 0 for a row that has arrived or whose step no longer changes t."""
    error = jnp.where(jnp.isfinite(error), error, jnp.inf)
    factor = jnp.clip(_SAFETY * jnp.maximum(error, 1e-10) ** -0.2, _SHRINK, _GROW)
    # A step longer than what is left is cut to it; the sign is the same, so that comparing lengths will do.
    rest, step = t1 - t, factor * step
    step = jnp.where(jnp.abs(step) < jnp.abs(rest), step, rest)
    return jnp.where(t + step == t, 0, step)
