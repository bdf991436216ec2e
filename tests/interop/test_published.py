"""The published networks, against what the original implementation computes with the same files."""

import functools
import json
import sys
import zlib
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from score_jax import interop, networks, parameterization
from score_jax.adapters import linen
from score_jax.conditions import LevelIndex
from score_jax.interop import files, torch_files
from score_jax.interop.mapping import rearrange, to_tensors
from score_jax.interop.ncsn_names import ncsn_entries
from score_jax.score import ScoreModel
from score_jax.sde import EDM, VE
from score_jax.types import InputError
from tests.helpers import often
from tests.interop.writing import Stored, dense, tensor, write_zip
from tests.networks.filling import filled, jit

DATA = Path(__file__).parent.parent / "data"
FILES = {"ncsn": DATA / "ncsn" / "ncsn_32x3.pth", "ncsnv2": DATA / "ncsnv2" / "ncsnv2.pth"}
LEGACY = DATA / "ncsn" / "ncsn_32x3_legacy.pth"
LADDER = tuple(np.geomspace(2.0, 0.1, 5).tolist())
NETWORKS = {
    **{f"ncsn_{depth}": networks.NCSN(2, 1, 3, depth) for depth in ("base", "deeper", "deepest")},
    **{f"ncsnv2_{depth}": networks.NCSNv2(2, 1, LADDER, depth) for depth in ("base", "deeper", "deepest")},
    "baseline": networks.NCSN(2, 3, None),
    "rescaled": networks.NCSNv2(2, 1, LADDER, rescale=False),
}
TINY = networks.NCSN(1, 1, 2)
TINY_V2 = networks.NCSNv2(1, 1, (1.0, 0.1))


@functools.cache
def reference(source):
    """Returns (x, labels, out) of the original implementation, NHWC."""
    data = np.load(FILES[source].with_suffix(".npz"))
    return data["x"].transpose(0, 2, 3, 1), data["labels"], data["out"].transpose(0, 2, 3, 1)


@functools.cache
def loaded(source):
    return interop.load(FILES[source], source=source)


@functools.cache
def applied(source):
    compiled = jit(loaded(source)[0].apply)
    return lambda variables, x, cond: np.asarray(compiled(variables, x, np.asarray(cond, np.float32)))


def filled_with_levels(module):
    variables = filled(module, jax.ShapeDtypeStruct((1, 8, 8, module.channels), jnp.float32), jnp.zeros(1))
    if "fixed" in variables:
        variables["fixed"]["sigmas"] = np.float32(module.sigmas)
    return variables


def state_of(module):
    return to_tensors(ncsn_entries(module), filled_with_levels(module))


def assert_identical(a, b):
    chex.assert_trees_all_equal(a, b, strict=True)


# Parity


@pytest.mark.parametrize("source", FILES)
def test_outputs_are_the_original_implementations(source):
    x, labels, expected = reference(source)
    out = applied(source)(loaded(source)[1], x, labels)
    # float32 rounding: 2e-6 (NCSN) and 1e-5 (NCSNv2) of the standard deviation of a level's output were measured
    for level, there in zip(out, expected, strict=True):
        assert abs(level - there).max() < 1e-4 * there.std()


@pytest.mark.parametrize("source", FILES)
def test_a_score_model_is_the_original_at_the_times_of_its_levels(source):
    x, labels, expected = reference(source)
    model = interop.score_model(FILES[source], source=source)
    sigmas = np.array(model.condition.sigmas)
    t = model.sde.time(-2 * jnp.log(jnp.asarray(sigmas[labels], jnp.float32)))
    cond = model.condition(model.sde, t)
    np.testing.assert_allclose(cond, labels, atol=2e-5)  # t is known to 1e-7 and there are up to 19 levels to it
    # the network is the one compiled above; a score model of parameterization "score" adds nothing to it
    score = model.parameterization.to_score(model.sde, x, t, applied(source)(model.variables, x, cond))
    for level, there in zip(np.asarray(score), expected, strict=True):
        assert abs(level - there).max() < 1e-3 * there.std()


