"""What training carries from step to step, how parameters move, and their exponential moving average.

`TrainState` holds arrays only, so it can be donated, sharded, checkpointed and mapped over. The optimizer is an
optax chain; update n (from 0) is

    g ← g·min(1, clip_norm/‖g‖);  Adam;  + weight_decay·θ (matrices only);  θ ← θ − lr_n·…

with `lr_n = learning_rate · min(1, (n + 1)/warmup_steps) · decay_n`, so that already the first update moves.

The average of the *parameters* is `ema ← d·ema + (1 − d)·θ`: `optax.incremental_update`. (`optax.ema` averages
updates.) With warm-up d is at most `(1 + n)/(10 + n)` at update n, which forgets the initial values early.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from score_jax.types import Array, ArrayLike, InputError, Key, PyTree, is_on, require_positive


@struct.dataclass
class TrainState:
    """Everything a run needs to go on, except the position in the data.

    Attributes:
      step: int32 `()`, the number of steps made: updates, and steps that were skipped.
      params: the trained parameters.
      fixed: the module's other collections, by name; never updated.
      opt_state: of the optax chain.
      ema: moving average of `params`.
      key: the typed key of the run, never changed: a step folds the global indices of its examples into it.
      undone: int32 `()`, the number of steps that were made and undone by going back to a checkpoint. Their batches
        don't come again, so the examples of step n are those of batch n + `undone` of the run.
      failures: int32 `()`, how many steps in a row, up to the last, had a loss or gradient that is not finite. Once
        they are more than are skipped, the state is, and stays, that before the last of them.
    """

    step: Array
    params: PyTree
    fixed: PyTree
    opt_state: Any
    ema: PyTree
    key: Key
    undone: Array
    failures: Array

    def variables(self, *, ema: bool) -> dict[str, PyTree]:
        """Returns the variables of the module with the averaged or with the current parameters."""
        return {**self.fixed, "params": self.ema if ema else self.params}


def create(key: Key, variables: PyTree, transformation: optax.GradientTransformation) -> TrainState:
    """Returns the state before the first step.

    Args:
      key: the typed key `()` of the run.
      variables: `{"params": ...}` and possibly other collections, which stay fixed.
      transformation: the optimizer.
    """
    params = variables["params"]
    # One program, and not one for every shape; copies, since a buffer cannot be donated twice.
    opt_state, ema = jax.jit(lambda params: (transformation.init(params), jax.tree.map(jnp.copy, params)))(params)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        fixed={name: values for name, values in variables.items() if name != "params"},
        opt_state=opt_state,
        ema=ema,
        key=key,
        undone=jnp.zeros((), jnp.int32),
        failures=jnp.zeros((), jnp.int32),
    )


def learning_rates(
    learning_rate: ArrayLike, *, warmup_steps: int = 0, schedule: str = "constant", total_steps: int | None = None
) -> optax.Schedule:
    """Returns n -> lr_n: a linear warm-up, then constant, or half a cosine down to 0 after `total_steps` updates."""
    require_positive("learning_rates", learning_rate=learning_rate)
    if schedule not in ("constant", "cosine"):
        raise InputError(f"schedule must be 'constant' or 'cosine', got {schedule!r}")
    end = warmup_steps if total_steps is None else total_steps
    if schedule == "cosine" and end <= warmup_steps:
        raise InputError(f"schedule 'cosine' needs total_steps above warmup_steps ({warmup_steps}), got {total_steps}")

    def rate(n: Array) -> Array:
        lr = learning_rate * jnp.minimum(1.0, (n + 1) / max(warmup_steps, 1))
        if schedule == "cosine":
            done = jnp.clip((n - warmup_steps) / (end - warmup_steps), 0.0, 1.0)
            lr = lr * 0.5 * (1.0 + jnp.cos(jnp.pi * done))
        return jnp.asarray(lr)

    return rate


def clip_by_global_norm(max_norm: float) -> optax.GradientTransformationExtraArgs:
    """Scales the gradient by min(1, max_norm/‖g‖).

    As optax's, except that a norm that is known already can be given (`update(..., grad_norm=...)`) and that the factor
    is one number, which XLA fuses into the moments; optax divides and selects element by element.
    """

    def init(params: PyTree) -> optax.EmptyState:
        del params
        return optax.EmptyState()

    def update(grads, state, params=None, *, grad_norm=None, **extra):
        del params, extra
        norm = optax.tree.norm(grads) if grad_norm is None else grad_norm
        factor = max_norm / jnp.maximum(norm, max_norm)
        return jax.tree.map(lambda g: g * factor.astype(g.dtype), grads), state

    return optax.GradientTransformationExtraArgs(init, update)


def optimizer(
    learning_rate: ArrayLike,
    *,
    warmup_steps: int = 0,
    clip_norm: float | None = None,
    weight_decay: float = 0.0,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    schedule: str = "constant",
    total_steps: int | None = None,
) -> optax.GradientTransformation:
    """Returns Adam(W) with clipping by the global norm, decoupled weight decay and a warm-up (module docstring).

    Args:
      learning_rate: after the warm-up.
      warmup_steps: updates until it is reached.
      clip_norm: largest global norm of the gradient; None doesn't clip.
      weight_decay: of the matrices and filters; biases and gains are not decayed.
      b1: decay of Adam's first moment.
      b2: decay of Adam's second moment.
      eps: Adam's.
      schedule: "constant" or "cosine".
      total_steps: where the cosine ends.

    Raises:
      InputError: of a number out of range or an unknown schedule.
    """
    if clip_norm is not None:  # which doesn't clip
        require_positive("optimizer", clip_norm=clip_norm)
    rates = learning_rates(learning_rate, warmup_steps=warmup_steps, schedule=schedule, total_steps=total_steps)
    steps: list[optax.GradientTransformation] = [optax.scale_by_adam(b1, b2, eps)]
    if is_on(weight_decay):
        matrices = lambda params: jax.tree.map(lambda p: p.ndim > 1, params)
        steps.append(optax.add_decayed_weights(weight_decay, matrices))
    return with_clipping(optax.chain(*steps, optax.scale_by_learning_rate(rates)), clip_norm)


def with_clipping(
    transformation: optax.GradientTransformation, clip_norm: float | None
) -> optax.GradientTransformation:
    """Returns an optimizer that is given the gradient clipped by its global norm; None doesn't clip."""
    return transformation if clip_norm is None else optax.chain(clip_by_global_norm(clip_norm), transformation)


def ema_decay(decay: ArrayLike, *, warmup: bool = False) -> Callable[[Array], Array]:
    """Returns n -> d_n, the weight of the old average at update n (from 0).

    Args:
      decay: in [0, 1); 0 makes the average the current parameters.
      warmup: at most `(1 + n)/(10 + n)`.
    """
    if isinstance(decay, int | float) and not 0 <= decay < 1:
        raise InputError(f"the decay of the parameters' average must be in [0, 1), got {decay}")
    return lambda n: jnp.minimum(decay, (1.0 + n) / (10.0 + n)) if warmup else jnp.asarray(decay, jnp.float32)
