"""What leads samples: the network without a label, a weaker run, or a run of a classifier."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from score_jax.conditioning.guided import Autoguided, ClassGuided, ClassifierGuided, Interval
from score_jax.lab import records
from score_jax.lab.build import names
from score_jax.lab.experiment import Examples, Guidance, Run
from score_jax.sde import SDE
from score_jax.types import InputError


def guidance(config: ConfigDict, examples: Examples, sde: SDE, open_guide: Callable[[], Run]) -> Guidance | None:
    """Returns what `config.sampler.guidance` leads samples by; None where the model draws them by itself.

    Args:
      config: settings.
      examples: what the model's examples are.
      sde: the noising process.
      open_guide: returns the run in `sampler.guidance.workdir`; it is only called where that guides.

    Raises:
      InputError: of a guide that doesn't suit the model.
    """
    options, interval = config.sampler.guidance, _interval(config)
    table = {"unconditional": _by_label, "autoguidance": _by_weaker_run, "classifier": _by_classifier}
    make = names.choose("sampler.guidance.guide", options.guide, table)
    if options.guide == "unconditional" and options.workdir:
        raise InputError(
            f"sampler.guidance.workdir {options.workdir!r} is of a run that guides, and the guide is 'unconditional': "
            "set --config.sampler.guidance.guide=autoguidance or classifier, or no workdir"
        )
    if not records.is_guided(options):
        return None
    return make(options, interval, examples, sde, open_guide)


def _interval(config: ConfigDict) -> Interval:
    interval = config.sampler.guidance.interval
    numbers = all(isinstance(end, int | float) and not isinstance(end, bool) for end in interval)
    if len(interval) != 2 or not numbers or not 0 <= interval[0] < interval[1]:
        raise InputError(
            "sampler.guidance.interval is two increasing numbers of σ/α from 0, such as (0.2, 5.0), got "
            f"{tuple(interval)}"
        )
    return float(interval[0]), float(interval[1])


def _by_label(
    options: ConfigDict, interval: Interval, examples: Examples, sde: SDE, open_guide: Callable[[], Run]
) -> Guidance:
    del sde, open_guide
    if not examples.names:
        raise InputError(f"classifier-free guidance leads to labels, and this model {examples.without_labels}")
    if not examples.null_label:
        raise InputError(
            "classifier-free guidance needs the score without a label, which this model never learned "
            "(training.label_dropout=0): train with --config.training.label_dropout=0.1, or let another run guide"
        )
    return Guidance(partial(ClassGuided, scale=options.scale, interval=interval), examples, by_label=True)


def _by_weaker_run(
    options: ConfigDict, interval: Interval, examples: Examples, sde: SDE, open_guide: Callable[[], Run]
) -> Guidance:
    guide = _suiting(options, examples, sde, open_guide)
    if guide.sampling.without_score:
        raise _refused(options, "is a classifier: set --config.sampler.guidance.guide=classifier")
    theirs = guide.experiment.examples
    if theirs.names:
        _require_classes(options, examples, theirs)
        if examples.null_label and not theirs.null_label:
            raise _refused(options, "was never trained without a label (training.label_dropout=0), as this model was")
    how = {"scale": options.scale, "interval": interval, "labelled": bool(theirs.names)}
    return Guidance(partial(Autoguided, guide=guide.model, **how), examples, by_label=False, origin=guide.origin)


def _by_classifier(
    options: ConfigDict, interval: Interval, examples: Examples, sde: SDE, open_guide: Callable[[], Run]
) -> Guidance:
    guide = _suiting(options, examples, sde, open_guide)
    if not guide.sampling.without_score:
        raise _refused(options, "is no classifier: train one with --config.objective.name=classification")
    theirs = guide.experiment.examples
    if examples.names:
        _require_classes(options, examples, theirs)
    how: dict[str, Any] = {"scale": options.scale, "interval": interval, "labelled": bool(examples.names)}
    how["classifier"] = guide.model
    return Guidance(
        partial(ClassifierGuided, **how),
        examples if examples.names else _with_classes(examples, theirs),
        by_label=True,
        origin=guide.origin,
    )


def _with_classes(examples: Examples, theirs: Examples) -> Examples:
    """The examples of a model without labels, drawn with a classifier's: −1 is no guidance."""
    return replace(examples, names=theirs.names, occurring=theirs.occurring, null_label=True)


def _suiting(options: ConfigDict, examples: Examples, sde: SDE, open_guide: Callable[[], Run]) -> Run:
    """The run that guides, of examples and noise as the model's."""
    if not options.workdir:
        raise InputError(
            f"guide {options.guide!r} is a run of its own: give its folder, --config.sampler.guidance.workdir=FOLDER"
        )
    guide = open_guide()
    theirs = guide.experiment.examples
    for what, found, expected in (
        ("shape", theirs.shape, examples.shape),
        ("data.value_range", theirs.value_range, examples.value_range),
        ("grey levels", theirs.grey_levels, examples.grey_levels),
    ):
        if found != expected:
            raise _refused(options, f"is of examples of {what} {found}, and this model of {expected}")
    if not _same_noise(sde, guide.model.sde):
        raise _refused(options, "was trained with another noising process than this model: give both the same sde")
    return guide


def _same_noise(ours: SDE, theirs: SDE) -> bool:
    """Whether two processes noise alike, at all times that either has."""
    with jax.ensure_compile_time_eval():
        (low, high), ends = (np.asarray([sde.t_min, sde.t_max]) for sde in (ours, theirs))
        ts = jnp.linspace(low, high, 16)
        ours_at, theirs_at = (np.asarray([sde.log_alpha(ts), sde.variance(ts)]) for sde in (ours, theirs))
    return np.allclose(ends, [low, high], rtol=1e-5) and np.allclose(ours_at, theirs_at, rtol=1e-4, atol=0)


def _require_classes(options: ConfigDict, examples: Examples, theirs: Examples) -> None:
    if theirs.names != examples.names:
        listed = ", ".join(theirs.names[:6]) or "none"
        of_model = ", ".join(examples.names[:6]) or "none"
        raise _refused(options, f"knows the classes {listed}, and this model {of_model}: give one of the same classes")


def _refused(options: ConfigDict, why: str) -> InputError:
    return InputError(f"the guide, sampler.guidance.workdir {options.workdir!r}, {why}")
