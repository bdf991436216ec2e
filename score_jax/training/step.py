"""One dispatch of training: k updates inside one compiled function.

For each of the k batches x0 of B examples with D dimensions, with example i of the run (i counts from 0 over all
steps) drawing everything from its own key, folded from the run's key and i,

    t, w ~ times,    J_i = objective(key_i, score_θ, x0_i, (t_i, w_i))  nats,    loss = mean_i J_i / D,

then clip, Adam and the parameters' moving average. Dividing by D, here and nowhere else, makes the learning rate free
of scale. A batch can be cut into micro-batches whose gradients are added: since keys belong to examples, only the
order of the sum changes. Micro-batches are strided, so that on a mesh each device cuts its own rows. What is cut over
devices of the state (`training.sharding`) is whole while the network is evaluated, and cut again in what is summed.

A step whose loss or gradient isn't finite moves neither parameters nor their average nor the optimizer, and there are
two ways on. It is skipped, while no more than `skips` in a row are: its batch is lost, and as it counts as a step, the
next has other noise. Beyond that the state stays as it was before the last of them, to the end of the dispatch and
through every later one. The report says at which step and noise level. Nothing leaves the device in between.

The noise level of an example is σ/α. Levels are `levels` equal intervals of log σ/α between t_min and t_max.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, Protocol, Self

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from score_jax import arrays
from score_jax.devices import cut_rows, replicated
from score_jax.losses import uncertainty_weighted
from score_jax.losses.times import Times
from score_jax.networks import Told
from score_jax.sde import SDE
from score_jax.training.averages import Averaged, ema_decay, the_parameters
from score_jax.training.sharding import Placement, check_batch_size, shardings
from score_jax.training.state import TrainState, create
from score_jax.types import Array, ArrayLike, InputError, Key, PyTree, ScoreFn, require_at_least

Objective = Callable[..., Array]  # (key (B,), score_fn, x0 (B, *S), times) -> nats (B,)
Prepare = Callable[[Key, Array], Array]  # (key (B,), stored x (B, ...)) -> x0 (B, *S)
Augment = Callable[[Key, Array], tuple[Array, Array]]  # (key (B,), x0) -> x0, and what the network is told of it

# One stream of keys for each purpose, so that turning one on leaves the others' draws as they were.
_PREPARE, _TIMES, _OBJECTIVE, _LABEL, _DROPOUT, _EVALUATION, _AUGMENT = range(7)


class Model(Protocol):
    """What is trained: a `ScoreModel`, or whatever else gives a score function for variables, labels and keys."""

    @property
    def sde(self) -> SDE:
        """The noising process."""

    @property
    def variables(self) -> PyTree:
        """The network's arrays, "params" among them, of the shapes that are trained."""

    def replace(self, *, variables: PyTree) -> Self:
        """Returns the model with other variables."""

    def conditioned(self, *, label: Array | None = None, key: Key | None = None) -> ScoreFn:
        """Returns the score function of these labels and dropout keys, `(B,)` or None."""


class Failure(NamedTuple):
    """The step at which training stopped, or else the first that was skipped, all `()`; `step` is −1 if there is none.

    `t`, `sigma` (σ/α) and `loss` are of the first example with a non-finite loss; where all losses are finite and
    the gradient is not, of the example with the largest loss.
    """

    step: Array
    t: Array
    sigma: Array
    loss: Array


class Report(NamedTuple):
    """What a dispatch says about its finite steps: sums, so that reports add up, and the failure if any.

    Attributes:
      steps: number of updates made.
      skipped: number of steps whose loss or gradient was not finite, and that were passed over.
      stopped: not a sum: how many such steps came in a row when they were too many; 0 while training goes on.
      loss: sum over updates of the mean loss per dimension.
      grad_norm: sum over updates of the gradient's global norm, before clipping.
      level_loss: `(levels,)`, sum over examples at that noise level of the loss per dimension.
      level_count: `(levels,)`, number of examples at that noise level.
      level_sigma: `(levels,)`, the noise levels, not a sum.
      failure: see `Failure`.
    """

    steps: Array
    skipped: Array
    stopped: Array
    loss: Array
    grad_norm: Array
    level_loss: Array
    level_count: Array
    level_sigma: Array
    failure: Failure


