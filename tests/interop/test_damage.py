"""Damaged files, many and at random: whatever they hold, they load or are refused in one line."""

import functools
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from score_jax import interop
from score_jax.pickles import OrderedDict
from score_jax.types import InputError
from tests.interop.test_published import FILES, LEGACY
from tests.interop.test_unet_files import write_pickle
from tests.interop.test_unets import DIFFUSERS, config_of
from tests.interop.test_unets import FILES as FILES_OF_UNETS
from tests.interop.writing import read_entries, write_entries

KINDS = ["zip", "stream", "pickle", "safetensors"]
FAST, SLOW = 40, 2500  # mutations of each kind; the slow ones make ten thousand


@functools.cache
def original(kind: str) -> tuple[bytes, str]:
    """Returns a good file, or for "pickle" the pickle of one, and its source."""
    if kind == "pickle":
        return read_entries(FILES["ncsnv2"])["data.pkl"], "ncsnv2"
    if kind == "safetensors":
        return b"", "ncsn"
    return {"zip": FILES["ncsnv2"], "stream": LEGACY}[kind].read_bytes(), {"zip": "ncsnv2", "stream": "ncsn"}[kind]


def mutate(rng: np.random.Generator, content: bytes) -> bytes:
    """Returns the content with one to four places flipped, overwritten, cut out, repeated or cut off."""
    data = bytearray(content)
    for _ in range(rng.integers(1, 5)):
        # Headers, pickles and directories are at the ends; most of the rest is numbers.
        near = int(min(len(data), 40_000) * rng.random() ** 2)
        at = [near, len(data) - near - 1, int(len(data) * rng.random())][rng.choice(3, p=[0.6, 0.2, 0.2])]
        span = slice(at, at + int(2 ** rng.uniform(0, 10)))
        match rng.integers(6):
            case 0 | 1:
                data[at] ^= 1 << rng.integers(8)
            case 2:
                data[span] = rng.bytes(len(data[span]))
            case 3:
                del data[span]
            case 4:
                data[at:at] = data[span]
            case 5 if rng.random() < 0.3:
                del data[at:]
        data = data or bytearray(b"\0")
    return bytes(data)


@functools.cache
def unet_file(kind: str) -> tuple[bytes, str, object]:
    """Returns a good file of a U-Net, its source and its config; for "config.json" that file itself."""
    if kind == "config.json":
        return (DIFFUSERS / "config.json").read_bytes(), "diffusers", None
    if kind == "score_sde":
        return read_entries(FILES_OF_UNETS["ddpmpp"])["data.pkl"], "score_sde_pytorch", config_of("ddpmpp")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file.npz"
        if kind == "npz":
            np.savez(path, **safetensors.numpy.load_file(FILES_OF_UNETS["edm"]))
        else:
            write_pickle(path)
        return path.read_bytes(), "edm", config_of("edm") if kind == "npz" else None


def write_unet(kind: str, content: bytes, folder: Path) -> Path:
    """Writes a checkpoint with the content as the part of it that `unet_file` returns; returns its path."""
    path = folder / "damaged"
    if kind == "score_sde":
        return write_entries(path, read_entries(FILES_OF_UNETS["ddpmpp"]) | {"data.pkl": content})
    if kind == "config.json":
        path.mkdir(exist_ok=True)
        shutil.copy(DIFFUSERS / "diffusion_pytorch_model.safetensors", path)
        (path / kind).write_bytes(content)
    else:
        path.write_bytes(content)
    return path


def survive_as_unet(kind: str, seeds: range, folder: Path) -> int:
    """Makes a score model of a mutation for each seed and returns how many were refused; see `survive`."""
    content, source, config = unet_file(kind)
    refused = 0
    for seed in seeds:
        path = write_unet(kind, mutate(np.random.default_rng(seed), content), folder)
        try:
            interop.score_model(path, source=source, config=config)
        except InputError as error:
            assert str(error).startswith(f"{path}: "), seed
            assert "\n" not in str(error) and len(str(error)) < 600, seed
            refused += 1
        except Exception as error:
            raise AssertionError(f"mutation {seed} of {kind}: {type(error).__name__}: {error}") from error
    return refused


UNET_KINDS = ["score_sde", "edm pickle", "npz", "config.json"]


@pytest.mark.parametrize("kind", UNET_KINDS)
def test_damage_of_unets_is_refused_in_one_line(kind, tmp_path):
    assert survive_as_unet(kind, range(8), tmp_path) >= 3


@pytest.mark.slow
@pytest.mark.parametrize("kind", UNET_KINDS)
def test_much_damage_of_unets_is_refused_in_one_line(kind, tmp_path):
    assert survive_as_unet(kind, range(8, 1200), tmp_path) > 400


