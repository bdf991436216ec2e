"""Numbers of many examples, in batches of one compiled program."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from score_jax.arrays import example_keys
from score_jax.lab.experiment import Numbers
from score_jax.types import Key


def in_batches(f: Callable[..., Any], key: Key, x: np.ndarray, labels: np.ndarray | None, size: int) -> Any:
    """Returns f(keys, x, labels) of all rows, `size` at a time: one program, whose last batch is filled up and cut."""
    keys, size, parts = example_keys(key, len(x)), min(size, len(x)), []
    for first in range(0, len(x), size):
        rows = np.resize(np.arange(first, min(first + size, len(x))), size)
        found = f(keys[rows], x[rows], None if labels is None else labels[rows])
        parts.append(jax.tree.map(lambda v, n=len(x) - first: np.asarray(v, np.float64)[:n], found))
    return jax.tree.map(lambda *values: np.concatenate(values), *parts)


def mean_of(name: str, values: np.ndarray) -> Numbers:
    """Returns the mean of values, its standard error and their number; None for a mean or an error of too few."""
    n = len(values)
    return {
        name: float(values.mean()) if n else None,
        f"{name}_standard_error": float(values.std(ddof=1) / n**0.5) if n > 1 else None,
        f"{name}_n": n,
    }
