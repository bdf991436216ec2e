"""Values of a source's own config, each checked for its kind: what is wrong with one is an `InputError` of one line.

Keys are dotted, "model.nf" being `config["model"]["nf"]`. Without a default, a key must be there.
"""

import fnmatch
import reprlib
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from score_jax.pickles import printable
from score_jax.types import InputError

Config = Mapping[str, Any]


class Images(NamedTuple):
    """What a network is given.

    Args:
      size: height and width of its images in pixels; None: any.
      channels: of its images.
      num_classes: number of classes; 0 for none.
      null_class: whether it was trained without a class, −1, too.
    """

    size: tuple[int, int] | None
    channels: int
    num_classes: int = 0
    null_class: bool = False


_REQUIRED: Any = object()
_MOST = 2**20  # of anything that is counted: more is a mistake
MOST_LEVELS = 2**16  # of noise, that anyone has


def value(config: Config, key: str, default: Any = _REQUIRED) -> Any:
    """Returns the value of a key, of whatever kind.

    Raises:
      InputError: where a section is none, or the key is missing and has no default.
    """
    found: Any = config
    *sections, name = key.split(".")
    for section in sections:
        found = found.get(section, {})
        if not isinstance(found, Mapping):
            raise InputError(f"the config's section {section} is {type(found).__name__}, expected settings")
    if name in found:
        return found[name]
    if default is _REQUIRED:
        raise InputError(
            f"needs {key}, which its tensors don't show: give the config (--source_config) it was trained with"
        )
    return default


def _checked(config: Config, key: str, default: Any, fits: Callable[[Any], bool], expected: str) -> Any:
    found = value(config, key, default)
    if not fits(found):
        raise InputError(f"the config's {key} is {shown(found)}, expected {expected}")
    return found


class _Shown(reprlib.Repr):
    """Text of a value, however deep it is and however often it holds the same list: only its beginning is written."""

    def __init__(self):
        super().__init__()
        self.maxlevel, self.maxstring = 2, 80

    def repr_int(self, found: int, level: int) -> str:
        """Returns the digits, where they are not too many for Python."""
        return super().repr_int(found, level) if abs(found) < 10**40 else "a number of more than 40 digits"

    def repr_instance(self, found: Any, level: int) -> str:
        """Returns the text of numbers, None and the like, and of anything else what it is."""
        return repr(found) if isinstance(found, bool | float | None) else printable(found)


def shown(found: Any) -> str:
    """Returns what a config holds as something that fits into one line of a message."""
    return printable(_Shown().repr(found) if isinstance(found, str | int | float | list | tuple | None) else found)


def _is_whole(found: Any, low: int, most: int) -> bool:
    return type(found) is int and low <= found <= most


def whole(config: Config, key: str, default: Any = _REQUIRED, *, low: int = 1, most: int = _MOST) -> int:
    """Returns a whole number from `low` to `most`."""
    return _checked(config, key, default, lambda v: _is_whole(v, low, most), f"a whole number from {low} to {most}")


def wholes(config: Config, key: str, default: Any = _REQUIRED) -> tuple[int, ...]:
    """Returns at most 64 positive whole numbers, of a list or written with commas between them, and perhaps behind."""
    found = value(config, key, default)
    parts: Any = _split(found) if isinstance(found, str) else found
    what = f"the config's {key} is {shown(found)}, expected a list of whole numbers"
    if not isinstance(parts, list | tuple) or len(parts) > 64:
        raise InputError(what)
    for part in parts:
        if not _is_whole(part, 1, _MOST):
            raise InputError(f"{what}, and {shown(part)} is none")
    return tuple(parts)


def _split(text: str) -> list[int | str]:
    parts = [part.strip() for part in text.strip().removesuffix(",").split(",")] if text.strip() else []
    return [int(part) if part.isdecimal() and len(part) < 20 else part for part in parts]


def size(config: Config, key: str, default: Any = _REQUIRED) -> tuple[int, int] | None:
    """Returns height and width of images, given as a pair or as one number for both; None where that is the default."""
    found = value(config, key, default)
    if found is None and default is None:
        return None
    pair = tuple(found) if isinstance(found, list | tuple) else (found, found)
    if len(pair) != 2 or not all(_is_whole(n, 1, _MOST) for n in pair):
        raise InputError(f"the config's {key} is {shown(found)}, expected a number of pixels, or height and width")
    return pair


def side(config: Config, key: str) -> int:
    """Returns the side of square images, given as `size` reads it."""
    height, width = size(config, key) or (0, 0)
    if height != width:
        raise InputError(f"the config's {key} is {height} by {width}, expected square images")
    return height


def number(config: Config, key: str, default: Any = _REQUIRED, *, low: float | None = None) -> float:
    """Returns a finite number, positive or, where `low` is given, at least that."""
    above = (lambda v: v > 0) if low is None else (lambda v: v >= low)
    fits = lambda v: isinstance(v, int | float) and not isinstance(v, bool) and above(v) and v <= sys.float_info.max
    return float(_checked(config, key, default, fits, "a positive number" if low is None else f"a number from {low}"))


def flag(config: Config, key: str, default: Any = _REQUIRED) -> bool:
    """Returns true or false."""
    return _checked(config, key, default, lambda v: isinstance(v, bool), "true or false")


def choice(config: Config, key: str, choices: Sequence[Any] | Mapping[Any, Any], default: Any = _REQUIRED) -> Any:
    """Returns one of the choices."""
    fits = lambda v: isinstance(v, str | int | float | None) and v in choices
    return _checked(config, key, default, fits, f"one of {', '.join(str(c) for c in choices)}")


def word(config: Config, key: str, choices: Collection[str], default: str) -> str:
    """Returns one of the choices, which are lower case, written in capitals or not."""
    fits = lambda v: isinstance(v, str) and v.lower() in choices
    return _checked(config, key, default, fits, f"one of {', '.join(choices)}").lower()


def agree(config: Config, key: str, found: Any) -> None:
    """Raises `InputError` where the config has another value than the tensors."""
    expected = value(config, key, found)
    if expected != found:
        raise InputError(f"has {found} where the config says {key} = {shown(expected)}: not its checkpoint")


def require_known(config: Config, known: Collection[str]) -> None:
    """Raises `InputError` for a setting that matches none of the known patterns: what it means would not be heeded."""
    for name, found in _settings(config):
        if not any(fnmatch.fnmatchcase(name, pattern) for pattern in known):
            advice = "take it out of the config if the network is the same without it"
            raise InputError(f"the config has {printable(name)} = {shown(found)}, which is not known here: {advice}")


def _settings(config: Config) -> Iterator[tuple[str, Any]]:
    for section, found in config.items():
        if isinstance(found, Mapping):
            yield from ((f"{section}.{key}", inner) for key, inner in found.items())
        else:
            yield str(section), found


def merged(own: Config, given: Config) -> Config:
    """Returns a checkpoint's own config with the values of the given one before it, section by section."""
    both = [key for key in own if isinstance(own[key], Mapping) and isinstance(given.get(key), Mapping)]
    return {**own, **given, **{key: {**own[key], **given[key]} for key in both}}
