"""Experiments that differ from one base in a few settings: the cells of a sweep."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from score_jax.lab import records, settings
from score_jax.lab.experiment import Before, Experiment
from score_jax.lab.sharing import Shared

_Build = Callable[..., Experiment]


class Variants(NamedTuple):
    """What a sweep needs of the settings that all of its cells have.

    Attributes:
      base: these, as JSON holds them.
      normal: a cell, other values by dotted key, with each value as its setting has it.
      build: from a cell, and what its run folder holds already, to its experiment.
    """

    base: Mapping[str, Any]
    normal: Callable[[Mapping[str, Any]], dict[str, Any]]
    build: Callable[[Mapping[str, Any], Before | None], Experiment]


def variants(build: _Build, config: ConfigDict) -> Variants:
    """Returns the variants of a config; data are read, and programs compiled, once for all of them.

    Args:
      build: `build.experiment`.
      config: what all cells have.
    """
    shared = Shared()

    def made(cell: Mapping[str, Any], before: Before | None) -> Experiment:
        return build(settings.changed(config, cell), before=before, shared=shared)

    return Variants(records.as_json(config.to_dict()), partial(_normal, config), made)


def _normal(config: ConfigDict, cell: Mapping[str, Any]) -> dict[str, Any]:
    return {key: settings.value_of(settings.changed(config, {key: value}), key) for key, value in cell.items()}
