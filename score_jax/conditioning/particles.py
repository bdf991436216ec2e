"""Twisted particle filters: samplers whose rows are particles of one posterior, weighed and drawn again.

Particles move by a proposal in place of the reverse transition p(x_s | x_t) = N((x + σ²_{t|s} score)/α_{t|s}, σ̃² I),
σ̃² = σ²_{t|s} σ_s²/σ_t², and carry the weights

    w_T = ψ_T(x_T),    w_s = w_t p(x_s | x_t) ψ_s(x_s) / (q(x_s | x_t) ψ_t(x_t)),        ψ_t(x) ≈ p_t(y | x)

At the last time ψ is the likelihood, all but for what noise is left there: as the number of particles K grows they are
of the exact posterior of the chain of transitions, at the rate 1/√K whatever ψ was before (Wu et al. 2023, theorem 1;
Cardoso et al. 2023). ψ decides how many are needed. With one particle, or few, it is guidance by ψ.

All rows of a batch are one set of particles, so they are not independent, and there is one observation; for several,
`jax.vmap` over whole runs. They are drawn again (systematically) where their effective number, 1/Σ w², falls below a
share of K, and at the end of the grid, where all weigh the same.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from score_jax import arrays
from score_jax.sampling import Sampler
from score_jax.types import Array, ArrayLike, InputError, Key, require_positive


class Particles(NamedTuple):
    """State of a particle sampler: particles `(K, *S)`, log-weights `(K,)`, what was found at them, score calls."""

    x: Array
    log_weights: Array
    found: Any
    nfe: Array


# (x (K, *S), t) -> what is carried, rows first, and log ψ_t (K,)
Find: TypeAlias = Callable[[Array, Array], tuple[Any, Array]]
# (key (K,), x at t, what was found there, t, s) -> x at s, what was found there, the increase of the log-weights (K,)
Move: TypeAlias = Callable[[Key, Array, Any, Array, Array], tuple[Array, Any, Array]]


def particle_sampler(owner: str, find: Find, move: Move, threshold: ArrayLike, *, calls_at_start: int) -> Sampler:
    """Makes a sampler of particles that start at the first time of a grid.

    Args:
      owner: for messages.
      find: what the state carries of x at t.
      move: a step, of one score call.
      threshold: share of K below which particles are drawn again.
      calls_at_start: score calls of `find`.
    """
    require_positive(owner, threshold=threshold)

    def along(ts: Array) -> Sampler:
        def init(x: Array) -> Particles:
            found, log_twist = find(x, ts[0])
            return Particles(x, log_twist, found, jnp.asarray(calls_at_start, jnp.int32))

        def step(key: Key, state: Particles, t: Array, s: Array) -> Particles:
            key_move, key_draw = arrays.split(key)
            x, found, gained = move(key_move, state.x, state.found, t, s)
            log_weights = state.log_weights + gained
            few = jnp.exp(-jax.nn.logsumexp(2 * jax.nn.log_softmax(log_weights))) < threshold * len(x)
            again = few | (s == ts[-1])
            rows = systematic(key_draw[0], log_weights)
            rows = jnp.where(again, rows, jnp.arange(len(x), dtype=rows.dtype))
            x, found = jax.tree.map(lambda v: v[rows], (x, found))
            return Particles(x, jnp.where(again, 0, log_weights), found, state.nfe + 1)

        return Sampler(init, step, multistep=True, calls=0)

    return Sampler(lambda x: x, lambda key, state, t, s: state, multistep=True, calls=0, along=along)


def log_normal(misfit: Array, variance: Array, seen: Array) -> Array:
    """Returns −½ Σ misfit²/variance over what is seen, `(K,)`: log N up to what is the same for all particles.

    A variance of 0, of exact observations where no noise is left, says nothing of particles that agree with them.
    """
    counts = seen & (variance > 0)
    return -0.5 * arrays.sum_dims(jnp.where(counts, misfit**2 / jnp.where(counts, variance, 1), 0))


def systematic(key: Key, log_weights: Array) -> Array:
    """Draws K of K indices by their weights, one uniform for all (Carpenter et al. 1999): each ⌊Kw⌋ or ⌈Kw⌉ times."""
    n = len(log_weights)
    total = jnp.cumsum(jax.nn.softmax(log_weights))
    places = (jax.random.uniform(key, (), total.dtype) + jnp.arange(n, dtype=total.dtype)) / n
    return jnp.minimum(jnp.searchsorted(total, places * total[-1], side="right", method="sort"), n - 1)


def require_one_observation(owner: str, y: Array) -> None:
    """Raises InputError for several observations: all particles have one."""
    if jnp.ndim(y) == 0 or len(y) != 1:
        raise InputError(
            f"{owner}: the rows of a batch are the particles of one observation, y of shape (1, …), got "
            f"{jnp.shape(y)}: take jax.vmap over whole runs for several"
        )
