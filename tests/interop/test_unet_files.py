"""How published U-Nets are stored: folders, pickles and state dicts of every source, and what is refused of them."""

import json
import re
import shutil
import sys
import types
import zipfile

import flax.linen as nn
import numpy as np
import pytest
import safetensors.numpy
import scipy.signal

from score_jax import interop, networks, pickles
from score_jax.conditions import LevelIndex
from score_jax.interop import persistence
from score_jax.interop.preconditioned import EDMPrecond, Preconditioned, VEPrecond, VPPrecond, iDDPMPrecond
from score_jax.interop.settings import Images, merged
from score_jax.interop.sources import SOURCES, open_checkpoint
from score_jax.interop.unet_names import construction, diffusers_entries, edm_entries, score_sde_entries
from score_jax.networks.residual_blocks import Layers
from score_jax.types import InputError
from tests.interop.test_published import assert_identical
from tests.interop.test_unets import DIFFUSERS, FILES, config_of, opened, source_of, write_published
from tests.interop.writing import Call, Name, New, Stored, dense, pickled, stream, write_zip
from tests.networks.filling import jit

WEIGHTS = DIFFUSERS / "diffusion_pytorch_model.safetensors"


def same_weights(name, path, **options):
    again = interop.load(path, source=source_of(name), **options)
    assert again[0] == opened(name).module
    assert_identical(again[1], opened(name).variables)


# Folders of diffusers


def test_a_pipelines_folder_with_old_names_and_its_scheduler(tmp_path):
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    state = {
        re.sub("|".join(names), lambda m: names[m[0]], name): array
        for name, array in safetensors.numpy.load_file(WEIGHTS).items()
    }
    assert "mid_block.attentions.0.proj_attn.bias" in state
    (tmp_path / "unet").mkdir()
    (tmp_path / "scheduler").mkdir()
    shutil.copy(DIFFUSERS / "config.json", tmp_path / "unet")
    tensors = {name: dense(str(i), array) for i, (name, array) in enumerate(state.items())}
    write_zip(tmp_path / "unet" / "diffusion_pytorch_model.bin", tensors)
    same_weights("diffusers", tmp_path)
    settings = {"num_train_timesteps": 4, "trained_betas": [0.1, 0.2, 0.3, 0.5]}
    (tmp_path / "scheduler" / "scheduler_config.json").write_text(json.dumps(settings))
    model = interop.score_model(tmp_path, source="diffusers")
    np.testing.assert_allclose(np.exp(model.sde.log_alphas_bar), [0.9, 0.72, 0.504, 0.252], rtol=1e-6)


def test_a_hub_id_is_fetched_by_huggingface_hub(monkeypatch):
    asked = []

    def snapshot_download(name, allow_patterns):
        asked.append(name)
        assert {"config.json", "unet/diffusion_pytorch_model.safetensors"} <= set(allow_patterns)
        if name == "some/thing":
            raise OSError("401\nRepository not found")
        return str(DIFFUSERS)

    monkeypatch.setitem(sys.modules, "huggingface_hub", types.SimpleNamespace(snapshot_download=snapshot_download))
    same_weights("diffusers", "google/ddpm-cifar10-32")
    assert asked == ["google/ddpm-cifar10-32"]
    with pytest.raises(InputError, match="some/thing: cannot be fetched from the hub: 401 Repository not found"):
        interop.load("some/thing", source="diffusers")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)  # as where it is not installed
    with pytest.raises(InputError, match=r"google/ddpm-cifar10-32: .* pip install huggingface_hub"):
        interop.load("google/ddpm-cifar10-32", source="diffusers")


def test_folders_that_are_no_unets_are_one_line(tmp_path):
    with pytest.raises(InputError, match="is neither a folder, nor a file, nor a hub id"):
        interop.load(tmp_path / "nothing", source="diffusers")
    with pytest.raises(InputError, match=r"is no UNet2DModel's folder: expected config\.json and diff"):
        interop.load(tmp_path, source="diffusers")
    shutil.copy(WEIGHTS, tmp_path)
    for text, message in [
        (
            '{"_class_name": "UNet2DConditionModel"}',
            "_class_name is 'UNet2DConditionModel', expected one of UN",
        ),
        ("{", "is no JSON or YAML"),
        ("[]", "holds no settings"),
    ]:
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(InputError, match=message) as error:
            interop.load(tmp_path, source="diffusers")
        assert str(error.value).startswith(f"{tmp_path}: ") and "\n" not in str(error.value)