def survive(kind: str, seeds: range, folder) -> int:
    """Loads a mutation for each seed and returns how many were refused; anything but `InputError` is a failure."""
    content, source = original(kind)
    path, refused = folder / "damaged", 0
    if kind == "safetensors":
        interop.save(path, *interop.load(LEGACY, source=source), source=source)
        content = path.read_bytes()
    entries = read_entries(FILES["ncsnv2"])
    for seed in seeds:
        damaged = mutate(np.random.default_rng(seed), content)
        if kind == "pickle":
            write_entries(path, entries | {"data.pkl": damaged})
        else:
            path.write_bytes(damaged)
        try:
            interop.load(path, source=source)
        except InputError as error:
            assert str(error).startswith(f"{path}: "), seed
            assert "\n" not in str(error), seed
            assert len(str(error)) < 600, seed
            refused += 1
        except Exception as error:
            raise AssertionError(f"mutation {seed} of {kind}: {type(error).__name__}: {error}") from error
    return refused


@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_refused_in_one_line(kind, tmp_path):
    # Not all of it shows: a changed number is a number still, except in a zip, whose entries have checksums.
    assert survive(kind, range(FAST), tmp_path) > FAST * {"zip": 0.9}.get(kind, 0.4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_much_damage_is_refused_in_one_line(kind, tmp_path):
    assert survive(kind, range(FAST, FAST + SLOW), tmp_path) > 0


def doubled(depth):
    """A list of two lists that are one and the same, and so on: 2^depth numbers, were they ever written out."""
    found = [1]
    for _ in range(depth):
        found = [found, found]
    return found


def nested(depth):
    found = []
    for _ in range(depth):
        found = [found]
    return found


ALIASES = "\n".join(["a0: &a0 [1]", *(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 41))])
ODD = {
    "doubled": doubled(60),
    "nested": nested(3_000),
    "of dicts": [{"a": doubled(60)}, OrderedDict([("a", doubled(60))])],
    "digits": 10**5_000,
    "text": "9" * 5_000,
    "nan": float("nan"),
}


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("key", ["block_out_channels", "layers_per_block", "norm_eps", "center_input_sample", "act_fn"])
def test_values_of_any_size_and_depth_are_named_in_a_line(odd, key):
    with pytest.raises(InputError, match=f"the config's {key} is ") as error:
        interop.load(DIFFUSERS, source="diffusers", config={key: ODD[odd]})
    assert "\n" not in str(error.value) and len(str(error.value)) < 600


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize(
    "key", ["model.ngf", "model.nonlinearity", "data.channels", "model.sigma_dist", "model.sigma_end"]
)
def test_values_of_ncsns_config_are_named_in_a_line(odd, key):
    section, name = key.split(".")
    with pytest.raises(InputError, match="config") as error:
        interop.score_model(LEGACY, source="ncsn", config={section: {name: ODD[odd]}})
    assert "\n" not in str(error.value) and len(str(error.value)) < 600


def test_a_yaml_file_of_aliases_of_aliases_is_one_line(tmp_path):
    (tmp_path / "config.yml").write_text(ALIASES + "\nblock_out_channels: *a40\n")
    with pytest.raises(InputError, match="expected a list of whole numbers"):
        interop.load(DIFFUSERS, source="diffusers", config=tmp_path / "config.yml")


@pytest.mark.parametrize("length", [0, 1, 8, 9, 100, 10_000])
def test_random_bytes_are_refused_in_one_line(length, tmp_path):
    path = tmp_path / "noise"
    for seed, start in enumerate([b"", b"PK\x03\x04", b"\x80\x02", (50).to_bytes(8, "little") + b"{"]):
        path.write_bytes((start + np.random.default_rng(seed).bytes(length))[:length])
        with pytest.raises(InputError) as error:
            interop.load(path, source="ncsn")
        assert "\n" not in str(error.value)


def test_safetensors_that_lie_are_refused(tmp_path):
    path = tmp_path / "file.safetensors"
    safetensors.numpy.save_file({"a": np.ones(3, np.float32)}, path, {"config": "no json"})
    with pytest.raises(InputError, match="has a config in its header that is no JSON"):
        interop.load(path, source="ncsn")
    content = path.read_bytes()
    for old, new in [(b"[0,12]", b"[0,16]"), (b"[0,12]", b"[4,16]"), (b"[3]", b"[9]"), (b"F32", b"F99")]:
        path.write_bytes(content.replace(old, new))
        with pytest.raises(InputError, match="cannot be read as safetensors"):
            interop.load(path, source="ncsn")
    path.write_bytes((2**62).to_bytes(8, "little") + content[8:])
    with pytest.raises(InputError, match="cannot be read as safetensors"):
        interop.load(path, source="ncsn")
