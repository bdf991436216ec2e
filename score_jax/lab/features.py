"""Features of samples and of data, in parts that are kept: what is compared of images.

The moments of all, the features themselves of the first ones. Those of a training set are made once, and kept in a
cache under a hash of what they are of: the images, their number, and what the network is and does to them.
"""

import hashlib
import itertools
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from score_jax import metrics
from score_jax.data import Source, npy
from score_jax.lab import records
from score_jax.lab.kept import Arrays, Kept
from score_jax.lab.progress import Counted
from score_jax.metrics import Features, GreyFeatures, Moments
from score_jax.types import InputError, PyTree

PARTS = 10  # whose moments give a distance its error, and whose scores are the inception score's
_READ = 4096  # images at once
_GREY = 1  # of the classifier's network and training: another is trained anew


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
    read: Callable[[int, int], np.ndarray],
    n: int,
    *,
    kept: int,
    unfinished: Kept,
    name: str,
) -> FeatureSet:
    """Returns the features of n images.

    Args:
      network: makes them.
      read: `(start, stop) -> images (stop − start, H, W, C)`, in [0, 1].
      n: their number.
      kept: of how many the features are kept.
      unfinished: keeps parts as they come.
      name: of these images among what it keeps.

    Raises:
      InputError: of too few images, or such as the network doesn't take.
    """
    if n < 2 * PARTS:
        raise InputError(f"features are compared of at least {2 * PARTS} images, got {n}")

    def part(start: int, stop: int) -> Arrays:
        rows, probabilities = network.with_probabilities(read(start, stop))
        found = Moments.of(rows)
        score = metrics.inception_score(probabilities, n_splits=1)[0]
        told = {"n": np.int64(found.n), "mean": found.mean, "scatter": found.scatter, "score": np.float64(score)}
        return {**told, "rows": rows[: max(0, kept - start)]}  # type: ignore[dict-item]

    parts, shown = [], Counted(f"features of {name}", n, "image")
    for start, stop in itertools.pairwise(i * n // PARTS for i in range(PARTS + 1)):
        key = f"{name}-features-{start}"
        earlier = unfinished.has(key)
        parts.append(unfinished.once(key, partial(part, start, stop)))
        shown.add(stop - start, earlier=earlier)
    shown.close()
    moments = tuple(Moments(int(p["n"]), p["mean"], p["scatter"]) for p in parts)
    return FeatureSet(moments, np.concatenate([p["rows"] for p in parts]), np.array([p["score"] for p in parts]))


def reference(network: Features, source: Source, *, split: str, kept: int, cache: Path) -> Reference:
    """Returns the features of all images of a source, from the cache if they are there."""
    conditions = {**network.conditions, "data": data_hash(source), "split": split, "count": len(source)}
    folder = cache / f"reference-{records.digest({**conditions, 'kept': kept})}"
    found = _cached(folder, conditions)
    if found is None:
        unfinished = Kept(folder / ".unfinished", conditions)
        read = lambda start, stop: images_of(source, start, stop)
        made = of_images(network, read, len(source), kept=kept, unfinished=unfinished, name=split)
        found = Reference(made.moments, made.rows, conditions)
        _keep(folder, found)
        unfinished.clear()
    return found


def _cached(folder: Path, conditions: Mapping[str, Any]) -> Reference | None:
    try:
        moments = metrics.load_moments(folder / "moments.npz", conditions)
        return Reference(moments, np.asarray(npy.read_npy(folder / "rows.npy")[:]), conditions)
    except (InputError, OSError, ValueError):  # there is none, or what is there is damaged
        return None


def _keep(folder: Path, found: Reference) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        draft = folder / f".rows-{os.getpid()}.npy"  # another process may make the same
        np.save(draft, found.rows)
        os.replace(draft, folder / "rows.npy")
        metrics.save_moments(folder / "moments.npz", found.moments, found.conditions)
    except (OSError, InputError):  # it is made again the next time
        return


def grey_network(data: Source, *, cache: Path) -> GreyFeatures:
    """Returns the classifier of a labelled source of small grey images, trained once and kept in the cache.

    Raises:
      InputError: of a source without classes, or of other images.
    """
    if len(data.shape) != 3 or data.shape[2] != 1:
        raise InputError(f"features of a grey classifier are of images (H, W, 1), got {data.shape}: choose another")
    if data.num_classes < 2:
        raise InputError("features of a grey classifier need data with classes: choose another network")
    kept = Kept(cache / f"grey-{data_hash(data)}", {"network": "GreyClassifier", "version": _GREY})

    def train() -> Arrays:
        labels = data.batch(np.arange(len(data)))["label"]
        found = metrics.train_grey_features(jax.random.key(0), images_of(data, 0, len(data)), labels)
        weights = {f"weights.{name}": np.asarray(v) for name, v in _flat(found.features.variables).items()}
        return {**weights, "accuracy": np.float64(found.accuracy), "classes": found.classes}  # type: ignore[dict-item]

    found = kept.once("classifier", train)
    weights = {name.removeprefix("weights."): v for name, v in found.items() if name.startswith("weights.")}
    features = metrics.grey_features_of(unflatten_dict(weights, sep="."), data.shape[:2], len(found["classes"]))
    return GreyFeatures(features, float(found["accuracy"]), found["classes"])


def _flat(variables: PyTree) -> Mapping[str, Any]:
    return flatten_dict(variables, sep=".")


def data_hash(source: Source) -> str:
    """Returns the first 16 digits of the SHA-256 of all images, and labels if there are some."""
    found = hashlib.sha256(f"{len(source)} {source.shape} {source.grey_levels}".encode())
    for start in range(0, len(source), _READ):
        batch = source.batch(np.arange(start, min(start + _READ, len(source))))
        for name in ("x", "label"):
            if name in batch:
                found.update(np.ascontiguousarray(batch[name]).tobytes())
    return found.hexdigest()[:16]


def images_of(source: Source, start: int, stop: int) -> np.ndarray:
    """Returns images `start` to `stop − 1` of a source in [0, 1]."""
    x = source.batch(np.arange(start, stop))["x"]
    return x / np.float32(source.grey_levels - 1) if source.grey_levels else x
