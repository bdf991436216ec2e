"""CIFAR-10 as published (Krizhevsky 2009): the binary and the Python archive, read without extracting either.

Binary: records of one label byte and 3,072 pixels, channel by channel (CHW). Python: pickled dictionaries with the
same pixels. A pickle is a program, so it is read by an interpreter that knows three names, each bound to a class of
this file: data can be described, and nothing else can be named, let alone called.
"""

import io
import math
import os
import pickle
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from score_jax.data.source import ArraySource
from score_jax.types import InputError

_PIXELS = 3 * 32 * 32
_MAX_BYTES = 2**28  # a published part has 31 MB
_PARTS = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}
_LAYOUTS = ("cifar-10-binary.tar.gz", "cifar-10-batches-bin", "cifar-10-python.tar.gz", "cifar-10-batches-py")


def cifar10(root: str | os.PathLike | None = None, *, split: str = "train") -> ArraySource:
    """Returns CIFAR-10: 50,000 + 10,000 images, `(32, 32, 3)` uint8, 10 classes.

    Args:
      root: a published archive (`cifar-10-binary.tar.gz`, `cifar-10-python.tar.gz`), its extracted folder, or a folder
        that holds one of these; None looks in `$SCORE_JAX_DATA/cifar10`, `$SCORE_JAX_DATA` and `./data/cifar10`.
      split: "train" or "test".
    """
    if split not in _PARTS:
        raise InputError(f"CIFAR-10 has no split {split!r}; expected 'train' or 'test'")
    place = _find(root)
    parts = _read_parts(place, _PARTS[split])
    missing = [name for name in _PARTS[split] if name not in parts]
    if missing:
        raise InputError(
            f"{place}: {', '.join(missing)} not found in it; expected CIFAR-10's {split} parts: fetch it again"
        )
    decoded = [parts[name] for name in _PARTS[split]]
    pixels = np.concatenate([pixels for pixels, _ in decoded])
    images = np.ascontiguousarray(pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    return ArraySource(images, np.concatenate([labels for _, labels in decoded]), num_classes=10)


def _find(root: str | os.PathLike | None) -> Path:
    base = os.environ.get("SCORE_JAX_DATA")
    usual = ([Path(base) / "cifar10", Path(base)] if base else []) + [Path("data/cifar10")]
    places = usual if root is None else [Path(root)]
    for place in places:
        for candidate in (place / layout for layout in _LAYOUTS):
            if candidate.exists():
                return candidate
        if place.is_file() or any((place / f"test_batch{suffix}").exists() for suffix in ("", ".bin")):
            return place
    looked = ", ".join(str(place) for place in places)
    cure = "put cifar-10-binary.tar.gz (www.cs.toronto.edu/~kriz) there or give its path"
    raise InputError(f"CIFAR-10 is not here: looked in {looked}; {cure}")


def _read_parts(place: Path, names: list[str]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Returns {part: (pixels (n, 3072), labels (n,))} for those of `names` found in a folder or tar archive."""
    decoders: dict[str, tuple[str, Callable]] = {}
    for name in names:
        decoders |= {f"{name}.bin": (name, _decode_binary), name: (name, _decode_pickle)}
    found = {}
    for filename, data in _folder_files(place, decoders) if place.is_dir() else _tar_files(place, decoders):
        name, decode = decoders[filename]
        found[name] = decode(data, f"{place}: {filename}")
    return found


def _folder_files(folder: Path, wanted):
    for path in (folder / name for name in wanted):
        if path.is_file():
            yield path.name, path.read_bytes()


def _tar_files(path: Path, wanted):
    """Yields (name, bytes) of the wanted members in the archive's order; nothing is written to disk."""
    try:
        with tarfile.open(path, "r|*") as archive:
            for member in archive:
                name = Path(member.name).name
                if name in wanted and member.isfile():
                    if member.size > _MAX_BYTES:
                        raise InputError(f"{path}: {name} has {member.size} bytes; expected about 31 MB: not CIFAR-10")
                    content = archive.extractfile(member)
                    yield name, content.read() if content else b""
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise InputError(f"{path}: not a readable tar archive, or cut short ({error}); fetch it again") from error


def _decode_binary(data: bytes, where: str) -> tuple[np.ndarray, np.ndarray]:
    if not data or len(data) % (_PIXELS + 1):
        raise InputError(
            f"{where} has {len(data)} bytes; expected a multiple of {_PIXELS + 1}: cut short or not CIFAR-10"
        )
    records = np.frombuffer(data, np.uint8).reshape(-1, _PIXELS + 1)
    return records[:, 1:], records[:, 0]


def _decode_pickle(data: bytes, where: str) -> tuple[np.ndarray, np.ndarray]:
    try:
        content = _Unpickler(io.BytesIO(data), encoding="bytes").load()
        content = {key.decode() if isinstance(key, bytes) else key: value for key, value in content.items()}
        pixels, labels = content["data"].array, np.array(content["labels"], np.int64)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    except Exception as error:  # a damaged pickle can fail in any way
        raise InputError(
            f"{where} is damaged or not a CIFAR-10 part ({type(error).__name__}: {error})".replace("\n", " ")
        ) from error
    if pixels.ndim != 2 or pixels.shape[1] != _PIXELS or labels.shape != pixels.shape[:1]:
        raise InputError(
            f"{where} holds pixels {pixels.shape} and labels {labels.shape}; expected (n, {_PIXELS}) and (n,)"
        )
    return pixels, labels


class _Dtype:
    """Stands for numpy.dtype: remembers its code, ignores the rest of its state."""

    def __init__(self, code: Any, *_: Any):
        self.code = code.decode() if isinstance(code, bytes) else code

    def __setstate__(self, state: Any) -> None:
        del state


class _Array:
    """Stands for numpy.ndarray: takes its state apart itself, so that NumPy executes nothing of the file's."""

    array: np.ndarray

    def __init__(self, *_: Any):
        pass

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, fortran, data = state
        if dtype.code not in ("u1", "|u1", "uint8") or not isinstance(data, bytes) or fortran:
            raise InputError(f"holds an array of type {dtype.code!r}; expected plain uint8 pixels")
        if len(data) != math.prod(shape):
            raise InputError(f"holds {len(data)} bytes for pixels of shape {shape}: damaged")
        self.array = np.frombuffer(data, np.uint8).reshape(shape)


def _latin1(text: str, encoding: str) -> bytes:
    """How Python 3 writes bytes into an old-protocol pickle: as Latin-1 text and a call that encodes it."""
    del encoding
    return text.encode("latin1")


_KNOWN = {
    "numpy.ndarray": _Array,
    "numpy.dtype": _Dtype,
    "numpy.core.multiarray._reconstruct": _Array,
    "numpy._core.multiarray._reconstruct": _Array,
    "_codecs.encode": _latin1,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}" not in _KNOWN:
            raise InputError(
                f"asks for {module}.{name}, which a CIFAR-10 file has no use for: refused, nothing was executed"
            )
        return _KNOWN[f"{module}.{name}"]
