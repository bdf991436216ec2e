import json
import os

import numpy as np
import pytest

from score_jax.metrics import Moments, load_moments, save_moments
from score_jax.types import InputError
from tests.helpers import refused

MOMENTS = Moments.of(np.random.default_rng(0).normal(size=(50, 4)))
CONDITIONS = {"data": "digits", "split": "train", "n": 50, "features": {"name": "InceptionV3", "hash": "0123"}}


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "cache" / "digits.npz"
    save_moments(path, MOMENTS, CONDITIONS)
    return path


def test_moments_come_back_as_they_were(path):
    found = load_moments(path, CONDITIONS)
    assert found.n == 50
    np.testing.assert_array_equal(found.mean, MOMENTS.mean)
    np.testing.assert_array_equal(found.scatter, MOMENTS.scatter)
    assert os.listdir(path.parent) == [path.name]  # nothing is left beside it


@pytest.mark.parametrize(
    "change, message",
    [
        ({"n": 49}, "moments for n = 50, not 49: they do not compare"),
        ({"split": None}, "for split = 'train', not None"),
        ({"features": {"name": "InceptionV3", "hash": "4567"}}, "'0123'.*, not {.*4567"),
        ({"seed": 1}, "for seed = None, not 1"),
    ],
)
def test_other_conditions_are_refused_by_name(path, change, message):
    refused(f"digits.npz: .*{message}", load_moments, path, CONDITIONS | change)


def test_every_damaged_byte_is_seen(path):
    whole = path.read_bytes()
    for place in range(0, len(whole), 37):
        damaged = bytearray(whole)
        damaged[place] ^= 0x55
        path.write_bytes(bytes(damaged))
        try:
            found = load_moments(path, CONDITIONS)
        except InputError as error:
            assert str(error).startswith(str(path)) and "\n" not in str(error)
        else:  # bytes that mean nothing, such as times
            np.testing.assert_array_equal(found.scatter, MOMENTS.scatter)
    for n in range(0, len(whole), 101):
        path.write_bytes(whole[:n])
        refused("digits.npz", load_moments, path, CONDITIONS)


def test_files_of_something_else_are_refused(path, tmp_path):
    refused("missing.npz: .*No such file", load_moments, tmp_path / "missing.npz", CONDITIONS)
    np.savez(path, a=np.ones(3))
    refused("is no file of moments", load_moments, path, CONDITIONS)
    text = np.frombuffer(json.dumps(CONDITIONS).encode(), np.uint8)
    np.savez(path, n=np.int64(3), mean=np.ones(4), scatter=np.ones((4, 3)), conditions=text)
    refused("its arrays are not moments", load_moments, path, CONDITIONS)
    np.savez(path, n=np.int64(3), mean=np.ones(4), scatter=np.array([{}], object), conditions=text)
    refused("digits.npz: ", load_moments, path, CONDITIONS)  # a pickle, which is not run


def test_what_cannot_be_written_leaves_the_file_as_it_was(path, monkeypatch):
    refused("plain numbers and text by name", save_moments, path, MOMENTS, {"data": object()})
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    refused("digits.npz: cannot be written .No space left", save_moments, path, MOMENTS, {})
    assert load_moments(path, CONDITIONS).n == 50 and os.listdir(path.parent) == [path.name]
