"""Numbers that follow from the data and the length of the training, and combinations of settings that cannot be."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from score_jax.data import Source, statistics
from score_jax.lab.build.data import value_range
from score_jax.lab.build.ranges import check_numbers
from score_jax.types import InputError, is_on


def check_combinations(config: ConfigDict) -> None:
    """Refuses numbers and combinations that would otherwise be found out later, or when the training is over."""
    check_numbers(config)
    value_range(config)
    _check_schedule(config)
    _check_average(config)
    _check_bound(config)
    _check_attention(config)


def _check_schedule(config: ConfigDict) -> None:
    optimizer, steps = config.optimizer, config.training.steps
    if optimizer.schedule == "cosine" and optimizer.warmup_steps >= steps:
        raise InputError(
            f"optimizer.warmup_steps {optimizer.warmup_steps} leaves nothing of training.steps {steps} for the cosine: "
            "set --config.optimizer.warmup_steps=-1 for a fifth of the steps, or more steps"
        )
    if optimizer.schedule == "trapezoidal" and optimizer.decay_from >= steps:
        raise InputError(
            f"optimizer.decay_from {optimizer.decay_from} leaves nothing of training.steps {steps} to fall in: "
            "set --config.optimizer.decay_from=-1 for the last fifth of the steps, or more steps"
        )
    if optimizer.name == "prodigy" and is_on(optimizer.weight_decay):
        raise InputError(
            "optimizer prodigy estimates its step without weight decay: set --config.optimizer.weight_decay=0, or "
            "--config.optimizer.name=adam"
        )


def _check_average(config: ConfigDict) -> None:
    if is_on(config.sampler.ema_std) and not config.sampler.ema:
        raise InputError(
            f"sampler.ema_std {config.sampler.ema_std:g} is the width of an average, and sampler.ema takes none: set "
            "--config.sampler.ema=True, or --config.sampler.ema_std=0"
        )


def _check_bound(config: ConfigDict) -> None:
    sampler = config.sampler
    if config.evaluation.bound_n and (sampler.name != "ancestral" or sampler.corrector):
        raise InputError(
            f"the variational bound is of ancestral steps, not of {sampler.name}{' corrected' * sampler.corrector}: "
            "set --config.sampler.name=ancestral --config.sampler.corrector=False, or --config.evaluation.bound_n=0"
        )


def _check_attention(config: ConfigDict) -> None:
    network = config.network
    if network.attention_implementation != "cudnn":
        return
    what = (
        "a conservative network"
        if network.conservative
        else f"objective {config.objective.name!r}"
        if config.objective.name in ("ism", "ssm")
        else "the likelihood (evaluation.likelihood_n)"
        if config.evaluation.likelihood_n
        else None
    )
    if what:
        raise InputError(
            f"{what} needs derivatives that attention by cudnn has not: set "
            "--config.network.attention_implementation=xla, which the same parameters serve"
        )


def check_threshold(config: ConfigDict, source: Source) -> None:
    """Refuses thresholds of data that are not images, or not known to be in `data.value_range`."""
    threshold = config.sampler.threshold
    if threshold != "none" and not (source.grey_levels and len(source.shape) == 3):
        raise InputError(
            f"sampler.threshold {threshold!r} keeps images of grey levels in data.value_range, and data "
            f"{config.data.name!r} of shape {source.shape} are none: set --config.sampler.threshold=none"
        )


def with_derived(config: ConfigDict, source: Source, *, kept: Mapping[str, Any] | None = None) -> ConfigDict:
    """Returns the config with numbers in place of what is to follow from the data and the length of the training.

    `sde.ve.sigma_max` and `sde.edm.sigma_max` of 0 become `statistics.largest_sigma`; `optimizer.warmup_steps` of −1 a
    fifth of the steps, at most 100; `optimizer.decay_from` of −1 four fifths of them for "trapezoidal", a tenth for
    "inverse_sqrt", and 0 for others, which it says nothing to.

    Args:
      config: settings.
      source: the training data.
      kept: the config of the run that goes on: its numbers stay, whatever its data and length have become.

    Raises:
      InputError: of data too large for any level.
    """
    config, process = config.copy_and_resolve_references(), config.sde.name
    section = config.sde.get(process, {})
    if section.get("sigma_max") == 0:
        before = kept["sde"].get(process, {}).get("sigma_max") if kept else 0  # also of a run of another process
        section.sigma_max = before or _largest_sigma(config, source)
    optimizer, steps = config.optimizer, config.training.steps
    falls = {"trapezoidal": steps * 4 // 5, "inverse_sqrt": max(steps // 10, 1)}
    followed = {"warmup_steps": min(100, steps // 5), "decay_from": falls.get(optimizer.schedule, 0)}
    for name, number in followed.items():
        if optimizer[name] < 0:
            optimizer[name] = kept["optimizer"].get(name, number) if kept else number
    return config


def _largest_sigma(config: ConfigDict, source: Source) -> float:
    found = statistics.largest_sigma(statistics.examples(source, value_range(config)))
    if not found < 1e15:
        raise InputError(
            f"data {config.data.name!r} are up to {found:.3g} apart, and noise as large has no square in float32: "
            "divide the data by a number"
        )
    return found
