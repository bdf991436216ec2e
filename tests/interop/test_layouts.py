"""Where checkpoints' weights lie: folders, variants, parts, wrappers in names, and files that are nobody's here."""

import itertools
import json
import shutil
import sys
import types

import numpy as np
import pytest
import safetensors.numpy

from score_jax import interop
from score_jax.interop import files, folders, strangers
from score_jax.interop.mapping import read_array
from score_jax.interop.sources import SOURCES
from score_jax.lab import published
from score_jax.types import InputError
from tests.interop.test_published import FILES as NCSNS
from tests.interop.test_unet_files import WEIGHTS, rebuilt, same_weights, tree
from tests.interop.test_unets import DIFFUSERS, FILES, config_of
from tests.interop.writing import dense, pickled, stream, with_tensors, write_stream, write_zip

NAME = "diffusion_pytorch_model"
SMALL = {"a.weight": np.float32([[1, 2], [3, 4]]), "b.bias": np.float32([5, 6]), "c.weight": np.float32([7])}


def as_torch(write):
    return lambda path, tensors: write(path, with_tensors(tensors, itertools.count()))


def write_safetensors(path, tensors):
    path.parent.mkdir(parents=True, exist_ok=True)
    safetensors.numpy.save_file({name: np.ascontiguousarray(a) for name, a in tensors.items()}, path)


WRITERS = {"safetensors": write_safetensors, "zip": as_torch(write_zip), "stream": as_torch(write_stream)}


def scaled(factor):
    return {name: factor * array for name, array in SMALL.items()}


def parts(folder, kind="safetensors", write=write_safetensors, index="{name}.{kind}.index.json", variant="", factor=1):
    """Writes the tensors in two files and the index of them."""
    stem, places = f"{NAME}{variant}", {}
    for i, names in enumerate((["a.weight", "c.weight"], ["b.bias"]), 1):
        file = f"{stem}-{i:05}-of-00002.{kind}"
        folder.mkdir(parents=True, exist_ok=True)
        write(folder / file, {name: scaled(factor)[name] for name in names})
        places |= dict.fromkeys(names, file)
    path = folder / index.format(name=stem, kind=kind)
    path.write_text(json.dumps({"metadata": {"total_size": 28}, "weight_map": places}))
    return path


def one(name=f"{NAME}.safetensors", factor=1, write=write_safetensors):
    return lambda folder: (folder.mkdir(parents=True, exist_ok=True), write(folder / name, scaled(factor)))


def both(*writers):
    return lambda folder: [write(folder) for write in writers]


def inside(name, write):
    return lambda folder: (write(folder / name), configured(folder / name))


def configured(folder):
    (folder / "config.json").write_text('{"sample_size": 8}')