def test_ncsnv2_is_a_score_at_any_time_of_its_sde():
    module = NETWORKS["ncsnv2_base"]
    x = np.random.default_rng(0).random((4, 5, 4, 1), np.float32)
    sde, condition = VE(LADDER[-1], LADDER[0]), LevelIndex(LADDER)
    model = ScoreModel(filled_with_levels(module), sde, linen(module), parameterization.Score(), condition)
    t = np.array([0.0, 0.3, 0.77, 1.0], np.float32)
    score = jit(lambda t: model(x, t))
    scaled = np.asarray(score(t)) * np.asarray(model.sde.sigma(t))[:, None, None, None]
    np.testing.assert_allclose(scaled, score(np.zeros(4, np.float32)) * LADDER[-1], rtol=1e-4, atol=1e-5)


# Reading


def test_both_formats_give_identical_variables():
    assert_identical(interop.load(LEGACY, source="ncsn")[1], loaded("ncsn")[1])
    assert interop.load(LEGACY, source="ncsn")[0] == loaded("ncsn")[0] == networks.NCSN(8, 3, 10)


@pytest.mark.parametrize("source", FILES)
def test_weights_are_the_numbers_that_their_names_give(source):
    module, variables = loaded(source)
    tensors = to_tensors(ncsn_entries(module), variables)
    for name, array in tensors.items():
        if name != "sigmas":
            np.testing.assert_array_equal(array, from_name(name, array.shape), err_msg=name)
    assert len(tensors) == {"ncsn": 173, "ncsnv2": 154}[source]


def from_name(name, shape):
    z = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    if len(shape) > 1:
        return np.float32(z / np.sqrt(np.prod(shape[1:])))
    return np.float32(0.1 * z if name.endswith(("bias", "beta")) else 1 + 0.1 * z)


def test_the_moving_average_is_taken_unless_the_raw_weights_are_asked_for():
    raw = interop.load(FILES["ncsnv2"], source="ncsnv2", use_ema=False)[1]
    average = loaded("ncsnv2")[1]
    jax.tree.map(lambda r, a: np.testing.assert_array_equal(2 * r, a), raw["params"], average["params"])
    np.testing.assert_array_equal(raw["fixed"]["sigmas"], average["fixed"]["sigmas"])
    np.testing.assert_allclose(average["fixed"]["sigmas"], np.geomspace(50, 0.01, 20), rtol=1e-6)


def test_variables_are_copies_of_the_file(tmp_path):
    path = tmp_path / "file.pth"
    path.write_bytes(FILES["ncsn"].read_bytes())
    variables = interop.load(path, source="ncsn")[1]
    path.write_bytes(bytes(path.stat().st_size))
    assert_identical(variables, loaded("ncsn")[1])


@pytest.mark.parametrize("dtype", ["float16", jnp.bfloat16, "float64"])
def test_other_precisions_become_float32(tmp_path, dtype):
    state = {name: array.astype(dtype) for name, array in state_of(TINY).items()}
    expected = {name: array.astype(np.float32) for name, array in state.items()}
    files.write(tmp_path / "x.safetensors", state, {})
    write_zip(tmp_path / "x.pth", {name: dense(name, array) for name, array in state.items()})
    for name in ("x.safetensors", "x.pth"):
        module, variables = interop.load(tmp_path / name, source="ncsn")
        assert_identical(to_tensors(ncsn_entries(module), variables), expected)


@pytest.mark.parametrize("source", FILES)
def test_the_sources_config_agrees_with_the_tensors(source, tmp_path):
    given = FILES[source].with_suffix(".json")
    assert interop.load(FILES[source], source=source, config=given)[0] == loaded(source)[0]
    # as argparse's configs are dumped by the published code, beside every checkpoint
    space = "!!python/object:argparse.Namespace"
    text = f"{space}\ndata: {space}\n  logit_transform: true\n  channels: 3\nmodel: {space}\n  ngf: 8\n"
    dumped = tmp_path / "config.yml"
    dumped.write_text(text)
    assert not interop.load(FILES[source], source=source, config=dumped)[0].rescale
    dumped.write_text("model: {ngf: 64}")
    with pytest.raises(InputError, match=r"has 8 where the config says model\.ngf = 64"):
        interop.load(FILES[source], source=source, config=dumped)


