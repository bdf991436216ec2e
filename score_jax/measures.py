"""What is measured of a trained model: a list of measures, each of which costs no other.

    measure(subject) -> numbers under plain names

A measure that the model, its samples or the data don't allow raises an InputError, whose line is recorded as the reason
why it was left out: too few examples, nothing held out, samples that diverged. A defect of the package still raises.
Numbers that are not finite, which JSON has not, are left out too.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, TypeAlias

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from score_jax import build, evaluation, metrics, training
from score_jax import likelihood as likelihoods
from score_jax.build import Data
from score_jax.data import toy
from score_jax.evaluation import Numbers
from score_jax.score import ScoreModel
from score_jax.training import TrainState
from score_jax.training.step import level_sigmas
from score_jax.types import InputError, Key


class Trained(Protocol):
    """What was trained, and on what: of a run, all but its folder."""

    @property
    def config(self) -> ConfigDict: ...
    @property
    def data(self) -> Data: ...
    @property
    def model(self) -> ScoreModel: ...
    @property
    def state(self) -> TrainState: ...


@dataclass(frozen=True)
class Subject:
    """What measures are of: a trained model, samples of it, and the data beside them.

    Attributes:
      trained: the model.
      seed: of what measures draw.
      drawn: samples `(n, *S)`, finite or not, without a label where the model can do without, in the units of `train`.
      conditional: samples drawn with labels, and the labels; None of an unconditional model.
      train: the first training examples, "x" and, where there are classes, "label"; images of grey levels in [0, 1].
      held_out: likewise, never trained on; "x" may be empty.
      names: of the classes.
    """

    trained: Trained
    seed: int
    drawn: np.ndarray
    conditional: tuple[np.ndarray, np.ndarray] | None
    train: Mapping[str, np.ndarray]
    held_out: Mapping[str, np.ndarray]
    names: tuple[str, ...]

    @property
    def samples(self) -> np.ndarray:
        """The samples if all are finite: those left of a sampler that diverged would flatter it."""
        return _all_finite(self.drawn, self.trained.config.sampler.name)

    @cached_property
    def to_train(self) -> np.ndarray:
        """The distance of each sample to the nearest training example, `(n,)`."""
        return metrics.nearest_neighbours(self.samples, self.train["x"])[1][:, 0]

    @cached_property
    def classifier(self) -> metrics.Classifier:
        """A classifier of the training examples."""
        return metrics.train_classifier(self.train["x"], self.train["label"])


Measure: TypeAlias = Callable[[Subject], Numbers]


def of(subject: Subject) -> dict[str, Measure]:
    """Returns the measures, by name, that there are for data of this kind, and those asked for."""
    config, data = subject.trained.config, subject.trained.data
    of_images, known = len(data.train.shape) == 3, data.oracle is not None
    modes = config.data.name in toy.TOYS and toy.modes(config.data.name) is not None
    offered: dict[str, tuple[bool, Measure]] = {
        "held_out_loss": (True, lambda subject: held_out_loss(subject.trained)),
        "score_error": (known, _score_error),
        "distances": (not of_images, _distances),
        "mode_weights": (modes, _mode_weights),
        "nearest_neighbours": (True, _nearest_neighbours),
        "copies": (True, _copies),
        "class_shares": ("label" in subject.train, _class_shares),
        "conditional_accuracy": (subject.conditional is not None, _conditional_accuracy),
        "likelihood": (config.evaluation.likelihood_n > 0, lambda subject: likelihood(subject.trained, subject.seed)),
        "bound": (config.evaluation.bound_n > 0, lambda subject: bound(subject.trained, subject.seed)),
    }
    return {name: measure for name, (offers, measure) in offered.items() if offers}


def measure(subject: Subject, measures: Mapping[str, Measure]) -> Numbers:
    """Returns the numbers of all measures and, under "left_out", why there are none of some, by name."""
    numbers: Numbers = {}
    left_out: dict[str, str] = {}
    for name, one in measures.items():
        try:
            found = one(subject)
        except InputError as error:
            left_out[name] = str(error)
            continue
        for key, value in found.items():
            kept, reason = _finite(value)
            numbers |= {} if kept is None and reason else {key: kept}
            left_out |= {key: reason} if reason else {}
    return {**numbers, "left_out": left_out}


def _finite(value: Any) -> tuple[Any, str]:
    """What is finite of a number, list or mapping, None for nothing; and which are not."""
    if isinstance(value, Mapping):
        strange = [key for key, v in value.items() if not np.isfinite(v)]
        kept = {key: v for key, v in value.items() if key not in strange}
        return kept or None, f"not finite at {', '.join(strange)}" if strange else ""
    numbers = value if isinstance(value, list) else [value]
    if any(isinstance(v, float) and not np.isfinite(v) for v in numbers):
        return None, f"not finite: {value}"
    return value, ""


def not_finite(x: np.ndarray) -> int:
    """Returns how many of the examples `(n, *S)` hold NaN or infinite values."""
    return int((~np.isfinite(x.reshape(len(x), -1)).all(1)).sum())


def _all_finite(x: np.ndarray, sampler: str) -> np.ndarray:
    if not_finite(x):
        raise InputError(
            f"{not_finite(x)} of {len(x)} samples are not finite: the sampler {sampler} diverged; give it more or "
            "smaller steps, or train longer"
        )
    return x


def _require_held_out(trained: Trained) -> None:
    if not len(trained.data.held_out):
        raise InputError(
            "nothing was held out to measure against (data.holdout=0): train in a new workdir with "
            "--config.data.holdout=0.1, or a number of examples"
        )


# Of the model


def held_out_loss(trained: Trained) -> Numbers:
    """Returns the loss per dimension of 256 held-out examples by noise level."""
    _require_held_out(trained)
    config, mesh = trained.config, training.data_mesh()
    rows = max(256 // mesh.size, 1) * mesh.size
    batch = trained.data.held_out.batch(np.arange(rows) % len(trained.data.held_out))
    labels = _labels_of(trained, batch)
    stacked = {"x": batch["x"][None]} | ({} if labels is None else {"label": labels[None]})
    evaluate = training.make_eval_step(
        trained.model,
        build.objective(config, trained.model.sde, trained.data.oracle),
        mesh=mesh,
        prepare=build.prepare(config, trained.data.train),
        levels=config.evaluation.levels,
        ema=config.sampler.ema,
    )
    sigmas = level_sigmas(trained.model.sde, config.evaluation.levels)
    return evaluation.held_out_loss(evaluate, trained.state, training.put_batches(stacked, mesh), sigmas)


def score_error(trained: Trained, seed: int) -> metrics.ScoreError:
    """Returns the error against the exact score."""
    if trained.data.oracle is None:
        raise InputError(f"the score error is of a known density, which {trained.config.data.name!r} has not")
    key = evaluation.keys(seed, 1)[0]
    return evaluation.score_error(key, trained.model, trained.data.oracle, trained.config.evaluation.levels)


def _score_error(subject: Subject) -> Numbers:
    error = score_error(subject.trained, subject.seed)
    return {"relative_score_error_by_sigma": evaluation.by_sigma(error.sigma, error.relative)}


# Of samples


def _distances(subject: Subject) -> Numbers:
    """To held-out data; to the training set, under names that say so, where there are none."""
    held_out = len(subject.trained.data.held_out) > 0
    data = (subject.held_out if held_out else subject.train)["x"]
    n = min(len(subject.drawn), len(data) // 2)
    if n < 2:
        raise InputError(
            f"distances take 4 {'held-out' if held_out else 'training'} examples, 2 to compare samples with and 2 to "
            f"compare with these, got {len(data)}"
        )
    key = evaluation.keys(subject.seed, 2)[1]
    found = evaluation.distances(key, subject.samples[:n], data[:n], data[n : 2 * n])
    return {"distances_n": n} | (found if held_out else {f"train_{name}": value for name, value in found.items()})


def _mode_weights(subject: Subject) -> Numbers:
    return evaluation.mode_weights(subject.samples, subject.trained.config.data.name)


def _nearest_neighbours(subject: Subject) -> Numbers:
    return {"nearest_neighbour_distance": float(np.median(subject.to_train))}


def _copies(subject: Subject) -> Numbers:
    _require_held_out(subject.trained)
    of_held_out = metrics.nearest_neighbours(subject.held_out["x"], subject.train["x"])[1][:, 0]
    found = metrics.copying(subject.to_train, of_held_out)
    return {
        "held_out_nearest_neighbour_distance": found.held_out_distance,
        "nearest_neighbour_ratio": found.ratio,
        "copies": found.copies,
    }


def _class_shares(subject: Subject) -> Numbers:
    _require_held_out(subject.trained)
    real = subject.held_out["x"], subject.held_out["label"]
    shares = evaluation.class_shares(subject.classifier, subject.samples, real)
    return {**shares, "class_names": [subject.names[label] for label in subject.classifier.classes]}


def _conditional_accuracy(subject: Subject) -> Numbers:
    """How many samples are what they were asked to be: of a classifier whose own accuracy `class_shares` gives."""
    _require_held_out(subject.trained)
    assert subject.conditional is not None
    drawn, labels = subject.conditional
    predicted = subject.classifier.predict(_all_finite(drawn, subject.trained.config.sampler.name))
    return {"conditional_accuracy": float((predicted == labels).mean()), "conditional_n": len(labels)}


# Of held-out examples


def likelihood(
    trained: Trained, seed: int | None = None, *, t_min: float | None = None, t_max: float | None = None
) -> Numbers:
    """Returns how probable `evaluation.likelihood_n` held-out examples are by the probability flow.

    Images of grey levels have bits per dimension, dequantized whether or not training's were; what else there is has a
    density, in nats. Labels are left out where the model can do without.

    Args:
      trained: a trained model.
      seed: of the probes; None is the config's.
      t_min: where the flow starts; else the least noisy time of training: the first knot of a table whose knots alone
        it drew from.
      t_max: where the flow ends, in the prior; else the SDE's.
    """
    _require_held_out(trained)
    config, sde, levels = trained.config, trained.model.sde, trained.data.held_out.levels
    if config.network.attention_implementation == "cudnn":
        raise InputError(
            "the likelihood needs derivatives that cuDNN's attention has not: set "
            "--config.network.attention_implementation=xla, which the same parameters serve"
        )
    key_noise, key_probes = evaluation.keys(config.seed if seed is None else seed, 4)[2:]
    x, labels = _held_out(trained, config.evaluation.likelihood_n, key_noise, dequantize=True)
    if t_min is None:
        t_min = float(build.level_times(config, sde)[-1] if config.times.name == "knots" else sde.t_min)
    flow = evaluation.Flow(
        t_min,
        float(sde.t_max if t_max is None else t_max),
        config.evaluation.likelihood_probes,
        config.evaluation.likelihood_tolerance,
        config.sampler.batch_size,
    )
    if levels:
        low, high = build.value_range(config)
        return evaluation.bits(key_probes, trained.model, x, labels, flow, levels=levels, data_range=high - low)
    likelihoods.refuse_grey_levels(trained.data.train.batch(np.arange(min(1000, len(trained.data.train))))["x"])
    # The oracle's is the density of all classes together.
    oracle = trained.data.oracle if labels is None or (labels < 0).all() else None
    return evaluation.nats(key_probes, trained.model, x, labels, flow, oracle=oracle)


def bound(trained: Trained, seed: int | None = None) -> Numbers:
    """Returns the variational bound of `evaluation.bound_n` held-out images, in bits per dimension, with its parts.

    It is of the config's ancestral sampler and of images as they were trained on: dequantized, or the grey levels.
    """
    _require_held_out(trained)
    config, levels = trained.config, trained.data.held_out.levels
    if not levels:
        raise InputError(
            f"the variational bound is of grey levels, which {config.data.name!r} has not: set "
            "--config.evaluation.bound_n=0, and likelihood_n for the density of such data"
        )
    key_noise, key_steps = evaluation.keys(config.seed if seed is None else seed, 6)[4:]
    x, labels = _held_out(trained, config.evaluation.bound_n, key_noise, dequantize=config.data.dequantize)
    low, high = build.value_range(config)
    grey = f"{levels} grey levels, {'uniformly dequantized' if config.data.dequantize else 'as stored'}"
    return evaluation.bound(
        key_steps,
        build.bound(config, trained.model.sde, levels),
        trained.model,
        x,
        labels,
        convention=f"bits per dimension of {grey}; variational bound of {config.sampler.steps} ancestral steps",
        offset=float(np.log2(levels / (high - low))) if config.data.dequantize else 0.0,
        batch_size=config.sampler.batch_size,
    )


def _held_out(trained: Trained, n: int, key: Key, *, dequantize: bool) -> tuple[np.ndarray, np.ndarray | None]:
    """The first n held-out examples in the range of training, and labels as `_labels_of` has them."""
    config, source = trained.config.copy_and_resolve_references(), trained.data.held_out
    config.data.dequantize, config.data.flip = dequantize, False
    batch = source.batch(np.arange(min(n, len(source))))
    return np.asarray(build.prepare(config, source)(key, jnp.asarray(batch["x"]))), _labels_of(trained, batch)


def _labels_of(trained: Trained, batch: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """Labels to measure a batch with: none, −1, of a model that can do without, else its own."""
    if not trained.data.train.num_classes:
        return None
    return np.full(len(batch["x"]), -1, np.int32) if trained.config.training.label_dropout else batch["label"]
