"""Your own data: an array in a `.npy` or `.npz` file, or a folder of images."""

import os
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from score_jax.data.resize import fit, pair
from score_jax.data.source import ArraySource, View
from score_jax.types import InputError

_X_KEYS, _LABEL_KEYS = ("x", "images", "data"), ("label", "labels", "y")
_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
_MODES = {1: "L", 3: "RGB"}


def array_file(path: str | os.PathLike, *, levels: int = 256) -> ArraySource:
    """Reads examples from a `.npy` (memory-mapped) or `.npz` file; nothing in it is ever unpickled.

    An `.npz` holds "x" (or "images", "data") and may hold "label" (or "labels", "y").

    Args:
      path: uint8 images `(N, H, W)` or `(N, H, W, C)`, or floating-point data `(N, *S)`.
      levels: grey levels of uint8 images.
    """
    path = Path(path)
    x, label = _load(path)
    x = x[..., None] if x.dtype == np.uint8 and x.ndim == 3 else x
    if x.ndim < 2 or (x.dtype == np.uint8 and x.ndim != 4):
        raise InputError(
            f"{path}: holds {x.dtype} of shape {x.shape}; expected uint8 (N, H, W[, C]) or floating point (N, ...)"
        )
    if np.issubdtype(x.dtype, np.floating) and not np.isfinite(x).all():
        raise InputError(f"{path}: holds NaN or infinite values; remove these examples")
    if x.dtype == np.uint8 and levels < 256 and x.max(initial=0) >= levels:
        raise InputError(
            f"{path}: holds grey level {x.max()}; expected 0 … {levels - 1}: give the right number of levels"
        )
    try:
        return ArraySource(x, label, levels=levels)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _load(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    try:
        content = np.load(path, mmap_mode="r", allow_pickle=False)
        if not hasattr(content, "files"):
            return content, None
        with content:
            return _entry(content, _X_KEYS, path), _entry(content, _LABEL_KEYS, path, optional=True)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; expected a .npy or .npz file") from error
    except InputError:
        raise
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        if "pickle" in str(error) or "Python objects" in str(error):
            raise InputError(
                f"{path}: holds Python objects, which only a pickle can read: refused; save plain numbers"
            ) from error
        raise InputError(f"{path}: damaged, cut short or not a NumPy file ({error})".replace("\n", " ")) from error


def _entry(content: Any, keys: tuple[str, ...], path: Path, *, optional: bool = False) -> Any:
    found = [key for key in keys if key in content.files]
    if len(found) == 1:
        return content[found[0]]
    if optional and not found:
        return None
    raise InputError(
        f"{path}: holds {', '.join(content.files) or 'nothing'}; expected exactly one of {', '.join(keys)}"
    )


def folder(
    path: str | os.PathLike,
    *,
    size: int | tuple[int, int] | None = None,
    channels: int = 3,
    convert: bool = False,
    labels: bool = False,
) -> View:
    """Returns the images of a folder and its sub-folders, in the order of their names, read when asked for.

    Args:
      path: holds png, jpg, webp, bmp, gif (first frame), tif, ppm or pgm files.
      size: height and width (one number for both): scaled to cover it, then cut to it; None expects equal sizes.
      channels: 1 (grey) or 3 (colour).
      convert: turn files of other channel counts into `channels`; off makes them an error.
      labels: take the sub-folder an image is in as its class, numbered by name.
    """
    root = Path(path)
    if channels not in _MODES:
        raise InputError(f"channels={channels}; expected 1 (grey) or 3 (colour)")
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; expected a folder of images")
    paths = sorted(file for file in root.rglob("*") if file.suffix.lower() in _SUFFIXES and file.is_file())
    if not paths:
        raise InputError(f"{root}: holds no image; expected {', '.join(_SUFFIXES)} files in it or its sub-folders")
    target = pair(size) if size else None
    shape = (*target, channels) if target else _pixels(paths[0], None, channels, convert).shape
    label, num_classes = _folder_labels(root, paths) if labels else (None, 0)

    def read(path: Path) -> np.ndarray:
        x = _pixels(path, target, channels, convert)
        if x.shape != shape:
            found, first = (f"{height}x{width}" for height, width, _ in (x.shape, shape))
            raise InputError(f"{path}: is {found}, the first image is {first}; give a size to which all are brought")
        return x

    def gather(rows: np.ndarray) -> dict[str, np.ndarray]:
        x = np.stack([read(paths[i]) for i in rows])
        return {"x": x} if label is None else {"x": x, "label": label[rows]}

    return View(len(paths), shape, num_classes, 256, gather)


def _folder_labels(root: Path, paths: list[Path]) -> tuple[np.ndarray, int]:
    stray = [path for path in paths if path.parent == root]
    if stray:
        raise InputError(f"{stray[0]}: lies in no sub-folder; with labels, every image lies in the folder of its class")
    names = [path.relative_to(root).parts[0] for path in paths]
    classes, label = np.unique(names, return_inverse=True)
    return label.astype(np.int32), len(classes)


def _pixels(path: Path, size: tuple[int, int] | None, channels: int, convert: bool) -> np.ndarray:
    """Reads one image as `(H, W, channels)` uint8."""
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image)
            upright.load()
    except Exception as error:  # Pillow's decoders fail on damaged files in any way
        raise InputError(f"{path}: not a readable image ({error}); mend or remove it".replace("\n", " ")) from error
    if upright.mode != _MODES[channels]:
        if not convert:
            expected = f"{_MODES[channels]} (channels={channels})"
            raise InputError(f"{path}: has mode {upright.mode}, expected {expected}; convert=True brings all to it")
        upright = upright.convert(_MODES[channels])
    x = np.asarray(fit(upright, size) if size else upright)
    return x.reshape(*x.shape[:2], channels)
