"""RePaint (Lugmayr et al. 2022): replacement whose steps are noised again and repeated, so that the rest can follow.

Every block of `jump_length` steps of the grid is gone `n_resample` times; before each repeat x is noised from the end s
of the block to its start t, x_t = α_{t|s} x_s + σ_{t|s} z (algorithm 1). One step of replacement moves the rest by its
score given an observation that knows nothing of it; with every repeat the two parts meet again at the same level, as by
further Langevin steps. The bias falls with the repeats; how far, the tests and `experiments/posterior_benchmark` say.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from score_jax import arrays
from score_jax.conditioning.operators import Decomposed, require_decomposed
from score_jax.conditioning.replacement import replacement
from score_jax.sampling import Sampler
from score_jax.sampling.base import require_one_step
from score_jax.sde import SDE
from score_jax.types import Array, InputError, Key, require_at_least


class RePaintState(NamedTuple):
    """State of RePaint: the sample, the steps of the grid that are done, and the score calls they took."""

    x: Array
    done: Array
    nfe: Array


def repaint(
    sampler: Sampler, sde: SDE, operator: Decomposed, y: Array, *, n_resample: int = 10, jump_length: int = 1
) -> Sampler:
    """Repeats `replacement` of a sampler: n_resample times its score calls a step but the last; the state counts them.

    As released: the last step is by itself, blocks end before it, and what is left at the largest noise, less than a
    block, is gone once. For images n_resample is 10, jump_length 10, on 250 steps of `ancestral`.

    Args:
      sampler: a one-step sampler.
      sde: its noising process.
      operator: A, with its singular values, such as `Mask`.
      y: the observation in the units of x0, without noise, `(B, …)`, or `(1, …)` for one that all rows share.
      n_resample: how often a block is gone; 1 is `replacement`.
      jump_length: steps of a block.

    Raises:
      InputError: for a multistep sampler, y that the operator or x doesn't fit, counts below 1, or a block longer than
        the grid.

    Examples:
      Data N(0, I) of which the first of two elements was seen, 3; the other has its own law, N(0, 1).

      >>> edm, score, y = sde.EDM(0.01, 10.0), lambda x, t: -x / (1 + t**2), jnp.array([[3.0, 0.0]])
      >>> operator = conditioning.operators.Mask(np.array([1, 0]))
      >>> sampler = conditioning.repaint(sampling.heun(edm, score), edm, operator, y, n_resample=2)
      >>> x = sampling.sample(key, sampler, edm.prior_sample(key, (4096, 2)), sampling.grids.karras(edm, 40))
      >>> print(f"{x[:, 0].mean():.1f} {x[:, 1].std():.1f}")
      3.0 1.0
    """
    require_at_least("repaint", 1, n_resample=n_resample, jump_length=jump_length)
    require_one_step("repaint", sampler)
    require_decomposed("repaint", operator)
    inner = replacement(sampler, sde, operator, y)
    go = lambda key, x, t, s: inner.step(key, inner.init(x), t, s).x

    def again(key: Key, x: Array, ts: Array) -> Array:
        """Noises x from the end of a block of times `(jump_length + 1,)` to its start, and goes it again."""
        key_noise, key_steps = arrays.split(key)
        alpha, added = (arrays.expand_right(v, x) for v in sde.transition(ts[0], ts[-1]))
        x = alpha * x + arrays.safe_sqrt(added) * arrays.normal(key_noise, x)
        step = lambda j, x: go(arrays.fold_in(key_steps, j), x, ts[j], ts[j + 1])
        return jax.lax.fori_loop(0, jump_length, step, x)

    def along(ts: Array) -> Sampler:
        size = len(ts) - 1
        if jump_length > size:
            raise InputError(f"repaint: jump_length is at most the steps of the grid, {size}, got {jump_length}")

        def step(key: Key, state: RePaintState, t: Array, s: Array) -> RePaintState:
            key_first, key_again = arrays.split(key)
            done = state.done + 1
            ends = ((size - 1 - done) % jump_length == 0) & (done >= jump_length) & (done < size)
            repeats = jnp.where(ends, n_resample - 1, 0)
            block = jax.lax.dynamic_slice(ts, (jnp.maximum(done - jump_length, 0),), (jump_length + 1,))
            repeat = lambda i, x: again(arrays.fold_in(key_again, i), x, block)
            x = jax.lax.fori_loop(0, repeats, repeat, go(key_first, state.x, t, s))
            return RePaintState(x, done, state.nfe + inner.calls * (1 + repeats * jump_length))

        return _counting(step)

    return _counting(lambda key, state, t, s: state, along)


def _counting(step: Callable[..., Any], along: Callable[[Array], Sampler] | None = None) -> Sampler:
    """A sampler that says how often it called the score, and whose x nobody else may change."""
    init = lambda x: RePaintState(x, jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))
    return Sampler(init, step, multistep=True, calls=0, along=along)
