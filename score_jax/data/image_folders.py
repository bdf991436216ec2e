"""Your own data: a folder of images."""

import os
from pathlib import Path

import numpy as np

from score_jax.data.labels import Classes, classes
from score_jax.data.resize import fit, pair
from score_jax.data.source import View
from score_jax.types import InputError

_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
_MODES = {1: "L", 3: "RGB"}


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
    label, names = _folder_labels(root, paths) if labels else (None, ())

    def read(path: Path) -> np.ndarray:
        x = _pixels(path, target, channels, convert)
        if x.shape != shape:
            found, first = (f"{height}x{width}" for height, width, _ in (x.shape, shape))
            raise InputError(f"{path}: is {found}, the first image is {first}; give a size to which all are brought")
        return x

    def gather(rows: np.ndarray) -> dict[str, np.ndarray]:
        x = np.stack([read(paths[i]) for i in rows])
        return {"x": x} if label is None else {"x": x, "label": label[rows]}

    return View(len(paths), shape, 256, gather, names, label)


def _folder_labels(root: Path, paths: list[Path]) -> Classes:
    stray = [path for path in paths if path.parent == root]
    if stray:
        raise InputError(f"{stray[0]}: lies in no sub-folder; with labels, every image lies in the folder of its class")
    names = [path.relative_to(root).parts[0] for path in paths]
    return classes(np.array(names), len(names))


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
