"""Features of samples and of data, in parts that are kept: what is compared of images.

The moments of all, the features themselves of the first ones. Those of a training set are made once, and kept in a
cache under a hash of what they are of: the images, their number, and what the network is and does to them.
"""

import itertools
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from score_jax import metrics
from score_jax.data import Source, content_hash, npy
from score_jax.data.order import permutation
from score_jax.lab import records
from score_jax.lab.kept import Arrays, Kept
from score_jax.lab.progress import Counted
from score_jax.metrics import Features, GreyFeatures, Moments
from score_jax.metrics.inception_score import ClassSums
from score_jax.training import hosts
from score_jax.types import InputError, PyTree

PARTS = 10  # whose moments give a distance its error, and whose scores are the inception score's
_READ = 512  # images at once
_KEPT = 2048  # images after which what was made of them is kept, of at most 200,000
_VERSION = 1  # of what is done to images here and in `metrics.features`: references of another are made anew
_GREY = 1  # of the classifier's network and training: another is trained anew


Read: TypeAlias = Callable[[int, int], np.ndarray]  # (start, stop) -> images (stop − start, H, W, C), in [0, 1]


class FeatureSet(NamedTuple):
    """Features of n images.

    Attributes:
      parts: moments of equal parts of them.
      rows: features of the first m, `(m, F)`.
      scores: the inception score of each part, by the network's classes.
    """

    parts: tuple[Moments, ...]
    rows: np.ndarray
    scores: np.ndarray

    @property
    def moments(self) -> Moments:
        """Of all."""
        return Moments.merged(self.parts)


class Reference(NamedTuple):
    """A data set's features: moments of all, those of the first m `(m, F)`, and what they are of."""

    moments: Moments
    rows: np.ndarray
    conditions: Mapping[str, Any]


