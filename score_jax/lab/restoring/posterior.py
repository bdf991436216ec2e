"""Samples of p(x | y) by a method, and what they cost, counted.

Sample i of picture k depends on the seed, k and i alone.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from score_jax import conditioning
from score_jax.conditioning import operators
from score_jax.conditioning.cost import Cost, counting
from score_jax.lab import samples
from score_jax.lab.experiment import Trained
from score_jax.lab.restoring.methods import METHODS, Observation, Options, chosen_method
from score_jax.sampling import draw
from score_jax.sampling.draw import Drawn
from score_jax.score import ScoreModel
from score_jax.training import hosts
from score_jax.types import Array, Key, PyTree

_STREAM = 0x706F7374  # of posterior samples, apart from others of the same seed
_EVEN = 1e-3  # relative differences of singular values that are one


class Posterior(NamedTuple):
    """Samples `(K, n, *S)` in the units of x0, and what each cost."""

    x: np.ndarray
    cost: Cost


def draw_posterior(
    trained: Trained,
    method: str,
    options: Options,
    seen: Observation,
    *,
    n: int,
    seed: int = 0,
    label: int = -1,
) -> Posterior:
    """Draws n samples for each of K observations.

    Without noise the end is made exact, x − A⁺ A x + A⁺ y, where all singular values of A are one: pixels that are
    observed, means of blocks, sums of colours.

    Args:
      trained: the model.
      method: a name of `METHODS`.
      options: its keywords.
      seen: the observations, y of shape `(K, …)`.
      n: samples each.
      seed: of the samples.
      label: class of a conditional model, −1 for any.

    Raises:
      InputError: for a method that doesn't suit the task, or a class that the model doesn't have.
    """
    examples, conditional = trained.examples, bool(trained.examples.names)
    labels = samples.checked_labels(examples, n, np.full(n, label, np.int32) if conditional else None)
    METHODS[method].require(method, seen, jnp.zeros((1, *examples.shape)))
    rows, by_row = min(n, trained.sampling.batch_size), trained.sampling.by_row and not METHODS[method].of_particles
    batch = partial(_batch, trained, method, options, _exact_end(seen, examples.shape))
    cost = counted_cost(trained, batch(seen._replace(y=seen.y[:1])), rows)  # by which what doesn't suit is refused

    @jax.jit
    def posterior(y: Array, keys: Key, model: ScoreModel, labels: Array | None) -> Drawn:
        return batch(seen._replace(y=y))(keys, model, labels)

    key, found = jax.random.fold_in(jax.random.key(seed), _STREAM), []
    bar = {"desc": "sampling", "unit": "picture", "dynamic_ncols": True, "disable": None if hosts.is_first() else True}
    for k in tqdm(range(len(seen.y)), **bar):
        program = draw.Program(partial(posterior, seen.y[k : k + 1]), np.empty(0), trained.sampling.mesh, by_row)
        key_k = jax.random.fold_in(key, k)
        found.append(draw.draw_many(key_k, trained.model, program, n=n, batch_size=rows, labels=labels))
    if _is_adaptive(trained):  # calls depend on x
        calls = max(drawn.nfe for drawn in found)
        cost = Cost(calls, round(calls * cost.products / cost.calls))
    return Posterior(np.stack([drawn.x for drawn in found]), cost)


def _batch(
    trained: Trained, method: str, options: Options, end: Callable[[Array, Array], Array], seen: Observation
) -> Callable[[Key, ScoreModel, Array | None], Drawn]:
    """`(keys (B,), model, labels) -> Drawn` of one observation, y `(1, …)`."""
    how, row = trained.sampling, METHODS[method]
    make = chosen_method(method, counted=seen.counts is not None)
    transform, make_sampler = row.applied(make, how, seen, options)

    def batch(keys: Key, model: ScoreModel, labels: Array | None) -> Drawn:
        shape = (len(keys), *trained.examples.shape)
        given: dict[str, Any] = {"start": how.start, "transform": transform, "denoise": how.denoise}
        drawn = draw.draw_batch(keys, model, make_sampler, how.ts, shape, labels=labels, traced=1, frames=1, **given)
        return drawn._replace(x=end(drawn.x, seen.y))

    return batch


def _exact_end(seen: Observation, shape: Sequence[int]) -> Callable[[Array, Array], Array]:
    """`(x, y) -> x` that agrees with y, where nothing speaks against it; else x as it is."""
    operator = seen.operator
    if not seen.exact or not _has_one_singular_value(operator, shape):
        return lambda x, y: x
    return lambda x, y: conditioning.impose(operator, x, jnp.asarray(y, x.dtype))


def _has_one_singular_value(operator: Any, shape: Sequence[int]) -> bool:
    if not isinstance(operator, operators.Decomposed):
        return False
    values = np.unique(operator.singular_values(operator.to_spectrum(jnp.zeros((1, *shape)))))
    values = values[values > 0]
    return bool(values.size) and values.max() <= (1 + _EVEN) * values.min()


def _is_adaptive(trained: Trained) -> bool:
    return trained.sampling.make(trained.model.sde, trained.model.conditioned()).calls == 0


def counted_cost(trained: Trained, batch: Callable[..., Drawn], rows: int) -> Cost:
    """Counts what a sample takes: a batch is drawn with a network that does nothing but count.

    Args:
      trained: the model, of which all but the network is used.
      batch: `(keys (B,), model, labels) -> Drawn`.
      rows: B.
    """
    counts: Counter[str] = Counter()

    def apply(variables: PyTree, x: Array, cond: Array, *told: Any) -> Array:
        del variables
        output = jax.eval_shape(trained.model.apply, trained.model.variables, x, cond, *told)
        return counting(lambda x, cond: jnp.zeros(output.shape, output.dtype), counts)(x, cond)

    labels = np.full(rows, -1, np.int32) if trained.examples.names else None
    keys, model = jax.random.split(jax.random.key(0), rows), trained.model.replace(apply=apply, variables={})
    jax.block_until_ready(jax.jit(batch)(keys, model, labels))
    jax.effects_barrier()
    return Cost(counts["calls"], counts["products"])
