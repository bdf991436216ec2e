import functools
import importlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits

from score_jax.metrics import Features, features, frechet, nearest_neighbours, train_grey_features
from score_jax.networks import FeatureOutputs, GreyClassifier
from tests.helpers import key, refused
from tests.networks.filling import filled

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (21, 6, 5, 1)).astype(np.uint8)


class Colour(nn.Module):
    """Means of the channels and their sum's share of two classes."""

    @nn.compact
    def __call__(self, x):
        told = nn.Dense(4, name="told")(x.astype(jnp.float32).mean((1, 2)))
        return FeatureOutputs(told, told[:, :2])


@functools.cache
def grey(**options):
    module = GreyClassifier(3, widths=(2,), features=7)
    variables = filled(module, jax.ShapeDtypeStruct((1, 6, 5, 1), jnp.float32))
    return Features("made up", 7, module, variables, "none", channels=1, **options)


def colour(**options):
    variables = filled(Colour(), jax.ShapeDtypeStruct((1, 6, 5, 3), jnp.float32))
    return Features("colours", 4, Colour(), variables, "none", **options)


def test_rows_do_not_depend_on_batches_nor_on_the_number_of_devices():
    assert len(jax.devices()) == 8
    one_device = jax.jit(grey().module.apply)(grey().variables, IMAGES)
    for batch_size in (3, 8, 17, 64):  # 8, 8, 24 and 64 images at once
        found, probabilities = grey(batch_size=batch_size).with_probabilities(IMAGES)
        assert found.shape == (21, 7) and found.dtype == np.float32
        np.testing.assert_allclose(found, one_device.features, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-6)
        np.testing.assert_array_equal(probabilities.argmax(1), one_device.logits.argmax(1))


def test_a_row_is_the_same_to_the_bit_wherever_it_stands():
    found = grey()(IMAGES)
    np.testing.assert_array_equal(grey()(IMAGES[::-1]), found[::-1])
    np.testing.assert_array_equal(grey()(IMAGES[5:6]), found[5:6])


def test_networks_of_one_kind_and_shape_share_a_program():
    before = features._told._cache_size()
    for scale in (1, 2):
        variables = jax.tree.map(lambda leaf, scale=scale: scale * leaf, grey().variables)
        Features("another", 7, grey().module, variables, "none", channels=1)(IMAGES)
    assert features._told._cache_size() <= before + 1


def test_levels_and_floats_of_them_are_the_same_images():
    x = IMAGES / 255
    np.testing.assert_array_equal(grey()(x), grey()(IMAGES))
    np.testing.assert_array_equal(grey()(x + 0.4 / 255), grey()(IMAGES))  # rounded to the nearest level
    np.testing.assert_allclose(grey(quantize=False)(x.astype(np.float32)), grey()(IMAGES), rtol=1e-5, atol=1e-4)
    assert abs(grey(quantize=False)(x + 0.4 / 255) - grey()(IMAGES)).max() > 1e-3
    np.testing.assert_array_equal(grey(quantize=False)(3 * x), grey(quantize=False)(np.minimum(3 * x, 1)))


def test_grey_images_are_repeated_for_a_network_of_colours():
    told = colour()
    np.testing.assert_array_equal(told(IMAGES), told(np.repeat(IMAGES, 3, 3)))


def test_the_hash_is_of_the_weights_and_of_nothing_else():
    assert grey().hash == grey(batch_size=8).hash and len(grey().hash) == 16
    changed = jax.tree.map(lambda leaf: np.nextafter(leaf, np.float32(9)), grey().variables)
    assert Features("made up", 7, grey().module, changed, "none").hash != grey().hash
    assert grey().conditions == {
        "features": "made up",
        "hash": grey().hash,
        "preprocessing": "none",
        "rounding": "uint8",
    }


def test_only_inceptions_distance_is_called_fid():
    assert grey().distance_name == "Fréchet distance, features of made up"
    assert features.inception({}).distance_name == "FID"
    assert features.efficientnet({}).distance_name == "Fréchet distance, features of EfficientNet-Lite0"


def test_features_are_what_neighbours_are_found_by():
    index, _ = nearest_neighbours(IMAGES[3:5] / 255, IMAGES / 255, features=grey())
    np.testing.assert_array_equal(index[:, 0], [3, 4])


@pytest.mark.parametrize(
    "images, message",
    [
        (IMAGES[0], r"made up takes images \(n, H, W, C\) with 1 channels, got shape \(6, 5, 1\)"),
        (np.repeat(IMAGES, 3, 3), r"got shape \(21, 6, 5, 3\)"),
        (IMAGES.astype(np.int64), "of floats in .0, 1., got int64"),
        (np.where(IMAGES > 250, np.nan, 0.5), "of 21 images hold NaN"),
    ],
)
def test_what_is_no_image_is_refused_in_one_line(images, message):
    refused(message, grey(), images)


def digits():
    data = load_digits()
    return np.float32(data.images[..., None] / 16), data.target


def test_a_short_training_knows_most_digits_and_the_key_decides_all(monkeypatch):
    monkeypatch.setattr(importlib.import_module("score_jax.metrics.grey_features"), "_LEAST_STEPS", 60)
    x, y = digits()
    told, accuracy, classes = train_grey_features(key(), x, y)
    assert accuracy > 0.8 and list(classes) == list(range(10))
    assert train_grey_features(key(), x, y).features.hash == told.hash
    assert told.name == "GreyClassifier (8×8, 10 classes)" and told(x[:3]).shape == (3, told.dim)


@pytest.mark.slow
def test_grey_features_know_digits_and_tell_what_is_wrong_with_others():
    x, y = digits()
    told, accuracy, _ = train_grey_features(key(), x, y)
    assert accuracy > 0.96  # 179 held out, of which a classifier that knows 98.5 % has 97 % or more in 9 of 10 cases
    found = told(x)
    halves = frechet(found[::2], found[1::2])
    assert frechet(found[::2], told(1 - x[1::2])) > 20 * halves
    assert frechet(found[y < 5], found[y >= 5]) > 5 * halves


@pytest.mark.parametrize(
    "x, y, message",
    [
        (np.zeros((30, 8, 8, 3)), np.arange(30), "grey images"),
        (np.zeros((9, 8, 8, 1)), np.arange(9), "at least 20"),
        (np.zeros((30, 8, 8, 1)), np.zeros(30, int), "two classes or more"),
        (np.zeros((30, 8, 8, 1)), np.zeros(30), "integer labels"),
        (np.full((30, 8, 8, 1), 2.0), np.arange(30), r"floats in \[0, 1\], got float64 beyond"),
    ],
)
def test_what_cannot_be_learned_is_refused_in_one_line(x, y, message):
    refused(message, train_grey_features, key(), x, y)
