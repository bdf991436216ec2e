"""The good files that cases damage, by name in a folder: made by functions, or small ones of tests/data."""

import functools
import gzip
import io
import itertools
import json
import pickle
import tarfile
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import numpy as np
import yaml
from PIL import Image

from score_jax import interop, metrics, networks
from score_jax.interop.mapping import to_tensors
from score_jax.lab import settings
from score_jax.lab.sweeps.plan import record_name
from score_jax.metrics import Moments
from score_jax.training import checkpoint
from tests.interop.writing import stream, with_tensors, write_zip
from tests.training import tiny

Files = Mapping[str, bytes]
_RNG = np.random.default_rng(0)
IMAGE = _RNG.integers(0, 256, (12, 9, 3), dtype=np.uint8)
CONDITIONS = {"data": "digits", "split": "train", "count": 5, "hash": "0a1b"}


def _made_in_folder(write: Callable[[Path], object]) -> Callable[[], Files]:
    """Returns a function that makes, once, the files that `write` writes into a folder."""

    @functools.cache
    def files() -> Files:
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder))
            paths = sorted(path for path in Path(folder).rglob("*") if path.is_file())
            return {str(path.relative_to(folder)): path.read_bytes() for path in paths}

    return files


# Data


def _npy(x: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, x)
    return file.getvalue()


def npy() -> Files:
    """An array of 3 vectors of 4 numbers."""
    return {"x.npy": _npy(np.arange(12, dtype=np.float32).reshape(3, 4))}


def npz(save: Callable[..., None]) -> Callable[[], Files]:
    """Images and their labels, by `np.savez` or `np.savez_compressed`."""

    def files() -> Files:
        file = io.BytesIO()
        save(file, x=np.stack([IMAGE] * 3), label=np.array(["a", "b", "a"]))
        return {"x.npz": file.getvalue()}

    return files


def idx() -> Files:
    """MNIST's test set of three images, compressed and not."""
    images = b"\0\0\x08\x03" + np.array([3, 4, 5], ">u4").tobytes() + IMAGE.tobytes()[:60]
    labels = b"\0\0\x08\x01" + np.array([3], ">u4").tobytes() + b"\1\2\3"
    return {"t10k-images-idx3-ubyte.gz": gzip.compress(images, mtime=0), "t10k-labels-idx1-ubyte": labels}


def cifar_binary() -> Files:
    """CIFAR-10's test set of two images in its binary layout."""
    return {"test_batch.bin": _RNG.integers(0, 10, 2 * 3073, dtype=np.uint8).tobytes()}


def cifar_python() -> Files:
    """The same in its Python layout: a pickle."""
    batch = {
        b"data": np.zeros((2, 3072), np.uint8),
        b"labels": [1, 2],
        b"filenames": [b"a", b"b"],
        b"batch_label": b"t",
    }
    return {"test_batch": pickle.dumps(batch, 2)}


def cifar_archive() -> Files:
    """Both in an archive."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name, content in (cifar_python() | cifar_binary()).items():
            info = tarfile.TarInfo(f"cifar-10-batches/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return {"cifar.tar.gz": gzip.compress(made.getvalue(), mtime=0)}


@functools.cache
def pictures() -> Files:
    """One picture in every format that folders may have."""
    files = {}
    image = Image.fromarray(IMAGE)
    for suffix in ("png", "jpg", "webp", "bmp", "gif", "tif", "ppm"):
        file = io.BytesIO()
        kind = {"jpg": "JPEG", "tif": "TIFF"}.get(suffix, suffix.upper())
        (image.convert("P") if suffix == "gif" else image).save(file, kind)
        files[f"{suffix}.{suffix}"] = file.getvalue()
    return files


def picture_folder() -> Files:
    """A folder of images by class."""
    png = pictures()["png.png"]
    return {"a/1.png": png, "a/2.png": png, "b/1.png": png}


def mask() -> Files:
    """A mask of images of 12 by 9 pixels."""
    file = io.BytesIO()
    Image.fromarray((IMAGE[..., 0] > 99).astype(np.uint8) * 255).save(file, "PNG")
    return {"mask.png": file.getvalue()}


def _write_tfds(folder: Path) -> None:
    from tests.test_data_tfds import prepare

    prepare(folder, "1.0.0", 3)


tfds = _made_in_folder(_write_tfds)

# Checkpoints

_TINY, _CHANNELS = networks.NCSN(1, 1, 2), 1
SCORE_CONFIG = {"model": {"ngf": 1, "sigma_begin": 1.0, "sigma_end": 0.1}, "data": {"image_size": 8, "channels": 1}}


@functools.cache
def _tensors() -> dict[str, np.ndarray]:
    """A state dict of the smallest NCSN."""
    from score_jax.interop.ncsn_names import ncsn_entries

    x = jax.ShapeDtypeStruct((1, 8, 8, _CHANNELS), np.float32)
    shapes = jax.eval_shape(_TINY.init, jax.random.key(0), x, jax.ShapeDtypeStruct((1,), np.float32))
    variables = jax.tree.map(lambda leaf: np.full(leaf.shape, 0.5, leaf.dtype), shapes)
    return to_tensors(ncsn_entries(_TINY), variables)


def torch_zip() -> Files:
    """A file of torch.save: a list of a state dict and an optimizer's state."""
    contents = with_tensors([{f"module.{k}": v for k, v in _tensors().items()}, {"step": 1}], itertools.count())
    with tempfile.TemporaryDirectory() as folder:
        return {"checkpoint.pth": write_zip(Path(folder) / "x", contents).read_bytes()}