def test_convolutions_of_stride_two_are_padded_as_the_config_says():
    class Down(nn.Module):
        layers: Layers

        @nn.compact
        def __call__(self, x):
            return self.layers.conv_down(x, 1, "down", None)

    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(6, 6)), rng.normal(size=(3, 3))
    variables = {"params": {"down": {"kernel": np.float32(kernel[..., None, None]), "bias": np.zeros(1, np.float32)}}}
    config = json.loads((DIFFUSERS / "config.json").read_text())
    for padding, zeros in [(0, (0, 1)), (1, (1, 1)), (None, (1, 1))]:  # 1 is the default of diffusers
        settings = {k: v for k, v in config.items() if k != "downsample_padding"}
        settings |= {} if padding is None else {"downsample_padding": padding}
        layers = SOURCES["diffusers"].module({}, settings)._layers
        out = Down(layers).apply(variables, np.float32(x[None, :, :, None]))[0, :, :, 0]
        expected = scipy.signal.correlate2d(np.pad(x, zeros), kernel, "valid")[::2, ::2]
        np.testing.assert_allclose(out, expected, atol=1e-5)  # nine products of size one


# EDM


def rebuilt(kind, parameters=(), buffers=(), modules=(), **attributes):
    """A module as torch_utils.persistence pickles it: with its source code, which must never run."""
    meta = {"type": "class", "version": 6, "module_src": "raise SystemExit(3)", "class_name": kind}
    return Call(
        Name("torch_utils.persistence", "_reconstruct_persistent_obj"),
        ({**meta, "state": state(parameters, buffers, modules, **attributes)},),
    )


def state(parameters=(), buffers=(), modules=(), **attributes):
    parts = {"_parameters": dict(parameters), "_buffers": dict(buffers), "_modules": dict(modules)}
    return {"training": False, "_non_persistent_buffers_set": {"passing"}, **parts, **attributes}


def plain(array):
    """A tensor as plain pickle writes it: a call that reads bytes, which are a stream of torch.save."""
    content = stream(Stored("0", np.ravel(array)))
    storage = Call(Name("torch.storage", "_load_from_bytes"), (content,))
    strides = tuple(s // array.itemsize for s in np.empty(array.shape, array.dtype).strides)
    rest = (False, Call(Name("collections", "OrderedDict"), ()))
    return Call(Name("torch._utils", "_rebuild_tensor_v2"), (storage, 0, array.shape, strides, *rest))


def tree(tensors, kind="EDMPrecond", write=plain, **attributes):
    """Returns the module with the given state dict, its encoder and decoder plain PyTorch containers."""
    own = {name: array for name, array in tensors.items() if "." not in name}
    children = {}
    for name, array in tensors.items():
        child, _, rest = name.partition(".")
        if rest:
            children.setdefault(child, {})[rest] = array
    modules = {
        name: tree(part, f"Layer_{name}" if name not in ("enc", "dec") else "", write)
        for name, part in children.items()
    }
    buffers = {n: write(a) for n, a in own.items() if n == "resample_filter"} | {"passing": write(np.ones(2))}
    parameters = {
        n: Call(
            Name("torch._utils", "_rebuild_parameter"), (write(a), False, Call(Name("collections", "OrderedDict"), ()))
        )
        for n, a in own.items()
        if n not in buffers
    }
    if not kind:
        return New(Name("torch.nn.modules.container", "ModuleDict"), state(parameters, buffers, modules))
    return rebuilt(kind, parameters | {"bias_": None}, buffers, modules, **attributes)


def write_pickle(path, change=lambda contents: None):
    number = Call(
        Name("numpy.core.multiarray", "scalar"),
        (Call(Name("numpy", "dtype"), ("f8", False, True)), np.float64(0.5).tobytes()),
    )
    arguments = {**config_of("edm"), "use_fp16": False, "sigma_data": number}
    contents = {
        "ema": tree(safetensors.numpy.load_file(FILES["edm"]), _init_args=(), _init_kwargs=arguments),
        "loss_fn": rebuilt("EDMLoss", P_mean=-1.2),
        "augment_pipe": None,
        "dataset_kwargs": New(Name("dnnlib.util", "EasyDict"), None),
    }
    change(contents)
    path.write_bytes(pickled(contents, protocol=4)[0])
    return path


def test_a_published_pickle_is_read_and_its_source_code_is_not_run(tmp_path):
    path = write_pickle(tmp_path / "edm.pkl")
    same_weights("edm", path)
    found = open_checkpoint(path, source="edm")
    assert found.examples == Images((16, 16), 3, 10)
    assert found.config["class_name"] == "EDMPrecond"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loss_fn": Call(Name("os", "system"), ("true",))}, r"names os\.system.*nothing was executed"),
        ({"ema": New(Name("torch.nn.modules.linear", "Linear"), {})}, r"names torch\.nn\.modules\.linear\.Linear"),
        ({"ema": None}, "has no network ema"),
        ({"ema": rebuilt("iCTPrecond", {"weight": plain(np.ones(3))})}, "class_name is 'iCTPrecond', expected one"),
        ({"ema": rebuilt("EDMPrecond")}, "has no state dict"),
        ({"ema": rebuilt("EDMPrecond", _modules=[])}, "EDMPrecond._modules is no dict"),
        ({"ema": rebuilt("EDMPrecond", {"weight": plain(np.ones(3))})}, "needs img_resolution, which"),
        ({"ema": Call(Name("torch_utils.persistence", "_reconstruct_persistent_obj"), (3,))}, "damaged"),
        ({"ema": Call(Name("torch.storage", "_load_from_bytes"), (b"\x80\x02.",))}, "damaged"),
    ],
)  # fmt: skip
def test_pickles_of_something_else_are_one_line(tmp_path, change, message):
    path = write_pickle(tmp_path / "edm.pkl", lambda contents: contents.update(change))
    with pytest.raises(InputError, match=message) as error:
        interop.load(path, source="edm")
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)


