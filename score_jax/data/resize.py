"""Crop and resize on the host, before anything is random: deterministic, uint8 in and out, by Pillow."""

from typing import Any

import numpy as np

from score_jax.data.source import Source, derived
from score_jax.types import InputError


def center_crop(x: np.ndarray, size: int | tuple[int, int]) -> np.ndarray:
    """Returns the middle `size` (height, width; one number for both) of `x` `(..., H, W, C)`.

    Where a margin is odd, the extra row or column is cut at the bottom or right.
    """
    height, width = pair(size)
    top, left = (x.shape[-3] - height) // 2, (x.shape[-2] - width) // 2
    if top < 0 or left < 0:
        raise InputError(
            f"a crop of {height}x{width} doesn't fit images of {x.shape[-3]}x{x.shape[-2]}: resize them first"
        )
    return x[..., top : top + height, left : left + width, :]


def fit(image: Any, size: int | tuple[int, int]) -> Any:
    """Scales a Pillow image until it just covers `size` (Lanczos), then cuts the middle out: no distortion."""
    from PIL import Image, ImageOps

    height, width = pair(size)
    return ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)


def resize(x: np.ndarray, size: int | tuple[int, int]) -> np.ndarray:
    """Returns `fit` of every image of `x` `(N, H, W, C)` uint8."""
    from PIL import Image

    if x.dtype != np.uint8 or x.ndim != 4:
        raise InputError(f"resize takes uint8 images (N, H, W, C), got {x.dtype} of shape {x.shape}")
    planes = np.moveaxis(x, -1, 1).reshape(-1, *x.shape[1:3])  # channel by channel: any number of channels
    fitted = np.stack([np.asarray(fit(Image.fromarray(plane), size)) for plane in planes])
    return np.moveaxis(fitted.reshape(len(x), x.shape[-1], *pair(size)), 1, -1)


def resized(source: Source, size: int | tuple[int, int], *, crop: int | tuple[int, int] | None = None) -> Source:
    """Returns a source of 256-level images resized to `size` when they are read; `in_memory` keeps the result.

    Args:
      source: of images.
      size: height and width, one number for both.
      crop: cut this much out of the middle first, as CelebA's faces are (140 of 218×178 pixels); None takes all.

    Raises:
      InputError: for other data, or a crop that doesn't fit.
    """
    if source.grey_levels != 256 or len(source.shape) != 3:
        raise InputError(
            f"only images of 256 grey levels can be resized, got shape {source.shape} with {source.grey_levels} of them"
        )
    height, width, channels = source.shape
    window = crop or (height, width)
    center_crop(np.empty((0, *source.shape)), window)  # refuses what doesn't fit before an image is read

    def gather(rows: np.ndarray) -> dict[str, np.ndarray]:
        batch = source.batch(rows)
        return {**batch, "x": resize(center_crop(batch["x"], window), size)}

    return derived(source, gather, shape=(*pair(size), channels))


def pair(size: int | tuple[int, int]) -> tuple[int, int]:
    """Reads a size, one number or (height, width), as a pair."""
    both = size if isinstance(size, tuple | list) else (size, size)
    if len(both) != 2 or not all(isinstance(side, int | np.integer) and 0 < side < 2**15 for side in both):
        raise InputError(
            f"image size {size}; expected a whole number of pixels such as 64, or (height, width): (64, 96)"
        )
    return int(both[0]), int(both[1])
