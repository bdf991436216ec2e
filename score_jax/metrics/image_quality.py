"""How close a picture is to the true one: peak signal-to-noise ratio and structural similarity, one number an image.

    PSNR = 10 log₁₀(L² / mean (x − y)²)
    SSIM = mean of (2 μ_x μ_y + c₁)(2 σ_xy + c₂) / ((μ_x² + μ_y² + c₁)(σ_x² + σ_y² + c₂))

with L the data's range, c₁ = (0.01 L)², c₂ = (0.03 L)², and means, variances and covariance within a Gaussian window
around each pixel whose window lies inside, channel by channel (Wang et al. 2004, eqs. 13 and 17). Both reward the mean
of the posterior, which is blurred where the posterior is wide, over its samples.
"""

import jax
import jax.numpy as jnp

from score_jax import arrays
from score_jax.types import Array, ArrayLike, InputError, require_positive


def psnr(x: Array, truth: Array, *, data_range: ArrayLike = 1.0) -> Array:
    """Returns the peak signal-to-noise ratio in dB, `(B,)`; infinite where both are equal.

    Args:
      x: images `(B, *S)`.
      truth: likewise.
      data_range: L, the distance of white from black: 1 of images in [0, 1].

    Raises:
      InputError: for arrays of different shapes, or a range that is not positive.

    Examples:
      An error of a tenth of the range is 20 dB.

      >>> truth = jnp.zeros((1, 11, 11, 1))
      >>> print(f"{metrics.psnr(truth + 0.1, truth)[0]:.1f}")
      20.0
    """
    _require_alike("psnr", x, truth)
    require_positive("psnr", data_range=data_range)
    squared = arrays.sum_dims((x - truth) ** 2) / x[0].size
    return 10 * jnp.log10(data_range**2 / squared)


def ssim(x: Array, truth: Array, *, data_range: ArrayLike = 1.0, window: int = 11, std: float = 1.5) -> Array:
    """Returns the structural similarity, `(B,)`: 1 where both are equal.

    Args:
      x: images `(B, H, W, C)`.
      truth: likewise.
      data_range: L, the distance of white from black: 1 of images in [0, 1].
      window: side of the window in pixels, odd; published: 11.
      std: of the Gaussian in it, in pixels.

    Raises:
      InputError: for arrays of different shapes, images smaller than the window, an even window.

    Examples:
      An image and itself; white and black.

      >>> black = jnp.zeros((1, 11, 11, 1))
      >>> print(f"{jax.jit(metrics.ssim)(black, black)[0]:.2f} {jax.jit(metrics.ssim)(black + 1, black)[0]:.2f}")
      1.00 0.00
    """
    _require_alike("ssim", x, truth)
    require_positive("ssim", data_range=data_range, std=std)
    if x.ndim != 4 or window < 1 or window % 2 == 0 or window > min(x.shape[1:3]):
        raise InputError(f"ssim takes images (B, H, W, C) and an odd window within them, got {x.shape} and {window}")
    mean = lambda v: _windowed(v, window, std)
    mean_x, mean_y = mean(x), mean(truth)
    variance_x, variance_y = mean(x**2) - mean_x**2, mean(truth**2) - mean_y**2
    covariance = mean(x * truth) - mean_x * mean_y
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    similar = luminance * (2 * covariance + c2) / (variance_x + variance_y + c2)
    return similar.mean((1, 2, 3))


def _windowed(x: Array, window: int, std: float) -> Array:
    """The Gaussian mean around each pixel whose window lies inside, `(B, H − w + 1, W − w + 1, C)`."""
    weights = jnp.exp(-0.5 * ((jnp.arange(window) - window // 2) / std) ** 2).astype(x.dtype)
    across = jax.vmap(lambda line: jnp.convolve(line, weights / weights.sum(), mode="valid", precision="highest"))
    along_width = across(x.transpose(0, 3, 1, 2).reshape(-1, x.shape[2]))
    rows = along_width.reshape(len(x), x.shape[3], x.shape[1], -1).transpose(0, 1, 3, 2)
    columns = across(rows.reshape(-1, x.shape[1])).reshape(*rows.shape[:3], -1)
    return columns.transpose(0, 3, 2, 1)


def _require_alike(owner: str, x: Array, truth: Array) -> None:
    if jnp.shape(x) != jnp.shape(truth):
        raise InputError(f"{owner} compares images of one shape, got {jnp.shape(x)} and {jnp.shape(truth)}")
