"""Objects handed over from Python in place of what the settings name: of the kind that is expected, and how called."""

from collections.abc import Mapping, Sequence
from typing import Any

from flax import linen as nn
from ml_collections import ConfigDict

from score_jax import adapters
from score_jax.lab import own
from score_jax.lab.build.kinds import HANDED
from score_jax.types import InputError


def require_kinds(
    sections: Mapping[str, Any], measures: Mapping[str, Any] | None, loggers: Sequence[Any] | None
) -> None:
    """Raises InputError, naming the argument, of an object that is not what it stands in for."""
    for name, given in sections.items():
        if given is not None and name != "network":
            own.require_handed(name, given, HANDED[name])
    _require_network(sections["network"])
    if measures is not None and not isinstance(measures, Mapping):
        raise InputError(f"measures must be functions by name, {{'name': function}}, got {type(measures).__name__}")
    if loggers is not None and not isinstance(loggers, Sequence):
        raise InputError(f"loggers must be a list of functions, got {type(loggers).__name__}")
    for name, measure in (measures or {}).items():
        own.require_handed(f"measures[{name!r}]", measure, HANDED["measure"])
    for i, logger in enumerate(loggers or ()):
        own.require_handed(f"loggers[{i}]", logger, HANDED["logger"])


def _require_network(given: Any) -> None:
    module = isinstance(given, nn.Module) or adapters.is_nnx(given)
    fits = module or (callable(given) and hasattr(given, "init"))
    if given is not None and (isinstance(given, type) or not fits):
        raise InputError(
            f"network is no network: expected an instance of {HANDED['network'].expected}, got "
            f"{type(given).__name__} {getattr(given, '__name__', '')}".rstrip()
        )


def marked(config: ConfigDict, sections: Mapping[str, Any], measures: Mapping[str, Any] | None) -> ConfigDict:
    """The config with a mark in place of the names of objects that are handed over: no name makes them again."""
    config = config.copy_and_resolve_references()
    for section, given in sections.items():
        if given is not None:
            config[section].name = own.MARK + own.handed_name(given).replace(":", ".")
    if measures is not None:
        config.evaluation.measures = tuple(own.MARK + name for name in measures)
    return config


def names_of(sections: Mapping[str, Any], measures: Mapping[str, Any] | None) -> list[str]:
    """What the objects are called that are not the package's own: whom to blame for what they raise."""
    given = [*sections.values(), *(measures or {}).values()]
    names = [own.handed_name(one) for one in given if one is not None]
    return [name for name in names if name.split(".")[0] != "score_jax"]
