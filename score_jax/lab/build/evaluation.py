"""What is measured of a trained model, and how."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from ml_collections import ConfigDict

from score_jax import likelihood
from score_jax.lab import measures, own, records
from score_jax.lab.build.data import value_range
from score_jax.lab.build.features import comparison
from score_jax.lab.build.kinds import OWN
from score_jax.lab.build.noise import level_times
from score_jax.lab.build.sampling import chosen_threshold, learned_variance
from score_jax.lab.experiment import Evaluation, Numbers
from score_jax.lab.measures import Measure, Measured
from score_jax.losses.variational import gaussian_decoder, grey_level_decoder
from score_jax.sde import SDE
from score_jax.types import Array, InputError, Key, ScoreFn


def plan(
    config: ConfigDict,
    sde: SDE,
    ts: Array,
    grey_levels: int,
    *,
    kept: Mapping[str, Any] | None = None,
    given: Mapping[str, Measure] | None = None,
) -> Evaluation:
    """Returns all that measuring takes.

    Args:
      config: settings.
      sde: the noising process.
      ts: the sampler's grid.
      grey_levels: of the data.
      kept: the run's own settings.
      given: measures in place of the config's.
    """
    options, settings = config.evaluation, records.as_json(config.to_dict())
    return Evaluation(
        measures=chosen_measures(config) if given is None else given,
        n=options.n,
        levels=options.levels,
        likelihood_n=options.likelihood_n,
        likelihood_probes=options.likelihood_probes,
        likelihood_tolerance=options.likelihood_tolerance,
        t_min=float(level_times(config, sde)[-1] if config.times.name == "knots" else sde.t_min),
        features=comparison(config),
        bound_n=options.bound_n,
        bound=bound_terms(config, sde, ts, grey_levels) if options.bound_n and grey_levels else None,
        bound_steps=config.sampler.steps,
        conditions={
            "evaluation_settings": records.measured_by(settings["evaluation"]),
            "data_settings": settings["data"],
        },
        of_the_run=kept is None or records.same_evaluation(settings, kept),
    )


def chosen_measures(config: ConfigDict) -> dict[str, Measure]:
    """Returns the measures that the config lists, by name; of the user's own the attribute is the name."""
    chosen: dict[str, Measure] = {}
    listed = config.evaluation.measures
    shorts = [own.short_name(name) for name in listed if own.is_own(name)]
    options = own.options_by_name("evaluation.options", config.evaluation.options.to_dict(), shorts)
    for name in listed:
        short = own.short_name(name) if own.is_own(name) else name
        if short in chosen:
            raise InputError(f"evaluation.measures has two that are called {short!r}: leave one out, or rename yours")
        chosen[short] = _measure(name, options.get(short, {}))
    return chosen


def _measure(name: str, options: Mapping[str, Any]) -> Measure:
    if own.is_own(name):
        return own.guarded(name, own.function("evaluation.measures", name, OWN["measure"], options))
    if name.startswith(own.MARK):
        return partial(_not_handed_again, name.removeprefix(own.MARK))
    if name not in measures.MEASURES:
        there = ", ".join(measures.MEASURES)
        raise InputError(f"evaluation.measures {name!r} does not exist: choose of {there}, or module:attribute")
    return measures.MEASURES[name]


def _not_handed_again(name: str, measured: Measured) -> Numbers:
    raise InputError(f"{name} was handed to build.experiment: hand it over again, from Python")


def bound_terms(
    config: ConfigDict, sde: SDE, ts: Array, grey_levels: int
) -> Callable[..., likelihood.VariationalBound]:
    """Returns `(key, score_fn, x0) -> VariationalBound` of the config's ancestral sampler, on its grid.

    It ends with the density of dequantized images, or with the grey levels of those stored as they are.
    """
    stored = not config.data.dequantize
    if stored and value_range(config) != (-1.0, 1.0):
        raise InputError(
            f"the bound of grey levels is of images on (-1.0, 1.0), got data.value_range {value_range(config)}: set "
            "--config.evaluation.bound_n=0"
        )
    ts = ts[1:] if config.sampler.grid == "levels" else ts  # whose first is there twice
    decoder = grey_level_decoder(grey_levels) if stored else gaussian_decoder

    def terms(key: Key, score_fn: ScoreFn, x0: Array) -> likelihood.VariationalBound:
        variance = learned_variance(config, score_fn) or config.sampler.ancestral.variance
        kept = chosen_threshold(config, sde, score_fn)
        return likelihood.variational_bound(key, sde, kept, x0, ts=ts, variance=variance, decoder=decoder)

    return terms
