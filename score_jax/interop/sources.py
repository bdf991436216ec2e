"""Published checkpoints in and out: one row of `SOURCES` for each kind."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import numpy as np

from score_jax.interop import files, ncsn, ncsn_names
from score_jax.interop.mapping import Entry, to_tensors, to_variables
from score_jax.interop.torch_files import Tensor
from score_jax.parameterization import Parameterization
from score_jax.score import ScoreModel
from score_jax.sde import SDE
from score_jax.types import Array, InputError, PyTree

Config = Mapping[str, Any]
Tensors = Mapping[str, Tensor | np.ndarray]


class Source(NamedTuple):
    """What there is to know about one kind of checkpoint.

    Args:
      state_dict: `(contents of the file, use_ema) -> {name: tensor}`.
      module: `(tensors, config) -> module`, the network they belong to.
      entries: `module -> entries`, its arrays under both names.
      score: `(module, config) -> (sde, parameterization, condition)`, with which it is a score function.
      config: `module -> config`, what its tensors do not show.
    """

    state_dict: Callable[[Any, bool], dict[str, Tensor | np.ndarray]]
    module: Callable[[Tensors, Config], nn.Module]
    entries: Callable[[Any], Sequence[Entry]]
    score: Callable[[Any, Config], tuple[SDE, Parameterization, Callable[[SDE, Array], Array]]]
    config: Callable[[Any], Config]


SOURCES = {
    "ncsn": Source(ncsn.state_dict, ncsn.ncsn, ncsn_names.entries, ncsn.ncsn_score, ncsn.config_of),
    "ncsnv2": Source(ncsn.state_dict, ncsn.ncsnv2, ncsn_names.entries, ncsn.ncsnv2_score, ncsn.config_of),
}


def load(
    path: str | os.PathLike,
    *,
    source: str,
    config: Config | str | os.PathLike | None = None,
    use_ema: bool = True,
) -> tuple[nn.Module, PyTree]:
    """Returns a published network and its variables, from a file of torch.save or safetensors.

    `module.apply(variables, x, cond)` is the source network's output, in NHWC, cond being what that network takes: for
    NCSN and NCSNv2 the level's index. PyTorch is not needed and nothing in the file is executed.

    Args:
      path: of the checkpoint.
      source: "ncsn" or "ncsnv2": whose checkpoint it is.
      config: the source's own, as a mapping or the path of its JSON or YAML file, where the tensors do not say all.
      use_ema: take the moving average of the parameters, where the file has one.

    Raises:
      InputError: in one line, for any file that is not such a checkpoint.
    """
    module, variables, _ = _load(path, source, config, use_ema)
    return module, variables


def score_model(
    path: str | os.PathLike,
    *,
    source: str,
    config: Config | str | os.PathLike | None = None,
    use_ema: bool = True,
) -> ScoreModel:
    """Returns a published checkpoint as a score function on the SDE that it was trained for; arguments as `load`."""
    module, variables, settings = _load(path, source, config, use_ema)
    with files.naming(path):
        sde, parameterization, condition = SOURCES[source].score(module, settings)
    return ScoreModel(variables, sde, module, parameterization, condition)


def save(path: str | os.PathLike, module: nn.Module, variables: PyTree, *, source: str) -> None:
    """Writes variables as safetensors with the names and layouts of the source's state dict; `load` reads it back.

    Names have no "module." in front. For PyTorch: `network.load_state_dict(safetensors.torch.load_file(path))`.
    """
    row = _row(source)
    arrays = to_tensors(row.entries(module), variables)
    files.write(path, arrays, {"format": "pt", "config": json.dumps(row.config(module))})


def _load(path, source: str, config, use_ema: bool) -> tuple[nn.Module, PyTree, Config]:
    row, settings = _row(source), files.read_config(config)
    with files.naming(path):
        contents, remarks = files.read(path)
        settings = settings or _remembered(remarks)
        tensors = row.state_dict(contents, use_ema)
        files.require_size(path, tensors)
        module = row.module(tensors, settings)
        return module, to_variables(row.entries(module), tensors), settings


def _remembered(remarks: Mapping[str, str]) -> Config:
    """The config that `save` left in the header."""
    try:
        config = json.loads(remarks.get("config", "{}"))
    except (ValueError, RecursionError) as error:
        raise InputError("has a config in its header that is no JSON") from error
    return config if isinstance(config, dict) else {}


def _row(source: str) -> Source:
    if source not in SOURCES:
        raise InputError(f"source {source!r} does not exist: choose one of {', '.join(SOURCES)}")
    return SOURCES[source]
