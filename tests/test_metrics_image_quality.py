"""PSNR and SSIM: closed forms of constant images, and scikit-image's numbers."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax.metrics import psnr, ssim
from score_jax.types import InputError

REFERENCE = Path(__file__).parent / "data" / "metrics" / "image_quality.npz"


def test_psnr_of_a_constant_error_is_its_size_in_decibels():
    """An error of 0.1 of the range is 20 dB, of a tenth of that 40, whatever the range."""
    truth = jax.random.uniform(jax.random.key(0), (2, 5, 4, 3))
    error = jnp.array([0.1, 0.01])[:, None, None, None]
    for width in (1.0, 2.0):
        found = psnr(width * (truth + error), width * truth, data_range=width)
        np.testing.assert_allclose(found, [20, 40], rtol=1e-4)  # rounding of 1 + 0.01: 6e-8/0.01 = 6e-6, in dB 5e-5
    assert jnp.isinf(psnr(truth, truth)).all()


def test_ssim_of_constant_images_is_the_luminance_term():
    """Without variance (2ab + c₁)/(a² + b² + c₁) is left; of an image with itself, 1."""
    a, b, c1 = 0.2, 0.7, 1e-4
    found = ssim(jnp.full((1, 12, 11, 1), a), jnp.full((1, 12, 11, 1), b))
    # c₂ = 9e-4 and variances of E x² − (E x)², which float32 rounds by 1e-7: 1e-7/9e-4
    np.testing.assert_allclose(found, (2 * a * b + c1) / (a**2 + b**2 + c1), rtol=5e-4)
    x = jax.random.uniform(jax.random.key(1), (3, 11, 14, 2))
    np.testing.assert_allclose(ssim(x, x), 1, rtol=1e-6)


def test_both_are_scikit_images(x64):
    """In double precision; the range is 1 there, and scaling images with it changes nothing."""
    known = np.load(REFERENCE)
    a, b = (jnp.asarray(known[name], jnp.float64) for name in "ab")
    for width in (1.0, 255.0):
        np.testing.assert_allclose(psnr(width * a, width * b, data_range=width), known["psnr"], rtol=1e-12)
        np.testing.assert_allclose(ssim(width * a, width * b, data_range=width), known["ssim"], rtol=1e-10)


def test_images_that_cannot_be_compared_are_refused():
    x = jnp.zeros((2, 8, 8, 1))
    with pytest.raises(InputError, match=r"psnr compares images of one shape, got \(2, 8, 8, 1\) and \(2, 8, 8, 3\)"):
        psnr(x, jnp.zeros((2, 8, 8, 3)))
    with pytest.raises(InputError, match=r"an odd window within them, got .* and 11"):
        ssim(x, x)
    with pytest.raises(InputError, match="and 6"):
        ssim(x, x, window=6)
    with pytest.raises(InputError, match="data_range must be positive, got 0"):
        psnr(x, x, data_range=0)
