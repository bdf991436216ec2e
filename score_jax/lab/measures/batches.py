"""Numbers of many examples, in batches of one compiled program, which the devices share."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from score_jax import devices
from score_jax.arrays import example_keys
from score_jax.lab.experiment import Numbers
from score_jax.types import Key, PyTree


def in_batches(
    f: Callable[..., Any],
    key: Key,
    model: PyTree,
    x: np.ndarray,
    labels: np.ndarray | None,
    *,
    size: int,
    mesh: Mesh,
) -> Any:
    """Returns f(keys, model, x, labels) of all rows: one program, whose last batch is filled up and cut.

    Args:
      f: compiled; each row of what it returns is of that row alone.
      key: `()`.
      model: what f looks at, wherever its parts lie.
      x: rows, `(n, *S)`.
      labels: `(n,)`, or None.
      size: rows at once, or somewhat more for each device to have as many.
      mesh: of the devices.
    """
    keys, size, parts = example_keys(key, len(x)), devices.shared_size(min(size, len(x)), mesh), []
    model = devices.everywhere(model, mesh)
    for first in range(0, len(x), size):
        chosen = np.resize(np.arange(first, min(first + size, len(x))), size)
        label = None if labels is None else labels[chosen]
        rows = devices.put_rows({"key": keys[chosen], "x": x[chosen], "label": label}, mesh)
        found = devices.gather(f(rows["key"], model, rows["x"], rows["label"]))
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