def test_one_tensors_bytes_read_for_ever_are_refused(tmp_path, monkeypatch):
    content = stream(Stored("0", np.ones(3, np.float32)))  # some 60 instructions each time, a few in the file
    contents = {"ema": [Call(Name("torch.storage", "_load_from_bytes"), (content,)) for _ in range(60)]}
    path = tmp_path / "edm.pkl"
    path.write_bytes(pickled(contents, protocol=4)[0])
    assert path.stat().st_size < 3_000
    monkeypatch.setattr(pickles, "_MAX_INSTRUCTIONS", 2_000)
    with pytest.raises(InputError, match="more instructions than any file of data"):
        persistence.read_modules(path)


def test_a_module_in_two_places_is_refused_rather_than_named_without_end():
    twice = persistence.Module()
    twice.build({"_modules": {"a": twice}})
    with pytest.raises(InputError, match="has the module a in two places"):
        persistence.state_dict(twice)


def write_overlapping(path, array):
    """Writes numpy.savez's archive of one array, listed twice."""
    np.savez(path, a=array)
    content = path.read_bytes()
    start = content.index(b"PK\x01\x02")
    entry, end = content[start:-22], bytearray(content[-22:])
    end[8:12], end[12:16] = b"\2\0\2\0", (2 * len(entry)).to_bytes(4, "little")
    path.write_bytes(content[:start] + entry + entry.replace(b"a.npy", b"b.npy") + end)


def test_a_state_dict_may_be_an_npz_that_is_not_compressed(tmp_path):
    tensors = safetensors.numpy.load_file(FILES["edm"])
    np.savez(tmp_path / "edm.npz", **tensors)
    same_weights("edm", tmp_path / "edm.npz", config=config_of("edm"))
    np.savez_compressed(tmp_path / "edm.npz", **tensors)
    with pytest.raises(InputError, match=r"entry .* is compressed"):
        interop.load(tmp_path / "edm.npz", source="edm", config=config_of("edm"))
    write_overlapping(tmp_path / "edm.npz", np.ones(1000, np.float32))
    with pytest.raises(InputError, match=r"entries of more bytes than it has"):
        interop.load(tmp_path / "edm.npz", source="edm", config=config_of("edm"))
    np.savez(tmp_path / "edm.npz", a=np.array([{}]))
    with pytest.raises(InputError, match=r"entry a\.npy holds Python objects"):
        interop.load(tmp_path / "edm.npz", source="edm", config=config_of("edm"))
    with zipfile.ZipFile(tmp_path / "edm.npz", "w") as archive:
        archive.writestr("a.npy", b"\x93NUMPY\x01\0\x01")  # cut within the length of the header
    with pytest.raises(InputError, match=r"entry a\.npy has a damaged header"):
        interop.load(tmp_path / "edm.npz", source="edm", config=config_of("edm"))