# What is written, and with which factor the tensors are those that are read: averages, raw
LAYOUTS = {
    "safetensors": (one(), 1, 1),
    "zip": (one(f"{NAME}.bin", write=WRITERS["zip"]), 1, 1),
    "stream": (one(f"{NAME}.bin", write=WRITERS["stream"]), 1, 1),
    "safetensors before pickles": (both(one(f"{NAME}.bin", 3, WRITERS["zip"]), one()), 1, 1),
    "parts": (parts, 1, 1),
    "parts of pickles": (lambda folder: parts(folder, "bin", WRITERS["zip"]), 1, 1),
    "parts of streams": (lambda folder: parts(folder, "bin", WRITERS["stream"]), 1, 1),
    "parts of a variant": (lambda folder: parts(folder, variant=".fp16"), 1, 1),
    "parts of a variant, older": (
        lambda folder: parts(folder, variant=".fp16", index=f"{NAME}.safetensors.index.fp16.json"),
        1,
        1,
    ),
    "one file before parts": (both(one(), lambda folder: parts(folder, factor=3)), 1, 1),
    "fp16": (one(f"{NAME}.fp16.safetensors"), 1, 1),
    "bf16 pickles": (one(f"{NAME}.bf16.bin", write=WRITERS["zip"]), 1, 1),
    "fp16 beside all": (both(one(), one(f"{NAME}.fp16.safetensors", 3)), 1, 1),
    "ema": (both(one(), one(f"{NAME}.ema.safetensors", 2)), 2, 1),
    "ema in pickles": (both(one(), one(f"{NAME}.ema.bin", 2, WRITERS["stream"])), 2, 1),
    "non_ema": (both(one(factor=2), one(f"{NAME}.non_ema.safetensors")), 2, 1),
    "ema only": (one(f"{NAME}.ema.safetensors", 2), 2, None),
    "non_ema only": (one(f"{NAME}.non_ema.safetensors"), 1, 1),
    "unet": (inside("unet", one()), 1, 1),
    "unet, unet_ema": (both(inside("unet", one()), inside("unet_ema", one(factor=2))), 2, 1),
    "unet_ema": (inside("unet_ema", one(factor=2)), 2, None),
    "unet_ema in parts": (both(inside("unet", one()), inside("unet_ema", lambda f: parts(f, factor=2))), 2, 1),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_folders_weights_are_found_wherever_diffusers_puts_them(name, tmp_path):
    write, *factors = LAYOUTS[name]
    write(tmp_path)
    configured(tmp_path)
    for use_ema, factor in zip((True, False), factors, strict=True):
        if factor is None:
            with pytest.raises(InputError, match=r"has averages only \(.*ema.*\), where the raw weights are asked for"):
                folders.read_folder(tmp_path, use_ema)
            continue
        found = folders.read_folder(tmp_path, use_ema)
        assert found.config == {"sample_size": 8}
        assert found.value.keys() == SMALL.keys()
        for key, array in scaled(factor).items():
            np.testing.assert_array_equal(read_array(key, found.value[key]), array)


def test_a_file_of_a_folder_is_itself_and_its_folders_config(tmp_path):
    both(one(), one(f"{NAME}.fp16.safetensors", 3), lambda folder: parts(folder, variant=".bf16", factor=4))(tmp_path)
    configured(tmp_path)
    for name, factor in [("", 1), (".fp16", 3)]:
        found = folders.read_folder(tmp_path / f"{NAME}{name}.safetensors", True)
        assert found.config == {"sample_size": 8} and found.value["c.weight"] == 7 * factor
    found = folders.read_folder(tmp_path / f"{NAME}.bf16.safetensors.index.json", True)
    assert found.config == {"sample_size": 8} and found.value["c.weight"] == 28
    with pytest.raises(InputError, match="is one part of a network: give the folder, or the index"):
        folders.read_folder(tmp_path / f"{NAME}.bf16-00001-of-00002.safetensors", True)
    one(f"{NAME}.ema.safetensors", 2)(tmp_path / "unet_ema")
    configured(tmp_path / "unet_ema")
    with pytest.raises(InputError, match="has averages only"):
        folders.read_folder(tmp_path / "unet_ema", False)


def test_averages_beside_the_raw_weights_make_a_network(tmp_path):
    """The folder that diffusers' training writes: checkpoint-500 of a run, whose pipeline has the scheduler."""
    folder, state = tmp_path / "checkpoint-500", safetensors.numpy.load_file(WEIGHTS)
    for name, factor in [("unet", 0.5), ("unet_ema", 1.0)]:
        shutil.copytree(DIFFUSERS, folder / name)
        write_safetensors(folder / name / WEIGHTS.name, {k: np.float32(factor) * v for k, v in state.items()})
    averaged = {"decay": 0.9999, "min_decay": 0.0, "optimization_step": 3, "update_after_step": 0, "power": 0.75}
    config = json.loads((DIFFUSERS / "config.json").read_text()) | averaged | {"use_ema_warmup": True, "inv_gamma": 1.0}
    (folder / "unet_ema" / "config.json").write_text(json.dumps(config))
    (tmp_path / "scheduler").mkdir()
    (tmp_path / "scheduler" / "scheduler_config.json").write_text('{"num_train_timesteps": 7}')
    same_weights("diffusers", folder)
    assert interop.score_model(folder, source="diffusers").condition.n == 7
    raw = interop.load(folder, source="diffusers", use_ema=False)[1]["params"]["in"]["bias"]
    np.testing.assert_array_equal(raw, state["conv_in.bias"] / 2)


MISTAKES = [
    (lambda f: [p.unlink() for p in f.glob("*-00002-of-*")], "needs its part .*-00002-of-00002"),
    (lambda f: edit_index(f, lambda w: w.update(extra=w["b.bias"])), "does not agree with its part .* on extra"),
    (lambda f: edit_index(f, lambda w: w.pop("c.weight")), "does not agree with its part .* on c.weight"),
    (lambda f: edit_index(f, lambda w: w.update(b="../b.safetensors")), r"needs its part \.\./b\.safetensors"),
    (lambda f: edit_index(f, lambda w: w.update(b=3)), "is no index of a checkpoint: expected JSON"),
    (lambda f: next(f.glob("*.index.json")).write_text("[]"), "holds no settings"),
    (lambda f: (next(f.glob("*.index.json")).unlink(), one("x.msgpack")(f)), r"is no UNet2DModel's.*there is.*x\.ms"),
    (lambda f: (f / "config.json").unlink(), r"is no UNet2DModel's folder: expected config\.json and diff"),
    (
        lambda f: (next(f.glob("*.index.json")).unlink(), one(f"{NAME}.fp16.bin")(f), one(f"{NAME}.bf16.bin")(f)),
        "has the variants bf16 and fp16: give the file of the one that is meant",
    ),
    (lambda f: [(f / name).mkdir() for name in ("unet", "vqvae")], "is a latent diffusion pipeline.* codes of vqvae/"),
]  # fmt: skip


def edit_index(folder, change):
    path = next(folder.glob("*.index.json"))
    index = json.loads(path.read_text())
    change(index["weight_map"])
    path.write_text(json.dumps(index))


@pytest.mark.parametrize(("change", "message"), MISTAKES)
def test_parts_and_folders_that_do_not_fit_are_one_line(change, message, tmp_path):
    parts(tmp_path)
    configured(tmp_path)
    change(tmp_path)
    with pytest.raises(InputError, match=message) as error:
        interop.load(tmp_path, source="diffusers")
    assert "\n" not in str(error.value)


def test_the_hub_is_asked_for_parts_and_variants_only_where_there_is_no_single_file(monkeypatch, tmp_path):
    asked = []

    def snapshot_download(name, allow_patterns):
        asked.append([pattern for pattern in allow_patterns if pattern.startswith(NAME)])
        if len(asked) == 2:
            parts(tmp_path)
            configured(tmp_path)
        return str(tmp_path)

    monkeypatch.setitem(sys.modules, "huggingface_hub", types.SimpleNamespace(snapshot_download=snapshot_download))
    assert folders.read_folder("some/thing", True).value.keys() == SMALL.keys()
    assert asked == [[f"{NAME}.safetensors"], [f"{NAME}*.safetensors*"]]


# Names


WRAPPED = ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "module.module.", "_forward_module."]