class _Step(NamedTuple):
    """What the scan keeps of each step: J/D `(B,)` and t `(B,)` of the examples, and numbers.

    `made`: whether it was an update. `stopped`: how many in a row were not finite where they are too many, or 0.
    """

    losses: Array
    t: Array
    loss: Array
    grad_norm: Array
    made: Array
    stopped: Array


def _log_sigma(sde: SDE, t: ArrayLike) -> Array:
    return -0.5 * sde.log_snr(t)


def level_sigmas(sde: SDE, levels: int) -> Array:
    """Returns the noise level σ/α, `(levels,)` ascending, in the middle (geometrically) of each interval."""
    low, high = _log_sigma(sde, sde.t_min), _log_sigma(sde, sde.t_max)
    return jnp.exp(low + (high - low) * (jnp.arange(levels) + 0.5) / levels)


def level_sums(sde: SDE, t: Array, values: Array, levels: int) -> tuple[Array, Array]:
    """Returns the sum of `values` and their number in each interval of log σ/α, both `(levels,)`.

    Args:
      sde: gives the range.
      t: times, any shape.
      values: of the shape of t; NaN is left out.
      levels: number of intervals.
    """
    low, high = _log_sigma(sde, sde.t_min), _log_sigma(sde, sde.t_max)
    place = jnp.floor((_log_sigma(sde, t) - low) / (high - low) * levels)
    level = jnp.clip(jnp.nan_to_num(place), 0, levels - 1).ravel()
    # A masked sum, not a scatter: its order is fixed on every backend, so a resumed run reports the same digits.
    values = values.ravel()
    here = (level[:, None] == jnp.arange(levels)[None]) & ~jnp.isnan(values)[:, None]
    return jnp.where(here, values[:, None], 0).sum(0), here.sum(0)


def _failure(sde: SDE, first_step: Array, steps: _Step) -> Failure:
    row = jnp.where(steps.stopped.any(), jnp.argmax(steps.stopped > 0), jnp.argmin(steps.made))
    losses = steps.losses[row]
    badness = jnp.where(jnp.isfinite(losses), losses, jnp.inf)
    example = jnp.argmax(badness)
    t = steps.t[row, example]
    failed = ~steps.made.all()
    return Failure(jnp.where(failed, first_step + row, -1), t, jnp.exp(_log_sigma(sde, t)), losses[example])


def _report(sde: SDE, first_step: Array, steps: _Step, levels: int) -> Report:
    kept = jnp.where(steps.made[:, None], steps.losses, jnp.nan)
    return Report(
        steps.made.sum(),
        (~steps.made & (steps.stopped == 0)).sum(),
        steps.stopped[-1],
        jnp.where(steps.made, steps.loss, 0).sum(),
        jnp.where(steps.made, steps.grad_norm, 0).sum(),
        *level_sums(sde, steps.t, kept, levels),
        level_sigmas(sde, levels),
        _failure(sde, first_step, steps),
    )


def _micro_batches(tree: Any, n: int) -> Any:
    """Cuts `(B, ...)` into `(n, B/n, ...)`, micro-batch i being rows i, i + n, i + 2n …"""
    return jax.tree.map(lambda x: jnp.swapaxes(x.reshape((-1, n, *x.shape[1:])), 0, 1), tree)


def _whole_batch(x: Array) -> Array:
    """Undoes `_micro_batches`."""
    return jnp.swapaxes(x, 0, 1).reshape(-1)


class _Examples(NamedTuple):
    """A batch as the objective needs it; the leading axis of every array is B."""

    key: Key
    x0: Array
    t: Array
    weight: Array
    label: Any  # (B,), `Told`, or None
    dropout_key: Key | None


def objective_itself(values: Array, score_fn: ScoreFn, t: Array, weight: Array, dims: int) -> Array:
    """Returns J: what is minimised."""
    del score_fn, t, weight, dims
    return values


def by_uncertainty(values: Array, score_fn: Any, t: Array, weight: Array, dims: int) -> Array:
    """Returns J and what teaches the network's `uncertainty(t)`, by which it is divided."""
    return uncertainty_weighted(values, score_fn.uncertainty(t), dims=dims, weight=weight)