def test_safetensors_that_begin_as_a_pickle_does_are_none(tmp_path):
    """The first byte is the length of the header modulo 256, a multiple of 8: one file in 32 has a pickle's 0x80."""
    tensors, path = safetensors.numpy.load_file(FILES["edm"]), tmp_path / "edm.safetensors"
    for n in range(0, 256, 8):
        safetensors.numpy.save_file(tensors, path, metadata={"note": n * "-"})
        if path.read_bytes()[:1] == b"\x80":
            break
    same_weights("edm", path, config=config_of("edm"))
    assert path.read_bytes()[:1] == b"\x80"


def test_preconditioners_have_the_published_coefficients():
    # Karras et al. 2022, table 1; the numbers are sde.md's
    for sigma, expected in [
        (0.5, (0.5, 0.35355339059, 1.41421356237, -0.1732867951)),
        (1.0, (0.2, 0.4472135955, 0.894427191, 0)),
    ]:
        np.testing.assert_allclose(EDMPrecond()(np.float32(sigma)), expected, rtol=1e-6)
    # VP's t = 1: σ/α = 152.167, α = .0065716, of which the network is told 999
    vp = VPPrecond()(np.float32(152.16697028394637))
    np.testing.assert_allclose(vp, (1, -152.16697, 0.006571586494929619, 999), rtol=1e-5)
    np.testing.assert_allclose(VEPrecond()(np.float32(2 * np.e)), (1, 2 * np.e, 1, 1), rtol=1e-6)
    # iDDPM's levels, and the nearest of them: number 8, of which the network is told 999 − 8
    iddpm = iDDPMPrecond()
    np.testing.assert_allclose(iddpm.levels[[0, 8, 999, 1000]], [20291.17, 80.2037, 0.00642541, 0], rtol=1e-6)
    sigma = np.float32([0.7 * iddpm.levels[8] + 0.3 * iddpm.levels[i] for i in (7, 9)])
    np.testing.assert_allclose(iddpm(sigma), [[1, 1], -sigma, 1 / np.hypot(sigma, 1), [991, 991]], rtol=1e-6)
    kinds = {"VPPrecond": VPPrecond(), "training.networks.VEPrecond": VEPrecond(), "iDDPMPrecond": iddpm}
    for kind, found in [*kinds.items(), (None, EDMPrecond())]:
        module = SOURCES["edm"].module({}, config_of("edm") | ({"class_name": kind} if kind else {}))
        assert module.coefficients == found
        assert module.network.outputs == (2 if found is iddpm else 1)  # a learned variance, not used
    # Sampled down to the last level above 0, of whatever table.
    for steps, smallest in [(1000, 0.00642541), (4000, iDDPMPrecond(M=4000).levels[3999])]:
        config = config_of("edm") | {"class_name": "iDDPMPrecond", "M": steps}
        sde, *_ = SOURCES["edm"].score(SOURCES["edm"].module({}, config), config)
        np.testing.assert_allclose(sde.t_min, smallest, rtol=1e-6)
    assert iDDPMPrecond(M=4000).levels[3999] < 0.004


# Names


PUBLISHED = {  # of score SDE: settings, and how many modules the released code has in its list (sde.md, 3.6)
    "ddpmpp": ({}, 55),
    "ddpmpp deep": ({"num_res_blocks": 8}, 91),
    "ncsnpp": ({"fir": True, "progressive_input": "residual", "embedding_type": "fourier"}, 59),
    "ncsnpp deep": (
        {"fir": True, "progressive_input": "residual", "embedding_type": "fourier", "num_res_blocks": 8},
        95,
    ),
    "ddpm": ({"name": "ddpm", "num_res_blocks": 2}, 37),
    "ncsnpp 256": (
        {
            "ch_mult": "1, 1, 2, 2, 2, 2, 2", "num_res_blocks": 2, "fir": True, "embedding_type": "fourier",
            "progressive": "output_skip", "progressive_input": "input_skip", "size": 256,
        },
        77,
    ),
    "ncsnpp 1024": (
        {
            "nf": 16, "ch_mult": [1, 2, 4, 8, 16, 32, 32, 32], "num_res_blocks": 1, "fir": True,
            "embedding_type": "fourier", "progressive": "output_skip", "progressive_input": "input_skip", "size": 1024,
        },
        70,
    ),
}  # fmt: skip


