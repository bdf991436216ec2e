"""Files and configs that lie: refused in one line. Damage at random is `tests.fuzz`'s."""

import numpy as np
import pytest
import safetensors.numpy

from score_jax import interop
from score_jax.pickles import OrderedDict
from score_jax.types import InputError
from tests.interop.test_published import LEGACY
from tests.interop.test_unets import DIFFUSERS


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
