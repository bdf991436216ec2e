"""What the loop of training is told: optimizer, intervals, loggers."""

import importlib.util
import math
from collections.abc import Callable, Collection

import optax
from ml_collections import ConfigDict
from optax import contrib

from score_jax import training
from score_jax.lab import own
from score_jax.lab.build import names
from score_jax.lab.build.kinds import HANDED, OWN
from score_jax.lab.build.network import classifies
from score_jax.lab.experiment import Intervals, Training
from score_jax.training.averages import Averaged, the_parameters
from score_jax.training.logging import LoggerFactory, tensorboard, wandb
from score_jax.types import Array, InputError, is_on

# Of the section's settings and n -> lr_n
OPTIMIZERS: dict[str, Callable[[ConfigDict, optax.Schedule], optax.GradientTransformation]] = {
    "adam": lambda o, rates: training.descent(optax.scale_by_adam(o.b1, o.b2, o.eps), rates, o.weight_decay),
    "lion": lambda o, rates: training.descent(optax.scale_by_lion(o.lion.b1, o.lion.b2), rates, o.weight_decay),
    "muon": lambda o, rates: training.muon(rates, weight_decay=o.weight_decay, beta=o.muon.beta, b1=o.b1, b2=o.b2),
    "schedule_free": lambda o, rates: training.schedule_free(
        rates, weight_decay=o.weight_decay, b1=o.b1, b2=o.b2, eps=o.eps
    ),
    "prodigy": lambda o, rates: contrib.prodigy(rates, betas=(o.b1, o.b2), eps=o.eps),
}

# What may be changed when a run goes on, or for sampling from it: nothing that the training depends on.
_MAY_DIFFER = (
    "device",
    "mesh",
    "network.attention_implementation",
    "sampler",
    "evaluation",
    "data.root",
    "training.log_every",
    "training.checkpoint_every",
    "training.sample_every",
    "training.evaluate_every",
    "training.keep_last",
    "training.keep_every",
    "training.on_nan",
    "training.on_nan_limit",
    "training.on_save_error",
    "training.tensorboard",
    "training.wandb",
    "training.loggers",
    "training.options",
)


def may_differ(config: ConfigDict) -> tuple[str, ...]:
    """Returns the settings a run may go on with changed; its length too, unless the learning rate depends on it."""
    open_ended = config.optimizer.schedule in ("constant", "inverse_sqrt")
    return (*_MAY_DIFFER, "training.steps") if open_ended else _MAY_DIFFER


def plan(
    config: ConfigDict,
    *,
    already: Collection[int] = (),
    optimizer: optax.GradientTransformation | None = None,
    loggers: Collection[LoggerFactory] | None = None,
) -> Training:
    """Returns all that the loop needs beside the model, its data and its objective.

    Args:
      config: settings.
      already: steps of the run's checkpoints, from one of which it may go on.
      optimizer: in place of the config's.
      loggers: in place of the config's.
    """
    options = config.training
    skips, rollbacks = on_nan(options.on_nan, options.on_nan_limit)
    return Training(
        optimizer=chosen_optimizer(config) if optimizer is None else optimizer,
        learning_rate=None if optimizer is not None else _schedule(config),
        decay=average_decay(config),
        averaged=averaged(config),
        steps=options.steps,
        batch_size=options.batch_size,
        accumulation=options.accumulation,
        label_dropout=0.0 if classifies(config) else options.label_dropout,
        dropout=config.network.dropout > 0,
        log_levels=options.log_levels,
        every=intervals(config, already=already),
        keep_last=options.keep_last,
        skips=skips,
        rollbacks=rollbacks,
        on_save_error=options.on_save_error,
        loggers=tuple(chosen_loggers(config) if loggers is None else loggers),
        may_differ=may_differ(config),
    )


def on_nan(name: str, limit: int) -> tuple[int, int]:
    """Returns how many steps in a row are skipped that are not finite, and how often a checkpoint is gone back to."""
    return names.choose("training.on_nan", name, {"stop": (0, 0), "skip": (limit, 0), "roll_back": (0, limit)})