def torch_stream() -> Files:
    """The same in the layout before PyTorch 1.6."""
    return {"checkpoint.pth": stream(with_tensors([_tensors()], itertools.count()))}


def safetensors_file() -> Files:
    """The same network as `interop.save` writes it."""
    return _safetensors()


@_made_in_folder
def _safetensors(folder: Path) -> None:
    from score_jax.interop.mapping import to_variables
    from score_jax.interop.ncsn_names import ncsn_entries

    variables = to_variables(ncsn_entries(_TINY), _tensors())
    interop.save(folder / "checkpoint.safetensors", _TINY, variables, source="ncsn")


def numpy_file() -> Files:
    """The same in numpy.savez's."""
    file = io.BytesIO()
    np.savez(file, **_tensors())  # type: ignore[arg-type]
    return {"checkpoint.npz": file.getvalue()}


def index() -> Files:
    """The same in one part, and the index that lists it."""
    content = dict(_safetensors())["checkpoint.safetensors"]
    places = {"weight_map": dict.fromkeys(_tensors(), "part.safetensors")}
    return {"model.index.json": json.dumps(places).encode(), "part.safetensors": content}


def with_config(suffix: str) -> Callable[[], Files]:
    """The same beside its config, as JSON or YAML."""
    text = json.dumps(SCORE_CONFIG) if suffix == "json" else yaml.safe_dump(SCORE_CONFIG)
    return lambda: {f"config.{suffix}": text.encode(), **_safetensors()}


@_made_in_folder
def edm_pickle(folder: Path) -> None:
    """A pickle as EDM publishes them."""
    from tests.interop.test_unet_files import write_pickle

    write_pickle(folder / "edm.pkl")


@functools.cache
def score_sde() -> Files:
    """A checkpoint of score SDE's, whose list of averages is beside the parameters, and its config."""
    from tests.interop.test_unets import FILES, config_of

    config = json.dumps(config_of("ddpmpp")).encode()
    return {"checkpoint.pth": FILES["ddpmpp"].read_bytes(), "config.json": config}


@functools.cache
def diffusers_folder() -> Files:
    """A folder of diffusers, with its scheduler's config."""
    from tests.interop.test_unets import DIFFUSERS

    names = ("config.json", "diffusion_pytorch_model.safetensors")
    scheduler = {"_class_name": "DDPMScheduler", "num_train_timesteps": 1000, "beta_schedule": "linear"}
    files = {name: (DIFFUSERS / name).read_bytes() for name in names}
    return files | {"scheduler_config.json": json.dumps(scheduler).encode()}


# Runs


@_made_in_folder
def moments(folder: Path) -> None:
    """Moments of features under their conditions."""
    x = np.random.default_rng(1).normal(size=(5, 3))
    metrics.save_moments(folder / "moments.npz", Moments.of(x), CONDITIONS)


def _as_bytes(value: object) -> bytes:
    return json.dumps(value).encode()


@functools.cache
def run_folder() -> Files:
    """What a report is made of: settings, metrics, an evaluation and the environment."""
    losses = {"0.1": 0.5, "1": 0.25}
    records = [{"step": s, "loss": 1 / s, "loss_by_sigma": losses, "examples_per_second": 9.0} for s in (10, 20, 30)]
    numbers = {
        "n": 64,
        "seed": 0,
        "step": 30,
        "sampler": "ddim",
        "sampler_steps": 10,
        "nfe": 11,
        "ema": True,
        "mmd2": 0.1,
        "mmd2_n": 64,
        "mmd2_standard_error": 0.01,
        "relative_score_error_by_sigma": losses,
        "frechet_distance": {"value": 3.5, "standard_error": 0.2, "n": 64, "network": "grey"},
        "left_out": {"accuracy": "no labels"},
    }
    return {
        "config.json": _as_bytes(settings.get_config().to_dict()),
        "metrics.jsonl": b"".join(_as_bytes(record) + b"\n" for record in records),
        "evaluations/ddim-10/evaluation.json": _as_bytes(numbers),
        "environment.json": _as_bytes({"backend": "cpu", "devices": ["cpu:0"], "packages": {"jax": "0.10.2"}}),
    }


@functools.cache
def sweep_folder() -> Files:
    """A sweep of two cells that are done and one that failed."""
    base, cells = settings.get_config().to_dict(), [{"seed": 0}, {"seed": 1}, {"seed": 2}]
    done = {"state": "done", "evaluation": "evaluations/ddim-10", "parameters": 99, "seconds": 1.5}
    files = {"sweep.json": _as_bytes({"base": base, "cells": cells})}
    for i, cell in enumerate(cells):
        record = {**done, "run": f"run{i}"} if i < 2 else {"state": "failed", "reason": "a reason", "run": "run2"}
        files[f"cells/{record_name(cell)}.json"] = _as_bytes(record)
        files |= {f"runs/run{i}/{name}": content for name, content in run_folder().items()}
    return files


@_made_in_folder
def checkpoints(folder: Path) -> None:
    """A run folder with two checkpoints."""
    with checkpoint.open_checkpoints(folder, keep_last=2) as manager:
        for step in (1, 2):
            checkpoint.save_state(manager, step, tiny.state(), config=tiny.CONFIG, position={"number": step})
            manager.wait_until_finished()
    (folder / "config.json").write_bytes(_as_bytes(tiny.CONFIG))
