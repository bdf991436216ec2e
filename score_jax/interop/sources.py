"""Published checkpoints in and out: one row of `SOURCES` for each kind."""

import os
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import numpy as np
from flax import traverse_util

from score_jax.interop import diffusers, edm, files, folders, ncsn, ncsn_names, score_sde, unet_names
from score_jax.interop.files import Contents
from score_jax.interop.mapping import Entry, Tensors, to_tensors, to_variables
from score_jax.interop.settings import Config, Examples, merged, require_known
from score_jax.parameterization import Parameterization
from score_jax.score import Condition, ScoreModel
from score_jax.sde import SDE
from score_jax.types import InputError, PyTree


class Source(NamedTuple):
    """What there is to know about one kind of checkpoint.

    Args:
      read: `(path, use_ema) -> contents`, of which the value is a state dict.
      module: `(tensors, config) -> module`, the network they belong to.
      examples: `(tensors, config) -> examples`, what the network is given.
      entries: `(module, channels) -> entries`, its arrays under both names.
      score: `(module, config) -> (sde, parameterization, condition)`, with which it is a score function.
      known: patterns of the settings that are heeded, or that the network and its process are the same without.
      config: `module -> config`, what its tensors do not show, as far as the module knows.
      spare: pattern of names of tensors that a network may do without.
    """

    read: Callable[[str | os.PathLike, bool], Contents]
    module: Callable[[Tensors, Config], nn.Module]
    examples: Callable[[Tensors, Config], Examples]
    entries: Callable[[Any, int], Sequence[Entry]]
    score: Callable[[Any, Config], tuple[SDE, Parameterization, Condition]]
    known: Sequence[str]
    config: Callable[[Any], Config] = lambda module: {}
    spare: str = ""


_NCSN: dict[str, Any] = {
    "read": ncsn.read,
    "examples": ncsn.examples,
    "entries": lambda module, channels: ncsn_names.entries(module),
    "known": ncsn.KNOWN,
    "config": ncsn.config_of,
}
SOURCES = {
    "ncsn": Source(module=ncsn.ncsn, score=ncsn.ncsn_score, **_NCSN),
    "ncsnv2": Source(module=ncsn.ncsnv2, score=ncsn.ncsnv2_score, **_NCSN),
    "score_sde_pytorch": Source(
        score_sde.read,
        score_sde.network,
        score_sde.examples,
        unet_names.score_sde_entries,
        score_sde.score,
        score_sde.KNOWN,
        spare=score_sde.SPARE,
    ),
    "diffusers": Source(
        folders.read,
        diffusers.network,
        diffusers.examples,
        unet_names.diffusers_entries,
        diffusers.score,
        diffusers.KNOWN,
        spare=diffusers.SPARE,
    ),
    "edm": Source(
        edm.read,
        edm.network,
        edm.examples,
        unet_names.edm_entries,
        edm.score,
        edm.KNOWN,
        spare=edm.SPARE,
    ),
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
    examples: Examples


def load(
    path: str | os.PathLike,
    *,
    source: str,
    config: Config | str | os.PathLike | None = None,
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
    path: str | os.PathLike,
    *,
    source: str,
    config: Config | str | os.PathLike | None = None,
    use_ema: bool = True,
) -> ScoreModel:
    """Returns a published checkpoint as a score function on the SDE that it was trained for; arguments as `load`."""
    checkpoint = open_checkpoint(path, source=source, config=config, use_ema=use_ema)
    with files.naming(path):
        return as_score(checkpoint, source)


def as_score(checkpoint: Checkpoint, source: str) -> ScoreModel:
    """Returns an open checkpoint as a score function on the SDE that it was trained for."""
    sde, parameterization, condition = _row(source).score(checkpoint.module, checkpoint.config)
    return ScoreModel(checkpoint.variables, sde, checkpoint.module, parameterization, condition)


def save(
    path: str | os.PathLike,
    module: nn.Module,
    variables: PyTree,
    *,
    source: str,
    config: Config | str | os.PathLike | None = None,
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
    row = _row(source)
    settings = merged(row.config(module), files.read_config(config))
    arrays = to_tensors(row.entries(module, _channels(variables)), variables)
    if config is not None and row.module(arrays, settings) != module:
        raise InputError(f"the config is not that of the network given: {path} is not written")
    require_known(settings, row.known)
    files.write(path, arrays, settings)


def _channels(variables: PyTree) -> int:
    """The channels of images, as the layer "in" of any of the networks is given them."""
    flat = traverse_util.flatten_dict(variables)
    return next((np.shape(leaf)[2] for path, leaf in flat.items() if path[-2:] == ("in", "kernel")), 1)


def open_checkpoint(
    path: str | os.PathLike,
    *,
    source: str,
    config: Config | str | os.PathLike | None = None,
    use_ema: bool = True,
) -> Checkpoint:
    """Returns a published checkpoint with all that is known of it; arguments as `load`."""
    row, given = _row(source), files.read_config(config)
    with files.naming(path):
        contents = row.read(path, use_ema)
        settings, tensors = merged(contents.config, given), contents.value
        files.require_size(contents.size, tensors)
        module = row.module(tensors, settings)
        require_known(settings, row.known)
        examples = row.examples(tensors, settings)
        entries = row.entries(module, examples.channels)
        names = {entry.name for entry in entries}
        kept = {name: t for name, t in tensors.items() if name in names or not re.fullmatch(row.spare, name)}
        return Checkpoint(module, to_variables(entries, kept), settings, examples)


def _row(source: str) -> Source:
    if source not in SOURCES:
        raise InputError(f"source {source!r} does not exist: choose one of {', '.join(SOURCES)}")
    return SOURCES[source]
