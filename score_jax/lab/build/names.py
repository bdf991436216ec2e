"""Which object a name in the settings stands for: of a table, or the user's own, with its section's options."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from ml_collections import ConfigDict

from score_jax.lab import own
from score_jax.types import InputError

_T = TypeVar("_T")
_F = TypeVar("_F", bound=Callable[..., Any])


def choose(section: str, name: str, table: Mapping[str, _T]) -> _T:
    """Returns the row of that name.

    Raises:
      InputError: where there is none, with the names that there are.
    """
    if not isinstance(name, str):
        raise InputError(f"{section} is {name!r}: expected a name")
    if name not in table:
        handed = name.removeprefix(own.MARK)
        if handed != name:
            raise InputError(
                f"{section} was an object handed to build.experiment ({handed}), not a name: hand it over again, from "
                "Python, or train by a name, module:attribute"
            )
        raise InputError(f"{section} {name!r} does not exist: choose one of {', '.join(table)}")
    return table[name]


def options(section: ConfigDict) -> dict[str, Any]:
    """Returns the options of the section's chosen name, lists as tuples: modules must be hashable."""
    chosen = section.get("options" if own.is_own(section.name) else section.name, {})
    return {k: tuple(v) if isinstance(v, list | tuple) else v for k, v in chosen.items()}


def chosen_function(
    section: str, settings: ConfigDict, table: Mapping[str, Callable[..., _F]], kind: own.Kind
) -> _F | Callable[..., Any]:
    """Returns the function that a section of the settings chooses: what the table's row makes, or the user's own."""
    if own.is_own(settings.name):
        return own.function(f"{section}.name", settings.name, kind, options(settings))
    return choose(section, settings.name, table)(**options(settings))


def built(section: str, settings: ConfigDict, table: Mapping[str, Callable[..., _T]], kind: own.Kind) -> _T:
    """Returns the object that a section of the settings chooses, made with its options."""
    if own.is_own(settings.name):
        return own.made(f"{section}.name", settings.name, kind, options(settings))
    make = choose(section, settings.name, table)
    try:
        return make(**options(settings))
    except TypeError as error:  # an option too many, of a config.json that was written by hand
        raise InputError(f"{section}.{settings.name}: {error}") from error
