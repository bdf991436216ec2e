"""Objects of the user's own tried by shapes, before anything expensive: what they raise is told with the place."""

from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from score_jax import arrays
from score_jax.lab import own
from score_jax.lab.experiment import Experiment
from score_jax.sampling.draw import draw_batch
from score_jax.score import ScoreModel
from score_jax.types import Array, InputError, PyTree

_ROWS = 3


def require_traceable(experiment: Experiment, names: Collection[str]) -> None:
    """Draws times, and traces a gradient of the objective, an update and the steps of the sampler.

    Args:
      experiment: in which some objects are the user's own.
      names: what these are called, `module:attribute`.

    Raises:
      InputError: naming the object and the line that raised, or what was returned.
    """
    model, shape = experiment.model, (_ROWS, *experiment.examples.shape)
    label = jnp.zeros(_ROWS, jnp.int32) if experiment.examples.names else None
    try:
        _require_times(experiment)
        for what in (_losses, _update) if experiment.sampling.without_score else (_losses, _update, _samples):
            jax.eval_shape(lambda *args, what=what: what(experiment, *args), model, jnp.zeros(shape), label)
    except InputError:
        raise
    except Exception as error:  # of somebody's code, or of ours when it got what it didn't expect
        raise InputError(own.blamed(error, names) or own.told(error)) from error


def _require_times(experiment: Experiment) -> None:
    sde, keys = experiment.model.sde, arrays.example_keys(jax.random.key(0), _ROWS)
    drawn = experiment.times(keys, sde, _ROWS)
    shapes = [jnp.shape(one) for one in drawn] if isinstance(drawn, tuple | list) else jnp.shape(drawn)
    if shapes != [(_ROWS,)] * 2:
        raise InputError(f"times must return (t, weight), of shape ({_ROWS},) each for {_ROWS} examples, got {shapes}")
    t, low, high = (np.asarray(one, np.float64) for one in (drawn[0], sde.t_min, sde.t_max))
    if not ((t >= low - 1e-6 * high) & (t <= high + 1e-6 * high)).all():
        raise InputError(f"times must lie between the SDE's t_min {low:g} and t_max {high:g}, got {t.tolist()}")


def _losses(experiment: Experiment, model: ScoreModel, x: Array, label: Array | None) -> Array:
    keys = arrays.example_keys(jax.random.key(0), len(x))
    score_fn = model.conditioned(label=label, key=keys if experiment.training.dropout else None)
    t, weight = experiment.times(keys, model.sde, len(x))
    if not experiment.sampling.without_score:
        _require_output(model, x, label)
    losses = experiment.objective(keys, score_fn, x, lambda *_: (t, weight))
    if jnp.shape(losses) != (len(x),):
        raise InputError(f"the objective must return one number an example, ({len(x)},), got {jnp.shape(losses)}")
    return losses


def _require_output(model: ScoreModel, x: Array, label: Array | None) -> None:
    output = jnp.shape(model.apply(model.variables, x, jnp.zeros(len(x)), label, None))
    if output[:-1] != x.shape[:-1] or output[-1] not in (x.shape[-1], 2 * x.shape[-1]):  # with a variance
        raise InputError(f"the network's output must have the shape of its input, {x.shape}, got {output}")


def _update(experiment: Experiment, model: ScoreModel, x: Array, label: Array | None) -> PyTree:
    def total(params: PyTree) -> Array:
        variables = {**model.variables, "params": params}
        return _losses(experiment, model.replace(variables=variables), x, label).sum()

    params, optimizer = model.variables["params"], optax.with_extra_args_support(experiment.training.optimizer)
    gradient = jax.grad(total)(params)
    updates, _ = optimizer.update(gradient, optimizer.init(params), params, grad_norm=optax.tree.norm(gradient))
    return optax.apply_updates(params, updates)


def _samples(experiment: Experiment, model: ScoreModel, x: Array, label: Array | None) -> Array:
    how, keys = experiment.sampling, arrays.example_keys(jax.random.key(0), len(x))
    label = jnp.zeros(len(x), jnp.int32) if how.of(experiment.examples).names else None
    options: dict[str, Any] = {"start": how.start, "transform": how.transform, "denoise": how.denoise}
    return draw_batch(keys, how.drawn_from(model), how.make, how.ts, x.shape, labels=label, **options).x
