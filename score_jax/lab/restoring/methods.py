"""By what p(x | y) is sampled, by name: adding a method is a row of `METHODS`.

Each becomes what `sampling.draw` takes: the score function's transformation, which the last denoise follows too, and
the sampler.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

from score_jax import conditioning
from score_jax.conditioning import operators
from score_jax.lab.experiment import Sampling
from score_jax.sampling import Sampler
from score_jax.sampling.draw import MakeSampler, Transform
from score_jax.score import ScoreWithVariance
from score_jax.sde import SDE
from score_jax.types import Array, InputError, ScoreFn


class Counts(NamedTuple):
    """Counts of light: y is Poisson's of mean photons·A x, over photons, where black is 0 and white 1.

    Attributes:
      photons: of white, on average.
      value_range: black and white, in the units of x0.
    """

    photons: float
    value_range: tuple[float, float]

    def intensity(self, x: Array) -> Array:
        """Returns what is 0 at black and 1 at white."""
        low, high = self.value_range
        return (x - low) / (high - low)


class Observation(NamedTuple):
    """y = A x + noise_std·z, in the units of x0; A is linear, or any function of a batch.

    With `counts` they are counts of A x in place of it, and `noise_std` is 0.
    """

    operator: Any
    y: Array
    noise_std: float
    counts: Counts | None = None

    @property
    def exact(self) -> bool:
        """Whether y is A x."""
        return self.noise_std == 0 and self.counts is None

    @property
    def noise(self) -> dict[str, Any]:
        """What a method is told of the noise."""
        return {"noise_std": self.noise_std} if self.counts is None else {"counts": self.counts}


Options: TypeAlias = Mapping[str, Any]
Applied: TypeAlias = Callable[[Callable[..., Any], Sampling, Observation, Options], tuple[Transform, MakeSampler]]


def _to_score(
    method: Callable[..., ScoreFn], sampling: Sampling, seen: Observation, options: Options
) -> tuple[Transform, MakeSampler]:
    """`(sde, score_fn, operator, y, *, noise_std, …) -> ScoreFn`, for the model's own sampler."""

    def transform(sde: SDE, score_fn: ScoreFn) -> ScoreFn:
        prior = sampling.transform(sde, score_fn)
        posterior = method(sde, prior, seen.operator, seen.y, **seen.noise, **options)
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
        return method(sde, score_fn, seen.operator, seen.y, **seen.noise, **options)

    return sampling.transform, make


def _any(name: str, seen: Observation, x: Array) -> None:
    """What the method itself doesn't refuse suits it."""


def _without_noise(name: str, seen: Observation, x: Array) -> None:
    """Raises InputError where what is observed has noise."""
    if not seen.exact:
        raise InputError(
            f"method {name} takes what is observed for exact, got --noise_std: give 0, or take pigdm or another"
        )


def _log_likelihood(operator: Any, y: Array, counts: Counts) -> Callable[[Array], Array]:
    seen = lambda x0: counts.intensity(operator(x0))
    return operators.log_counts(seen, counts.intensity(y), counts.photons)


def _dps_of_counts(
    sde: SDE, score_fn: ScoreFn, operator: Any, y: Array, *, counts: Counts, scale: float = 1.0
) -> ScoreFn:
    """DPS with Poisson's likelihood."""
    return conditioning.likelihood_guidance(sde, score_fn, _log_likelihood(operator, y, counts), scale)


def _tds_of_counts(
    sde: SDE, score_fn: ScoreFn, operator: Any, y: Array, *, counts: Counts, threshold: float = 0.5
) -> Sampler:
    """The twist is Poisson's likelihood of the denoised estimate."""
    log_likelihood = _log_likelihood(operator, y, counts)
    return conditioning.twisted(sde, score_fn, lambda x0, t: log_likelihood(x0), threshold=threshold)


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
      of_counts: the method where light was counted, with `counts` in place of `noise_std`; None: it has none.
      of_particles: whether the samples of a batch are one set, which depend on each other.
    """

    make: Callable[..., Any]
    applied: Applied
    require: Callable[[str, Observation, Array], None] = _any
    of_counts: Callable[..., Any] | None = None
    of_particles: bool = False


METHODS: dict[str, Method] = {
    "replacement": Method(conditioning.replacement, _to_sampler, _without_noise),
    "repaint": Method(conditioning.repaint, _to_sampler, _without_noise),
    "ilvr": Method(conditioning.ilvr, _to_sampler, _without_noise),
    "dps": Method(conditioning.dps, _to_score, of_counts=_dps_of_counts),
    "dps_ancestral": Method(_dps_ancestral, _in_place_of_sampler),
    "pigdm": Method(conditioning.pigdm, _to_score),
    "tmpd": Method(conditioning.tmpd, _to_score),
    "mmps": Method(conditioning.mmps, _to_score),
    "diffpir": Method(conditioning.diffpir, _to_score),
    "ddrm": Method(conditioning.ddrm, _in_place_of_sampler),
    "daps": Method(_daps, _in_place_of_sampler),
    "tds": Method(conditioning.tds, _in_place_of_sampler, of_counts=_tds_of_counts, of_particles=True),
    "mcgdiff": Method(conditioning.mcgdiff, _in_place_of_sampler, of_particles=True),
}


def chosen_method(name: str, *, counted: bool) -> Callable[..., Any]:
    """Returns what a method is where noise is Gaussian, or where light is counted.

    Raises:
      InputError: where it has nothing for counts.
    """
    row = METHODS[name]
    if not counted:
        return row.make
    if row.of_counts is None:
        able = " or ".join(other for other, row in METHODS.items() if row.of_counts)
        raise InputError(f"method {name} is of Gaussian noise, and that of counted light is Poisson's: take {able}")
    return row.of_counts