@pytest.mark.parametrize(("source", "form"), list(itertools.product(SOURCES, [*WRITERS, "index"])))
def test_wrappers_in_names_are_left_out_in_every_source_and_file(source, form, tmp_path):
    for prefix in WRAPPED:
        state = {f"{prefix}{name}": array for name, array in SMALL.items()}
        state[f"{prefix}d._orig_mod.e.module.weight"] = np.float32([8])
        state["n_averaged"] = np.array(3)  # torch.optim.swa_utils.AveragedModel's
        path = tmp_path / f"x.{form}"
        WRITERS.get(form, write_safetensors)(path, state)
        if form == "index":
            places = dict.fromkeys(state, path.name)
            path = tmp_path / "x.safetensors.index.json"
            path.write_text(json.dumps({"weight_map": places}))
        found = SOURCES[source].read(path, True).value
        assert found.keys() == {*SMALL, "d.e.weight"}
        np.testing.assert_array_equal(read_array("a", found["a.weight"]), SMALL["a.weight"])


def test_averages_have_wrappers_of_their_own(tmp_path):
    raw, averages = (
        {f"{prefix}{n}": a for n, a in s.items()} for prefix, s in zip(WRAPPED, (SMALL, scaled(2)), strict=False)
    )
    contents_of = {
        "ncsnv2": [raw, {}, 1, 2, averages],
        "score_sde_pytorch": {"model": raw, "ema": {"shadow_params": list(averages.values())}},
        "edm": {"net": raw, "ema": averages},
    }
    for source, contents in contents_of.items():
        path = write_zip(tmp_path / "x.pth", with_tensors(contents, itertools.count()))
        for use_ema, factor in [(True, 2), (False, 1)]:
            found = SOURCES[source].read(path, use_ema).value
            assert {n: read_array(n, t).tolist() for n, t in found.items()} == {
                n: a.tolist() for n, a in scaled(factor).items()
            }


# EDM's files


def training_state(write, path):
    """Writes a module of EDM by torch.save, its tensors being storages of the file."""
    state, number = safetensors.numpy.load_file(FILES["edm"]), itertools.count()
    module = tree(state, write=lambda a: dense(str(next(number)), a), _init_args=(), _init_kwargs=config_of("edm"))
    return write(path, {"net": module, "optimizer_state": {"state": {}, "param_groups": []}})


@pytest.mark.parametrize("write", [write_zip, write_stream])
def test_edms_state_dict_and_training_state_are_read_in_both_formats(write, tmp_path):
    same_weights("edm", as_torch_file(write, tmp_path / "net.pth"), config=config_of("edm"))
    path = training_state(write, tmp_path / "training-state-000512.pt")
    assert published.usual_source(path) == "edm"
    same_weights("edm", path)
    same_weights("edm", path, use_ema=False)


