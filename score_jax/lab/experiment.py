"""An experiment: the objects and numbers that training, sampling and measuring are made of, each made once.

    settings ──build──▶ Experiment ──▶ train | sample | measure ──▶ files

Nothing here is a setting, and nothing after `build` reads one: what the settings chose is an object or a number by now.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, TypeVar

import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from score_jax import data as datasets
from score_jax.data import Source, content_hash
from score_jax.distributions import GaussianMixture
from score_jax.lab.sharing import Shared
from score_jax.likelihood import VariationalBound
from score_jax.losses.times import Times
from score_jax.metrics import Features
from score_jax.sampling import Sampler
from score_jax.sampling.draw import Sampled, Start, Transform
from score_jax.score import ScoreModel
from score_jax.sde import SDE
from score_jax.training import Placement, TrainState
from score_jax.training.averages import Averaged
from score_jax.training.logging import LoggerFactory
from score_jax.training.step import Augment, Objective
from score_jax.types import Array, ArrayLike, InputError, Key, ScoreFn

Numbers: TypeAlias = dict[str, Any]
_T = TypeVar("_T")

# Sections of the settings that the parts of an experiment are made of
OF_MODEL = ("data", "sde", "parameterization", "network", "times")
OF_OBJECTIVE = (*OF_MODEL, "objective", "weighting", "mesh")
OF_TRAINING = (*OF_OBJECTIVE, "optimizer", "training")
OF_SAMPLING = (*OF_MODEL, "sampler", "device", "mesh")


class Before(NamedTuple):
    """What a run folder holds already: the settings it was trained with, and the steps of its checkpoints."""

    settings: Mapping[str, Any]
    steps: tuple[int, ...]


class Modes(NamedTuple):
    """The modes of a known density: places `(K, 2)` and weights `(K,)`."""

    places: np.ndarray
    weights: np.ndarray


@dataclass(frozen=True)
class Data:
    """Training and held-out examples, and what is known of them.

    Attributes:
      name: what the settings call them.
      train: with labels only where the model is conditional.
      held_out: never trained on; may be empty.
      labelled: the training examples with all labels that they have.
      oracle: the exact density, where it is known.
      modes: of that density, where it has some.
      attribution: whom figures of them name.
    """

    name: str
    train: Source
    held_out: Source
    labelled: Source
    oracle: GaussianMixture | None = None
    modes: Modes | None = None
    attribution: str = ""

    @cached_property
    def images_hash(self) -> str:
        """The hash of the training images."""
        return content_hash(self.train)

    def require_held_out(self) -> None:
        """Raises InputError where nothing was held out to measure against."""
        if not len(self.held_out):
            raise InputError(
                "nothing was held out to measure against (data.holdout=0): train in a new workdir with "
                "--config.data.holdout=0.1, or a number of examples"
            )


@dataclass(frozen=True)
class Preparation:
    """`(key, stored x) -> x0`: from a batch of the source to what the network sees (`data.images.prepare`)."""

    grey_levels: int
    dequantize: bool
    flip: bool
    value_range: tuple[float, float]

    def __call__(self, key: Key, x: Array) -> Array:
        """Returns x0, `(B, *S)`."""
        return datasets.images.prepare(
            key,
            x,
            grey_levels=self.grey_levels,
            dequantize=self.dequantize,
            flip=self.flip,
            value_range=self.value_range,
        )


@dataclass(frozen=True)
class Examples:
    """What the model's examples are, with data beside it or without.

    Attributes:
      name: of the data or checkpoint, for messages.
      shape: of one example.
      grey_levels: of images; 0 of floating-point data, which are trained on as they are.
      value_range: onto which grey levels are mapped.
      names: of the model's classes; empty of an unconditional model.
      occurring: the classes that have examples, ascending.
      null_label: whether the model was trained without a label, −1, too.
      without_labels: why there is no label to choose, of an unconditional model.
      attribution: whom figures of them name.
      dequantized: whether each grey level was spread over its cell in training.
    """

    name: str
    shape: tuple[int, ...]
    grey_levels: int
    value_range: tuple[float, float]
    names: tuple[str, ...] = ()
    occurring: tuple[int, ...] = ()
    null_label: bool = True
    without_labels: str = "has no classes"
    attribution: str = ""
    dequantized: bool = False

    def to_data(self, x: np.ndarray) -> np.ndarray:
        """Returns images of grey levels from the range of training in [0, 1]; other data as they are."""
        if not self.grey_levels:
            return x
        return np.asarray(datasets.images.from_range(jnp.asarray(x), *self.value_range))

    def of_picture(self, x: np.ndarray) -> np.ndarray:
        """Returns pictures, 0 black and 1 white, in the range of training: in the middle of their grey level's cell."""
        first, between = self._cells
        return np.asarray(datasets.images.to_range(jnp.asarray(first + between * x), *self.value_range))

    def to_picture(self, x: np.ndarray) -> np.ndarray:
        """Returns images from the range of training as pictures, 0 black and 1 white: what undoes `of_picture`."""
        first, between = self._cells
        return (self.to_data(x) - first) / between

    @property
    def contrast(self) -> float:
        """The distance from black to white in the range of training."""
        return self._cells[1] * (self.value_range[1] - self.value_range[0])

    @property
    def _cells(self) -> tuple[float, float]:
        """The place of black in [0, 1], and the distance of white from it."""
        levels = self.grey_levels
        return (0.5 / levels, 1 - 1 / levels) if self.dequantized else (0.0, 1.0)

    def as_stored(self, x: np.ndarray) -> np.ndarray:
        """Returns samples in the data's own range: of grey levels, clipped to [0, 1]."""
        return x.clip(0, 1) if self.grey_levels else x

    @property
    def picture(self) -> str:
        """How examples are shown: "images", "points" of the plane, or "none": vectors, sequences, volumes."""
        return "points" if self.shape == (2,) else "images" if len(self.shape) == 3 else "none"

    @property
    def units(self) -> str:
        """What the numbers of saved samples are."""
        return "images, clipped to [0, 1]" if self.grey_levels else "the data's own"


