"""What a data set is: a length, a shape, and rows by index.

A source is random access and vectorised: `batch(rows)` gathers all in one call. Nothing else is asked of
it; order, shuffling and position live in `loader`. Images are uint8 grey levels 0 … levels-1 as they were published
(scaling is an explicit step, see `images`), points are float32.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from score_jax.data.order import permutation
from score_jax.types import InputError


class Source(Protocol):
    """A data set: `len(source)` examples, gathered by `source.batch(rows)`."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one example: (28, 28, 1), or (2,) for points in the plane."""

    @property
    def num_classes(self) -> int:
        """Number of classes, 0 if the examples have no label."""

    @property
    def levels(self) -> int:
        """Number of grey levels of uint8 images, 0 for floating-point data."""

    def __len__(self) -> int: ...

    def batch(self, rows: np.ndarray, /) -> dict[str, np.ndarray]:
        """Gathers `rows`, indices `(n,)`: "x" `(n, *shape)` uint8 or float32; with classes, "label" `(n,)` int32."""


@dataclass(frozen=True)
class ArraySource:
    """Examples held in memory (or memory-mapped).

    Args:
      x: `(N, *S)`, uint8 images or floating-point data, which is given out as float32.
      label: None or `(N,)` integers in [0, num_classes).
      num_classes: 0 takes max(label) + 1.
      levels: grey levels of uint8 images; ignored for floating-point data.
    """

    x: np.ndarray
    label: np.ndarray | None = None
    num_classes: int = 0
    levels: int = 256

    def __post_init__(self):
        if len(self.x) == 0:
            raise InputError(f"the data set is empty: x has shape {self.x.shape}; expected at least one example")
        if self.x.dtype != np.uint8 and not np.issubdtype(self.x.dtype, np.floating):
            raise InputError(f"x has dtype {self.x.dtype}; expected uint8 (images) or floating point: convert it first")
        if self.x.dtype != np.uint8:
            object.__setattr__(self, "levels", 0)
        if self.label is None:
            object.__setattr__(self, "num_classes", 0)
            return
        label = _checked_labels(self.label, len(self.x), self.num_classes)
        object.__setattr__(self, "label", label)
        object.__setattr__(self, "num_classes", self.num_classes or int(label.max()) + 1)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.x.shape[1:]

    def __len__(self) -> int:
        return len(self.x)

    def batch(self, rows: np.ndarray, /) -> dict[str, np.ndarray]:
        x = np.asarray(self.x[rows])
        x = x if x.dtype == np.uint8 else x.astype(np.float32, copy=False)
        return {"x": x} if self.label is None else {"x": x, "label": self.label[rows]}


def _checked_labels(label: np.ndarray, n: int, num_classes: int) -> np.ndarray:
    label = np.asarray(label)
    if label.shape != (n,) or not np.issubdtype(label.dtype, np.integer):
        raise InputError(
            f"labels have shape {label.shape} and dtype {label.dtype}; expected ({n},) integers, one an example"
        )
    if label.min() < 0 or (num_classes and label.max() >= num_classes):
        expected = f"0 … {num_classes - 1}" if num_classes else "0 or more"
        raise InputError(f"labels run from {label.min()} to {label.max()}; expected {expected}")
    return label.astype(np.int32)


@dataclass(frozen=True)
class View:
    """A source that gets its rows from `batch`: a function over another source, over files or over records."""

    length: int
    shape: tuple[int, ...]
    num_classes: int
    levels: int
    batch: Callable[[np.ndarray], dict[str, np.ndarray]]

    def __len__(self) -> int:
        return self.length


def subset(source: Source, indices: np.ndarray) -> Source:
    """Returns the rows `indices` `(n,)` of `source`, in that order, as a source; nothing is copied."""
    indices = np.asarray(indices, np.int64)
    if indices.ndim != 1 or len(indices) == 0 or indices.min() < 0 or indices.max() >= len(source):
        raise InputError(f"a subset needs at least one index, all in 0 … {len(source) - 1}; got {indices}")
    return View(len(indices), source.shape, source.num_classes, source.levels, lambda rows: source.batch(indices[rows]))


def split(source: Source, holdout: int | float, *, seed: int = 0) -> tuple[Source, Source]:
    """Splits `source` into disjoint (training, held-out) sources, chosen at random but fixed by `seed`.

    Args:
      source: N examples.
      holdout: how many examples to hold out, or a fraction in (0, 1).
      seed: another seed, another split.
    """
    n = round(holdout * len(source)) if 0 < holdout < 1 else int(holdout)
    if not 0 < n < len(source):
        raise InputError(
            f"holdout={holdout} holds out {n} of {len(source)} examples; expected between 1 and {len(source) - 1}"
        )
    order = permutation(len(source), seed)
    return subset(source, np.sort(order[n:])), subset(source, np.sort(order[:n]))


def unlabelled(source: Source) -> Source:
    """Returns `source` without its labels, for an unconditional model."""
    return View(len(source), source.shape, 0, source.levels, lambda rows: {"x": source.batch(rows)["x"]})


def in_memory(source: Source, *, batch_size: int = 1024) -> ArraySource:
    """Reads all of `source` (files, a TFDS copy) into memory once, so that later epochs decode nothing."""
    starts = range(0, len(source), batch_size)
    parts = [source.batch(np.arange(i, min(i + batch_size, len(source)))) for i in starts]
    whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return ArraySource(whole["x"], whole.get("label"), source.num_classes, source.levels)
