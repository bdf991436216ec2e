"""How samples are drawn: sampler, grid, start, thresholds."""

import logging
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from score_jax import arrays, noise_levels, sampling
from score_jax.lab import own, records
from score_jax.lab.build import names
from score_jax.lab.build.data import value_range
from score_jax.lab.build.kinds import OWN
from score_jax.lab.build.network import LEARNED
from score_jax.lab.build.noise import geometric_levels
from score_jax.lab.experiment import Guidance, Sampling
from score_jax.sampling import Sampler, grids
from score_jax.sampling.draw import Start
from score_jax.sampling.sde import StepVariance
from score_jax.score import ScoreWithVariance
from score_jax.sde import SDE
from score_jax.types import Array, InputError, Key, ScoreFn

_log = logging.getLogger(__name__)


SAMPLERS: dict[str, Callable[..., Sampler]] = {
    "annealed_langevin": sampling.annealed_langevin,
    "consistent_annealed": sampling.consistent_annealed,
    "euler_maruyama": sampling.euler_maruyama,
    "reverse_diffusion": sampling.reverse_diffusion,
    "ancestral": sampling.ancestral,
    "ddim": sampling.ddim,
    "euler": sampling.euler,
    "euler_churn": sampling.euler_churn,
    "heun": sampling.heun,
    "kdpm2": sampling.kdpm2,
    "lms": sampling.lms,
    "deis": sampling.deis,
    "dpm_solver": sampling.dpm_solver,
    "dpm_solver_pp": sampling.dpm_solver_pp,
    "unipc": sampling.unipc,
    "probability_flow": sampling.adaptive_flow,
}
# Samplers whose noise is of a size of its own, ε at the smallest level
_OF_A_STEP = ("annealed_langevin", "consistent_annealed")


def plan(
    config: ConfigDict,
    sde: SDE,
    score_fn: ScoreFn,
    given: Callable[..., Sampler] | None = None,
    *,
    mesh: Mesh,
    guidance: Guidance | None = None,
) -> Sampling:
    """Returns all that drawing samples takes.

    Args:
      config: settings.
      sde: the noising process.
      score_fn: the score model, of which the sampler is made once, to find out what cannot work.
      given: `(sde, score_fn) -> Sampler` in place of the config's.
      mesh: of the devices that share a batch.
      guidance: what leads samples.

    Raises:
      InputError: of what is misspelt or cannot work, Langevin steps that diverge at every level included.
    """
    config = with_step_size(config, sde)
    options = config.sampler
    make, transform = given or partial(chosen_sampler, config), partial(chosen_threshold, config)
    ts, begin = grid(config, sde), start(config, sde)
    make(sde, transform(sde, score_fn))
    _check_step_size(config, sde)
    led_by = {"guide": dict(guidance.origin)} if guidance is not None and guidance.origin else {}
    return Sampling(
        options.name,
        make,
        ts,
        begin,
        transform,
        denoise=options.denoise,
        ema=options.ema,
        ema_std=options.ema_std,
        n=options.n,
        batch_size=options.batch_size,
        conditions=led_by
        | records.of_sampling(options.to_dict(), value_range(config), config.device.matmul_precision, len(ts) - 1),
        mesh=mesh,
        by_row=not records.by_batch(options),
        guidance=guidance,
    )


def of_classifier(config: ConfigDict, sde: SDE, model: Any, mesh: Mesh) -> Sampling:
    """Returns what stands for the sampling of a classifier, which draws nothing."""
    conditions = {"ema": config.sampler.ema, "sampler": "none", "sampler_steps": 0}
    why = (
        "a classifier of noised data has no score and draws no samples: let it guide those of another run, "
        "--config.sampler.guidance.guide=classifier --config.sampler.guidance.workdir=FOLDER"
    )
    return replace(plan(config, sde, model, mesh=mesh), name="none", conditions=conditions, without_score=why)


def start(config: ConfigDict, sde: SDE) -> Start:
    """Returns how samples begin: `(key, shape) -> x` at t_max."""
    low, high = value_range(config)

    def uniform(key: Key, shape: tuple[int, ...]) -> Array:
        draw = lambda k, shape, dtype: jax.random.uniform(k, shape, dtype, low, high)
        return arrays.draw(draw, key, shape)

    return names.choose("sampler.start", config.sampler.start, {"prior": sde.prior_sample, "uniform": uniform})


def _own_steps(config: ConfigDict) -> int:
    """The number of score SDE's own steps, where the sampler takes them; 0 where it takes the grid's."""
    options = config.sampler
    n = options.get(options.name, {}).get("num_scales", 0)
    if n and (options.grid != "uniform" or options.steps != n or options.denoise):
        raise InputError(
            f"sampler.{options.name}.num_scales={n} is score SDE's run of {n} updates, of which the last removes the "
            f"noise: set --config.sampler.grid=uniform --config.sampler.steps={n} --config.sampler.denoise=False"
        )
    return n


def _end(config: ConfigDict, sde: SDE) -> float | None:
    """Where a grid ends, `sampler.t_end` but not before t_min; None: there."""
    with jax.ensure_compile_time_eval():
        end, low, high = (float(t) for t in (config.sampler.t_end, sde.t_min, sde.t_max))
    if end >= high:
        raise InputError(
            f"sampler.t_end is a time below t_max = {high:g} of this SDE, got {end:g}: "
            "set --config.sampler.t_end=0 to end at its t_min"
        )
    return end if end > low else None


