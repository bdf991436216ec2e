"""What a data set is: a length, a shape, and rows by index.

A source is random access and vectorised: `batch(rows)` gathers all in one call. Nothing else is asked of
it; order, shuffling and position live in `loader`. Images are uint8, 0 … grey_levels − 1 as they were
published (scaling is an explicit step, see `images`), points are float32.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from score_jax.data import labels
from score_jax.data.npy import Rows
from score_jax.data.order import permutation
from score_jax.types import InputError

_EXAMPLES_TO_SEE, _READ_AT_ONCE = 50, 64
_HASHED_AT_ONCE = 4096


class Source(Protocol):
    """A data set: `len(source)` examples, gathered by `source.batch(rows)`."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one example: (28, 28, 1), or (2,) for points in the plane."""

    @property
    def num_classes(self) -> int:
        """Number of classes, 0 if the examples have no label."""

    @property
    def grey_levels(self) -> int:
        """Number of grey levels of uint8 images, 0 for floating-point data."""

    @property
    def names(self) -> tuple[str, ...]:
        """What the classes are called, one name a class."""

    @property
    def label(self) -> np.ndarray | None:
        """The class of every example, `(N,)` int32; None without classes, or where it takes reading all of the data."""

    def __len__(self) -> int: ...

    def batch(self, rows: np.ndarray, /) -> dict[str, np.ndarray]:
        """Gathers `rows`, indices `(n,)`: "x" `(n, *shape)` uint8 or float32; with classes, "label" `(n,)` int32."""


@dataclass(frozen=True)
class ArraySource:
    """Examples held in memory, or in a file of which rows are read when asked for (`npy.Rows`).

    Args:
      x: `(N, *S)`, uint8 images or floating-point data, which is given out as float32.
      label: None or `(N,)`: integers in [0, num_classes), or, where no number of classes is given, any integers from 0,
        booleans or text; the values that occur become classes 0, 1, … in ascending order.
      num_classes: 0: as many as different labels.
      grey_levels: their number in uint8 images; ignored for floating-point data.
      names: of the classes where their number is given; else they have the names of their labels.
    """

    x: np.ndarray | Rows
    label: np.ndarray | None = None
    num_classes: int = 0
    grey_levels: int = 256
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_examples(self.x)
        if self.x.dtype != np.uint8:
            object.__setattr__(self, "grey_levels", 0)
        label, names = self._classes()
        object.__setattr__(self, "label", label)
        object.__setattr__(self, "names", names)
        object.__setattr__(self, "num_classes", len(names))

    def _classes(self) -> tuple[np.ndarray | None, tuple[str, ...]]:
        if self.label is None:
            return None, ()
        if not self.num_classes:
            return labels.classes(self.label, len(self.x))
        label = labels.within(self.label, len(self.x), self.num_classes)
        return label, self.names or labels.numbered(self.num_classes)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.x.shape[1:]

    def __len__(self) -> int:
        return len(self.x)

    def batch(self, rows: np.ndarray, /) -> dict[str, np.ndarray]:
        x = np.asarray(self.x[rows])
        x = x if x.dtype == np.uint8 else x.astype(np.float32, copy=False)
        return {"x": x} if self.label is None else {"x": x, "label": self.label[rows]}


