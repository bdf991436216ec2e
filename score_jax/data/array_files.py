"""Your own data: an array in a `.npy` or `.npz` file."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from score_jax.data import npy
from score_jax.data.npy import Rows
from score_jax.data.source import ArraySource, blocks
from score_jax.pickles import printable
from score_jax.types import InputError

_X_KEYS, _LABEL_KEYS = ("x", "images", "data"), ("label", "labels", "y")
# How files begin that are given in place of arrays, what they are, and what to do.
_OTHERS = {
    b"\x89PNG": ("an image", "for a folder of images, set data.name=folder"),
    b"\xff\xd8\xff": ("an image", "for a folder of images, set data.name=folder"),
    b"GIF8": ("an image", "for a folder of images, set data.name=folder"),
    b"\x1f\x8b": ("compressed by gzip", "unpack it"),
    b"\x89HDF": ("an HDF5 file", "np.save('x.npy', h5py.File(path)[name][:]) makes an array of it"),
    b"MATLAB": ("a Matlab file", "np.save('x.npy', scipy.io.loadmat(path)[name]) makes an array of it"),
    b"PAR1": ("a Parquet file", "np.save('x.npy', pandas.read_parquet(path).to_numpy()) makes an array of it"),
    b"\x80": ("a pickle, which holds Python objects", "refused; np.save('x.npy', x) plain numbers"),
}


def array_file(path: str | os.PathLike[str], *, grey_levels: int = 256) -> ArraySource:
    """Reads examples from a `.npy` or `.npz` file; nothing in it is ever unpickled, and what is damaged is refused.

    An `.npz` holds "x" (or "images", "data") and may hold "label" (or "labels", "y"): integers or text. A `.npy` above
    256 MiB is checked once and then read row by row.

    Args:
      path: uint8 images `(N, H, W)` or `(N, H, W, C)`, or floating-point data `(N, *S)`: vectors `(N, D)`, sequences
        `(N, L, C)`, images, volumes `(N, H, W, D, C)`.
      grey_levels: their number in uint8 images.
    """
    path = Path(path)
    try:
        x, label = _load(path)
        x = _examples(x, grey_levels)
        return ArraySource(x, label, grey_levels=grey_levels)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; expected a .npy or .npz file") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); expected a .npy or .npz file") from error


def _load(path: Path) -> tuple[np.ndarray | Rows, np.ndarray | None]:
    if path.exists() and not path.is_file():
        raise InputError("is no file; expected a .npy or .npz file: for a folder of images, set data.name=folder")
    with open(path, "rb") as file:
        start = file.read(1024)
    if start[:6] == npy.MAGIC:
        return npy.read_npy(path), None
    if start[:4] not in npy.ZIP_STARTS:
        raise InputError(_called(path, start))
    there = npy.names(path)
    label = _chosen(there, _LABEL_KEYS) if set(there) & set(_LABEL_KEYS) else None
    return npy.entry(path, _chosen(there, _X_KEYS)), None if label is None else npy.entry(path, label)


def _called(path: Path, start: bytes) -> str:
    """Says what a file is that is no array."""
    expected = "expected a .npy or .npz file"
    for prefix, (what, cure) in _OTHERS.items():
        if start.startswith(prefix):
            return f"is {what}, {expected}: {cure}"
    if not start:
        return f"is empty, {expected}"
    if path.suffix.lower() in (".csv", ".tsv", ".txt") or all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in start):
        return f"is text, {expected}: np.save('x.npy', np.loadtxt(path, delimiter=',')) makes an array of numbers in it"
    return f"is damaged or no array, {expected}"


def _chosen(there: Sequence[str], keys: tuple[str, ...]) -> str:
    found = [name for name in there if name in keys]
    if len(found) == 1:
        return found[0]
    raise InputError(f"holds {printable(', '.join(there)) or 'no arrays'}; expected exactly one of {', '.join(keys)}")


def _examples(x: np.ndarray | Rows, grey_levels: int) -> np.ndarray | Rows:
    """Returns `x` with an axis of examples and, of images, one of channels."""
    if x.dtype == np.uint8 and x.ndim == 3:
        if x.shape[2] <= 4 < min(x.shape[:2]):
            raise InputError(
                f"holds uint8 of shape {x.shape}, which looks like one image: x[None] makes a data set of it, "
                "x[..., None] says that these are many images of one channel"
            )
        x = x.reshape((*x.shape, 1))
    if x.ndim < 2 or (x.dtype == np.uint8 and x.ndim != 4):
        cure = ": x[:, None] makes vectors of numbers" if x.ndim == 1 else ""
        expected = "uint8 (N, H, W[, C]) or floating point (N, ...)"
        raise InputError(f"holds {x.dtype} of shape {x.shape}; expected {expected}{cure}")
    if x.dtype == np.uint8 and grey_levels < 256:
        highest = max((rows.max(initial=0) for _, rows in blocks(x)), default=0)
        if highest >= grey_levels:
            raise InputError(f"holds grey level {highest}; expected 0 … {grey_levels - 1}: give the right grey_levels")
    return x
