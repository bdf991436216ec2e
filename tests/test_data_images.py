import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax.arrays import example_keys
from score_jax.data import ArraySource, center_crop, digits, images, in_memory, resize, resized
from score_jax.types import InputError

KEY = jax.random.key(0)
prepare = jax.jit(images.prepare, static_argnames=("grey_levels", "dequantize", "flip", "value_range"))


def all_grey_levels(grey_levels, copies):
    """(copies, 1, grey_levels, 1): every grey level in every image."""
    return jnp.broadcast_to(jnp.arange(grey_levels, dtype=jnp.uint8)[:, None], (copies, 1, grey_levels, 1))


@pytest.mark.parametrize("grey_levels", [2, 17, 256])
def test_dequantization_adds_uniform_noise_that_the_floor_removes(grey_levels):
    # Half the pixels have the top level, where a full-precision u would round 255 + u to 256 once in 2¹⁷.
    x = jnp.arange(2**20).reshape(1024, 32, 32, 1)
    x = jnp.where(x < 2**19, grey_levels - 1, x % grey_levels).astype(jnp.uint8)
    y = np.asarray(images.uniform_dequantization(KEY, x, grey_levels=grey_levels))
    x = np.asarray(x)
    assert y.dtype == np.float32 and y.min() >= 0 and y.max() < 1
    np.testing.assert_array_equal(np.floor(y * np.float32(grey_levels)), x)
    u = y.astype(np.float64) * grey_levels - x
    # U[0, 1): mean 1/2, variance 1/12, fourth central moment 1/80; 4 s.e. over all draws.
    assert abs(u.mean() - 0.5) < 4 * np.sqrt(1 / 12 / u.size)
    assert abs(((u - 0.5) ** 2).mean() - 1 / 12) < 4 * np.sqrt((1 / 80 - 1 / 144) / u.size)
    assert abs(np.corrcoef(u[::2].ravel(), u[1::2].ravel())[0, 1]) < 4 / np.sqrt(u.size / 2)


def test_scaling_without_noise_runs_from_zero_to_one():
    y = images.scale(all_grey_levels(17, 1), grey_levels=17)
    np.testing.assert_allclose(np.ravel(y), np.arange(17) / 16, rtol=1e-7)


def test_a_flip_mirrors_the_width_of_half_the_images_and_nothing_else():
    n = 4000
    x = jax.random.normal(KEY, (n, 2, 3, 2))
    y = np.asarray(images.random_flip(jax.random.key(1), x))
    x = np.asarray(x)
    mirrored = (y == x[:, :, ::-1]).all((1, 2, 3))
    assert (mirrored | (y == x).all((1, 2, 3))).all()
    assert abs(mirrored.mean() - 0.5) < 4 * 0.5 / np.sqrt(n)  # 4 s.e.


def test_row_i_of_a_prepared_batch_depends_on_row_i_and_its_key_alone():
    x = jax.random.randint(KEY, (12, 4, 4, 1), 0, 256).astype(jnp.uint8)
    keys, options = example_keys(KEY, 12), {"grey_levels": 256, "flip": True}
    whole = prepare(keys, x, **options)
    np.testing.assert_array_equal(
        whole, jnp.concatenate([prepare(keys[:6], x[:6], **options), prepare(keys[6:], x[6:], **options)])
    )
    np.testing.assert_array_equal(whole[::-1], prepare(keys[::-1], x[::-1], **options))


def test_prepare_composes_dequantization_flip_and_range():
    x = jax.random.randint(KEY, (40, 4, 4, 3), 0, 256).astype(jnp.uint8)
    y = np.asarray(prepare(KEY, x, grey_levels=256, flip=True, value_range=(-1, 3)))
    back = np.floor(256 * np.asarray(images.from_range(y, -1, 3)))
    x = np.asarray(x)
    mirrored = (back == x[:, :, ::-1]).all((1, 2, 3))
    assert (mirrored | (back == x).all((1, 2, 3))).all() and 0 < mirrored.sum() < 40
    assert y.min() < -0.9 and y.max() > 2.9 and y.max() < 3


def test_flips_and_noise_of_one_batch_are_independent():
    x = jnp.zeros((4000, 1, 2, 1), jnp.uint8).at[:, :, 1].set(1)
    y = np.asarray(prepare(KEY, x, grey_levels=2, flip=True, value_range=(0, 2)))[:, 0, :, 0]
    flipped, noise = y[:, 0] >= 1, (y % 1).sum(1)
    assert abs(np.corrcoef(flipped, noise)[0, 1]) < 4 / np.sqrt(len(y))  # 4 s.e.