def grid(config: ConfigDict, sde: SDE) -> Array:
    """Returns the times a sampler visits: `config.sampler.steps` steps; both ends where it makes steps of its own."""
    options = config.sampler
    n, t_end = options.steps + 1, _end(config, sde)
    if options.name == "probability_flow":
        return grids.uniform(sde, 2, t_end=t_end)
    table = {
        "levels": lambda: grids.levels(sde, geometric_levels(sde, options.steps)),
        "uniform": lambda: grids.uniform(sde, n, t_end=t_end),
        "karras": lambda: grids.karras(sde, n, options.rho, t_end=t_end),
        "log_snr": lambda: grids.log_snr(sde, n, t_end=t_end),
        "cosine": lambda: grids.cosine(sde, n, t_end=t_end),
        "ddpm": lambda: grids.ddpm(sde, options.steps, t_end=t_end, spacing=options.spacing, offset=options.offset),
        "respaced": lambda: grids.respaced(sde, options.respacing or str(options.steps), t_end=t_end),
    }
    if _own_steps(config):
        return grids.score_sde(sde, options.steps, t_end=t_end)
    return names.choose("sampler.grid", options.grid, table)()


def learned_variance(config: ConfigDict, score_fn: Any) -> StepVariance | None:
    """Returns the variance that was learned beside the score, where the sampler is to take it."""
    if names.options(config.sampler).get("variance") != "learned":
        return None
    if config.parameterization.name not in LEARNED:
        raise InputError(
            f"sampler.ancestral.variance 'learned' is not in a model of parameterization "
            f"{config.parameterization.name!r}: choose posterior or transition, or train {', '.join(LEARNED)}"
        )
    return score_fn.variance


def chosen_threshold(config: ConfigDict, sde: SDE, score_fn: ScoreFn) -> ScoreFn:
    """Returns the score function that sampling uses: its estimates of x0 kept in `data.value_range` if so wished.

    A learned variance stays as it is.
    """
    low, high = value_range(config)
    table: dict[str, Callable[[], ScoreFn]] = {
        "none": lambda: score_fn,
        "static": lambda: sampling.clipped(sde, score_fn, low=low, high=high),
        "dynamic": lambda: sampling.dynamically_thresholded(
            sde, score_fn, low=low, high=high, quantile=config.sampler.quantile
        ),
    }
    kept = names.choose("sampler.threshold", config.sampler.threshold, table)()
    variance = learned_variance(config, score_fn)
    return kept if variance is None else ScoreWithVariance(kept, variance)


def chosen_sampler(config: ConfigDict, sde: SDE, score_fn: ScoreFn) -> Sampler:
    """Returns the sampler, with its corrector if there is one; a learned variance is `score_fn.variance`."""
    options = config.sampler
    chosen = _predictor(config, sde, score_fn)
    if not options.corrector:
        return chosen
    corrector = sampling.langevin_corrector(sde, score_fn, **options.langevin_corrector)
    return sampling.predictor_corrector(chosen, corrector, first=options.first)


def _predictor(config: ConfigDict, sde: SDE, score_fn: ScoreFn) -> Sampler:
    name, options = config.sampler.name, names.options(config.sampler)
    if own.is_own(name):
        made = own.function("sampler.name", name, OWN["sampler"], options)(sde, score_fn)
        return own.require_returned(f"sampler.name {name!r}", made, (Sampler,))
    variance = learned_variance(config, score_fn)
    learned = {} if variance is None else {"variance": variance}
    return names.choose("sampler", name, SAMPLERS)(sde, score_fn, **(options | learned))


def with_step_size(config: ConfigDict, sde: SDE) -> ConfigDict:
    """Returns the config with the sampler's ε at the smallest level in place of 0, by the levels of its grid.

    Annealed Langevin's is NCSNv2's, technique 4; consistent annealed sampling's that of ancestral noise.
    """
    name = config.sampler.name
    if name not in _OF_A_STEP or config.sampler[name].step_size:
        return config
    config = config.copy_and_resolve_references()
    with jax.ensure_compile_time_eval():
        log_ratio, sigma_min = float(_log_ratios(config, sde).max()), float(sde.sigma(sde.t_min))
    config.sampler[name].step_size = (
        noise_levels.step_size(sigma_min, math.exp(log_ratio), config.sampler[name].n_steps)
        if name == "annealed_langevin"
        else -2 * sigma_min**2 * math.expm1(-2 * log_ratio)
    )
    return config


def _log_ratios(config: ConfigDict, sde: SDE) -> np.ndarray:
    """The logs of the ratios of neighbouring levels σ/α of the grid, above 0; of a single level one just above it."""
    ratios = 0.5 * np.diff(np.asarray(sde.log_snr(grid(config, sde)), np.float64))
    return ratios[ratios > 0] if (ratios > 0).any() else np.array([1e-3])


def _check_step_size(config: ConfigDict, sde: SDE) -> None:
    """Refuses Langevin steps that diverge at every level, and warns of those that add no noise."""
    name = config.sampler.name
    if name not in _OF_A_STEP:
        return
    step, variance = config.sampler[name].step_size, float(sde.variance(sde.t_min))
    if name == "annealed_langevin" and step >= 4 * variance:
        raise InputError(
            f"sampler.{name}.step_size {step:.3g} is {step / variance:.3g} σ² at every level of sde "
            f"{config.sde.name!r}, and steps diverge from 4 on: set --config.sampler.{name}.step_size=0, which takes "
            "the step that suits the levels"
        )
    least = -2 * variance * math.expm1(-float(_log_ratios(config, sde).min()))
    if name == "consistent_annealed" and step <= least:
        _log.warning(
            f"sampler.{name}.step_size {step:.3g} is so small that every step is DDIM's: noise is added above "
            f"{least:.3g}, and --config.sampler.{name}.step_size=0 adds that of ancestral sampling"
        )