def score_sde_config(**model):
    published = {"nf": 128, "ch_mult": [1, 2, 2, 2], "num_res_blocks": 4, "attn_resolutions": [16]}
    config = config_of("ddpmpp")
    size = model.pop("size", 32)
    return {**config, "model": config["model"] | published | model, "data": config["data"] | {"image_size": size}}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_order_of_construction_has_as_many_modules_as_the_released_codes(name):
    settings, modules = PUBLISHED[name]
    layers = list(construction(SOURCES["score_sde_pytorch"].module({}, score_sde_config(**settings))))
    assert len(layers) == len(set(layers)) == modules


@pytest.mark.parametrize(
    "settings",
    [
        {"progressive": "residual", "progressive_input": "input_skip", "fir": True, "resblock_type": "ddpm"},
        {"progressive": "output_skip", "progressive_input": "residual", "progressive_combine": "cat"},
    ],
)
def test_every_layer_has_its_place_in_the_order(settings):
    config = score_sde_config(nf=8, num_res_blocks=1, ch_mult=[1, 1, 2], attn_resolutions=[16, 8], **settings)
    module = SOURCES["score_sde_pytorch"].module({}, config)
    entries = score_sde_entries(module, 3)
    assert len({entry.name for entry in entries}) == len(entries)
    places = {int(re.match(r"all_modules\.(\d+)\.", entry.name)[1]) for entry in entries}
    assert places == set(range(len(list(construction(module)))))


def test_published_configs_are_the_presets_whose_parameters_are_counted():
    # sde.md 3.6 and 7.2; tests/networks counts the presets' parameters
    sampled = {"dropout": 0.1}
    ncsnpp = {"fir": True, "progressive_input": "residual", "embedding_type": "fourier", "scale_by_sigma": True}
    config = score_sde_config(**ncsnpp)
    score_sde = SOURCES["score_sde_pytorch"].module
    assert score_sde({}, score_sde_config()) == networks.ddpmpp(**sampled)
    assert score_sde({}, config | {"data": {**config["data"], "centered": False}}) == networks.ncsnpp(**sampled)
    ddpm = score_sde_config(name="ddpm", num_res_blocks=2)
    assert score_sde({}, ddpm) == networks.ddpm(attention_up="last", **sampled)
    cifar = json.loads((DIFFUSERS / "config.json").read_text()) | {
        "block_out_channels": [128, 256, 256, 256],
        "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
        "layers_per_block": 2,
    }
    assert SOURCES["diffusers"].module({}, cifar) == networks.ddpm(label_layer="outer")
    shared = {"img_resolution": 32, "img_channels": 3, "augment_dim": 9}
    song = {**shared, "model_type": "SongUNet", "channel_mult": [2, 2, 2], "dropout": 0.13, "label_dim": 10}
    expected = Preconditioned(networks.song_unet(num_classes=10, dropout=0.13), EDMPrecond(), 32)
    assert SOURCES["edm"].module({}, song) == expected
    adm = {"img_resolution": 64, "img_channels": 3, "label_dim": 1000}  # what EDMPrecond is unless told otherwise
    assert SOURCES["edm"].module({}, adm) == Preconditioned(networks.adm(num_classes=1000, **sampled), EDMPrecond(), 64)


def shapes(entries):
    return {entry.name: entry.source_shape for entry in entries}


NCSNPP_256 = {
    "block_out_channels": [128, 256],
    "down_block_types": ["SkipDownBlock2D", "AttnSkipDownBlock2D"],
    "up_block_types": ["AttnSkipUpBlock2D", "SkipUpBlock2D"],
    "layers_per_block": 1,
    "time_embedding_type": "fourier",
    "norm_num_groups": None,
    "norm_eps": 1e-6,
    "mid_block_scale_factor": 1.41421356,
    "attention_head_dim": None,
    "center_input_sample": True,
}


