"""By what p(x | y) is sampled, by name: adding a method is a row of `METHODS`.

Each becomes what `sampling.draw` takes: the score function's transformation, which the last denoise follows too, and
the sampler.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

from score_jax import conditioning
from score_jax.lab.experiment import Sampling
from score_jax.sampling import Sampler
from score_jax.sampling.draw import MakeSampler, Transform
from score_jax.score import ScoreWithVariance
from score_jax.sde import SDE
from score_jax.types import Array, InputError, ScoreFn


class Observation(NamedTuple):
    """y = A x + noise_std·z, in the units of x0; A is linear, or any function of a batch."""

    operator: Any
    y: Array
    noise_std: float


Options: TypeAlias = Mapping[str, Any]
Applied: TypeAlias = Callable[[Callable[..., Any], Sampling, Observation, Options], tuple[Transform, MakeSampler]]


def _to_score(
    method: Callable[..., ScoreFn], sampling: Sampling, seen: Observation, options: Options
) -> tuple[Transform, MakeSampler]:
    """`(sde, score_fn, operator, y, *, noise_std, …) -> ScoreFn`, for the model's own sampler."""

    def transform(sde: SDE, score_fn: ScoreFn) -> ScoreFn:
        prior = sampling.transform(sde, score_fn)
        posterior = method(sde, prior, seen.operator, seen.y, noise_std=seen.noise_std, **options)
        variance = getattr(prior, "variance", None)  # a learned one of the sampler's steps stays
        return posterior if variance is None else ScoreWithVariance(posterior, variance)

    return transform, sampling.make


def _to_sampler(
    method: Callable[..., Any], sampling: Sampling, seen: Observation, options: Options
) -> tuple[Transform, MakeSampler]:
    """`(sampler, sde, operator, y, *, …) -> Sampler`, of the model's own."""
    make = lambda sde, score_fn: method(sampling.make(sde, score_fn), sde, seen.operator, seen.y, **options)
    return sampling.transform, make


def _in_place_of_sampler(
    method: Callable[..., Any], sampling: Sampling, seen: Observation, options: Options
) -> tuple[Transform, MakeSampler]:
    """`(sde, score_fn, operator, y, *, noise_std, …) -> Sampler`, in place of the model's own."""

    def make(sde: SDE, score_fn: ScoreFn) -> Any:
        return method(sde, score_fn, seen.operator, seen.y, noise_std=seen.noise_std, **options)

    return sampling.transform, make


def _any(name: str, seen: Observation, x: Array) -> None:
    """What the method itself doesn't refuse suits it."""


def _without_noise(name: str, seen: Observation, x: Array) -> None:
    """Raises InputError where what is observed has noise."""
    if seen.noise_std > 0:
        raise InputError(
            f"method {name} takes what is observed for exact, got --noise_std: give 0, or take pigdm or another"
        )


def _dps_ancestral(
    sde: SDE, score_fn: ScoreFn, operator: Any, y: Array, *, noise_std: float, step_size: float = 1.0
) -> Sampler:
    """Its step is as long whatever the noise."""
    del noise_std
    return conditioning.dps_ancestral(sde, score_fn, operator, y, step_size=step_size)


def _daps(
    sde: SDE,
    score_fn: ScoreFn,
    operator: Any,
    y: Array,
    *,
    noise_std: float,
    data_std: float = math.inf,
    n_flow: int = 5,
    n_langevin: int = 100,
    step_size: float = 0.2,
) -> Sampler:
    """The numbers of its Langevin steps are options."""
    draw = conditioning.langevin_draw(n_langevin, step_size=step_size)
    how: dict[str, Any] = {"noise_std": noise_std, "data_std": data_std, "n_flow": n_flow, "draw": draw}
    return conditioning.daps(sde, score_fn, operator, y, **how)


class Method(NamedTuple):
    """A row.

    Attributes:
      make: the method.
      applied: to what: the score, the sampler, or in place of it.
      require: `(name, observation, x)` raises InputError of tasks that don't suit it.
      of_particles: whether the samples of a batch are one set, which depend on each other.
    """

    make: Callable[..., Any]
    applied: Applied
    require: Callable[[str, Observation, Array], None] = _any
    of_particles: bool = False


METHODS: dict[str, Method] = {
    "replacement": Method(conditioning.replacement, _to_sampler, _without_noise),
    "repaint": Method(conditioning.repaint, _to_sampler, _without_noise),
    "ilvr": Method(conditioning.ilvr, _to_sampler, _without_noise),
    "dps": Method(conditioning.dps, _to_score),
    "dps_ancestral": Method(_dps_ancestral, _in_place_of_sampler),
    "pigdm": Method(conditioning.pigdm, _to_score),
    "tmpd": Method(conditioning.tmpd, _to_score),
    "mmps": Method(conditioning.mmps, _to_score),
    "diffpir": Method(conditioning.diffpir, _to_score),
    "ddrm": Method(conditioning.ddrm, _in_place_of_sampler),
    "daps": Method(_daps, _in_place_of_sampler),
    "tds": Method(conditioning.tds, _in_place_of_sampler, of_particles=True),
    "mcgdiff": Method(conditioning.mcgdiff, _in_place_of_sampler, of_particles=True),
}