def blocks(x: np.ndarray | Rows, size: int = 2**22) -> Iterator[tuple[int, np.ndarray]]:
    """Yields (first row, rows) of all of `x`, about `size` numbers at a time, for checks of data of any size."""
    rows = max(1, size // max(1, int(np.prod(x.shape[1:]))))
    for start in range(0, len(x), rows):
        yield start, x[start : start + rows]


def _check_examples(x: np.ndarray | Rows) -> None:
    if len(x) == 0:
        raise InputError(f"the data set is empty: x has shape {x.shape}; expected at least one example")
    if 0 in x.shape[1:]:
        raise InputError(f"x has shape {x.shape}: its examples hold no numbers")
    if x.dtype != np.uint8 and not np.issubdtype(x.dtype, np.floating):
        raise InputError(
            f"x has dtype {x.dtype}; expected uint8 (grey levels 0 … 255) or floating point: "
            "x.astype(np.uint8) or x.astype(np.float32) makes them"
        )
    _check_channels_last(x)
    if x.dtype != np.uint8:
        _check_finite(x)


def _check_channels_last(x: np.ndarray | Rows) -> None:
    if x.ndim == 4 and _channels_first(*x.shape[1:]):
        volumes = "" if x.dtype == np.uint8 else "; x[..., None] says that these are volumes (N, H, W, D, C)"
        raise InputError(
            f"x has shape {x.shape}, images with channels first; expected (N, H, W, C): "
            f"x.transpose(0, 2, 3, 1) mends it{volumes}"
        )
    if x.ndim == 5 and x.shape[1] <= 4 < min(x.shape[2:]):
        raise InputError(
            f"x has shape {x.shape}, volumes with channels first; expected (N, H, W, D, C): "
            "x.transpose(0, 2, 3, 4, 1) mends it"
        )


def _channels_first(first: int, second: int, third: int) -> bool:
    """Whether images of this shape must be (C, H, W): there are few channels, or more than there are rows."""
    return third > 4 and (first <= 4 or first < second == third)


def _check_finite(x: np.ndarray | Rows) -> None:
    for start, rows in blocks(x):
        with np.errstate(over="ignore"):
            finite = np.isfinite(rows.astype(np.float32, copy=False)).reshape(len(rows), -1).all(1)
        if not finite.all():
            row = start + int(finite.argmin())
            raise InputError(
                f"x has NaN, infinite values or values beyond float32, first in example {row}: "
                "remove or rescale these examples"
            )


@dataclass(frozen=True)
class View:
    """A source that gets its rows from `batch`: a function over another source, over files or over records."""

    length: int
    shape: tuple[int, ...]
    grey_levels: int
    batch: Callable[[np.ndarray], dict[str, np.ndarray]]
    names: tuple[str, ...] = ()
    label: np.ndarray | None = None

    @property
    def num_classes(self) -> int:
        return len(self.names)

    def __len__(self) -> int:
        return self.length


def derived(source: Source, batch: Callable[[np.ndarray], dict[str, np.ndarray]], **changes: Any) -> View:
    """Returns a view of `source` with other batches; what else differs is given by its name in `View`."""
    same = {"length": len(source), "shape": source.shape, "grey_levels": source.grey_levels}
    return View(**{**same, "names": source.names, "label": source.label, **changes}, batch=batch)


def occurring(source: Source) -> np.ndarray:
    """Returns the classes that have an example, ascending.

    Where labels take reading the data, examples are read in a random order until all classes were seen, or 50 times as
    many as there are classes: one that is in none of those has no examples to speak of.
    """
    if source.label is not None:
        return np.unique(source.label[source.label >= 0])
    classes = np.arange(source.num_classes)
    seen = np.zeros(len(classes), bool)
    rows = permutation(len(source), 0)[: _EXAMPLES_TO_SEE * len(classes)]
    for start in range(0, len(rows), _READ_AT_ONCE):
        label = source.batch(rows[start : start + _READ_AT_ONCE])["label"]
        seen[label[label >= 0]] = True
        if seen.all():
            break
    return classes[seen]


def random_rows(source: Source, n: int) -> np.ndarray:
    """Returns the indices `(n,)` of examples that stand for a source: the same each time, in random order, since
    examples often come class by class; all of them, in their order, where there are no more than n."""
    return permutation(len(source), 0)[:n] if n < len(source) else np.arange(len(source))


def some_examples(source: Source, n: int) -> dict[str, np.ndarray]:
    """Returns n examples, `random_rows` of the source, images of grey levels as floats in [0, 1]."""
    if not len(source):
        return {"x": np.empty((0, *source.shape), np.float32)}
    batch = source.batch(random_rows(source, n))
    x = batch["x"]
    return {**batch, "x": x / np.float32(source.grey_levels - 1) if source.grey_levels else x}


def content_hash(source: Source, *, labels: bool = False) -> str:
    """Returns the first 16 digits of the SHA-256 of all examples of a source, and of their labels too."""
    found = hashlib.sha256(f"{len(source)} {source.shape} {source.grey_levels}".encode())
    for start in range(0, len(source), _HASHED_AT_ONCE):
        batch = source.batch(np.arange(start, min(start + _HASHED_AT_ONCE, len(source))))
        for name in ("x", "label") if labels else ("x",):
            found.update(np.ascontiguousarray(batch[name]).tobytes())
    return found.hexdigest()[:16]


def subset(source: Source, indices: np.ndarray) -> Source:
    """Returns the rows `indices` `(n,)` of `source`, in that order, as a source; nothing is copied."""
    indices = np.asarray(indices, np.int64)
    if indices.ndim != 1 or len(indices) == 0 or indices.min() < 0 or indices.max() >= len(source):
        raise InputError(f"a subset needs at least one index, all in 0 … {len(source) - 1}; got {indices}")
    label = None if source.label is None else source.label[indices]
    return derived(source, lambda rows: source.batch(indices[rows]), length=len(indices), label=label)


def hold_out(source: Source, holdout: int | float, *, seed: int = 0) -> tuple[Source, Source]:
    """Splits `source` into disjoint (training, held-out) sources, chosen at random but fixed by `seed`.

    Args:
      source: N examples.
      holdout: how many examples to hold out, or a fraction in (0, 1), of which at least one; 0 trains on all of them,
        and what is held out is empty.
      seed: another seed, another split.
    """
    n = _held_out(len(source), holdout)
    if n == 0:
        label = None if source.label is None else source.label[:0]
        return source, derived(source, source.batch, length=0, label=label)
    order = permutation(len(source), seed)
    return subset(source, np.sort(order[n:])), subset(source, np.sort(order[:n]))


def _held_out(n: int, holdout: int | float) -> int:
    """Returns how many of n examples are held out."""
    if not (0 <= holdout < 1 or (holdout > 0 and float(holdout).is_integer())):
        raise InputError(f"holdout={holdout}; expected a share below 1, a whole number of examples, or 0 for none")
    count = int(holdout) if holdout >= 1 or holdout == 0 else max(1, round(holdout * n))
    if count >= n:
        raise InputError(
            f"holdout={holdout} holds out {count} of {n} examples and leaves none to train on: hold out fewer, or "
            "none, holdout=0 (--config.data.holdout=0)"
        )
    return count


def unlabelled(source: Source) -> Source:
    """Returns `source` without its labels, for an unconditional model."""
    return derived(source, lambda rows: {"x": source.batch(rows)["x"]}, names=(), label=None)


def in_memory(source: Source, *, batch_size: int = 1024) -> ArraySource:
    """Reads all of `source` (files, a TFDS copy) into memory once, so that later epochs decode nothing."""
    starts = range(0, max(len(source), 1), batch_size)
    parts = [source.batch(np.arange(i, min(i + batch_size, len(source)))) for i in starts]
    whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return ArraySource(whole["x"], whole.get("label"), source.num_classes, source.grey_levels, source.names)
