"""IDX files: MNIST and the sets published in its format.

An IDX file is big-endian: two zero bytes, one byte for the item type (0x08 unsigned byte), one for the number d of
dimensions, d 32-bit sizes, then the items in C order (LeCun's MNIST page). Compressed or not is read off the first
two bytes, not off the name.
"""

import gzip
import math
import os
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from score_jax.data import bounded
from score_jax.data.source import ArraySource
from score_jax.types import InputError

_ITEMS = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_MAX_DIMENSIONS = 32
_CLOTHES = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")


def read_idx(path: str | os.PathLike[str]) -> np.ndarray:
    """Reads an IDX file, gzip-compressed or not, into an array; a damaged file is an `InputError` that names it."""
    path = Path(path)
    try:
        with bounded.unpacked(path) as file:
            return _read(file, path.stat().st_size)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path}: the gzip stream is damaged or cut short ({error}); fetch the file again") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error


def _read(file: bounded.Readable, size: int) -> np.ndarray:
    magic = file.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in _ITEMS or not 0 < magic[3] <= _MAX_DIMENSIONS:
        expected = "two zero bytes, an item type (08 for images) and a number of dimensions"
        raise InputError(f"not an IDX file: starts with 0x{magic.hex()}, expected {expected}")
    header = file.read(4 * magic[3])
    if len(header) < 4 * magic[3]:
        raise InputError(f"cut short within its header, expected {magic[3]} dimensions; fetch the file again")
    shape = struct.unpack(f">{magic[3]}I", header)
    item = np.dtype(_ITEMS[magic[2]])
    expected = math.prod(shape) * item.itemsize
    bounded.require_plausible(expected, size)
    body = bounded.read_at_most(file, expected + 1)
    if len(body) != expected:
        found = "more" if len(body) > expected else f"only {len(body)}"
        raise InputError(f"its header promises {shape} items, {expected} bytes, but {found} follow; fetch it again")
    if not expected:
        raise InputError(f"holds no items: its header promises {shape}")
    return np.frombuffer(body, item).reshape(shape).astype(item.newbyteorder("="), copy=False)


def fashion_mnist(root: str | os.PathLike[str] | None = None, *, split: str = "train") -> ArraySource:
    """Returns Fashion-MNIST (Xiao et al. 2017): 60,000 + 10,000 images of clothing, `(28, 28, 1)` uint8, 10 classes.

    Args:
      root: the folder of the four IDX files; None looks in `$SCORE_JAX_DATA/fashion-mnist`, `$SCORE_JAX_DATA`,
        `./data/fashion-mnist` and where Debian's package puts them.
      split: "train" or "test".
    """
    folders = _places(root, "fashion-mnist") + ([] if root else [Path("/usr/share/datasets/fashion-mnist")])
    return _labelled(folders, split, "Fashion-MNIST", "apt-get install dataset-fashion-mnist", _CLOTHES)


def mnist(root: str | os.PathLike[str] | None = None, *, split: str = "train") -> ArraySource:
    """Returns MNIST (LeCun et al. 1998): 60,000 + 10,000 digits, `(28, 28, 1)` uint8; arguments as `fashion_mnist`."""
    return _labelled(_places(root, "mnist"), split, "MNIST", "fetch them from a mirror of yann.lecun.com/exdb/mnist")


def _places(root: str | os.PathLike[str] | None, name: str) -> list[Path]:
    if root is not None:
        return [Path(root)]
    base = os.environ.get("SCORE_JAX_DATA")
    return ([Path(base) / name, Path(base)] if base else []) + [Path("data") / name]


def _labelled(folders: Sequence[Path], split: str, title: str, cure: str, names: tuple[str, ...] = ()) -> ArraySource:
    if split not in ("train", "test"):
        raise InputError(f"{title} has no split {split!r}; expected 'train' or 'test'")
    prefix = {"train": "train", "test": "t10k"}[split]
    images_path = _find(folders, f"{prefix}-images-idx3-ubyte", title, cure)
    labels_path = _find([images_path.parent], f"{prefix}-labels-idx1-ubyte", title, cure)
    images, labels = _bytes_of(images_path, 3), _bytes_of(labels_path, 1)
    if len(images) != len(labels) or len(images) == 0 or labels.max() > 9:
        found = f"{len(labels)} labels up to {labels.max(initial=0)} for {len(images)} images"
        raise InputError(
            f"{labels_path}: holds {found}; expected one label in 0 … 9 for each: other sets in IDX files are read "
            "with data.name=array, once np.savez('x.npz', x=read_idx(images), label=read_idx(labels)) has been run"
        )
    return ArraySource(images[..., None], labels, num_classes=10, names=names)


def _find(folders: Sequence[Path], name: str, title: str, cure: str) -> Path:
    for folder in folders:
        for file in (folder / f"{name}.gz", folder / name):
            if file.is_file():
                return file
    looked = ", ".join(str(folder) for folder in folders)
    raise InputError(
        f"{title} is not here: no {name}[.gz] in {looked}; put its four IDX files there or give their folder ({cure})"
    )


def _bytes_of(path: Path, ndim: int) -> np.ndarray:
    items = read_idx(path)
    if items.dtype != np.uint8 or items.ndim != ndim:
        raise InputError(
            f"{path}: holds {items.ndim}-dimensional items of type {items.dtype}; expected {ndim} dimensions of uint8"
        )
    return items
