"""Moments of a data set's features, kept in a file under the conditions that they were taken in.

An .npz of `n`, `mean`, `scatter` and `conditions`, JSON as bytes: what makes the moments what they are (data, split,
count, preprocessing, hash of the feature network). A file is written whole or not at all, and read only where its
conditions are those asked for.
"""

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from score_jax.data import npy
from score_jax.metrics.frechet import Moments
from score_jax.types import InputError


def save_moments(path: str | os.PathLike[str], moments: Moments, conditions: Mapping[str, Any]) -> None:
    """Writes moments and their conditions, plain numbers and text by name, in place of what was there.

    Raises:
      InputError: for conditions that are no JSON, and a file that cannot be written.

    Examples:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     metrics.save_moments(f"{folder}/train.npz", metrics.Moments.of(np.eye(2)), {"data": "digits"})
      ...     print(metrics.load_moments(f"{folder}/train.npz", {"data": "digits"}).mean)
      [0.5 0.5]
    """
    path = Path(path)
    try:
        text = json.dumps(dict(conditions), sort_keys=True, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: conditions are to be plain numbers and text by name ({error})") from error
    arrays = {"n": np.int64(moments.n), "mean": moments.mean, "scatter": moments.scatter}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            try:
                np.savez(file, conditions=np.frombuffer(text, np.uint8), **arrays)  # type: ignore[arg-type]
                file.flush()
                os.fsync(file.fileno())
                os.replace(file.name, path)
            except BaseException:
                os.unlink(file.name)
                raise
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error})") from error


def load_moments(path: str | os.PathLike[str], conditions: Mapping[str, Any]) -> Moments:
    """Reads moments that were kept under these conditions.

    Raises:
      InputError: in one line, for a file that is none or damaged, and for other conditions, of which it names one.

    Examples:
      Of other conditions they are refused.

      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     metrics.save_moments(f"{folder}/train.npz", metrics.Moments.of(np.eye(2)), {"data": "digits"})
      ...     metrics.load_moments(f"{folder}/train.npz", {"data": "letters"})
      Traceback (most recent call last):
          ...
      score_jax.types.InputError: ...: holds moments for data = 'digits', not 'letters': they do not compare
    """
    try:
        found, moments = _read(Path(path))
    except InputError as error:
        raise InputError(f"{path}: {error}; delete it and it is made anew") from error
    except (OSError, KeyError, ValueError, TypeError, RecursionError) as error:
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise InputError(f"{path}: cannot be read as moments of features ({reason})") from error
    asked = json.loads(json.dumps(dict(conditions)))
    for name in sorted(found.keys() | asked.keys()):
        if found.get(name) != asked.get(name):
            raise InputError(
                f"{path}: holds moments for {name} = {found.get(name)!r}, not {asked.get(name)!r}: they do not compare"
            )
    return moments


def _read(path: Path) -> tuple[dict[str, Any], Moments]:
    path.stat()  # OSError where there is none
    if set(npy.names(path)) != {"n", "mean", "scatter", "conditions"}:
        raise InputError("is no file of moments: expected n, mean, scatter and conditions")
    n, mean, scatter, text = (npy.entry(path, name) for name in ("n", "mean", "scatter", "conditions"))
    conditions = json.loads(text.tobytes())
    kinds = n.shape == () and n.dtype == np.int64 and mean.dtype == scatter.dtype == np.float64
    if not kinds or mean.ndim != 1 or scatter.shape != mean.shape * 2 or not isinstance(conditions, dict):
        raise InputError("is damaged: its arrays are not moments of features")
    return conditions, Moments(int(n), mean, scatter)
