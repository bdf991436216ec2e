"""TensorFlow Datasets by name, without TensorFlow.

TFDS can read a prepared copy as a random-access data source if its files are array_records; the TFRECORD default,
and *preparing* anything with images, need TensorFlow. So a copy is looked for on disk, read if it can be, and
otherwise the message says what to run once, in an environment that has TensorFlow.
"""

import importlib.util
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from score_jax.data import bounded
from score_jax.data.source import View
from score_jax.pickles import printable
from score_jax.types import InputError


def load(
    name: str,
    *,
    split: str = "train",
    data_dir: str | os.PathLike[str] | None = None,
    x_key: str = "image",
    label_key: str = "label",
) -> View:
    """Returns a prepared TFDS data set as a source.

    Args:
      name: "cifar10", "cifar10:3.0.2" (a version, else the newest copy) or "name/config".
      split: one of the data set's splits, slices as "train[:90%]" included.
      data_dir: where copies lie; None takes `$TFDS_DATA_DIR`, else `~/tensorflow_datasets`.
      x_key: the feature that is the example.
      label_key: the feature that is the class, used if it exists.
    """
    root = Path(data_dir or os.environ.get("TFDS_DATA_DIR") or Path.home() / "tensorflow_datasets")
    copy = _find(root, name)
    formats = _formats(copy)
    if "array_record" not in formats:
        cure = _cure(name, root / "array_record")
        raise InputError(f"{copy}: is prepared as {printable(', '.join(formats))}, which only TensorFlow reads; {cure}")
    if importlib.util.find_spec("array_record") is None:
        raise InputError(f"{copy}: reading it needs the array_record package: pip install array_record")
    return _open(copy, split, x_key, label_key)


def _open(copy: Path, split: str, x_key: str, label_key: str) -> View:
    import tensorflow_datasets  # deferred: it brings much along, though not TensorFlow

    _require_known_features(copy)
    try:
        builder = tensorflow_datasets.builder_from_directory(str(copy))
        features = builder.info.features
    except Exception as error:  # what TFDS makes of damaged descriptions
        reason = bounded.reason(error)
        raise InputError(f"{copy}: its description cannot be read ({reason}); prepare it again") from error
    if x_key not in features:
        there = ", ".join(features)
        raise InputError(f"{copy}: has no feature {x_key!r}; it has {there}: give one (--config.data.tfds_feature)")
    try:
        records = builder.as_data_source(split)
    except (ValueError, KeyError) as error:
        raise InputError(f"{copy}: has no split {split!r}; it has {', '.join(builder.info.splits)}") from error
    if len(records) == 0:
        raise InputError(f"{copy}: split {split!r} is empty")
    names = tuple(getattr(dict(features.items()).get(label_key), "names", None) or ())
    x = np.asarray(_read(records, np.arange(1), copy)[0][x_key])
    if x.dtype != np.uint8 and not np.issubdtype(x.dtype, np.floating):
        raise InputError(f"{copy}: feature {x_key!r} has dtype {x.dtype}; expected uint8 or floating point")

    def gather(rows: np.ndarray) -> dict[str, np.ndarray]:
        examples = _read(records, rows, copy)
        batch = {"x": _stacked([example[x_key] for example in examples], x.shape, copy)}
        return {**batch, "label": _labels(examples, label_key)} if names else batch

    return View(len(records), x.shape, 256 if x.dtype == np.uint8 else 0, gather, names)


def _require_known_features(copy: Path) -> None:
    """Refuses features of classes that are not TFDS's own: to read them TFDS would import the module that they name."""
    try:
        described = json.loads((copy / "features.json").read_bytes())
        strange = next((name for name in _classes(described) if not name.startswith("tensorflow_datasets.")), None)
    except (OSError, ValueError, RecursionError) as error:
        reason = bounded.reason(error)
        raise InputError(f"{copy}: its description cannot be read ({reason}); prepare it again") from error
    if strange is not None:
        raise InputError(f"{copy}/features.json: names {printable(strange)}, code of another package: refused")


def _classes(described: Any) -> Iterator[str]:
    """Yields the names of classes in nested JSON, by today's keys and those of the past."""
    if isinstance(described, dict):
        for key, value in described.items():
            if isinstance(value, str) and key.replace("_", "").lower() in ("pythonclassname", "type"):
                yield value
    if isinstance(described, dict | list):
        for value in described.values() if isinstance(described, dict) else described:
            yield from _classes(value)


def _read(records: Any, rows: np.ndarray, copy: Path) -> list[dict[str, Any]]:
    try:
        return records.__getitems__([int(i) for i in rows])
    except Exception as error:  # array_record of a vanished or damaged shard, TFDS of records of other features
        reason = " ".join(str(error).split())[:500]  # at the end of it a shard's name
        raise InputError(f"{copy}: a record cannot be read ({reason}); prepare it again") from error


def _stacked(rows: list[np.ndarray], shape: tuple[int, ...], copy: Path) -> np.ndarray:
    for row in rows:
        if row.shape != shape:
            raise InputError(f"{copy}: has examples of shape {row.shape} and {shape}; expected one shape for all")
    x = np.stack(rows)
    x = x if x.dtype == np.uint8 else x.astype(np.float32)
    if not np.isfinite(x).all():
        raise InputError(f"{copy}: has examples with NaN, infinite values or values beyond float32; remove them")
    return x


def _labels(examples: list[Any], label_key: str) -> np.ndarray:
    return np.array([example[label_key] for example in examples], np.int32)


def _find(root: Path, name: str) -> Path:
    """The folder `root/name[/config]/version` of the newest prepared copy."""
    base, _, version = name.partition(":")
    copies = [info.parent for info in (root / base).glob(f"{version or '*'}/dataset_info.json")]
    if not copies:
        raise InputError(f"no prepared copy of {name!r} in {root}; {_cure(name, root)}")
    return max(copies, key=lambda copy: [int(part) if part.isdigit() else -1 for part in copy.name.split(".")])


def _formats(copy: Path) -> set[str]:
    try:
        info = json.loads((copy / "dataset_info.json").read_text())
        return {str(name) for name in [info["fileFormat"], *info.get("alternativeFileFormats", ())]}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = bounded.reason(error)
        raise InputError(
            f"{copy}/dataset_info.json: damaged or without a file format ({reason}); prepare the data set again"
        ) from error


def _cure(name: str, data_dir: Path) -> str:
    command = f"tfds.builder('{name}', data_dir='{data_dir}', file_format='array_record').download_and_prepare()"
    return (
        "prepare it once where TensorFlow is installed "
        "(pip install tensorflow tensorflow-datasets array_record importlib_resources): "
        f'python -c "import tensorflow_datasets as tfds; {command}" and give data_dir={data_dir}'
    )
