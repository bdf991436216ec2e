"""Labels: whatever a data set calls its classes, here they are 0 … K-1, and their names are kept.

A network has an embedding for every class, so only values that occur are classes, in ascending order: labels 1, 2 and
70,000 are the classes 0, 1 and 2 called "1", "2" and "70000". A data set that states its number of classes has them all
already; then the names are the numbers unless it states names.
"""

from typing import NamedTuple

import numpy as np

from score_jax.types import InputError


class Classes(NamedTuple):
    """The class of every example, `(N,)` int32 in 0 … K-1, and what the K classes are called."""

    label: np.ndarray
    names: tuple[str, ...]


def numbered(n: int) -> tuple[str, ...]:
    """Returns the names of n classes that have none but their numbers."""
    return tuple(str(i) for i in range(n))


def classes(values: np.ndarray, n: int) -> Classes:
    """Numbers the classes of n examples by the values that occur.

    Args:
      values: `(n,)` integers from 0, booleans or text.
      n: number of examples.
    """
    values = _one_each(np.asarray(values), n)
    if values.dtype.kind not in "iubUS":
        raise InputError(
            f"labels have dtype {values.dtype}; expected integers or text: label.astype(int) makes some of whole "
            "numbers; data to be read without labels must not hold any"
        )
    found, label = np.unique(values, return_inverse=True)
    if values.dtype.kind == "i" and found[0] < 0:
        cure = "expected 0 or more, since -1 is no label: label - label.min() shifts them"
        raise InputError(f"labels run from {found[0]} to {found[-1]}; {cure}")
    return Classes(label.astype(np.int32), tuple(_name(value) for value in found))


def within(values: np.ndarray, n: int, num_classes: int) -> np.ndarray:
    """Returns labels of n examples that are in 0 … num_classes-1 already, as int32, or raises InputError."""
    values = _one_each(np.asarray(values), n)
    if values.dtype.kind not in "iu":
        raise InputError(f"labels have dtype {values.dtype}; expected integers in 0 … {num_classes - 1}")
    if n and (values.min() < 0 or values.max() >= num_classes):
        raise InputError(f"labels run from {values.min()} to {values.max()}; expected 0 … {num_classes - 1}")
    return values.astype(np.int32)


def _one_each(values: np.ndarray, n: int) -> np.ndarray:
    if values.shape == (n,):
        return values
    cures = {(n, 1): ": label[:, 0] mends it"}
    one_hot = values.ndim == 2 and len(values) == n and values.shape[1] > 1
    cure = cures.get(values.shape, ": label.argmax(1) mends one-hot labels" if one_hot else "")
    raise InputError(f"labels have shape {values.shape}; expected ({n},), one an example{cure}")


def _name(value: np.generic) -> str:
    text = value.decode(errors="backslashreplace") if isinstance(value, bytes) else str(value)
    return " ".join(text.split())