def test_ncsn_takes_its_levels_from_the_config():
    published = interop.score_model(LEGACY, source="ncsn")
    np.testing.assert_allclose(published.condition.sigmas, np.geomspace(1, 0.01, 10), rtol=1e-6)
    config = {"model": {"sigma_begin": 5, "sigma_end": 0.5}}
    other = interop.score_model(LEGACY, source="ncsn", config=config)
    np.testing.assert_allclose([other.sde.sigma_min, other.sde.sigma_max], [0.5, 5.0])


# Writing


@pytest.mark.parametrize("source", FILES)
def test_the_export_is_the_state_dict_bit_for_bit(source, tmp_path):
    module, variables = loaded(source)
    path = tmp_path / "network.safetensors"
    interop.save(path, module, variables, source=source)
    contents = torch_files.read_torch(FILES[source])
    original = {name.removeprefix("module."): t.array() for name, t in contents[0].items()}
    if source == "ncsnv2":
        original |= {name: t.array() for name, t in contents[4].items()}
    exported = safetensors.numpy.load_file(path)
    assert exported.keys() == original.keys()
    for name, array in original.items():
        assert (exported[name].shape, exported[name].dtype) == (array.shape, array.dtype)
        assert exported[name].tobytes() == array.tobytes()


@pytest.mark.parametrize("name", often(NETWORKS, ("ncsn_base", "ncsnv2_deepest", "baseline")))
def test_round_trips_are_bit_identical(name, tmp_path):
    module, variables = NETWORKS[name], filled_with_levels(NETWORKS[name])
    source, path = "ncsnv2" if "fixed" in variables else "ncsn", tmp_path / "network.safetensors"
    interop.save(path, module, variables, source=source)
    again, back = interop.load(path, source=source)
    assert_identical(back, jax.tree.map(jnp.asarray, variables))
    assert again == module


def test_names_of_the_deepest_network_are_the_sources():
    shapes = {e.name: e.source_shape for e in ncsn_entries(networks.NCSNv2(2, 1, LADDER, "deepest"))}
    expected = {  # three stages that pool, then two dilated ones; the one added to the deeper network is 31
        "begin_conv.weight": (2, 1, 3, 3),
        "res2.0.shortcut.conv.weight": (4, 2, 1, 1),
        "res3.0.conv2.conv.weight": (4, 4, 3, 3),
        "res31.0.shortcut.conv.weight": (4, 4, 1, 1),
        "res31.1.normalize2.alpha": (4,),
        "res4.0.shortcut.weight": (8, 4, 3, 3),
        "res5.1.conv2.bias": (8,),
        "refine2.msf.convs.1.weight": (4, 8, 3, 3),
        "refine31.adapt_convs.1.2_2_conv.weight": (4, 4, 3, 3),
        "refine3.msf.convs.0.weight": (4, 4, 3, 3),
        "refine4.msf.convs.0.bias": (2,),
        "refine5.output_convs.3_2_conv.weight": (2, 2, 3, 3),
        "end_conv.bias": (1,),
    }
    assert {name: shapes[name] for name in expected} == expected
    assert not {"refine1.msf.convs.0.weight", "res1.0.shortcut.weight", "refine1.crp.norms.0.alpha"} & shapes.keys()


@pytest.mark.parametrize("name", NETWORKS)
def test_no_two_arrays_have_one_name(name):
    names = [entry.name for entry in ncsn_entries(NETWORKS[name])]
    assert len(set(names)) == len(names)


def test_rearranging_there_and_back_is_nothing():
    array = np.arange(24).reshape(1, 2, 3, 4)
    assert rearrange(array, "1ABC", "CAB").shape == (4, 2, 3)
    np.testing.assert_array_equal(rearrange(rearrange(array, "1ABC", "CAB"), "CAB", "1ABC"), array)
    np.testing.assert_array_equal(rearrange(array, "OIHW", "HWIO"), array.transpose(2, 3, 1, 0))


def test_variables_of_another_network_are_not_exported(tmp_path):
    variables = filled_with_levels(NETWORKS["ncsn_base"])
    with pytest.raises(InputError, match="the variables are not this network's: params/norm/alpha is missing"):
        interop.save(tmp_path / "x", networks.NCSN(2, 1, None), variables, source="ncsn")


# Refusing


def broken(change, module=TINY):
    state = {f"module.{name}": array for name, array in state_of(module).items()}
    change(state)
    return [{name: dense(name, array) for name, array in state.items()}, {}]