class Recipe(NamedTuple):
    """What a train step is made of.

    Attributes:
      model: its variables are replaced by the state's.
      objective: `(key, score_fn, x0, times) -> (B,)` nats per example.
      transformation: the optimizer.
      minimised: what is in place of J, `(J, score_fn, t, weight, D) -> (B,)`, such as `by_uncertainty`; what is
        reported is J.
      times: `(key, sde, n) -> (t, weight)`; drawn here, so that the step knows every example's noise level, and then
        given to the objective.
      prepare: `(key, stored x) -> x0`, on device: dequantization, flips, range.
      augment: `(key, x0) -> (x0, numbers (B, K))`, such as `data.augmentation.augment`, of networks that are told the
        numbers beside the label, `networks.Told`; held-out losses are of data as they are.
      decay: of the parameters' average at update n: `averages.ema_decay(...)`.
      averaged: `(params, opt_state) -> ` what the average is of: the parameters, or `averages.schedule_free_x`.
      label_dropout: probability with which an example's label becomes −1 (none).
      dropout: whether the network is called with dropout keys.
      accumulation: number of micro-batches a batch is cut into.
      levels: number of noise levels losses are reported at.
      skips: how many steps in a row may be skipped whose loss or gradient is not finite.
    """

    model: Model
    objective: Objective
    transformation: optax.GradientTransformation
    times: Times
    minimised: Callable[..., Array] = objective_itself
    prepare: Prepare | None = None
    augment: Augment | None = None
    decay: Callable[[Array], Array] = ema_decay(0.999)
    averaged: Averaged = the_parameters
    label_dropout: float = 0.0
    dropout: bool = False
    accumulation: int = 1
    levels: int = 10
    skips: int = 0


def _draw_examples(
    key: Key,
    start: Array,
    sde: SDE,
    batch: Mapping[str, Array],
    times: Times,
    prepare: Prepare | None,
    label_dropout: float = 0.0,
    dropout: bool = False,
    augment: Augment | None = None,
) -> _Examples:
    """Draws what is random about a batch, apart from the objective: augmentation, times, dropped labels."""
    stored, label = batch["x"], batch.get("label")
    keys = lambda stream: arrays.example_keys(jax.random.fold_in(key, stream), len(stored), start)
    t, weight = times(keys(_TIMES), sde, len(stored))
    if label is not None and label_dropout:
        dropped = jax.vmap(jax.random.uniform)(keys(_LABEL)) < label_dropout
        label = jnp.where(dropped, -1, label)
    x0 = stored if prepare is None else prepare(keys(_PREPARE), stored)
    told: Any = label
    if augment is not None:
        x0, numbers = augment(keys(_AUGMENT), x0)
        told = Told(label, numbers)
    return _Examples(keys(_OBJECTIVE), x0, t, weight, told, keys(_DROPOUT) if dropout else None)


def _gradient(recipe: Recipe, state: TrainState, examples: _Examples, scale: float) -> tuple[tuple[Array, Any], Array]:
    """Returns ((scale·ΣJ, its gradient), J): what is to be added over micro-batches, and J per example."""

    def total(params):
        network = recipe.model.replace(variables={**state.fixed, "params": params})
        score_fn = network.conditioned(label=examples.label, key=examples.dropout_key)
        drawn = lambda *_: (examples.t, examples.weight)
        losses = recipe.objective(examples.key, score_fn, examples.x0, drawn)
        minimised = recipe.minimised(losses, score_fn, *drawn(), examples.x0[0].size)
        return scale * minimised.sum(), losses

    gradient, losses = jax.grad(total, has_aux=True)(state.params)
    return (scale * losses.sum(), gradient), losses


class _Where(NamedTuple):
    """Where arrays lie within a step; by default where they are."""

    whole: Callable[[PyTree], PyTree] = lambda tree: tree  # parameters and fixed arrays, to be looked at
    cut: Callable[[PyTree], PyTree] = lambda gradient: gradient  # as the parameters are
    kept: Callable[[TrainState], TrainState] = lambda state: state  # as it came


def _where(state_shardings: TrainState, placement: Placement) -> _Where:
    constrain = jax.lax.with_sharding_constraint
    return _Where(
        lambda tree: constrain(tree, replicated(placement.mesh)),
        lambda gradient: constrain(gradient, state_shardings.params),
        lambda state: constrain(state, state_shardings),
    )