class Intervals(NamedTuple):
    """Steps between two of something: dispatches, records, checkpoints; None of what never happens.

    Attributes:
      dispatch: updates of one call.
      log: between records.
      checkpoint: between checkpoints.
      keep: between checkpoints that are kept for good.
      sample: between pictures of samples.
      evaluate: between held-out losses.
    """

    dispatch: int
    log: int
    checkpoint: int
    keep: int | None
    sample: int | None
    evaluate: int | None


@dataclass(frozen=True)
class Training:
    """What the loop is told, beside the model, its data and its objective.

    Attributes:
      optimizer: with warm-up and clipping.
      learning_rate: n -> lr_n, None where it is not known.
      decay: n -> weight of the old average of the parameters.
      averaged: `(params, opt_state) -> ` what the average is of.
      steps: updates in all.
      batch_size: examples an update.
      accumulation: micro-batches a batch is cut into.
      label_dropout: share of labels withheld.
      dropout: whether the network has some.
      log_levels: noise levels at which the loss is reported.
      every: intervals.
      keep_last: newest checkpoints that are kept.
      skips: steps in a row that may be skipped, whose loss or gradient is not finite.
      rollbacks: how often it may go back to the same checkpoint because of such a step.
      on_save_error: "stop" or "continue".
      loggers: beside metrics.jsonl.
      may_differ: settings with which a run may go on changed.
    """

    optimizer: optax.GradientTransformation
    learning_rate: optax.Schedule | None
    decay: Callable[[Array], Array]
    averaged: Averaged
    steps: int
    batch_size: int
    accumulation: int
    label_dropout: float
    dropout: bool
    log_levels: int
    every: Intervals
    keep_last: int
    skips: int
    rollbacks: int
    on_save_error: str
    loggers: tuple[LoggerFactory, ...]
    may_differ: tuple[str, ...]


@dataclass(frozen=True)
class Guidance:
    """What leads samples.

    Attributes:
      guided: from the model, of any parameters, to what is drawn from.
      examples: what the samples are: of the guide's classes, where the model has none.
      by_label: whether it leads to labels: without one nothing is led.
      origin: of the guide's parameters, as JSON holds it: its step.
    """

    guided: Callable[[ScoreModel], Sampled]
    examples: Examples
    by_label: bool
    origin: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Sampling:
    """How samples are drawn.

    Attributes:
      name: of the sampler.
      make: `(sde, score_fn) -> Sampler`.
      ts: the grid.
      start: `(key, shape) -> x` at its first time.
      transform: of the score function, as for thresholding.
      denoise: end with the posterior mean.
      ema: take the average of the parameters.
      n: samples drawn by default.
      batch_size: samples at once.
      conditions: what sets samples of one model apart but for the seed, as JSON holds it.
      mesh: of the devices that share a batch.
      by_row: whether a sample depends on no other of its batch.
      guidance: what leads them; None of a model by itself.
      without_score: why nothing can be drawn, of a classifier; empty of all else.
      ema_std: relative width of that average, to be made of those that a run has kept; 0 for the run's own.
    """

    name: str
    make: Callable[[SDE, ScoreFn], Sampler]
    ts: Array
    start: Start
    transform: Transform
    denoise: bool
    ema: bool
    n: int
    batch_size: int
    conditions: Mapping[str, Any]
    mesh: Mesh
    by_row: bool = True
    guidance: Guidance | None = None
    without_score: str = ""
    ema_std: float = 0.0

    def drawn_from(self, model: ScoreModel) -> Sampled:
        """Returns what samples are drawn from: the model, guided if it is to be."""
        return model if self.guidance is None else self.guidance.guided(model)

    def of(self, examples: Examples) -> Examples:
        """Returns what samples are of a model of these examples."""
        if self.guidance is None:
            return examples
        led = self.guidance.examples
        return replace(examples, names=led.names, occurring=led.occurring, null_label=led.null_label)

    @property
    def by_label(self) -> bool:
        """Whether samples are led to their labels."""
        return self.guidance is not None and self.guidance.by_label

    def require_score(self) -> None:
        """Raises InputError of a classifier, which has no score."""
        if self.without_score:
            raise InputError(self.without_score)


