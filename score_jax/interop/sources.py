"""Published checkpoints in and out: `SOURCES` has what there is to know about each kind."""

import os
import re
from typing import NamedTuple

import flax.linen as nn
import numpy as np
from flax import traverse_util

from score_jax.adapters import linen
from score_jax.interop import files
from score_jax.interop.diffusers import DIFFUSERS_KIND
from score_jax.interop.edm import EDM_KIND
from score_jax.interop.kind import CheckpointKind
from score_jax.interop.mapping import to_tensors, to_variables
from score_jax.interop.ncsn import NCSN_KIND, NCSNV2_KIND
from score_jax.interop.score_sde import SCORE_SDE_KIND
from score_jax.interop.settings import Config, Images, merged, require_known
from score_jax.score import ScoreModel
from score_jax.types import InputError, PyTree

SOURCES = {
    "ncsn": NCSN_KIND,
    "ncsnv2": NCSNV2_KIND,
    "score_sde_pytorch": SCORE_SDE_KIND,
    "diffusers": DIFFUSERS_KIND,
    "edm": EDM_KIND,
}


class Checkpoint(NamedTuple):
    """A published checkpoint.

    Args:
      module: the network.
      variables: its parameters and fixed arrays.
      config: the source's own, what was given with the checkpoint included.
      examples: what it is given.
    """

    module: nn.Module
    variables: PyTree
    config: Config
    examples: Images


def load(
    path: str | os.PathLike[str],
    *,
    source: str,
    config: Config | str | os.PathLike[str] | None = None,
    use_ema: bool = True,
) -> tuple[nn.Module, PyTree]:
    """Returns a published network and its variables.

    `module.apply(variables, x, cond[, label])` is the source network's output, in NHWC, cond being what that network
    takes (`conditions` lists it), and labels class indices. PyTorch is not needed and nothing in the file is executed.

    Args:
      path: of the checkpoint, or of the JSON index of its parts; for "diffusers" of its folder, or a hub id such as
        "google/ddpm-cifar10-32".
      source: whose checkpoint it is: "ncsn", "ncsnv2", "score_sde_pytorch", "diffusers" or "edm".
      config: the source's own, as a mapping or the path of its JSON or YAML file, where the checkpoint does not say
        all; what it says goes before what the checkpoint says.
      use_ema: take the moving average of the parameters, where the checkpoint has one, in the file or in a folder or
        file beside the raw ones; False: the raw parameters.

    Raises:
      InputError: in one line, for any file that is not such a checkpoint.
    """
    checkpoint = open_checkpoint(path, source=source, config=config, use_ema=use_ema)
    return checkpoint.module, checkpoint.variables


def score_model(
    path: str | os.PathLike[str],
    *,
    source: str,
    config: Config | str | os.PathLike[str] | None = None,
    use_ema: bool = True,
) -> ScoreModel:
    """Returns a published checkpoint as a score function on the SDE that it was trained for; arguments as `load`."""
    checkpoint = open_checkpoint(path, source=source, config=config, use_ema=use_ema)
    with files.naming(path):
        return as_score(checkpoint, source)


def as_score(checkpoint: Checkpoint, source: str) -> ScoreModel:
    """Returns an open checkpoint as a score function on the SDE that it was trained for."""
    sde, parameterization, condition = _kind(source).score(checkpoint.module, checkpoint.config)
    return ScoreModel(checkpoint.variables, sde, linen(checkpoint.module), parameterization, condition)


def save(
    path: str | os.PathLike[str],
    module: nn.Module,
    variables: PyTree,
    *,
    source: str,
    config: Config | str | os.PathLike[str] | None = None,
) -> None:
    """Writes variables as safetensors with the names and layouts of the source's state dict; `load` reads it back.

    Names have no "module." in front, and tables that the network does without are missing. For PyTorch:
    `network.load_state_dict(safetensors.torch.load_file(path), strict=False)`.

    Args:
      path: of the file.
      module: the network.
      variables: its parameters and fixed arrays.
      source: whose names to write.
      config: the source's own, kept in the file; without it, what the module knows of it.

    Raises:
      InputError: for variables of another network, or a config of another than the module.
    """
    kind = _kind(source)
    settings = merged(kind.config(module), files.read_source_config(config))
    arrays = to_tensors(kind.entries(module, _channels(variables)), variables)
    if config is not None and kind.module(arrays, settings) != module:
        raise InputError(f"the config is not that of the network given: {path} is not written")
    require_known(settings, kind.known)
    files.write(path, arrays, settings)


def _channels(variables: PyTree) -> int:
    """The channels of images, as the layer "in" of any of the networks is given them."""
    flat = traverse_util.flatten_dict(variables)
    return next((np.shape(leaf)[2] for path, leaf in flat.items() if path[-2:] == ("in", "kernel")), 1)


def open_checkpoint(
    path: str | os.PathLike[str],
    *,
    source: str,
    config: Config | str | os.PathLike[str] | None = None,
    use_ema: bool = True,
) -> Checkpoint:
    """Returns a published checkpoint with all that is known of it; arguments as `load`."""
    kind, given = _kind(source), files.read_source_config(config)
    with files.naming(path):
        contents = kind.read(path, use_ema)
        settings, tensors = merged(contents.config, given), contents.value
        files.require_size(contents.size, tensors)
        module = kind.module(tensors, settings)
        require_known(settings, kind.known)
        examples = kind.examples(tensors, settings)
        entries = kind.entries(module, examples.channels)
        names = {entry.name for entry in entries}
        kept = {name: t for name, t in tensors.items() if name in names or not re.fullmatch(kind.spare, name)}
        return Checkpoint(module, to_variables(entries, kept), settings, examples)


def _kind(source: str) -> CheckpointKind:
    if source not in SOURCES:
        raise InputError(f"source {source!r} does not exist: choose one of {', '.join(SOURCES)}")
    return SOURCES[source]
