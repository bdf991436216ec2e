"""Twisted particle filters: samplers whose rows are particles of one posterior, weighed and drawn again.

Particles move by a proposal in place of the reverse transition p(x_s | x_t) = N((x + σ²_{t|s} score)/α_{t|s}, σ̃² I),
σ̃² = σ²_{t|s} σ_s²/σ_t², and carry the weights

    w_s = w_t p(x_s | x_t) ψ_s(x_s) / (q(x_s | x_t) ψ_t(x_t)),        ψ_t(x) ≈ p_t(y | x)

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
    """State of a particle sampler: particles `(K, *S)`, their log-weights `(K,)`, and what was found out at them."""

    x: Array
    log_weights: Array
    found: Any


Find: TypeAlias = Callable[[Array, Array], Any]  # (x (K, *S), t) -> what is carried, rows first
# (key (K,), x at t, what was found there, t, s) -> x at s, what was found there, the increase of the log-weights (K,)
Move: TypeAlias = Callable[[Key, Array, Any, Array, Array], tuple[Array, Any, Array]]


def particle_sampler(find: Find, move: Move, threshold: ArrayLike, calls: int) -> Sampler:
    """Makes a sampler of particles that start at the first time of a grid with equal weights.

    Args:
      find: what the state carries of x at t.
      move: a step.
      threshold: share of K below which particles are drawn again.
      calls: score calls of a step.
    """
    require_positive("particles", threshold=threshold)

    def along(ts: Array) -> Sampler:
        def init(x: Array) -> Particles:
            return Particles(x, jnp.zeros(len(x), arrays.wide(x.dtype)), find(x, ts[0]))

        def step(key: Key, state: Particles, t: Array, s: Array) -> Particles:
            key_move, key_draw = arrays.split(key)
            x, found, gained = move(key_move, state.x, state.found, t, s)
            log_weights = state.log_weights + gained
            few = jnp.exp(-jax.nn.logsumexp(2 * jax.nn.log_softmax(log_weights))) < threshold * len(x)
            again = few | (s == ts[-1])
            rows = systematic(key_draw[0], log_weights)
            rows = jnp.where(again, rows, jnp.arange(len(x), dtype=rows.dtype))
            x, found = jax.tree.map(lambda v: v[rows], (x, found))
            return Particles(x, jnp.where(again, 0, log_weights), found)

        return Sampler(init, step, multistep=True, calls=calls)

    return Sampler(lambda x: x, lambda key, state, t, s: state, multistep=True, calls=calls, along=along)


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