def drop(name):
    return lambda state: state.pop(f"module.{name}")


def put(name, array):
    return lambda state: state.update({f"module.{name}": np.asarray(array)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop("res3.0.shortcut.bias"), r"lacks res3\.0\.shortcut\.bias: not a checkpoint"),
        (drop("begin_conv.weight"), r"lacks begin_conv\.weight"),
        (drop("refine4.msf.convs.0.bias"), r"lacks refine4\.msf\.convs\.0\.bias"),
        (drop("normalizer.embed.weight"), r"lacks normalizer\.embed\.weight"),
        (put("extra.weight", [1.0]), r"has unknown extra\.weight: not a checkpoint"),
        (put("res5.0.conv1.weight", [1.0]), r"has unknown res5\.0\.conv1\.weight"),
        (put("end_conv.bias", np.zeros(2, np.float32)), r"end_conv\.bias has shape \(2,\), expected \(1,\)"),
        (put("end_conv.bias", np.zeros((), np.float32)), r"end_conv\.bias has shape \(\), expected \(1,\)"),
        (put("end_conv.bias", np.zeros(1, np.int64)), r"end_conv\.bias holds int64, expected floating"),
        (put("begin_conv.weight", np.zeros((1, 1, 5, 5), np.float32)), r"begin_conv\.weight has shape \(1, 1, 5, 5\)"),
        (put("begin_conv.weight", np.zeros((0, 1, 3, 3), np.float32)), r"begin_conv\.weight has shape \(0, 1, 3, 3\)"),
        (put("begin_conv.weight", np.zeros(9, np.float32)), r"begin_conv\.weight has shape \(9,\), expected \(1, 1, 3"),
        (put("normalizer.embed.weight", np.zeros((3, 3), np.float32)), r"normalizer\.embed\.weight has shape \(3, 3\)"),
        (put("sigmas", np.ones(2, np.float32)), 'give source="ncsnv2"'),
    ],
)
def test_a_network_of_another_kind_is_named_by_file_and_key(tmp_path, change, message):
    path = write_zip(tmp_path / "broken.pth", broken(change))
    with pytest.raises(InputError, match=message) as error:
        interop.load(path, source="ncsn")
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop("sigmas"), r'lacks sigmas.*give source="ncsn"'),
        (put("sigmas", np.float32([1, -1])), "sigmas are not noise levels"),
        (put("sigmas", np.float32([1, np.nan])), "sigmas are not noise levels"),
        (put("sigmas", np.array([1, 2])), "sigmas are not noise levels"),
        (put("sigmas", np.zeros((2, 2), np.float32)), "lacks a sigmas of 1 axes"),
    ],
)
def test_noise_levels_that_are_none_are_one_line(tmp_path, change, message):
    path = write_zip(tmp_path / "broken.pth", broken(change, TINY_V2))
    with pytest.raises(InputError, match=message):
        interop.load(path, source="ncsnv2")


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ([], "has no state dict"),
        ("text", "has no state dict"),
        ([{}], "has no state dict"),
        ([{"a": 3}], "its state dict holds a, which is no tensor"),
        ([{5: dense("0", np.ones(1))}], r"its state dict holds \(int\), which is no tensor"),
        ([{"a": dense("0", np.ones(1)), "module.a": dense("1", np.ones(1))}], 'both with and without "module."'),
        ([{"a": dense("0", np.ones(1))}, {}, 1, 2, {"b": dense("1", np.ones(1))}], "has no moving average of a"),
        ([{"a": dense("0", np.ones(1))}, {}, 1, 2, None], "has no moving average"),
    ],
)
def test_files_without_a_network_are_one_line(tmp_path, contents, message):
    path = write_zip(tmp_path / "file.pth", contents)
    with pytest.raises(InputError, match=message):
        interop.load(path, source="ncsn")