def test_ncsnpp_of_diffusers_is_score_sdes_under_other_names():
    module = SOURCES["diffusers"].module({}, NCSNPP_256)
    settings = {
        "progressive": "output_skip",
        "progressive_input": "input_skip",
        "fir": True,
        "embedding_type": "fourier",
    }
    config = score_sde_config(ch_mult=[1, 2], num_res_blocks=1, scale_by_sigma=True, dropout=0.0, **settings)
    theirs = SOURCES["score_sde_pytorch"].module({}, config | {"data": {**config["data"], "centered": False}})
    assert module == theirs.clone(label_layer="outer")
    found = shapes(diffusers_entries(module, 3))
    expected = {
        "time_proj.weight": (128,),
        "time_embedding.linear_1.weight": (512, 256),
        "down_blocks.0.resnet_down.conv_shortcut.weight": (128, 128, 1, 1),
        "down_blocks.0.skip_conv.weight": (128, 3, 1, 1),
        "down_blocks.1.attentions.0.to_out.0.weight": (256, 256),
        "mid_block.attentions.0.group_norm.weight": (256,),
        "up_blocks.0.attentions.0.to_q.weight": (256, 256),
        "up_blocks.0.resnet_up.conv2.weight": (256, 256, 3, 3),
        "up_blocks.0.skip_norm.weight": (256,),
        "up_blocks.0.skip_conv.weight": (3, 256, 3, 3),
        "up_blocks.1.resnets.1.conv1.weight": (128, 256, 3, 3),
        "conv_out.weight": (3, 128, 3, 3),
    }
    assert {name: found[name] for name in expected} == expected
    assert not {
        "up_blocks.0.attentions.1.to_q.weight",
        "up_blocks.1.skip_conv.weight",
        "down_blocks.1.skip_conv.weight",
    } & set(found)
    # as many arrays and numbers as score SDE has
    other = shapes(score_sde_entries(theirs, 3))
    assert sum(map(np.prod, found.values())) == sum(map(np.prod, other.values()))


def edm_names(**changes):
    module = SOURCES["edm"].module({}, config_of("edm") | changes)
    return shapes(edm_entries(module, 3)), module


def test_ncsnpp_and_adm_of_edm_have_their_names():
    found, module = edm_names(
        encoder_type="residual",
        decoder_type="skip",
        resample_filter=[1, 3, 3, 1],
        embedding_type="fourier",
        channel_mult_noise=2,
    )
    expected = {
        "model.map_noise.freqs": (16,),
        "model.map_layer0.weight": (64, 32),
        "model.enc.8x8_aux_residual.weight": (16, 3, 3, 3),
        "model.dec.8x8_aux_norm.weight": (32,),
        "model.dec.8x8_aux_conv.weight": (3, 32, 3, 3),
        "model.dec.16x16_aux_conv.weight": (3, 16, 3, 3),
    }
    assert {name: found[name] for name in expected} == expected
    assert (module.network.fir, module.network.input_path) == ((1.0, 3.0, 3.0, 1.0), "residual")
    found, module = edm_names(model_type="DhariwalUNet", model_channels=64)
    expected = {
        "model.map_label.weight": (256, 10),
        "model.enc.8x8_block0.affine.weight": (256, 256),
        "model.enc.8x8_block0.qkv.weight": (384, 128, 1, 1),
        "model.dec.8x8_in0.proj.bias": (128,),
        "model.dec.8x8_block0.qkv.bias": (384,),
        "model.out_norm.weight": (64,),
        "model.out_conv.weight": (3, 64, 3, 3),
    }
    assert {name: found[name] for name in expected} == expected
    assert not {"model.map_label.bias", "model.enc.8x8_down.skip.weight"} & set(found)


# Saving


