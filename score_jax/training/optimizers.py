"""How parameters move: an optax chain of a direction, weight decay and a learning rate.

Update n (from 0) is

    g ← g·min(1, clip_norm/‖g‖);  u = direction(g) + weight_decay·θ;  θ ← θ − lr_n·u

with `lr_n = learning_rate · min(1, (n + 1)/warmup_steps) · decay_n`, so that already the first update moves. Decay is
decoupled (Loshchilov & Hutter 2019) and of weights alone, `weights_of`: matrices and filters, no biases, no norms.

    adam       m̂/(√v̂ + ε) (Kingma & Ba 2015); with weight decay AdamW
    lion       sign(b1·m + (1 − b1)·g), m ← b2·m + (1 − b2)·g (Chen et al. 2023); learning rates 3 to 10 times smaller
    muon       of weights, as matrices of inputs by outputs, momentum made orthogonal by Newton-Schulz iterations
               (Jordan et al. 2024), at 0.2 root mean square, so that Adam's learning rates serve (Liu et al. 2025); of
               everything else Adam's, both with Nesterov's momentum
    prodigy    Adam's, times an estimate of the distance to the solution: `learning_rate` is a factor, 1 as published
               (Mishchenko & Defazio 2024)
    schedule_free  Adam's without its momentum moves z; x is the average of all z, weighted by the squares of the
               largest rate so far; gradients are taken at θ = (1 − b1) z + b1 x; samples are drawn with x,
               `averages.schedule_free_x` (Defazio et al. 2024)

    constant       decay_n = 1
    cosine         half a cosine from the end of the warm-up down to 0 at the last update
    trapezoidal    1 up to update `decay_from`, then a straight line to 0 at the last (Hägele et al. 2024)
    inverse_sqrt   1/√max(n/decay_from, 1), to no end in particular (Karras et al. 2024, appendix B)
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax import contrib

from score_jax.types import Array, ArrayLike, InputError, PyTree, is_on, require_positive

SCHEDULES = ("constant", "cosine", "trapezoidal", "inverse_sqrt")


def learning_rates(
    learning_rate: ArrayLike,
    *,
    warmup_steps: int = 0,
    schedule: str = "constant",
    total_steps: int | None = None,
    decay_from: int | None = None,
) -> optax.Schedule:
    """Returns n -> lr_n (module docstring).

    Args:
      learning_rate: after the warm-up.
      warmup_steps: updates until it is reached.
      schedule: one of `SCHEDULES`.
      total_steps: updates of the training; where "cosine" and "trapezoidal" end.
      decay_from: the update from which "trapezoidal" and "inverse_sqrt" fall.

    Raises:
      InputError: of an unknown schedule, or one that has no room to fall.
    """
    require_positive("learning_rates", learning_rate=learning_rate)
    if schedule not in SCHEDULES:
        raise InputError(f"schedule must be one of {', '.join(SCHEDULES)}, got {schedule!r}")
    start = warmup_steps if schedule == "cosine" else decay_from or 0
    end = start if total_steps is None else total_steps
    if schedule in ("cosine", "trapezoidal") and end <= start:
        begins = "warmup_steps" if schedule == "cosine" else "decay_from"
        raise InputError(f"schedule {schedule!r} needs total_steps above {begins} ({start}), got {total_steps}")
    if schedule == "inverse_sqrt" and start < 1:
        raise InputError(f"schedule 'inverse_sqrt' needs decay_from of 1 or more, got {decay_from}")
    done = lambda n: jnp.clip((n - start) / (end - start), 0.0, 1.0)
    decays: dict[str, Callable[[Array], ArrayLike]] = {
        "constant": lambda n: 1.0,
        "cosine": lambda n: 0.5 * (1.0 + jnp.cos(jnp.pi * done(n))),
        "trapezoidal": lambda n: 1.0 - done(n),
        "inverse_sqrt": lambda n: jax.lax.rsqrt(jnp.maximum(n / start, 1.0)),
    }

    def rate(n: Array) -> Array:
        return jnp.asarray(learning_rate * jnp.minimum(1.0, (n + 1) / max(warmup_steps, 1)) * decays[schedule](n))

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


def weights_of(params: PyTree) -> PyTree:
    """Returns which parameters are weights, matrices and filters: of two axes or more that are longer than 1.

    Biases and norms are none, nor are tables of norms by noise level: nothing in a module that is called "norm…".
    """

    def is_weight(path: Any, p: Array) -> bool:
        names = [str(getattr(part, "key", getattr(part, "name", ""))).lower() for part in path]
        return sum(n > 1 for n in p.shape) > 1 and not any(name.startswith("norm") for name in names)

    return jax.tree_util.tree_map_with_path(is_weight, params)


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
    decay_from: int | None = None,
) -> optax.GradientTransformation:
    """Returns Adam(W) with clipping by the global norm, decoupled weight decay, a warm-up and a schedule.

    Args:
      learning_rate: after the warm-up.
      warmup_steps: updates until it is reached.
      clip_norm: largest global norm of the gradient; None doesn't clip.
      weight_decay: of `weights_of` the parameters.
      b1: decay of Adam's first moment.
      b2: decay of Adam's second moment.
      eps: Adam's.
      schedule: one of `SCHEDULES`.
      total_steps: see `learning_rates`.
      decay_from: see `learning_rates`.

    Raises:
      InputError: of a number out of range or an unknown schedule.
    """
    rates = learning_rates(
        learning_rate, warmup_steps=warmup_steps, schedule=schedule, total_steps=total_steps, decay_from=decay_from
    )
    return with_clipping(descent(optax.scale_by_adam(b1, b2, eps), rates, weight_decay), clip_norm)


def descent(
    direction: optax.GradientTransformation, rates: optax.Schedule, weight_decay: float = 0.0
) -> optax.GradientTransformation:
    """Returns θ ← θ − lr_n·(direction + weight_decay·θ), the second of `weights_of` the parameters.

    Args:
      direction: u of g, such as `optax.scale_by_adam()` or `optax.scale_by_lion()`.
      rates: n -> lr_n.
      weight_decay: 0 for none.
    """
    decay = [optax.add_decayed_weights(weight_decay, weights_of)] if is_on(weight_decay) else []
    return optax.chain(direction, *decay, optax.scale_by_learning_rate(rates))


def muon(
    rates: optax.Schedule, *, weight_decay: float = 0.0, beta: float = 0.95, b1: float = 0.9, b2: float = 0.999
) -> optax.GradientTransformation:
    """Returns Muon of the weights, at 0.2 root mean square, and Adam of all else, with Nesterov's momentum.

    Args:
      rates: n -> lr_n, of both.
      weight_decay: of the weights.
      beta: of Muon's momentum.
      b1: Adam's.
      b2: Adam's.
    """

    def axes(params: PyTree) -> PyTree:
        as_matrix = lambda weight, p: (
            contrib.MuonDimensionNumbers(tuple(range(p.ndim - 1)), (p.ndim - 1,)) if weight else None
        )
        return jax.tree.map(as_matrix, weights_of(params), params)

    return contrib.muon(
        rates, beta=beta, weight_decay=weight_decay, weight_decay_mask=weights_of, adam_b1=b1, adam_b2=b2,
        muon_weight_dimension_numbers=axes, consistent_rms=0.2,
    )  # fmt: skip


def schedule_free(
    rates: optax.Schedule, *, weight_decay: float = 0.0, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8
) -> optax.GradientTransformation:
    """Returns Schedule-Free Adam, whose parameters are y: draw samples with `averages.schedule_free_x`.

    Args:
      rates: n -> lr_n; as published a warm-up and no decay.
      weight_decay: of the weights.
      b1: share of the average in y, above 0.
      b2: decay of the second moment.
      eps: Adam's.
    """
    require_positive("schedule_free", b1=b1)
    adam = optax.scale_by_rms(b2, eps, eps_in_sqrt=False, bias_correction=True)  # with b1 = 0
    # Its count of steps starts at 1.
    return contrib.schedule_free(descent(adam, rates, weight_decay), lambda n: rates(n - 1), b1)


def with_clipping(
    transformation: optax.GradientTransformation, clip_norm: float | None
) -> optax.GradientTransformation:
    """Returns an optimizer that is given the gradient clipped by its global norm; None doesn't clip."""
    if clip_norm is None:
        return transformation
    require_positive("with_clipping", clip_norm=clip_norm)
    return optax.chain(clip_by_global_norm(clip_norm), transformation)