def test_tensors_that_repeat_one_number_are_not_expanded(tmp_path):
    one = Stored("0", np.ones(1, np.float32))
    state = {name: tensor(one, 0, array.shape, (0,) * array.ndim) for name, array in state_of(TINY).items()}
    interop.load(write_zip(tmp_path / "small.pth", state), source="ncsn")
    state["begin_conv.weight"] = tensor(one, 0, (4096, 4096, 3, 3), (0, 0, 0, 0))
    with pytest.raises(InputError, match=r"promises tensors of .* bytes in a file of"):
        interop.load(write_zip(tmp_path / "huge.pth", state), source="ncsn")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model": {"nonlinearity": "relu"}}, r"model\.nonlinearity is 'relu'; only elu is read"),
        ({"model": {"normalization": "VarianceNorm"}}, "only InstanceNorm"),
        ({"model": {"num_classes": 11}}, r"has 10 where the config says model\.num_classes = 11"),
        ({"data": {"channels": 1}}, r"has 3 where the config says data\.channels = 1"),
        ({"model": 3}, "section model is int"),
        ({"model": {"sigma_begin": 0.01, "sigma_end": 1.0}}, "expected positive, descending"),
        ({"model": {"sigma_begin": "one"}}, r"model\.sigma_begin is 'one', expected a positive number"),
        ({"model": {"sigma_dist": "cosine"}}, "expected one of geometric, uniform"),
    ],
)
def test_configs_that_do_not_fit_are_one_line(config, message):
    with pytest.raises(InputError, match=message) as error:
        interop.score_model(FILES["ncsn"], source="ncsn", config=config)
    assert str(error.value).startswith(str(FILES["ncsn"]))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("config.json", "{", "is no JSON or YAML"),
        ("config.yml", "a: [", "is no JSON or YAML"),
        ("config.yml", "a: !!python/object/apply:os.system [exit 3]", r"python/object/apply:os\.system"),
        ("config.yml", "- a", "holds no settings"),
        ("config.json", "[" * 100_000, "is no JSON or YAML"),
    ],
)
def test_config_files_that_are_none_are_one_line(tmp_path, name, text, message):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(InputError, match=message) as error:
        interop.load(FILES["ncsn"], source="ncsn", config=path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


def test_missing_files_and_sources_are_one_line(tmp_path):
    with pytest.raises(InputError, match=r"nothing\.pth: cannot be read \(No such file or directory\)"):
        interop.load(tmp_path / "nothing.pth", source="ncsn")
    with pytest.raises(InputError, match="source 'ncsn3' does not exist: choose one of ncsn, ncsnv2"):
        interop.load(FILES["ncsn"], source="ncsn3")
    with pytest.raises(InputError, match=r'lacks sigmas.*give source="ncsn"'):
        interop.load(FILES["ncsn"], source="ncsnv2")
    with pytest.raises(InputError, match='give source="ncsnv2"'):
        interop.load(FILES["ncsnv2"], source="ncsn")


def test_the_single_noise_baseline_is_a_network_and_no_process(tmp_path):
    path = write_zip(tmp_path / "baseline.pth", broken(lambda state: None, networks.NCSN(1, 1, None)))
    assert interop.load(path, source="ncsn")[0] == networks.NCSN(1, 1, None)
    with pytest.raises(InputError, match=r"single-noise baseline.*sampling\.langevin"):
        interop.score_model(path, source="ncsn")


# The condition


def test_level_index_is_linear_in_log_sigma_and_stops_at_the_ends():
    index = LevelIndex((8.0, 4.0, 1.0))
    sde = EDM(0.01, 100.0)
    np.testing.assert_allclose(
        index(sde, np.float32([100, 8, 32**0.5, 4, 2, 1, 0.01])), [0, 0, 0.5, 1, 1.5, 2, 2], atol=1e-6
    )
    assert index(sde, jnp.float32(4.0)).shape == ()
    assert hash(index) == hash(LevelIndex((8.0, 4.0, 1.0)))
    np.testing.assert_allclose(LevelIndex(LADDER)(VE(0.1, 2.0), np.float32([0, 0.5, 1])), [4, 2, 0], atol=1e-5)
    for sigmas in [(1.0,), (1.0, 1.0), (1.0, 2.0), (1.0, 0.0)]:
        with pytest.raises(InputError, match="the largest first"):
            LevelIndex(sigmas)


def test_torch_is_not_imported():
    assert "torch" not in sys.modules
    assert json.loads(FILES["ncsn"].with_suffix(".json").read_text())["model"]["ngf"] == loaded("ncsn")[0].features
