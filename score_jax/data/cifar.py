"""CIFAR-10 as published (Krizhevsky 2009): the binary and the Python archive, read without extracting either.

Binary: records of one label byte and 3,072 pixels, channel by channel (CHW). Python: pickled dictionaries with the
same pixels. A pickle is a program, so it is read by a machine (`pickles`) that knows a few names, each bound to a class
or function of this file: data can be described, and nothing else can be named, let alone called.
"""

import io
import math
import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from score_jax import pickles
from score_jax.data import bounded
from score_jax.data.source import ArraySource
from score_jax.pickles import Buildable
from score_jax.types import InputError

_PIXELS = 3 * 32 * 32
_MAX_PART, _MAX_BYTES = 2**26, 2**28  # a published part has 31 MB, all that an archive unpacks to 186 MB
_MAX_ENTRIES, _MAX_INSTRUCTIONS = 1000, 1_000_000  # published: 9 entries; pickles of 300,000 instructions together
NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_PARTS = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}
_LAYOUTS = ("cifar-10-binary.tar.gz", "cifar-10-batches-bin", "cifar-10-python.tar.gz", "cifar-10-batches-py")


def cifar10(root: str | os.PathLike[str] | None = None, *, split: str = "train") -> ArraySource:
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
    return ArraySource(images, np.concatenate([labels for _, labels in decoded]), num_classes=10, names=NAMES)


def _find(root: str | os.PathLike[str] | None) -> Path:
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
    steps = pickles.budget(_MAX_INSTRUCTIONS)
    decoders: dict[str, tuple[str, Callable[[bytes], tuple[np.ndarray, np.ndarray]]]] = {}
    for name in names:
        decoders |= {f"{name}.bin": (name, _decode_binary), name: (name, lambda data: _decode_pickle(data, steps))}
    found = {}
    for filename, data in _folder_files(place, decoders) if place.is_dir() else _tar_files(place, decoders):
        name, decode = decoders[filename]
        try:
            found[name] = decode(data)
            _check(*found[name])
        except InputError as error:
            raise InputError(f"{place}: {filename}: {error}") from error
    return found


def _folder_files(folder: Path, wanted) -> Iterator[tuple[str, bytes]]:
    for path in (folder / name for name in wanted):
        if path.is_file():
            try:
                _check_size(path, path.stat().st_size)
                yield path.name, path.read_bytes()
            except OSError as error:
                raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error


def _tar_files(path: Path, wanted) -> Iterator[tuple[str, bytes]]:
    """Yields (name, bytes) of the wanted members in the archive's order; nothing is written to disk."""
    try:
        with bounded.unpacked(path, _MAX_BYTES) as stream, _tar(stream) as archive:
            for i, member in enumerate(archive):
                name = Path(member.name).name
                if i == _MAX_ENTRIES:
                    raise InputError(f"has more than {_MAX_ENTRIES} entries: not CIFAR-10")
                _check_size(name, member.size, _MAX_BYTES)  # what is left out is read too
                if name in wanted and member.isreg() and not member.issparse():
                    _check_size(name, member.size)
                    content = archive.extractfile(member)
                    yield name, content.read() if content else b""
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except Exception as error:  # damaged headers fail in any way
        raise InputError(
            f"{path}: not a readable tar archive, or cut short ({bounded.reason(error)}); fetch it again"
        ) from error


def _tar(stream: bounded.Readable) -> tarfile.TarFile:
    return tarfile.open(fileobj=stream, mode="r|")  # type: ignore[call-overload]


def _check_size(what: str | Path, size: int, most: int = _MAX_PART) -> None:
    if size > most:
        raise InputError(f"{what} has {size} bytes; expected about 31 MB: not CIFAR-10")


def _check(pixels: np.ndarray, labels: np.ndarray) -> None:
    if pixels.ndim != 2 or pixels.shape[1] != _PIXELS or labels.shape != pixels.shape[:1]:
        raise InputError(f"holds pixels {pixels.shape} and labels {labels.shape}; expected (n, {_PIXELS}) and (n,)")
    if len(labels) == 0 or labels.max() > 9:
        raise InputError(f"holds {len(labels)} labels up to {labels.max(initial=0)}; expected some, in 0 … 9")


def _decode_binary(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    if not data or len(data) % (_PIXELS + 1):
        raise InputError(f"has {len(data)} bytes; expected a multiple of {_PIXELS + 1}: cut short or not CIFAR-10")
    records = np.frombuffer(data, np.uint8).reshape(-1, _PIXELS + 1)
    return records[:, 1:], records[:, 0]


def _decode_pickle(data: bytes, steps: Iterator[int]) -> tuple[np.ndarray, np.ndarray]:
    """Returns pixels and labels of a pickled part; `steps` is a `pickles.budget`."""
    content = pickles.unpickle(io.BytesIO(data), _TABLE, steps=steps)
    named = {_text(key): value for key, value in content.items()} if isinstance(content, dict) else {}
    pixels, labels = named.get("data"), named.get("labels")
    if not isinstance(pixels, _Array) or type(labels) is not list:
        raise InputError("is not a CIFAR-10 part: expected a dictionary with an array 'data' and a list 'labels'")
    if not all(type(label) is int and 0 <= label < 256 for label in labels):
        raise InputError("holds labels that are not numbers in 0 … 9")
    return pixels.array, np.array(labels, np.uint8)


def _text(key: Any) -> Any:
    return key.decode("latin1") if isinstance(key, bytes) else key


class _Dtype(Buildable):
    """Stands for numpy.dtype: remembers its code, ignores the rest of its state."""

    def __init__(self, code: Any, *_: Any):
        self.code = _text(code)


class _Array(Buildable):
    """Stands for numpy.ndarray: takes its state apart itself, so that NumPy executes nothing of the file's."""

    array = np.empty(0, np.uint8)

    def __init__(self, *_: Any):
        pass

    def build(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        data = data.encode("latin1") if isinstance(data, str) else data  # Python 2 has no other bytes
        if not isinstance(dtype, _Dtype) or not isinstance(data, bytes):
            raise TypeError("not an array")
        if dtype.code not in ("u1", "|u1", "uint8") or fortran:
            raise InputError(f"holds an array of type {pickles.printable(dtype.code)}; expected plain uint8 pixels")
        if len(data) != math.prod(shape):
            raise InputError(f"holds {len(data)} bytes for pixels of shape {shape}: damaged")
        self.array = np.frombuffer(data, np.uint8).reshape(shape)


def _latin1(text: Any, encoding: str) -> bytes:
    """How Python 3 writes bytes into an old-protocol pickle: as Latin-1 text and a call that encodes it."""
    del encoding
    if not isinstance(text, str):
        raise TypeError("not text")
    return text.encode("latin1")


_TABLE: dict[str, Any] = {
    "numpy.ndarray": _Array,
    "numpy.dtype": _Dtype,
    "numpy.core.multiarray._reconstruct": _Array,
    "numpy._core.multiarray._reconstruct": _Array,
    "_codecs.encode": _latin1,
}
