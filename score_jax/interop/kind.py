"""What there is to know about one kind of checkpoint; each source's module makes its own."""

import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn

from score_jax.interop.files import Contents
from score_jax.interop.mapping import Entry, Tensors
from score_jax.interop.settings import Config, Images
from score_jax.parameterization import Parameterization
from score_jax.score import Condition
from score_jax.sde import SDE


class CheckpointKind(NamedTuple):
    """How checkpoints of one source are read, and what their networks are.

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

    read: Callable[[str | os.PathLike[str], bool], Contents]
    module: Callable[[Tensors, Config], nn.Module]
    examples: Callable[[Tensors, Config], Images]
    entries: Callable[[Any, int], Sequence[Entry]]
    score: Callable[[Any, Config], tuple[SDE, Parameterization, Condition]]
    known: Sequence[str]
    config: Callable[[Any], Config] = lambda module: {}
    spare: str = ""