def _schedule(config: ConfigDict) -> optax.Schedule:
    """Returns n -> lr_n."""
    options, steps = config.optimizer, config.training.steps
    return training.learning_rates(
        options.learning_rate,
        warmup_steps=options.warmup_steps,
        schedule=options.schedule,
        total_steps=steps,
        decay_from=options.decay_from,
    )


def average_decay(config: ConfigDict) -> Callable[[Array], Array]:
    """Returns n -> the weight of the old average of the parameters; a schedule-free optimizer's is what it is."""
    options = config.training
    if _is_schedule_free(config):
        if is_on(options.ema_std):
            raise InputError("optimizer 'schedule_free' has an average of its own: set --config.training.ema_std=0")
        return training.ema_decay(0.0)
    if is_on(options.ema_std):
        return training.power_decay(options.ema_std)
    return training.ema_decay(options.ema_decay, warmup=options.ema_warmup)


def averaged(config: ConfigDict) -> Averaged:
    """Returns what the average is of."""
    return training.schedule_free_x if _is_schedule_free(config) else the_parameters


def _is_schedule_free(config: ConfigDict) -> bool:
    return bool(config.optimizer.name == "schedule_free")


def chosen_optimizer(config: ConfigDict) -> optax.GradientTransformation:
    """Returns the optimizer with warm-up, schedule and clipping; of the user's own, the moments are its own matter."""
    options, rates = config.optimizer, _schedule(config)
    choose = _own_optimizer if own.is_own(options.name) else names.choose("optimizer", options.name, OPTIMIZERS)
    return training.with_clipping(choose(options, rates), options.clip_norm if is_on(options.clip_norm) else None)


def _own_optimizer(options: ConfigDict, rates: optax.Schedule) -> optax.GradientTransformation:
    make = own.function("optimizer.name", options.name, OWN["optimizer"], options.options.to_dict())
    with own.blaming([options.name]):
        made = make(learning_rate=rates)
    return own.require_returned(f"optimizer.name {options.name!r}", made, HANDED["optimizer"].classes)


def intervals(config: ConfigDict, *, already: Collection[int] = ()) -> Intervals:
    """Returns the intervals of a training, none longer than it is.

    A dispatch makes as many updates as divide all the others, at most `training.steps_per_dispatch`.

    Args:
      config: the run's.
      already: steps of its checkpoints, from one of which it may go on: a dispatch divides these too.
    """
    options = config.training
    log, checkpoint = (min(every, options.steps) for every in (options.log_every, options.checkpoint_every))
    now_and_then = {"keep": options.keep_every, "sample": options.sample_every, "evaluate": options.evaluate_every}
    some = {name: every if 0 < every <= options.steps else None for name, every in now_and_then.items()}
    whole = math.gcd(options.steps, log, checkpoint, *(every or 0 for every in some.values()), *already)
    dispatch = max(k for k in range(1, min(options.steps_per_dispatch, whole) + 1) if whole % k == 0)
    return Intervals(dispatch, log, checkpoint, **some)


def chosen_loggers(config: ConfigDict) -> list[LoggerFactory]:
    """Returns the loggers asked for beside metrics.jsonl.

    Raises:
      InputError: where one needs a package that is not installed.
    """
    options = config.training
    for name, package, off in (("tensorboard", "tensorboardX", "False"), ("wandb", "wandb", "")):
        if options[name] and importlib.util.find_spec(package) is None:
            raise InputError(
                f"training.{name} needs {package}: pip install 'score-jax[{name}]', or --config.training.{name}={off}"
            )
    chosen: list[LoggerFactory] = [tensorboard] if options.tensorboard else []
    chosen += [wandb(options.wandb, config.to_dict())] if options.wandb else []
    for name in options.loggers:
        if not own.is_own(name):
            raise InputError(f"training.loggers are written module:attribute, got {name!r}")
    shorts = [own.short_name(name) for name in options.loggers]
    given = own.options_by_name("training.options", options.options.to_dict(), shorts)
    for name, short in zip(options.loggers, shorts, strict=True):
        chosen.append(own.function("training.loggers", name, OWN["logger"], given.get(short, {})))
    return chosen
