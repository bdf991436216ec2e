"""What is observed of a picture, by task: an operator of `score_jax.conditioning.operators`.

A row is `(shape, value_range, mask, *, options) -> operator` of images of that shape, (H, W, C), in that range; the
mask is a picture's, True where pixels are observed, or None.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from score_jax.conditioning import operators
from score_jax.types import Array, InputError, require_at_least, require_positive

Shape = tuple[int, ...]
Range = tuple[float, float]
ObservedPixels = np.ndarray | None


def _inpaint(shape: Shape, value_range: Range, mask: ObservedPixels, *, box: float = 0.5) -> Any:
    """Without a mask a box in the middle is hidden, of that share of each side."""
    del value_range
    if mask is not None:
        return operators.Mask(mask)
    height, width = (round(box * side) for side in shape[:2])
    return operators.box(shape, (shape[0] - height) // 2, (shape[1] - width) // 2, height, width)


def _random_mask(shape: Shape, value_range: Range, mask: ObservedPixels, *, share: float = 0.3, seed: int = 0) -> Any:
    """`share` of the pixels are observed."""
    del value_range, mask
    return operators.random_mask(jax.random.key(seed), shape, share)


def _super_resolution(shape: Shape, value_range: Range, mask: ObservedPixels, *, factor: int = 2) -> Any:
    del shape, value_range, mask
    require_at_least("task super_resolution", 1, factor=factor)
    return operators.Downsample(factor)


def _bicubic(shape: Shape, value_range: Range, mask: ObservedPixels, *, factor: int = 2) -> Any:
    del value_range, mask
    return operators.bicubic(factor, *shape[:2])


def _deblur(shape: Shape, value_range: Range, mask: ObservedPixels, *, size: int = 5, std: float = 1.5) -> Any:
    del shape, value_range, mask
    return operators.Blur(operators.gaussian_kernel(size, std))


def _motion_deblur(
    shape: Shape, value_range: Range, mask: ObservedPixels, *, size: int = 5, angle: float = 45.0
) -> Any:
    del shape, value_range, mask
    return operators.Blur(operators.motion_kernel(size, angle))


def _colorize(shape: Shape, value_range: Range, mask: ObservedPixels) -> Any:
    del value_range, mask
    if shape[2] != 3:
        raise InputError(f"task colorize is of colour images, and this network's are {shape}: take another task")
    return operators.Gray()


def _denoise(shape: Shape, value_range: Range, mask: ObservedPixels) -> Any:
    del value_range, mask
    return operators.Mask(np.ones((*shape[:2], 1), bool))


def _low_light(shape: Shape, value_range: Range, mask: ObservedPixels, *, photons: float = 20.0) -> Any:
    """What is counted is the light of every pixel, photons of white on average: noise is Poisson's (`COUNTED`)."""
    require_positive("task low_light", photons=photons)
    return _denoise(shape, value_range, mask)


def _phase_retrieval(shape: Shape, value_range: Range, mask: ObservedPixels, *, padding: int = 4) -> Any:
    del shape, value_range, mask
    require_at_least("task phase_retrieval", 0, padding=padding)

    def magnitudes_of(x: Array) -> Array:
        return operators.magnitudes(x, padding=padding)

    return magnitudes_of


def _quantized(shape: Shape, value_range: Range, mask: ObservedPixels, *, levels: int = 4) -> Any:
    del shape, mask
    low, high = value_range

    def quantized_to_levels(x: Array) -> Array:
        return operators.quantized(x, levels=levels, low=low, high=high)

    return quantized_to_levels


def _saturated(
    shape: Shape, value_range: Range, mask: ObservedPixels, *, black: float = 0.2, white: float = 0.6
) -> Any:
    """Black and white are the grey levels at which the sensor saturates."""
    del shape, mask
    if not black < white:
        raise InputError(f"task saturated: black must be below white, got {black} and {white}")
    low, high = (value_range[0] + level * (value_range[1] - value_range[0]) for level in (black, white))

    def saturated_between(x: Array) -> Array:
        return operators.saturated(x, low=low, high=high)

    return saturated_between


TASKS: dict[str, Callable[..., Any]] = {
    "inpaint": _inpaint,
    "random_mask": _random_mask,
    "super_resolution": _super_resolution,
    "bicubic": _bicubic,
    "deblur": _deblur,
    "motion_deblur": _motion_deblur,
    "colorize": _colorize,
    "denoise": _denoise,
    "low_light": _low_light,
    "phase_retrieval": _phase_retrieval,
    "quantized": _quantized,
    "saturated": _saturated,
}
COUNTED = ("low_light",)  # tasks whose observations are counts, of `photons` of white on average
NO_PICTURE = ("phase_retrieval",)  # tasks whose observation is none