@pytest.mark.parametrize("name", ["ncsnpp", "diffusers", "edm"])
def test_what_is_saved_with_its_config_is_read_back_without(name, tmp_path):
    found, path = opened(name), tmp_path / "network.safetensors"
    interop.save(path, found.module, found.variables, source=source_of(name), config=found.config)
    same_weights(name, path)
    original = WEIGHTS if name == "diffusers" else FILES["edm"]
    if name != "ncsnpp":  # bit for bit what it was read from, but for what has no effect
        written, there = safetensors.numpy.load_file(path), safetensors.numpy.load_file(original)
        left = {key for key in there if not re.search("resample_filter|map_augment", key)}
        assert written.keys() == left
        assert all(written[key].tobytes() == there[key].tobytes() for key in left)
    other = {**found.config, "model": {**found.config.get("model", {}), "dropout": 0.7}, "dropout": 0.7}
    with pytest.raises(InputError, match="the config is not that of the network given"):
        interop.save(path, found.module, found.variables, source=source_of(name), config=other)


# Refusing


SMALL = score_sde_config(nf=4, ch_mult=[1, 1], num_res_blocks=1, attn_resolutions=[], size=8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["ema"]["shadow_params"].pop(), r"has \d+ moving averages \(ema.shadow_params\) of \d+ parameters"),
        (lambda c: c["ema"]["shadow_params"].append(np.ones(3)), r"moving averages .* of \d+ parameters"),
        (lambda c: c["ema"]["shadow_params"].reverse(), "has a moving average of shape .* for all_modules"),
        (lambda c: c["ema"].update(shadow_params={}), "has no list of tensors ema.shadow_params"),
        (lambda c: c.update(ema=3), "has no list of tensors ema.shadow_params"),
        (lambda c: c.update(model=[]), "has no state dict"),
        (lambda c: (c["model"].popitem(), c.pop("ema")), "lacks all_modules"),
        (lambda c: (c["model"].update({"module.extra": np.ones(2)}), c.pop("ema")), "has unknown extra"),
        (
            lambda c: (c["model"].update({"module.all_modules.2.bias": np.ones(2)}), c.pop("ema")),
            r"all_modules\.2\.bias has shape \(2,\)",
        ),
    ],
)  # fmt: skip
def test_files_of_score_sde_that_do_not_fit_are_one_line(tmp_path, change, message):
    path = write_published(tmp_path / "checkpoint.pth", SMALL, change)
    with pytest.raises(InputError, match=message) as error:
        interop.load(path, source="score_sde_pytorch", config=SMALL)
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)


def test_discrete_ve_divides_by_the_table_of_the_checkpoint(tmp_path):
    """sde.md 1.7: label 0 is the largest σ, and the networks divide by it."""
    config = {**SMALL, "training": {"sde": "vesde", "continuous": False}}
    config["model"] = {**SMALL["model"], "scale_by_sigma": True, "num_scales": 3, "sigma_max": 4.0, "sigma_min": 1.0}
    table = np.float32([4, 2, 1])
    path = tmp_path / "checkpoint.pth"
    write_published(path, SMALL, lambda c: c["model"].update({"module.sigmas": table}))
    model = interop.score_model(path, source="score_sde_pytorch", config=config)
    np.testing.assert_array_equal(model.variables["fixed"]["output_scale"]["sigmas"], table)
    assert model.condition == LevelIndex((4.0, 2.0, 1.0))
    plain = interop.score_model(path, source="score_sde_pytorch", config=SMALL)
    x, labels = np.float32(np.random.default_rng(0).normal(size=(3, 8, 8, 3))), np.float32([0, 1, 2])
    F, scaled = (jit(m.apply)(m.variables, x, labels, None, None) for m in (plain, model))
    np.testing.assert_allclose(scaled, F / table[:, None, None, None], rtol=1e-5, atol=1e-6)
    write_published(path, SMALL, lambda c: c["model"].update({"module.sigmas": np.ones(2**16 + 1, np.float32)}))
    with pytest.raises(InputError, match="sigmas are not noise levels: expected a vector of 1 to 65536"):
        interop.load(path, source="score_sde_pytorch", config=config)
    write_published(path, SMALL, lambda c: c["model"].pop("module.sigmas"))
    with pytest.raises(InputError, match="lacks sigmas, the table of noise levels"):
        interop.load(path, source="score_sde_pytorch", config=config)