@dataclass(frozen=True)
class FeatureComparison:
    """How images are compared by features.

    Attributes:
      network: `(data) -> Features`: read or trained when it is asked for.
      kept: images whose features are kept, for what takes pairs of them.
      subset_size: rows of a subset of the kernel distance.
      subsets: how many.
      k: which neighbour the balls of precision and recall reach to.
      cache: folder of what is kept between evaluations.
    """

    network: Callable[[Data], Features]
    kept: int
    subset_size: int
    subsets: int
    k: int
    cache: Path


@dataclass(frozen=True)
class Evaluation:
    """What is measured, and how.

    Attributes:
      measures: `(measured) -> numbers`, by name.
      n: samples.
      levels: noise levels of errors and losses.
      likelihood_n: held-out examples whose likelihood is found; 0 of none.
      likelihood_probes: of Hutchinson's estimate.
      likelihood_tolerance: of the integration.
      t_min: where the probability flow starts: the least noisy time of training.
      features: how images are compared; None where they are not.
      bound_n: held-out images whose variational bound is found; 0 of none.
      bound: `(key, score_fn, x0) -> VariationalBound`, with how many steps; None where the sampler has none.
      conditions: what sets an evaluation apart beside what sets its samples apart.
      of_the_run: whether all this, and the sampler, are the run's own settings.
    """

    measures: Mapping[str, Callable[[Any], Numbers]]
    n: int
    levels: int
    likelihood_n: int
    likelihood_probes: int
    likelihood_tolerance: float
    t_min: float
    features: FeatureComparison | None
    bound_n: int
    bound: Callable[[Key, ScoreFn, Array], VariationalBound] | None
    bound_steps: int
    conditions: Mapping[str, Any]
    of_the_run: bool


@dataclass(frozen=True)
class Experiment:
    """Everything that training, sampling and measuring need.

    Attributes:
      seed: of parameters, order, noise, and of samples and measures unless another is given.
      examples: what the model's examples are.
      model: the score function with its first parameters.
      sampling: how samples are drawn.
      data: training and held-out examples.
      prepare: from stored examples to x0.
      augment: `(key, x0) -> (x0, numbers)` of training alone, or None; the network is told the numbers.
      objective: `(key, score_fn, x0, times) -> (B,)`.
      minimised: what training minimises of it: see `training.Recipe`.
      times: `(key, sde, n) -> (t, weight)`.
      training: what the loop is told.
      evaluation: what is measured.
      placement: where training's state and batches, and all else that is computed, lie on the devices.
      summary: what is trained on what, in a line, and what of the settings doesn't suit the data.
      settings: what config.json holds: for the run folder, and to know what is equal by.
      shared: what it shares with experiments of equal settings.
      with_numbers: from numbers by dotted key of the setting, which may be traced, to the experiment with these in what
        a train step is made of, and nowhere else; None where objects were handed over in place of settings.
    """

    seed: int
    examples: Examples
    model: ScoreModel
    sampling: Sampling
    data: Data
    prepare: Preparation
    augment: Augment | None
    objective: Objective
    minimised: Callable[..., Array]
    times: Times
    training: Training
    evaluation: Evaluation
    placement: Placement
    summary: tuple[str, ...]
    settings: Mapping[str, Any]
    shared: Shared = field(default_factory=Shared, repr=False)
    with_numbers: Callable[[Mapping[str, ArrayLike]], "Experiment"] | None = field(default=None, repr=False)

    def once(self, what: str, make: Callable[[], _T], *, of: tuple[str, ...], **others: Any) -> _T:
        """Returns `make()`, or what it returned for another experiment that it serves as well.

        Args:
          what: its name.
          make: makes it, a compiled program say.
          of: sections of the settings that it depends on.
          others: further numbers that it depends on.
        """
        return self.shared.once(what, {name: self.settings[name] for name in of} | others, make)


@dataclass(frozen=True)
class Trained:
    """A trained score model, of a run or a published checkpoint, and how it is sampled.

    Attributes:
      examples: what its samples are: its examples, with the classes of a classifier that guides them.
      model: the score function.
      sampling: how.
      origin: what sets this model apart from others, as JSON holds it: a run's step, a checkpoint's path.
    """

    examples: Examples
    model: ScoreModel
    sampling: Sampling
    origin: Mapping[str, Any]


@dataclass(frozen=True)
class Run(Trained):
    """A model that was trained here: with its experiment, the state that training left, and the folder."""

    experiment: Experiment
    state: TrainState
    workdir: Path
