"""What a sampler is, and the one loop over noise levels.

A `Sampler` is a pair of pure functions: `init(x)` makes the state, `step(key, state, t, s)` takes it from time t to
s ≤ t. The state's field `x` is the sample; multistep methods carry more. `sample` scans the steps along a grid, so
the whole run is one compiled program whatever the number of steps.

Conditioning and correction wrap samplers: a wrapper changes `x` between the steps of another, which is only sound
where the state is nothing but `x`. Samplers that remember earlier steps say so by `multistep=True`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias, overload

import jax
import jax.numpy as jnp
import numpy as np

from score_jax import arrays
from score_jax.types import Array, ArrayLike, InputError, Key, PyTree

Trace: TypeAlias = Callable[[Any], PyTree]  # what is kept of the state after a step


class State(NamedTuple):
    """State of a one-step sampler: the sample alone, `(B, *S)`."""

    x: Array


class Sampler(NamedTuple):
    """A sampling method: `init(x) -> state`, `step(key (B,), state, t, s) -> state`, `state.x` is the sample.

    `calls` is how often a step evaluates the score on the whole batch: NFE is `calls` times the steps of the grid, and
    one more for a last `sde.denoise`, all times the `evaluations` of a network that a score takes, two if it is guided.
    It is 0 where the number depends on x: then `state.nfe` counts them.

    A method that treats some steps of a grid otherwise, such as the last, has `along`, which makes the sampler of the
    grid `ts`; its own `step` is that of no step in particular.

    Examples:
      One of one's own: Euler's steps down the flow dx/dt = −t·score of data N(0, 1/4), from one
      standard deviation at σ = 10 to one at the end, 1/2.

      >>> edm, score = sde.EDM(0.01, 10.0), lambda x, t: -x / (0.25 + t**2)
      >>> sampler = sampling.base.one_step(lambda key, x, t, s: x + t * score(x, t) * (t - s))
      >>> x = sampling.sample(key, sampler, jnp.array([[10.0]]), sampling.grids.karras(edm, 500))
      >>> print(f"{x[0, 0]:.2f}")
      0.50
    """

    init: Callable[[Array], Any]
    step: Callable[[Key, Any, Array, Array], Any]
    multistep: bool = False
    calls: int = 1
    along: Callable[[Array], "Sampler"] | None = None


def one_step(step: Callable[[Key, Array, Array, Array], Array], calls: int = 1) -> Sampler:
    """Makes a sampler without memory of `step(key, x, t, s) -> x`, which calls the score `calls` times."""
    return Sampler(State, lambda key, state, t, s: State(step(key, state.x, t, s)), calls=calls)


def check_grid(ts: ArrayLike) -> None:
    """Raises InputError for a concrete grid that is no vector of two or more times, or increases somewhere."""
    if jnp.ndim(ts) != 1 or jnp.size(ts) < 2:
        raise InputError(
            f"ts must be a vector of at least two times, from t_max down to t_min, got shape {jnp.shape(ts)}"
        )
    if isinstance(ts, jax.core.Tracer):
        return
    values = np.asarray(ts)
    rises = np.flatnonzero(~(np.diff(values) <= 0))
    if rises.size:
        i = rises[0]
        raise InputError(
            f"ts must not increase: it runs from t_max down to t_min, got {values[i]:g} → {values[i + 1]:g} at step {i}"
        )


@overload
def sample(
    key: Key, sampler: Sampler, x: Array, ts: ArrayLike, *, trace: None = None, keep: ArrayLike | None = None
) -> Array: ...
@overload
def sample(
    key: Key, sampler: Sampler, x: Array, ts: ArrayLike, *, trace: Trace, keep: ArrayLike | None = None
) -> tuple[Array, PyTree]: ...
def sample(
    key: Key,
    sampler: Sampler,
    x: Array,
    ts: ArrayLike,
    *,
    trace: Trace | None = None,
    keep: ArrayLike | None = None,
) -> Any:
    """Runs `sampler` from x along the grid `ts`; the only loop over noise levels there is.

    Args:
      key: `()` or `(B,)`; row i of the result depends on its own key alone.
      sampler: the method.
      x: start, `(B, *S)`, distributed as at `ts[0]` (`sde.prior_sample` for t_max).
      ts: times, `(n,)`, never increasing (`sampling.grids`); n − 1 steps are taken. A step from t to t leaves x as it
        is, except for Langevin steps, which work at the level arrived at.
      trace: function of the state after each step; its results are stacked. Nothing is kept without it.
      keep: indices of the steps whose traces are kept, increasing, `(m,)`; all of them unless given. Only so many are
        ever held.

    Returns:
      x at `ts[-1]`, `(B, *S)`, or `(x, traced)`.

    Raises:
      InputError: for a grid that increases.

    Examples:
      From noise to data of two values, −1 and 1, by their exact score.

      >>> edm = sde.EDM(0.01, 10.0)
      >>> score = distributions.score_of(distributions.Empirical(jnp.array([[-1.0], [1.0]])), edm)
      >>> x, ts = edm.prior_sample(key, (5, 1)), sampling.grids.karras(edm, 40)
      >>> print(np.array(sampling.sample(key, sampling.heun(edm, score), x, ts)[:, 0]).round(1))
      [ 1. -1.  1. -1. -1.]
    """
    check_grid(ts)
    ts = jnp.asarray(ts)
    sampler = sampler if sampler.along is None else sampler.along(ts)
    keys = arrays.example_keys(key, len(x))

    steps = jnp.arange(len(ts) - 1), ts[:-1], ts[1:]

    def advance(state, inputs):
        i, t, s = inputs
        return sampler.step(arrays.fold_in(keys, i), state, t, s)

    def step(state, inputs):
        state = advance(state, inputs)
        return state, None if trace is None else trace(state)

    if trace is None or keep is None:
        state, traced = jax.lax.scan(step, sampler.init(x), steps)
        return state.x if trace is None else (state.x, traced)

    # Each step writes to the place of the next one that is kept, the last of them for good, or past the end: nowhere.
    places = jnp.searchsorted(jnp.asarray(keep), steps[0])

    def step_kept(carry, inputs):
        state, kept = carry
        place, *rest = inputs
        state = advance(state, rest)
        return (state, jax.tree.map(lambda all, one: all.at[place].set(one), kept, trace(state))), None

    state = sampler.init(x)
    kept = jax.tree.map(lambda one: jnp.broadcast_to(one, (jnp.size(keep), *jnp.shape(one))), trace(state))
    (state, kept), _ = jax.lax.scan(step_kept, (state, kept), (places, *steps))
    return state.x, kept


def predictor_corrector(predictor: Sampler, corrector: Sampler, *, first: str = "predictor") -> Sampler:
    """Steps t → s with the predictor, then corrects at s (Song et al. 2021, algorithm 1).

    The released code corrects at t before it predicts, `first="corrector"`; on a grid whose first time stands twice
    (`grids.levels`), the first prediction does nothing and the two orders are the same sequence of updates.

    Args:
      predictor: goes from t to s.
      corrector: works at the level that its step arrives at.
      first: "predictor", or "corrector" as released.

    Raises:
      InputError: for a multistep predictor or corrector, whose memory a change of x would invalidate; for another word.

    Examples:
      Draws of data N(0, 1/4) have a standard deviation of 1/2.

      >>> edm, score = sde.EDM(0.01, 10.0), lambda x, t: -x / (0.25 + t**2)
      >>> corrector = sampling.annealed_langevin(edm, score, step_size=0.05, n_steps=1, sigma_min=1.0)
      >>> sampler = sampling.predictor_corrector(sampling.ancestral(edm, score), corrector)
      >>> x, ts = edm.prior_sample(key, (4096, 1)), sampling.grids.karras(edm, 100)
      >>> print(f"{sampling.sample(key, sampler, x, ts).std():.1f}")
      0.5
    """
    require_one_step("predictor_corrector", predictor)
    require_one_step("predictor_corrector", corrector)
    if first not in ("predictor", "corrector"):
        raise InputError(f"predictor_corrector: first must be 'predictor' or 'corrector', got {first!r}")

    def step(key: Key, x: Array, t: Array, s: Array) -> Array:
        key_predict, key_correct = arrays.split(key)
        if first == "corrector":
            x = corrector.step(key_correct, corrector.init(x), t, t).x
            return predictor.step(key_predict, predictor.init(x), t, s).x
        x = predictor.step(key_predict, predictor.init(x), t, s).x
        return corrector.step(key_correct, corrector.init(x), s, s).x

    return one_step(step, predictor.calls + corrector.calls)


def require_one_step(owner: str, sampler: Sampler) -> None:
    """Raises InputError when `sampler` remembers earlier steps."""
    if sampler.multistep:
        raise InputError(
            f"{owner} changes x between steps, which the memory of a multistep sampler does not survive; "
            "use a one-step sampler such as ancestral, ddim or heun"
        )