def _accumulated_gradient(
    recipe: Recipe, place: _Where, state: TrainState, examples: _Examples
) -> tuple[tuple[Array, Any], Array]:
    """Returns ((loss, gradient), J) of the whole batch, one micro-batch at a time."""
    scale = 1.0 / examples.x0.size  # 1/(B·D)
    state = replace(state, params=place.whole(state.params), fixed=place.whole(state.fixed))

    def cut_gradient(part: _Examples) -> tuple[tuple[Array, Any], Array]:
        (loss, gradient), losses = _gradient(recipe, state, part, scale)
        return (loss, place.cut(gradient)), losses

    if recipe.accumulation == 1:
        return cut_gradient(examples)

    def add(total, part):
        value, losses = cut_gradient(part)
        return jax.tree.map(jnp.add, total, value), losses

    parts = _micro_batches(examples, recipe.accumulation)
    like = jax.eval_shape(lambda: cut_gradient(jax.tree.map(lambda x: x[0], parts))[0])
    total, losses = jax.lax.scan(add, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like), parts)
    return total, _whole_batch(losses)


def _advance(recipe: Recipe, state: TrainState, gradient: Any, grad_norm: Array) -> TrainState:
    """Updates the parameters, then their average."""
    transformation = optax.with_extra_args_support(recipe.transformation)
    updates, opt_state = transformation.update(gradient, state.opt_state, state.params, grad_norm=grad_norm)
    params = optax.apply_updates(state.params, updates)
    ema = optax.incremental_update(recipe.averaged(params, opt_state), state.ema, 1 - recipe.decay(state.step))
    return replace(state, params=params, opt_state=opt_state, ema=ema)


def _update(recipe: Recipe, place: _Where, state: TrainState, batch: Mapping[str, Array]) -> tuple[TrainState, _Step]:
    """One step: an update where loss and gradient are finite, or else skipped, or the last that is tried."""
    start = (state.step + state.undone).astype(jnp.uint32) * len(batch["x"])
    how = (recipe.times, recipe.prepare, recipe.label_dropout, recipe.dropout, recipe.augment)
    examples = _draw_examples(state.key, start, recipe.model.sde, batch, *how)
    (loss, gradient), losses = _accumulated_gradient(recipe, place, state, examples)
    grad_norm = optax.tree.norm(gradient)
    finite, going = jnp.isfinite(loss) & jnp.isfinite(grad_norm), state.failures <= recipe.skips
    failures = jnp.where(going, jnp.where(finite, 0, state.failures + 1), state.failures)
    # A branch: selecting between the old and the new state would copy every moment once more.
    advance = lambda state: place.kept(_advance(recipe, state, gradient, grad_norm))
    state = jax.lax.cond(finite & going, advance, lambda state: state, state)
    state = replace(state, step=state.step + (failures <= recipe.skips), failures=failures)
    stopped = jnp.where(failures > recipe.skips, failures, 0)
    losses = losses / examples.x0[0].size
    return state, _Step(losses, examples.t, loss, grad_norm, finite & going, stopped)


def _scan(step: Callable[..., Any], state: TrainState, batches: Any) -> tuple[TrainState, Any]:
    """`lax.scan`, but for one step no loop at all.

    A `scan` of length one is a loop, and in loops XLA's CPU backend is slow at gradients of convolutions that aren't
    those of `networks.Conv` (benchmarks/conv_in_loops.py): networks with others train with one step a dispatch there.
    """
    if len(batches["x"]) > 1:
        return jax.lax.scan(step, state, batches)
    state, result = step(state, jax.tree.map(lambda x: x[0], batches))
    return state, jax.tree.map(lambda x: x[None], result)


def make_train_step(
    model: Model,
    objective: Objective,
    transformation: optax.GradientTransformation,
    *,
    placement: Placement,
    **others: Any,
) -> Callable[[TrainState, Mapping[str, Array]], tuple[TrainState, Report]]:
    """Returns the compiled `(state, batches) -> (state, report)`, k updates in one dispatch.

    `batches` is `{"x": (k, B, ...)}` with an optional `"label"` `(k, B)`, put on the mesh by `sharding.put_batches`;
    the state comes from `sharding.place`, and lies as before afterwards. Its buffers are donated: the one passed in
    can't be used again.

    Args:
      model: of `Recipe`, as are the next two.
      objective: what is minimised.
      transformation: the optimizer.
      placement: of `sharding.make_placement`.
      others: what else a `Recipe` has: `times`, `prepare`, …
    """
    recipe = Recipe(model, objective, transformation, **others)
    if not 0 <= recipe.label_dropout <= 1:
        raise InputError(f"label_dropout must be a probability, got {recipe.label_dropout}")
    require_at_least("make_train_step", 1, levels=recipe.levels)
    require_at_least("make_train_step", 0, skips=recipe.skips)

    mesh, first_state = placement.mesh, lambda variables: create(jax.random.key(0), variables, transformation)
    of_state = shardings(jax.eval_shape(first_state, model.variables), placement)
    place = _where(of_state, placement)

    def dispatch(state: TrainState, batches: Mapping[str, Array]) -> tuple[TrainState, Report]:
        check_batch_size(batches["x"].shape[1], mesh, accumulation=recipe.accumulation)
        return _updates(recipe, place, state, batches)

    return jax.jit(
        dispatch,
        in_shardings=(of_state, cut_rows(mesh, 1)),
        out_shardings=(of_state, replicated(mesh)),
        donate_argnums=0,
    )