CONFIGS = [
    ("ddpmpp", None, "needs model.name, which its tensors don't show: give the config"),
    ("ddpmpp", {"model": {"name": "ncsnv2_64"}}, "model.name is 'ncsnv2_64', expected one of ddpm, ncsnpp"),
    ("ddpmpp", {"model": {"nf": 32}}, r"all_modules\.\d+\.\S+ has shape"),
    ("ddpmpp", {"model": {"num_res_blocks": 2}}, "lacks all_modules"),
    ("ddpmpp", {"model": {"nonlinearity": "elu"}}, "model.nonlinearity is 'elu', expected one of swish"),
    ("ddpmpp", {"model": {"nf": "many"}}, "model.nf is 'many', expected a whole number from 1 to 4096"),
    ("ddpmpp", {"model": {"ch_mult": [1, -2]}}, r"model.ch_mult is \[1, -2\], expected a list of whole numbers"),
    ("ddpmpp", {"model": {"ch_mult": "1, -2, x, 2"}}, "expected a list of whole numbers, and '-2' is none"),
    ("ddpmpp", {"model": {"ch_mult": "1, x"}}, "expected a list of whole numbers, and 'x' is none"),
    ("ddpmpp", {"model": {"ch_mult": "1,, 2"}}, "expected a list of whole numbers, and '' is none"),
    ("ddpmpp", {"model": 3}, "section model is int, expected settings"),
    ("ddpmpp", {"training": {"sde": "flow"}}, "training.sde is 'flow', expected one of vesde, vpsde, subvpsde"),
    ("ddpmpp", {"training": {"sde": "vesde"}, "model": {"sigma_max": 0.001}}, "sigma_min must be below sigma_max"),
    ("diffusers", {"down_block_types": ["DownBlock2D", "KDownBlock2D"]}, "block types have KDownBlock2D"),
    ("diffusers", {"down_block_types": ["DownBlock2D", "SkipDownBlock2D"]}, "block types have a mixture"),
    ("diffusers", {"down_block_types": ["DownBlock2D"]}, "down_block_types is not the names of 2 blocks"),
    ("diffusers", {"down_block_types": ["AttnDownBlock2D"] * 2}, r"attention at .* \(0, 1\) down and \(1,\) up"),
    ("diffusers", {"block_out_channels": [32, 48]}, "expected multiples of the first"),
    ("diffusers", {"resnet_time_scale_shift": "scale_shift"}, "scale_shift is 'scale_shift', expected one of"),
    ("diffusers", {"out_channels": 6}, "twice as many where scheduler.variance_type is 'learned_range'"),
    ("diffusers", {"scheduler": {"variance_type": "learned_range"}}, "in_channels = 3 and out_channels = 3: read are"),
    ("diffusers", {"mid_block_scale_factor": 2.0}, "mid_block_scale_factor is 2.0"),
    ("diffusers", {"norm_num_groups": None}, "norm_num_groups null, which no network without Skip blocks has"),
    ("diffusers", {"layers_per_block": 2}, "lacks down_blocks"),
    ("diffusers", {"scheduler": 3}, "scheduler holds no settings"),
    ("diffusers", {"scheduler": {"beta_schedule": "mine"}}, "beta_schedule is 'mine', expected one of linear"),
    ("diffusers", {"scheduler": {"trained_betas": [0.1, 2]}}, "betas are not two or more numbers between 0 and 1"),
    ("edm", None, "needs model_channels|needs img_resolution"),
    ("edm", {"resample_filter": [1, 3, 3, 1]}, r"resample_filter has shape \(1, 1, 2, 2\) where the config's"),
    ("edm", {"img_resolution": 32}, r"lacks model\.dec\.16x16_in0|lacks model"),
    ("edm", {"model_type": "UViT"}, "model_type is 'UViT', expected one of SongUNet, DhariwalUNet"),
    ("edm", {"decoder_type": "residual"}, "decoder_type is 'residual', expected standard or skip"),
    ("edm", {"channel_mult_emb": 2}, "channel_mult_emb is 2, expected one of 4"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "change", "message"), CONFIGS)
def test_configs_that_do_not_fit_are_one_line(name, change, message):
    config = None if change is None else merged(config_of(name) or {}, change)
    with pytest.raises(InputError, match=message) as error:
        interop.score_model(FILES[name], source=source_of(name), config=config)
    assert str(error.value).startswith(f"{FILES[name]}: ") and "\n" not in str(error.value)
