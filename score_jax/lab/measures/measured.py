"""What measures are of: a trained model, samples of it, and the data beside them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import jax
import numpy as np

from score_jax import metrics
from score_jax.arrays import split
from score_jax.lab import features
from score_jax.lab.experiment import Examples, Run
from score_jax.lab.features import FeatureSet, Read, Reference
from score_jax.lab.kept import Kept
from score_jax.lab.samples import not_finite
from score_jax.metrics import Features
from score_jax.types import ArrayLike, InputError, Key

_STREAM = 0x6576616C


@dataclass(frozen=True)
class Measured:
    """A trained model, samples of it, and data.

    Attributes:
      run: the model, with its experiment.
      seed: of what measures draw.
      drawn: samples `(n, *S)`, finite or not, in the units of `train`, images as far beyond [0, 1] as they came:
        without a label where the model can do without, unless they are led to labels; none of a classifier.
      conditional: samples drawn with labels, and the labels; None of an unconditional model.
      train: training examples, all or a random 20,000: "x" and, where there are classes, "label"; images of grey levels
        in [0, 1].
      held_out: likewise, never trained on; "x" may be empty.
      names: of the classes.
      unfinished: keeps what takes long.
    """

    run: Run
    seed: int
    drawn: np.ndarray
    conditional: tuple[np.ndarray, np.ndarray] | None
    train: Mapping[str, np.ndarray]
    held_out: Mapping[str, np.ndarray]
    names: tuple[str, ...]
    unfinished: Kept = field(default_factory=lambda: Kept(None, {}))

    @property
    def samples(self) -> np.ndarray:
        """The samples if all are finite, for those left of a diverged sampler would flatter it; images in [0, 1]."""
        return self.run.examples.as_stored(self.unclipped)

    @property
    def unclipped(self) -> np.ndarray:
        """The same as the sampler left them."""
        self.run.sampling.require_score()
        return all_finite(self.drawn, self.run.sampling.name)

    @cached_property
    def to_train(self) -> np.ndarray:
        """The distance of each sample to the nearest training example, `(n,)`."""
        return metrics.nearest_neighbours(self.samples, self.train["x"])[1][:, 0]

    @cached_property
    def feature_network(self) -> Features | None:
        """What images are compared by; None where nothing was chosen."""
        how = self.run.experiment.evaluation.features
        return None if how is None else how.network(self.run.experiment.data)

    @cached_property
    def features(self) -> FeatureSet:
        """Of the samples."""
        read = lambda start, stop: self.samples[start:stop]
        return self._features_of(read, len(self.samples), "samples")

    @cached_property
    def held_out_features(self) -> FeatureSet:
        """Of as many held-out images."""
        n, held_out = len(self.drawn), self.run.experiment.data.held_out
        if len(held_out) < n:
            raise InputError(
                f"data are compared with data at equal n only: {len(held_out)} are held out, of {n} samples"
            )
        return self._features_of(features.reader(held_out), n, "held-out")

    @cached_property
    def reference(self) -> Reference:
        """Of the training set."""
        how, network = self.run.experiment.evaluation.features, self.feature_network
        assert how is not None and network is not None
        data = self.run.experiment.data
        return features.reference(
            network, data.train, data_hash=data.images_hash, split="train", kept=how.kept, cache=how.cache
        )

    def _features_of(self, read: Read, n: int, name: str) -> FeatureSet:
        how, network = self.run.experiment.evaluation.features, self.feature_network
        assert how is not None and network is not None
        return features.of_images(network, read, n, kept=how.kept, unfinished=self.unfinished, name=name)

    @cached_property
    def classifier(self) -> metrics.Classifier:
        """A classifier of the training examples."""
        if "label" not in self.train:
            raise InputError(f"a classifier needs classes, which the data {self.run.examples.name!r} have not")
        return metrics.train_classifier(self.train["x"], self.train["label"])


def all_finite(x: np.ndarray, sampler: str) -> np.ndarray:
    """Returns samples if none holds NaN or infinite values; raises InputError else."""
    if not_finite(x):
        raise InputError(
            f"{not_finite(x)} of {len(x)} samples are not finite: the sampler {sampler} diverged; give it more or "
            "smaller steps, or train longer"
        )
    return x


def by_sigma(sigmas: ArrayLike, values: ArrayLike) -> dict[str, float]:
    """Returns `{σ/α: value}`, the form in which files report by noise level; ascending where `sigmas` is."""
    return {f"{sigma:.4g}": float(v) for sigma, v in zip(np.asarray(sigmas), np.asarray(values), strict=True)}


def keys(seed: int, n: int) -> Key:
    """Returns n keys of an evaluation: of a stream of their own, apart from training's (0 to 4) and sampling's."""
    return split(jax.random.fold_in(jax.random.key(seed), _STREAM), n)


def labels_of(examples: Examples, batch: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """Returns labels to measure a batch with: none, −1, of a model that can do without, else its own.

    Raises:
      InputError: where it cannot, and the data have none.
    """
    if not examples.names:
        return None
    if examples.null_label:
        return np.full(len(batch["x"]), -1, np.int32)
    if "label" not in batch:
        raise InputError("this model needs a class for each example, and the data have none: --config.data.labels=True")
    return batch["label"]