def make_joint_step(
    recipe_of: Callable[[Mapping[str, Array]], Recipe], *, mesh: Mesh
) -> Callable[[Mapping[str, Array], TrainState, Mapping[str, Array]], tuple[TrainState, Report]]:
    """Returns the compiled `(numbers, states, batches) -> (states, reports)` of n trainings at once.

    Each leaf has a leading axis of trainings, n, and each training is that of `make_train_step` with its own numbers.
    The states' buffers are donated.

    Args:
      recipe_of: from numbers by name, `()` and traced, to what a step is made of. They are weakly typed, as Python's
        are, so that they leave the types of what they meet alone.
      mesh: of `devices.device_mesh`; the batches are cut, as those of one training, and the states whole.
    """

    @jax.vmap
    def joint_dispatch(numbers: Mapping[str, Array], state: TrainState, batches: Mapping[str, Array]) -> Any:
        return _updates(recipe_of(numbers), _Where(), state, batches)

    whole, cut = replicated(mesh), cut_rows(mesh, 2)
    return jax.jit(joint_dispatch, in_shardings=(whole, whole, cut), out_shardings=whole, donate_argnums=1)


def _updates(
    recipe: Recipe, place: _Where, state: TrainState, batches: Mapping[str, Array]
) -> tuple[TrainState, Report]:
    """Makes k updates, one for each of the batches."""
    first_step = state.step
    state, steps = _scan(partial(_update, recipe, place), state, dict(batches))
    return state, _report(recipe.model.sde, first_step, steps, recipe.levels)


def make_eval_step(
    model: Model,
    objective: Objective,
    *,
    mesh: Mesh,
    prepare: Prepare | None = None,
    levels: int = 10,
    ema: bool = True,
) -> Callable[[TrainState, Mapping[str, Array]], Array]:
    """Returns the compiled `(state, batches) -> (levels,)`: the mean loss per dimension at each noise level.

    There is no dropout; every example is noised at every level of `level_sigmas`. The draws depend on the run's key
    alone, so that differences between evaluations are the parameters'.

    Args:
      model: its variables are replaced by the state's.
      objective: `(key, score_fn, x0, times) -> (B,)`.
      mesh: of `devices.device_mesh`; the state may lie on it in any way.
      prepare: `(key, stored x) -> x0`.
      levels: number of noise levels.
      ema: use the averaged parameters.
    """
    require_at_least("make_eval_step", 1, levels=levels)

    def evaluate(state: TrainState, batches: Mapping[str, Array]) -> Array:
        variables = jax.lax.with_sharding_constraint(state.variables(ema=ema), replicated(mesh))
        network = model.replace(variables=variables)
        key = jax.random.fold_in(state.key, _EVALUATION)
        n, size = batches["x"].shape[:2]

        def batch_loss(t, start, batch):
            at_t = lambda key, sde, n: (jnp.full(n, t), jnp.ones(n, t.dtype))
            examples = _draw_examples(key, start, model.sde, batch, at_t, prepare)
            score_fn = network.conditioned(label=examples.label)
            return objective(examples.key, score_fn, examples.x0, at_t).sum() / examples.x0.size

        def level_loss(t):
            starts = size * jnp.arange(n, dtype=jnp.uint32)
            return jax.lax.map(lambda args: batch_loss(t, *args), (starts, dict(batches))).mean()

        return jax.lax.map(level_loss, model.sde.time(-2 * jnp.log(level_sigmas(model.sde, levels))))

    return jax.jit(evaluate, in_shardings=(None, cut_rows(mesh, 1)), out_shardings=replicated(mesh))