def test_points_pass_through_prepare():
    x = jax.random.normal(KEY, (5, 2))
    np.testing.assert_array_equal(images.prepare(KEY, x, grey_levels=0), x)


@pytest.mark.parametrize("low, high", [(-1.0, 1.0), (0.0, 1.0), (-3.0, 5.0)])
def test_to_range_and_from_range_are_inverse(low, high):
    y = jnp.linspace(0, 1, 11)
    x = images.to_range(y, low, high)
    assert (float(x[0]), float(x[-1])) == (low, high)
    np.testing.assert_allclose(images.from_range(x, low, high), y, atol=2e-7)  # two roundings of float32


@pytest.mark.parametrize("dequantize", [False, True])
def test_shown_images_are_the_stored_ones_and_are_clipped(dequantize):
    x = all_grey_levels(256, 3)
    y = prepare(KEY, x, grey_levels=256, dequantize=dequantize, value_range=(0, 1))
    np.testing.assert_array_equal(images.to_uint8(y, 0, 1), x)
    np.testing.assert_array_equal(images.to_uint8(jnp.array([-1.5, -1.0, 0.0, 1.0, 7.0])), [0, 0, 128, 255, 255])


def test_center_crop_keeps_the_middle():
    x = np.arange(2 * 5 * 6).reshape(2, 5, 6, 1)
    np.testing.assert_array_equal(center_crop(x, (3, 2)), x[:, 1:4, 2:4])
    with pytest.raises(InputError, match="a crop of 7x7 doesn't fit images of 5x6"):
        center_crop(x, 7)


def test_resize_keeps_constants_and_mean_brightness_and_cuts_the_longer_side():
    ramp = np.broadcast_to(np.linspace(0, 255, 32, dtype=np.uint8)[:, None], (2, 32, 32, 3))
    small = resize(np.ascontiguousarray(ramp), 8)
    assert small.shape == (2, 8, 8, 3) and small.dtype == np.uint8
    blocks = ramp.reshape(2, 32, 8, 4, 3).mean(3)[:, ::4]
    np.testing.assert_allclose(small[:, :, 1:-1], blocks[:, :, 1:-1], atol=1)  # a ramp's average, rounded
    wide = np.zeros((1, 8, 24, 1), np.uint8)
    wide[:, :, 8:16] = 200  # only the middle third survives
    np.testing.assert_array_equal(resize(wide, 8), np.full((1, 8, 8, 1), 200))


def test_a_resized_source_resizes_what_is_asked_for_and_keeps_labels():
    rng = np.random.default_rng(0)
    source = ArraySource(rng.integers(0, 256, (6, 10, 10, 1), dtype=np.uint8), np.arange(6))
    small = resized(source, (4, 5))
    assert small.shape == (4, 5, 1) and small.num_classes == 6
    batch = small.batch(np.array([4, 1]))
    np.testing.assert_array_equal(batch["x"], resize(source.x[[4, 1]], (4, 5)))
    np.testing.assert_array_equal(batch["label"], [4, 1])
    np.testing.assert_array_equal(in_memory(small, batch_size=4).x, resize(source.x, (4, 5)))


def test_a_resized_source_first_cuts_out_the_middle():
    """A bright frame around the crop leaves no trace in what is resized."""
    x = np.full((2, 10, 8, 3), 255, np.uint8)
    x[:, 2:8, 1:7] = np.arange(2, dtype=np.uint8)[:, None, None, None]
    small = resized(ArraySource(x), 3, crop=6)
    expected = np.broadcast_to(np.arange(2, dtype=np.uint8)[:, None, None, None], (2, 3, 3, 3))
    np.testing.assert_array_equal(small.batch(np.arange(2))["x"], expected)
    assert (resized(ArraySource(x), 3).batch(np.arange(2))["x"][:, 0] > 1).all()  # as it does without the crop


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda x: images.uniform_dequantization(KEY, x * 1.0), "grey levels must be integers, got float32"),
        (lambda x: images.prepare(KEY, x, grey_levels=0), "grey_levels=0; expected 2 to 256"),
        (lambda x: images.random_flip(KEY, x[0]), r"flips need images of shape \(B, H, W, C\)"),
        (lambda x: images.to_range(x, 1, -1), r"value range \(1, -1\); expected low < high"),
        (lambda x: resized(digits(), 4), "only images of 256 grey levels"),
        (lambda x: resized(ArraySource(np.asarray(x)), 2, crop=4), "a crop of 4x4 doesn't fit images of 3x3"),
    ],
)
def test_what_cannot_be_prepared_is_one_clear_line(call, message):
    with pytest.raises(InputError, match=message) as caught:
        call(jnp.zeros((2, 3, 3, 1), jnp.uint8))
    assert "\n" not in str(caught.value)