def of_images(
    network: Features,
    read: Read,
    n: int,
    *,
    kept: int,
    unfinished: Kept,
    name: str,
) -> FeatureSet:
    """Returns the features of n images.

    Args:
      network: makes them.
      read: gives them.
      n: their number.
      kept: of how many the features are kept.
      unfinished: keeps parts as they come.
      name: of these images among what it keeps.

    Raises:
      InputError: of too few images, or such as the network doesn't take.
    """
    if n < 2 * PARTS:
        raise InputError(f"features are compared of at least {2 * PARTS} images, got {n}")
    parts, rows, shown = [], [], Counted(f"features of {name}", n, "image")
    for start, stop in itertools.pairwise(i * n // PARTS for i in range(PARTS + 1)):
        pieces = []
        for first, last in itertools.pairwise(_cut(start, stop, max(_KEPT, n // 100))):
            key = f"{name}-features-{network.hash}-{first}-{last}"
            earlier = unfinished.has(key)
            made = partial(_piece, network, read, first, last, max(0, kept - first))
            pieces.append(unfinished.once(key, made))
            rows.append(pieces[-1]["rows"])
            shown.add(last - first, earlier=earlier)
        parts.append(pieces)
    shown.close()
    moments = tuple(Moments.merged(Moments(int(p["n"]), p["mean"], p["scatter"]) for p in part) for part in parts)
    sums = [ClassSums.merged(ClassSums(int(p["n"]), p["shares"], float(p["entropy"])) for p in part) for part in parts]
    return FeatureSet(moments, np.concatenate(rows), np.array([part.score for part in sums]))


def _cut(start: int, stop: int, size: int) -> list[int]:
    pieces = -(-(stop - start) // size)
    return [start + i * (stop - start) // pieces for i in range(pieces + 1)]


def _piece(network: Features, read: Read, first: int, last: int, kept: int) -> Arrays:
    """What is kept of images `first` to `last − 1`: moments, sums of class probabilities, features of `kept`."""
    size = max(_READ // network.batch_size, 1) * network.batch_size
    moments, sums, rows = [], [], []
    for start in range(first, last, size):
        features, probabilities = network.with_probabilities(read(start, min(start + size, last)))
        moments.append(Moments.of(features))
        sums.append(ClassSums.of(probabilities))
        rows.append(features[: max(0, kept - (start - first))])
    found, classes = Moments.merged(moments), ClassSums.merged(sums)
    scalars = {"n": np.int64(found.n), "entropy": np.float64(classes.entropy)}
    arrays = {"mean": found.mean, "scatter": found.scatter, "shares": classes.probabilities}
    return {**scalars, **arrays, "rows": np.concatenate(rows)}  # type: ignore[dict-item]


def reference(network: Features, source: Source, *, data_hash: str, split: str, kept: int, cache: Path) -> Reference:
    """Returns the features of all images of a source, from the cache if they are there.

    Args:
      network: makes them.
      source: the images; they are taken in random order.
      data_hash: `data.content_hash` of it.
      split: what the source is of its data set.
      kept: of how many the features are kept.
      cache: folder.

    Raises:
      InputError: of too few images, or such as the network doesn't take.
    """
    conditions = {**network.conditions, "data": data_hash, "split": split, "count": len(source)}
    folder = cache / f"reference-{records.digest({**conditions, 'kept': kept, 'version': _VERSION})}"
    found = _cached(folder, conditions)
    if found is None:
        unfinished = Kept(folder / ".unfinished", conditions)
        made = of_images(network, reader(source), len(source), kept=kept, unfinished=unfinished, name=split)
        found = Reference(made.moments, made.rows, conditions)
        _keep(folder, found)
        unfinished.clear()
    return found


def reader(source: Source) -> Read:
    """Returns `(start, stop) -> images` in [0, 1] of a source in random order: sources often come class by class."""
    order = permutation(len(source), 0)
    return lambda start, stop: images_of(source, order[start:stop])


def _cached(folder: Path, conditions: Mapping[str, Any]) -> Reference | None:
    found = hosts.arrays_by_first(lambda: _read_cache(folder, conditions))
    if found is None:
        return None
    return Reference(Moments(int(found["n"]), found["mean"], found["scatter"]), found["rows"], conditions)


def _read_cache(folder: Path, conditions: Mapping[str, Any]) -> Arrays | None:
    try:
        moments = metrics.load_moments(folder / "moments.npz", conditions)
        rows = np.asarray(npy.read_npy(folder / "rows.npy")[:])
        return {"n": np.asarray(moments.n), "mean": moments.mean, "scatter": moments.scatter, "rows": rows}
    except (InputError, OSError, ValueError):  # there is none, or what is there is damaged
        return None


def _keep(folder: Path, found: Reference) -> None:
    if not hosts.is_first():
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        draft = folder / f".rows-{os.getpid()}.npy"  # another process may make the same
        np.save(draft, found.rows)
        os.replace(draft, folder / "rows.npy")
        metrics.save_moments(folder / "moments.npz", found.moments, found.conditions)
    except (OSError, InputError):  # it is made again the next time
        return


def grey_network(data: Source, *, cache: Path, seed: int = 0) -> GreyFeatures:
    """Returns the classifier of a labelled source of small grey images, trained once for a seed and kept in the cache.

    Raises:
      InputError: of a source without classes, or of other images.
    """
    if len(data.shape) != 3 or data.shape[2] != 1:
        raise InputError(f"features of a grey classifier are of images (H, W, 1), got {data.shape}: choose another")
    if data.num_classes < 2:
        raise InputError("features of a grey classifier need data with classes: choose another network")
    folder = cache / f"grey-{content_hash(data, labels=True)}-{seed}"
    kept = Kept(folder, {"network": "GreyClassifier", "version": _GREY})

    def train() -> Arrays:
        rows = np.arange(len(data))
        found = metrics.train_grey_features(jax.random.key(seed), images_of(data, rows), data.batch(rows)["label"])
        weights = {f"weights.{name}": np.asarray(v) for name, v in _flat(found.features.variables).items()}
        return {**weights, "accuracy": np.float64(found.accuracy), "classes": found.classes}  # type: ignore[dict-item]

    found = kept.once("classifier", train)
    weights = {name.removeprefix("weights."): v for name, v in found.items() if name.startswith("weights.")}
    features = metrics.grey_features_of(unflatten_dict(weights, sep="."), data.shape[:2], len(found["classes"]))
    return GreyFeatures(features, float(found["accuracy"]), found["classes"])


def _flat(variables: PyTree) -> Mapping[str, Any]:
    return flatten_dict(variables, sep=".")


def images_of(source: Source, rows: np.ndarray) -> np.ndarray:
    """Returns images of a source in [0, 1].

    Raises:
      InputError: of floating-point images of another range.
    """
    x = source.batch(rows)["x"]
    if source.grey_levels:
        return x / np.float32(source.grey_levels - 1)
    if x.min() < 0 or x.max() > 1:
        raise InputError(
            f"features are of images in [0, 1], and the data have values from {x.min():.4g} to {x.max():.4g}: store "
            "them as uint8, or map them onto [0, 1]"
        )
    return x