def as_torch_file(write, path):
    as_torch(write)(path, safetensors.numpy.load_file(FILES["edm"]))
    return path


def test_raw_weights_that_a_file_of_edm_lacks_are_not_its_averages(tmp_path):
    path = tmp_path / "snapshot.pkl"
    path.write_bytes(pickled({"ema": rebuilt("EDMPrecond"), "loss_fn": None})[0])
    with pytest.raises(InputError, match=r"has averages only \(ema\): the raw weights are in training-state"):
        interop.load(path, source="edm", use_ema=False)
    path.write_bytes(pickled({"ema": rebuilt("EDMPrecond", {"w": 3}, _init_args=(32, 3))})[0])
    with pytest.raises(InputError, match="EDMPrecond was made with arguments without a name"):
        interop.load(path, source="edm")


# Nobody's here


ZEROS = np.zeros(2, np.float32)
STRANGERS = {
    "ema_0.9999.safetensors": (["time_embed.0.weight", "input_blocks.0.0.weight", "out.2.weight"], "guided-diffusion"),
    "compiled.safetensors": (["module.time_embed.0.weight", "module.input_blocks.0.0.weight"], "guided-diffusion"),
    "sd.safetensors": (["model.diffusion_model.input_blocks.0.0.weight", "first_stage_model.x"], "latent diffusion"),
    "vae.safetensors": (["quant_conv.weight", "decoder.conv_in.weight"], "autoencoder"),
    "lora.safetensors": (["unet.down_blocks.0.attentions.0.to_q.lora_A.weight"], "LoRA"),
    "text.safetensors": (["down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight"], "text-conditioned"),
    "dit.safetensors": (["x_embedder.proj.weight", "blocks.0.attn.qkv.weight"], "transformer"),
    "k.safetensors": (["inner_model.proj_in.weight"], "k-diffusion"),
    "edm2.safetensors": (["unet.enc.64x64_conv.weight", "unet.dec.8x8_in0.emb_gain"], "EDM2"),
    "ddim.safetensors": (["temb.dense.0.weight", "down.0.block.0.norm1.weight"], "ermongroup/ddim"),
    "lucid.safetensors": (["model.init_conv.weight", "model.downs.0.0.block1.proj.weight"], "lucidrains"),
    "opt.pt": ({"state": {0: {"step": 1}}, "param_groups": [{"lr": 1e-4}]}, "optimizer"),
    "scheduler.bin": ({"base_lrs": [1e-4], "last_epoch": 3}, "learning-rate scheduler"),
    "scaler.pt": ({"scale": 1.0, "growth_factor": 2.0, "backoff_factor": 0.5}, "gradient scaler"),
    "last.ckpt": ({"epoch": 3, "pytorch-lightning_version": "2.1", "state_dict": {}}, "PyTorch Lightning"),
    "old.ckpt": ({"epoch": 3, "global_step": 9, "state_dict": {}}, "PyTorch Lightning"),
    "model-1.pt": ({"step": 1, "model": {}, "opt": {}, "ema": {}, "scaler": None}, "lucidrains"),
    "listed.pth": ([{"temb.dense.0.weight": 1, "down.0.block.0.norm1.weight": 2}, {}, 3], "ermongroup/ddim"),
    "x.h5": (b"\x89HDF\r\n\x1a\n", "HDF5"),
    "x.gguf": (b"GGUF\x03", "GGUF"),
    "x.npy": (b"\x93NUMPY\x01\x00", "numpy.savez"),
    "x.pth.gz": (b"\x1f\x8b\x08", "unpack it"),
    "pointer.safetensors": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
    "page.pth": (b"<!DOCTYPE html><html>", "web page"),
    "checkpoint_8": (b"\x85\xa4step\x01", "Flax"),
}  # fmt: skip


@pytest.mark.parametrize("name", STRANGERS)
def test_files_that_are_nobodys_here_are_called_what_they_are(name, tmp_path):
    content, word = STRANGERS[name]
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif name.endswith(".safetensors"):
        write_safetensors(path, dict.fromkeys(content, ZEROS))
    else:
        path.write_bytes(stream(content))
    with pytest.raises(strangers.Stranger, match=word) as error:
        published.open_published(path)
    text = str(error.value)
    assert text.startswith(f"{path}: is ") and "\n" not in text and "read as" not in text
    for source in SOURCES:
        with pytest.raises(InputError, match=word):
            interop.load(path, source=source)


def test_no_checkpoint_of_a_source_is_a_stranger():
    for path in [*NCSNS.values(), *(file for file in FILES.values() if file)]:
        assert files.read(path if path.is_file() else WEIGHTS).value
